"""A board that is reached through its shell: what a transport's four verbs are there, whichever way leads to it."""

import os
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath

from devices import board_python
from devices.device_lock import DeviceLock
from devices.link import Link, LinkError
from devices.profile import Profile
from devices.shell import Shell
from devices.transport import Completed, Engine, inside
from devices.uploads import Uploads
from msq.atomic import atomic_file
from msq.errors import DeviceError

# Folders of clients that are gone. Processes are known by where they run, as their numbers are given anew.
_SWEEP = """
cd {base} || exit 1
for work in work-*; do
    for job in "$work"/.run/*; do
        [ -f "$job" ] && process=$(cat "$job") || continue
        [ "$(readlink /proc/$process/cwd)" = "$PWD/$work" ] && kill -9 -$process
    done
    rm -rf "$work"
done 2>/dev/null
mkdir -p {work}/.run files || exit 1
find files -type f -mtime +{days} -exec rm -f {{}} + 2>/dev/null
"""
_END = """
process=$(cat {job}) && [ "$(readlink /proc/$process/cwd)" = {work} ] && kill -9 -$process
"""
# The kernel, where memory runs out, ends the job rather than what serves the link.
_RUN = """
cd {work} || exit 1
command -v {program} >/dev/null || {{ echo {marker} >&2; exit 127; }}
echo $$ > .run/{number}
{{ echo 1000 > /proc/self/oom_score_adj; }} 2>/dev/null
exec env {environment} {argv} </dev/null
"""
# How many processes the kernel has ended for want of memory; nothing where it does not tell.
_KILLS = "sed -n 's/^oom_kill //p' /proc/vmstat"
_ABSENT = "msq: no such program"
_KILLED = 128 + 9


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
        self._running: dict[int, threading.Event] = {}
        self._numbers = count()
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
        kills = self._shell.must(_SWEEP.format(**words, days=KEPT_DAYS) + _KILLS, "making a working folder there")
        self._out_of_memory = _number(kills)
        self._uploads = Uploads(self._shell, f"{base}/files")
        self._environment = {"PYTHONUTF8": "1"}
        if packages is not None:
            self._environment |= board_python.environment(self._shell, self._uploads, base, packages)

    def put(self, files: Sequence[Path], folder: PurePosixPath) -> None:
        """Copy files into a folder of the board; nothing that it has had already is sent again."""
        self._uploads.put(files, f"{self._work}/{inside(folder)}")

    def run(self, argv: Sequence[str], timeout: float, on_line: Callable[[str], None] | None = None) -> Completed:
        """Run a program of the board. Where the link breaks meanwhile it is ended, as nobody heard what it said."""
        number, boot = next(self._numbers), self._shell.boot
        over = self._running[number] = threading.Event()
        words = {"work": self._work, "program": argv[0], "marker": _ABSENT}
        script = _RUN.format(
            **{name: shlex.quote(word) for name, word in words.items()},
            number=number,
            environment=shlex.join(f"{name}={value}" for name, value in self._environment.items()),
            argv=shlex.join(argv),
        )
        try:
            done = self._heard(number, script, argv[0], boot, timeout, on_line)
        finally:
            over.set()
            del self._running[number]
        if done.returncode == 127 and done.stderr.strip() == _ABSENT:
            raise DeviceError(f"{argv[0]}: no such program on {self._shell.link.name}")
        if done.returncode == _KILLED and self._memory_ran_out():
            return replace(done, stderr=f"{done.stderr}out of memory: the device's kernel ended {argv[0]}\n")
        return done

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
            if self._work:
                self._shell.patience = 5.0
                for number, over in tuple(self._running.items()):
                    self._kill(number)
                    over.wait(10)
                self._shell.run(f"rm -rf {shlex.quote(self._work)}")
        if self._lock:
            self._lock.free()
        link.close()

    def _heard(
        self,
        number: int,
        script: str,
        program: str,
        boot: str,
        silence: float,
        on_line: Callable[[str], None] | None,
    ) -> Completed:
        while True:
            seen = self._shell.openings
            try:
                started = self._shell.link.start(script)
                started.end_input()
                return started.speech.listen(silence, on_line or (lambda line: None))
            except LinkError as error:
                self._shell.reopen(seen)
                if self._shell.boot != boot:
                    raise DeviceError(
                        f"{self._shell.link.name} restarted while {program} ran",
                        hint="is its power supply weak, or a watchdog active? then run it again",
                    ) from None
                if self._shell.run(f"[ -f {self._job(number)} ]").returncode == 0:
                    self._kill(number)
                    raise DeviceError(
                        f"the link to {self._shell.link.name} broke while {program} ran, which was ended: {error}",
                        hint="run it again",
                    ) from None
                # It never started.
            except BaseException:
                # Silent for too long, or Ctrl-C.
                with suppress(DeviceError):
                    self._kill(number)
                raise

    def _job(self, number: int) -> str:
        return shlex.quote(f"{self._work}/.run/{number}")

    def _kill(self, number: int) -> None:
        self._shell.run(_END.format(job=self._job(number), work=shlex.quote(self._work)))

    def _memory_ran_out(self) -> bool:
        before, self._out_of_memory = self._out_of_memory, _number(self._shell.run(_KILLS).stdout)
        return self._out_of_memory > before


def _number(said: str) -> int:
    return int(said) if said.strip().isdigit() else 0
