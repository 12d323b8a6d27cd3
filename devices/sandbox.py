"""A working folder of this machine that plays the file system of a device."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from devices.process import Process
from devices.transport import Completed, inside
from msq.atomic import atomic_file
from msq.errors import DeviceError, StorageError


class Sandbox:
    """put, run, get and close of a transport whose device shares this machine's files.

    A subclass says with `command` how a program of the device is started here.
    """

    def __init__(self) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="msq-device-"))
        except OSError as error:
            raise StorageError(f"no working folder can be made: {error.strerror}", hint="set TMPDIR") from None
        self._running: set[Process] = set()

    def command(self, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
        """Return the host's argv and environment for a program of the device."""
        raise NotImplementedError

    def put(self, files: Sequence[Path], folder: PurePosixPath) -> None:
        """Copy files into a folder of the device."""
        place = self.folder / inside(folder)
        for file in files:
            with atomic_file(place / file.name) as temporary:
                shutil.copyfile(file, temporary)
            shutil.copymode(file, place / file.name)

    def run(self, argv: Sequence[str], timeout: float, on_line: Callable[[str], None] | None = None) -> Completed:
        """Run a program of the device."""
        process = Process(*self._started(argv))
        self._running.add(process)
        try:
            return process.wait(timeout, on_line)
        finally:
            self._running.discard(process)

    def get(self, remote: PurePosixPath, local: Path) -> None:
        """Copy one file from the device."""
        source = self.folder / inside(remote)
        if not source.is_file():
            raise DeviceError(f"{remote}: no such file on the device")
        with atomic_file(local) as temporary:
            shutil.copyfile(source, temporary)

    def close(self) -> None:
        """Stop what still runs and remove the working folder."""
        for process in tuple(self._running):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _started(self, argv: Sequence[str]) -> tuple[list[str], Path, Mapping[str, str]]:
        command, environment = self.command(argv)
        return command, self.folder, environment
