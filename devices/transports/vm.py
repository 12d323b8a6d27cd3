"""An emulated board that is a whole machine: QEMU boots an arm64 kernel with the board's memory, and it is reached over
the same SSH or ADB as a board.

Processor, kernel and memory limit are those of a guest: what the code computes and how much memory it takes there is
true of such a board, how long it takes is not.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from devices.board import Board
from devices.machine import Machine
from devices.profile import Profile
from devices.transport import Completed, Engine
from devices.transports.adb import Adb
from devices.transports.ssh import Ssh
from msq.errors import DeviceError


class Vm:
    """The machine that `msq device up` left running for the profile, else one of its own that `close` ends."""

    engine: Engine = "qemu-system"
    emulator: str | None = None
    machine = ""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._guest: Machine | None = None
        self._inside: Board | None = None

    def prepare(self, profile: Profile, packages: Sequence[str] | None) -> None:
        """Boot the machine if none runs, connect to it, and prepare it as any board.

        Raises:
            DeviceError: it cannot be provisioned, does not boot, or is in use.
            StorageError: no space for it.
        """
        profile.admit(packages)
        self._guest = Machine.running(profile)
        if self._guest is None:
            self._folder = Path(tempfile.mkdtemp(prefix="msq-machine-"))
            self._guest = Machine.boot(profile, self._folder, packages)
        facts = self._guest.facts
        self.emulator = f"{facts.emulator}, -machine virt, -cpu {facts.cpu}, -m {facts.memory_mib}"
        address = "board" if facts.link == "ssh" else f"127.0.0.1:{facts.port}"
        self._inside = Ssh(self._guest.config) if facts.link == "ssh" else Adb()
        self._inside.prepare(profile.model_copy(update={"address": address}), packages)
        self.machine = self._inside.machine

    def put(self, files: Sequence[Path], folder: PurePosixPath) -> None:
        """Copy files into a folder of the guest."""
        self._board.put(files, folder)

    def run(self, argv: Sequence[str], timeout: float, on_line: Callable[[str], None] | None = None) -> Completed:
        """Run a program of the guest."""
        return self._board.run(argv, timeout, on_line)

    def get(self, remote: PurePosixPath, local: Path) -> None:
        """Copy one file from the guest."""
        self._board.get(remote, local)

    def close(self) -> None:
        """Leave the guest as it was; end the machine if it was booted here."""
        if self._inside:
            self._inside.close()
            self._inside = None
        if self._folder and self._guest:
            self._guest.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _board(self) -> Board:
        if self._inside is None:
            raise DeviceError("the emulated machine is not prepared", hint="this is a bug of the toolchain")
        return self._inside


TRANSPORT = Vm
