"""This machine as a device."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence

from devices.profile import Profile
from devices.sandbox import Sandbox
from devices.transport import Engine


class Local(Sandbox):
    """Programs run as they are; "python3" is the Python that runs the toolchain."""

    engine: Engine = "host"
    emulator: str | None = None
    machine = platform.machine()

    def prepare(self, profile: Profile, packages: Sequence[str] | None) -> None:
        """Do nothing: what the toolchain is installed with is what runs."""

    def command(self, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
        """Return argv with python3 resolved, and the environment as it is."""
        program = sys.executable if argv[0] == "python3" else argv[0]
        return [program, *argv[1:]], os.environ


TRANSPORT = Local
