"""How bytes and commands reach a device. Implementations: one file each in transports/."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from devices.profile import Profile
from msq import measurement, plugins
from msq.errors import DeviceError

Engine = measurement.Engine
TIER_VARIABLE = "MSQ_KERNELS_TIER"
"""The packed kernels' tier, where the board's best one is slow to emulate: what it computes is the same."""


@dataclass(frozen=True)
class Completed:
    """A command that ended by itself. returncode is 128 + n when signal n ended it, as in a shell."""

    returncode: int
    stdout: str
    stderr: str


def inside(path: PurePosixPath) -> PurePosixPath:
    """Return a path that is relative to the working folder and stays in it. Raises DeviceError for another."""
    if path.is_absolute() or ".." in path.parts:
        raise DeviceError(f"{path}: outside the device's working folder")
    return path


class Transport(Protocol):
    """Four verbs. Paths on the device are relative to a working folder that the transport makes and removes."""

    engine: Engine
    """What runs the commands. Times observed under qemu-user or qemu-system say nothing of a board, and memory only
    under qemu-system, where it is the guest's."""
    emulator: str | None
    """Name, version and CPU model of the emulator, once prepared; None where the code runs on real silicon."""
    machine: str
    """The device's architecture as uname names it (aarch64, x86_64), once prepared."""

    def prepare(self, profile: Profile, packages: Sequence[str] | None) -> None:
        """Make the device ready to run Python with numpy and these pinned distributions ("name==version").

        None: only static programs that are put there will run.

        Raises:
            DeviceError: it cannot be set up or reached.
            StorageError: no space for it.
        """
        ...

    def put(self, files: Sequence[Path], folder: PurePosixPath) -> None:
        """Copy files, with their permission to be run, into a folder of the device, made when missing."""
        ...

    def run(self, argv: Sequence[str], timeout: float, on_line: Callable[[str], None] | None = None) -> Completed:
        """Run a program of the device in the working folder and wait for its end.

        Safe to call from several threads at once.

        Args:
            argv: program ("python3", or "./name" of the working folder) and arguments.
            timeout: seconds of silence on stdout and stderr after which it is taken for hung, and killed.
            on_line: called with each line of stdout as it comes.
        Raises:
            DeviceError: the program is not there, or was silent for too long.
        """
        ...

    def get(self, remote: PurePosixPath, local: Path) -> None:
        """Copy one file from the device. Raises DeviceError when it is not there."""
        ...

    def close(self) -> None:
        """Stop what still runs and remove the working folder. Harmless when called again."""
        ...


def names() -> list[str]:
    """Return the transports there are."""
    return plugins.names("devices.transports")


def transport(name: str) -> Transport:
    """Return a new transport of that name: the `Transport` that the module names. Raises UsageError."""
    module: Any = plugins.load("devices.transports", name, "transport")
    return module.TRANSPORT()  # type: ignore[no-any-return]
