"""aarch64 wheels of a board's Python, installed into a folder by this machine's pip."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from msq.cache import cache_folder
from msq.errors import DeviceError, StorageError

# pip does not widen a level to the older ones it includes, so each is named; 2.41 is the C library of the board.
_PLATFORMS = [f"manylinux_2_{level}_aarch64" for level in range(17, 42)] + ["manylinux2014_aarch64"]


def pinned(distribution: str) -> str:
    """Return "name==version" with the version that this machine has. Raises DeviceError when it has none."""
    if "==" in distribution:
        return distribution
    try:
        return f"{distribution}=={importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        raise DeviceError(
            f"{distribution} is not installed here, so its release for the board is unknown",
            hint=f"pip install {distribution}",
        ) from None


def install(pins: Sequence[str], python: str, folder: Path) -> None:
    """Install pinned distributions, with all they need, for CPython `python` ("3.13") on aarch64 Linux.

    Raises:
        DeviceError: pip is missing, or finds no wheel; the hint says which files to put where.
        StorageError: no space for them.
    """
    drop_in = cache_folder("wheels")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-compile", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform={platform}" for platform in _PLATFORMS]
    command += ["--find-links", str(drop_in)] if drop_in.is_dir() else []
    command += ["--target", str(folder), *pins]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = done.stderr.strip().splitlines() or ["pip said nothing"]
    reason = next((line for line in said if line.startswith("ERROR")), said[-1])
    if "No space left" in done.stderr:
        raise StorageError(f"{folder}: no space left to install {', '.join(pins)}", hint=f"free space under {folder}")
    if "No module named pip" in done.stderr:
        raise DeviceError("pip is missing, which fetches the board's wheels", hint=f"{sys.executable} -m ensurepip")
    raise DeviceError(
        f"the board's wheels cannot be fetched: {reason}",
        hint=f"check the network; or put the wheels of {', '.join(pins)} for CPython {python} on aarch64, "
        f"and of what they need, into {drop_in}",
    )
