"""An emulated board that counts the instructions its programs execute: devices/counter.c, in an older emulator."""

import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from devices import provision
from devices.profile import Profile
from devices.transports.emulator import Emulator
from msq.errors import DeviceError


class Counter(Emulator):
    """Whenever a program calls os.sched_yield(), its stderr gets a line that `counts` reads."""

    def prepare(self, profile: Profile, packages: Sequence[str] | None) -> None:
        """Provision the board, the packages and the emulator that counts, and build the plugin with zig."""
        super().prepare(profile, packages)
        # The older emulator shows its programs the host's processor; by what they read there, runtimes choose kernels.
        shown = self.run(["python3", "-c", "print(open('/proc/cpuinfo').read())"], 60)
        (self._root / "proc" / "cpuinfo").write_text(shown.stdout, encoding="utf-8")
        plugin = self.folder / ".counter.so"
        _build(plugin)
        self._board = provision.counting(self._board, plugin)
        self.emulator = f"{self._board.version}, -cpu {self._cpu}"

    def command(self, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
        """Return the emulator's argv for a program of the root, in an environment where numpy starts no threads."""
        command, environment = super().command(argv)
        return command, {**environment, "OPENBLAS_NUM_THREADS": "1"}


def counts(stderr: str) -> list[tuple[int, int]]:
    """Return instructions, and vector multiplications among them, between each call of sched_yield and the next."""
    marks = [(int(one), int(two)) for one, two in re.findall(r"^counted (\d+) (\d+)$", stderr, re.MULTILINE)]
    return [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(marks)]


def _build(plugin: Path) -> None:
    source, target = Path(__file__).with_name("counter.c"), f"{platform.machine()}-linux-gnu.2.17"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-shared", "-fPIC", "-O2", "-Wall", "-Werror"]
    # What the plugin calls is in the emulator.
    command += ["-Wl,-z,undefs", str(source), "-o", str(plugin)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DeviceError(f"{source}: cannot be built: {said[0]}", hint="pip install ziglang")
