"""Disks of emulated machines: an ext4 file system in a file, made of a folder without root privileges."""

import os
import shutil
import subprocess
from pathlib import Path

from msq.errors import DeviceError


def mke2fs() -> str | None:
    """Return the path of the program that makes disks, which is where a user need not look for programs."""
    return shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def make_disk(root: Path, file: Path, mib: int) -> None:
    """Make a disk of `mib` MiB that holds what is in a folder; the file is as large as that.

    Files keep this machine's owners.

    Raises:
        DeviceError: mke2fs is not installed, or failed.
    """
    maker = mke2fs()
    if maker is None:
        raise DeviceError("mke2fs is not installed here, which makes the machine's disk", hint="install e2fsprogs")
    command = [maker, "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", str(root)]
    made = subprocess.run([*command, str(file), f"{mib}M"], capture_output=True, text=True, check=False)
    if made.returncode:
        raise DeviceError(f"mke2fs failed: {(made.stderr.strip().splitlines() or ['no message'])[-1]}")
