"""A board that is reached through its shell: what a transport's four verbs are there, whichever way leads to it."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from devices import board_python
from devices.device_lock import DeviceLock
from devices.job import Jobs
from devices.link import Link
from devices.profile import Profile
from devices.shell import Shell
from devices.transport import Completed, Engine, inside
from devices.uploads import Uploads
from msq.atomic import atomic_file
from msq.errors import DeviceError

# Folders of clients that are gone, with what runs in them (see devices/job.py).
_SWEEP = """
cd {base} || exit 1
for work in work-*; do
    for job in "$work"/.run/*[0-9]; do
        [ -f "$job" ] && process=$(cat "$job") || continue
        [ "$(readlink /proc/$process/cwd)" = "$PWD/$work" ] && kill -9 -$process
    done
    rm -rf "$work"
done 2>/dev/null
mkdir -p {work}/.run files || exit 1
find files -type f -mtime +{days} -exec rm -f {{}} + 2>/dev/null
"""

KEPT_DAYS = 30
"""A file that was sent and not used for so long is removed."""


class Board:
    """put, run, get and close of a transport over a link; a subclass says which."""

    engine: Engine = "board"
    emulator: str | None = None
    machine = ""

    def __init__(self) -> None:
        self._link: Link | None = None
        self._environment: Mapping[str, str] = {}
        self._jobs: Jobs | None = None
        self._lock: DeviceLock | None = None
        self._work = ""

    def link(self, profile: Profile) -> Link:
        """Return the way to the board, not yet opened. Raises UsageError: the profile does not say which board."""
        raise NotImplementedError

    def prepare(self, profile: Profile, packages: Sequence[str] | None) -> None:
        """Lock the board, make a working folder, and complete its Python in a private folder where that is needed.

        Raises:
            DeviceError: it cannot be reached, is in use by another, or has no Python.
            StorageError: no space on it.
        """
        self._link = self.link(profile)
        self._shell = Shell(self._link)
        self.machine, base = self._shell.must(
            f'uname -m; mkdir -p "{self._link.home}" && cd "{self._link.home}" && pwd -P',
            "making a folder on the device",
        ).splitlines()
        self._lock = DeviceLock(self._link)
        self._lock.take()
        self._shell.on_return = self._lock.take
        self._work = f"{base}/work-{os.urandom(4).hex()}"
        words = {"base": shlex.quote(base), "work": shlex.quote(self._work)}
        self._shell.must(_SWEEP.format(**words, days=KEPT_DAYS), "making a working folder there")
        self._jobs = Jobs(self._shell, self._work)
        self._uploads = Uploads(self._shell, f"{base}/files")
        self._environment = {"PYTHONUTF8": "1", "MSQ_KEPT": base}
        if packages is not None:
            self._environment |= board_python.environment(self._shell, self._uploads, base, packages)

    def put(self, files: Sequence[Path], folder: PurePosixPath) -> None:
        """Copy files into a folder of the board; nothing that it has had already is sent again."""
        self._uploads.put(files, f"{self._work}/{inside(folder)}")

    def run(self, argv: Sequence[str], timeout: float, on_line: Callable[[str], None] | None = None) -> Completed:
        """Run a program of the board. It goes on where the link breaks meanwhile, and is heard on once that is back."""
        if self._jobs is None:
            raise DeviceError("the board is not prepared", hint="this is a bug of the toolchain")
        return self._jobs.run(argv, self._environment, timeout, on_line or (lambda line: None))

    def get(self, remote: PurePosixPath, local: Path) -> None:
        """Copy one file from the board."""
        source = shlex.quote(f"{self._work}/{inside(remote)}")
        with atomic_file(local) as temporary:
            done = self._shell.receive(f"[ -f {source} ] || exit 44; exec cat {source}", temporary)
            if done.returncode == 44:
                raise DeviceError(f"{remote}: no such file on the device")
            if done.returncode:
                raise self._shell.failure(done, f"reading {remote}")

    def close(self) -> None:
        """End what still runs, remove the working folder, free the board and disconnect."""
        if self._link is None:
            return
        link, self._link = self._link, None
        # Out of reach, what is left is removed by the next client.
        with suppress(DeviceError):
            if self._jobs:
                self._shell.patience = min(self._shell.patience, 5.0)
                self._jobs.end()
                self._shell.run(f"rm -rf {shlex.quote(self._work)}")
        if self._lock:
            self._lock.free()
        link.close()
