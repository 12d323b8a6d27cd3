"""This machine as a device."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from devices import provision
from devices.profile import Profile
from devices.sandbox import Sandbox
from devices.transport import Engine


class Local(Sandbox):
    """Programs run as they are; "python3" is the Python that runs the toolchain."""

    engine: Engine = "host"
    emulator: str | None = None
    machine = platform.machine()
    _site: Path | None = None

    def prepare(self, profile: Profile, packages: Sequence[str] | None) -> None:
        """Provision packages that the toolchain is not installed with; all else runs with what it is installed with."""
        self._site = provision.own_site(packages) if packages else None

    def command(self, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
        """Return argv with python3 resolved, and the environment as it is, but for an own site."""
        program = sys.executable if argv[0] == "python3" else argv[0]
        own = {"PYTHONPATH": str(self._site)} if self._site else {}
        return [program, *argv[1:]], {**os.environ, **own}


TRANSPORT = Local
