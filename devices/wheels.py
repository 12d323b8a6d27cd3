"""Wheels of a board's Python, fetched by this machine's pip."""

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from msq.atomic import atomic_folder
from msq.cache import cache_folder
from msq.errors import DeviceError, StorageError

# A module that cannot be loaded says so here, and bytecode is written for later runs.
LOAD = """
import importlib.metadata, sys
for module, owners in importlib.metadata.packages_distributions().items():
    names = {name.replace("-", "_").replace(".", "_").lower() for name in owners}
    if module.isidentifier() and names & set(sys.argv[1:]):
        __import__(module)
"""
"""A Python program that loads the modules of distributions; its arguments are their names, `normalised`."""


@dataclass(frozen=True)
class Target:
    """Whose wheels: the release of CPython ("3.13"), the machine as uname names it, the release of its glibc."""

    python: str
    machine: str = "aarch64"
    libc: str = "2.41"
    """By default that of the emulated board."""

    @property
    def platforms(self) -> list[str]:
        """The platform tags of wheels that run there. pip does not widen a level to the older ones it includes."""
        newest = int(self.libc.split(".")[1])
        levels = [f"manylinux_2_{level}_{self.machine}" for level in range(newest, 16, -1)]
        return [*levels, f"manylinux2014_{self.machine}"]


def normalised(name: str) -> str:
    """Return a distribution's name as folders of installed ones have it."""
    return re.sub(r"[-_.]+", "_", name).lower()


def pinned(packages: Sequence[str]) -> list[str]:
    """Return "name==version" of numpy and of what a runtime wants, each once.

    Args:
        packages: requirements; where one names no version, it is this machine's.
    Raises:
        DeviceError: this machine does not have it.
    """
    wanted = [Requirement(package) for package in packages]
    missing = [] if any(one.name == "numpy" for one in wanted) else [Requirement("numpy")]
    return [_pinned(one) for one in (*missing, *wanted)]


def python_of(packages: Sequence[str]) -> str | None:
    """Return the one release of CPython that a runtime has wheels for ("3.11"), by its markers; None for any."""
    markers = (Requirement(package).marker for package in packages)
    found = (re.search(r'python_version == "([\d.]+)"', str(marker)) for marker in markers if marker)
    return next((match[1] for match in found if match), None)


def is_installed(pin: str) -> bool:
    """Say whether this Python has a distribution in that release."""
    name, _, release = pin.partition("==")
    try:
        return importlib.metadata.version(name) == release
    except importlib.metadata.PackageNotFoundError:
        return False


def require_python(packages: Sequence[str], python: str, where: str) -> None:
    """Do nothing where a runtime has wheels for this release of Python. Raises DeviceError."""
    if (only := python_of(packages)) not in (None, python):
        raise DeviceError(
            f"{where} has Python {python}; this runtime has wheels for {only} alone",
            hint="choose another runtime: litert reads the bundles of tflite-runtime",
        )


def _pinned(requirement: Requirement) -> str:
    distribution = requirement.name
    if requirement.specifier:
        return f"{distribution}{requirement.specifier}"
    try:
        return f"{distribution}=={importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        raise DeviceError(
            f"{distribution} is not installed here, so its release for the board is unknown",
            hint=f"pip install {distribution}",
        ) from None


def install(pins: Sequence[str], target: Target, folder: Path) -> None:
    """Install pinned distributions, with all they need, into a folder.

    Raises:
        DeviceError: pip is missing, or finds no wheel; the hint says which files to put where.
        StorageError: no space for them.
    """
    _pip(["install", "--no-compile", "--target", str(folder)], pins, target)


def fetch(pins: Sequence[str], target: Target) -> list[Path]:
    """Return the wheels of pinned distributions, and of all they need, fetching them if they are not cached.

    Raises:
        DeviceError: pip is missing, or finds no wheel; the hint says which files to put where.
        StorageError: no space for them.
    """
    key = hashlib.sha256(json.dumps([*pins, *vars(target).values()]).encode()).hexdigest()[:12]
    folder = cache_folder("wheels", key)
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            _pip(["download", "--dest", str(temporary)], pins, target)
    return sorted(folder.glob("*.whl"))


def _pip(verb: Sequence[str], pins: Sequence[str], target: Target) -> None:
    drop_in = cache_folder("wheels")
    command = [sys.executable, "-m", "pip", *verb, "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={target.python}"]
    command += [f"--platform={platform}" for platform in target.platforms]
    command += ["--find-links", str(drop_in)] if drop_in.is_dir() else []
    done = subprocess.run([*command, *pins], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = done.stderr.strip().splitlines() or ["pip said nothing"]
    reason = next((line for line in said if line.startswith("ERROR")), said[-1])
    if "No space left" in done.stderr:
        raise StorageError(f"no space left here for {', '.join(pins)}", hint="free space, or set MSQ_CACHE or TMPDIR")
    if "No module named pip" in done.stderr:
        raise DeviceError("pip is missing, which fetches the board's wheels", hint=f"{sys.executable} -m ensurepip")
    raise DeviceError(
        f"the board's wheels cannot be fetched: {reason}",
        hint=f"check the network; or put the wheels of {', '.join(pins)} for CPython {target.python} on "
        f"{target.machine} with glibc {target.libc}, and of what they need, into {drop_in}",
    )
