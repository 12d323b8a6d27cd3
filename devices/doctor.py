"""What this machine lacks for a deployment, for what, and how to mend it."""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from devices import manage
from devices.disk import mke2fs
from devices.own import own_devices
from msq import apt
from msq.artefact import Strict
from msq.cache import cache_folder
from msq.errors import DeviceError, MsqError
from runtimes._kernels import KERNELS

ROOM_GIB = 3
"""What data, emulated boards and wheels take in the cache."""


class Check(Strict):
    """One thing that is needed. found: what there is. purpose: what for. mend: a command, or what to do."""

    name: str
    ok: bool
    found: str
    purpose: str
    mend: str


class Report(Strict):
    """All checks."""

    checks: tuple[Check, ...]

    def raise_for_missing(self) -> None:
        """Raise DeviceError when something is missing."""
        missing = [check.name for check in self.checks if not check.ok]
        if missing:
            raise DeviceError(f"missing: {', '.join(missing)}", hint="what mends each is said above")


def examine() -> Report:
    """Look for all that is needed. Nothing is changed, and nothing is asked of the network."""
    tools = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name)]
    disks = mke2fs()
    checks = [
        _check("Debian's package tools", apt.available(), ", ".join(tools), "emulated boards", "use Debian or Ubuntu"),
        _install("Debian's keys", str(apt.KEYRING), apt.KEYRING.is_file(), "emulated boards", "debian-archive-keyring"),
        _install("mke2fs", disks or "", bool(disks), "emulated machines (vm:…)", "e2fsprogs"),
        _pip(),
        _kernels(),
        _room(),
        _install("ssh", shutil.which("ssh") or "", bool(shutil.which("ssh")), "msq device shell", "openssh-client"),
        _adb(),
        *_boards(),
    ]
    return Report(checks=tuple(checks))


def _check(name: str, ok: bool, found: str, purpose: str, mend: str) -> Check:
    return Check(name=name, ok=ok, found=found if ok else "missing", purpose=purpose, mend=mend)


def _install(name: str, found: str, ok: bool, purpose: str, package: str) -> Check:
    return _check(name, ok, found, purpose, f"sudo apt-get install {package}")


def _pip() -> Check:
    # By what is installed, not by looking for the module: on the way there setuptools hides its distutils for good.
    try:
        found = version("pip")
    except PackageNotFoundError:
        found = ""
    return _check("pip", bool(found), found, "boards' wheels", f"{sys.executable} -m ensurepip")


def _kernels() -> Check:
    lacking = [name for name in ("x86_64", "aarch64") if not (KERNELS / name / "msq-run").is_file()]
    found = "missing for " + ", ".join(lacking) if lacking else str(KERNELS)
    purpose = "packed kernels, the runtime native"
    return Check(name="packed kernels", ok=not lacking, found=found, purpose=purpose, mend="make kernels")


def _room() -> Check:
    folder = cache_folder()
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free / 2**30
    return Check(
        name="room in the cache",
        ok=free >= ROOM_GIB,
        found=f"{free:.1f} GiB free in {folder}",
        purpose=f"data and emulated boards, which take up to {ROOM_GIB} GiB",
        mend="free space, or name another folder in MSQ_CACHE",
    )


def _adb() -> Check:
    try:
        found, mend = manage.adb(), ""
    except DeviceError as error:
        found, mend = "", error.hint
    return _check("adb", bool(found), found, "phones", mend)


def _boards() -> list[Check]:
    purpose = "boards of your own"
    try:
        boards = own_devices()
    except MsqError as error:
        return [Check(name="devices.toml", ok=False, found=str(error), purpose=purpose, mend=error.hint)]
    checks = [_check("devices.toml", True, f"{len(boards)} boards: {', '.join(boards) or 'none'}", purpose, "")]
    if any(board.transport == "ssh" for board in boards.values()):
        keys = [key.stem for key in Path.home().glob(".ssh/id_*.pub")] + ["agent"] * ("SSH_AUTH_SOCK" in os.environ)
        checks.append(_check("an SSH key", bool(keys), ", ".join(keys), purpose, "ssh-keygen -t ed25519"))
    return checks
