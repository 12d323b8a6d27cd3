"""An emulated board: qemu-user runs arm64 programs of a Debian root on this machine, without root privileges.

The processor's instructions are emulated, the kernel is this machine's: what the code computes is true of the
board, how long it takes and how much memory it needs is not.
"""

import os
from collections.abc import Mapping, Sequence

from devices import provision, wheels
from devices.profile import Profile
from devices.sandbox import Sandbox
from devices.transport import TIER_VARIABLE, Engine
from msq.errors import DeviceError, UsageError


class Emulator(Sandbox):
    """The root that programs see is made of links to the cached one, beside files that tell which board it is."""

    engine: Engine = "qemu-user"
    emulator: str | None = None
    machine = "aarch64"

    def prepare(self, profile: Profile, packages: Sequence[str] | None) -> None:
        """Provision the board and the packages, both cached, and give the board its identity.

        Without packages its root is empty but for that.
        """
        if profile.qemu_cpu is None:
            raise UsageError(f"device {profile.name!r} names no qemu_cpu", hint="add it to the profile")
        board = provision.board(wheels.python_of(packages or ()))
        if profile.qemu_cpu not in board.cpus():
            raise UsageError(
                f"device {profile.name!r}: {board.version} knows no processor {profile.qemu_cpu!r}",
                hint=f"it knows {', '.join(board.cpus())}",
            )
        self._board, self._cpu = board, profile.qemu_cpu
        self._site = None if packages is None else provision.site(board, packages)
        self.emulator = f"{board.version}, -cpu {profile.qemu_cpu}"
        self._root = self.folder / ".root"
        self._root.mkdir()
        for entry in board.root.iterdir() if self._site else ():
            (self._root / entry.name).symlink_to(entry)
        identity = self._root / "proc" / "device-tree"
        identity.mkdir(parents=True)
        (identity / "model").write_text(f"{profile.title} (emulated CPU)\0", encoding="utf-8")

    def command(self, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
        """Return the emulator's argv for a program of the root, in an environment that has only the host's tier."""
        program = self.folder / argv[0] if argv[0].startswith("./") else self._root / "usr" / "bin" / argv[0]
        if not program.exists():
            raise DeviceError(f"{argv[0]}: no such program on the emulated board")
        command = self._board.command(self._root, self._cpu, [str(program), *argv[1:]])
        site = {"PYTHONPATH": str(self._site)} if self._site else {}
        tier = {TIER_VARIABLE: os.environ[TIER_VARIABLE]} if TIER_VARIABLE in os.environ else {}
        return command, {**site, **tier, "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}


TRANSPORT = Emulator
