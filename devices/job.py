"""Programs on a board that outlive the link to it: what they say is kept there, and heard on once the link is back."""

import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count

from devices.link import LinkError
from devices.shell import Shell
from devices.speech import Speech
from devices.transport import Completed
from msq.errors import DeviceError

BREAKS = 8
"""How often the link may break while nothing more is heard of a program."""

# A program's files in .run: one with its process; .out and .err with what it says; .end with its exit code; and .claim,
# by which either the script starts it, or a client that came back before that may be sure that it never will.
# What the shell itself says of a program's end is not the program's. Where memory runs out, the kernel ends the program
# rather than what serves the link.
_START = """
cd {work} || exit 1
command -v {program} >/dev/null || {{ echo {absent} >&2; exit 127; }}
trap '' HUP
{{ mkdir {job}.claim && echo $$ > {job}.new && mv {job}.new {job}; }} || {{ echo {unstarted} >&2; exit 126; }}
exec 3>&1 4>&2
{{
    {{
        (
            {{ echo 1000 > /proc/self/oom_score_adj; }} 2>/dev/null
            exec env {environment} {argv} </dev/null 2>&6 3>&- 4>&- 6>&-
        )
        echo $? > {job}.code
    }} 6>&1 >&5 5>&- 2>/dev/null | (trap '' PIPE; exec tee {job}.err >&4)
}} 5>&1 | (trap '' PIPE; exec tee {job}.out >&3)
mv {job}.code {job}.end
exit $(cat {job}.end)
"""
_CLAIM = "cd {work} && {{ mkdir {job}.claim && : > {job}.claim/mine; }} 2>/dev/null || [ -f {work}/{job}.claim/mine ]"
# It looks once a second, so that a run that is being timed is hardly disturbed.
_HEAR_ON = """
cd {work} || exit 1
exec 4>&2 2>/dev/null
tries=0
until [ -f {job} ] || [ $tries -ge 50 ]; do sleep 0.1; tries=$((tries + 1)); done
process=$(cat {job}) out={out} err={err}
news() {{
    size=$(wc -c < "$1") || size=$2
    [ $size -le $2 ] || tail -c +$(($2 + 1)) "$1" | head -c $((size - $2))
}}
while :; do
    code=
    [ "$(readlink /proc/$process/cwd)" = {work} ] || code=137
    [ ! -f {job}.end ] || code=$(cat {job}.end)
    news {job}.out $out; out=$size
    news {job}.err $err >&4; err=$size
    [ -z "$code" ] || exit $code
    sleep 1
done
"""
# Processes are known by where they run too, as their numbers are given anew.
_KILL = 'cd {work} && process=$(cat {job}) && [ "$(readlink /proc/$process/cwd)" = {work} ] && kill -9 -$process'
_KILLS = "sed -n 's/^oom_kill //p' /proc/vmstat"
_ABSENT, _UNSTARTED = "msq: no such program", "msq: not started"
_KILLED = 128 + 9


class Jobs:
    """Programs that run in a working folder of the board.

    Args:
        work: the folder, absolute, with an empty folder .run in it.
    """

    def __init__(self, shell: Shell, work: str) -> None:
        self._shell, self._work, self._boot = shell, shlex.quote(work), shell.boot
        self._running: dict[int, threading.Event] = {}
        self._numbers = count()
        self._out_of_memory = self._kills()

    def run(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        silence: float,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> Completed:
        """Run a program to its end; see devices.transport.Transport.run. It goes on while the link is away."""
        words = {
            "program": shlex.quote(argv[0]),
            "absent": shlex.quote(_ABSENT),
            "unstarted": shlex.quote(_UNSTARTED),
            "environment": shlex.join(f"{name}={value}" for name, value in environment.items()),
            "argv": shlex.join(argv),
        }
        done = None
        while done is None:
            done = self._ended(argv[0], words, silence, on_line)
        if done.returncode == 127 and done.stderr.strip() == _ABSENT:
            raise DeviceError(f"{argv[0]}: no such program on {self._shell.link.name}")
        if done.returncode == 126 and done.stderr.strip().endswith(_UNSTARTED):
            said = done.stderr.replace(_UNSTARTED, "").strip()
            raise self._shell.failure(replace(done, stderr=said), f"starting {argv[0]}")
        if done.returncode == _KILLED and self._memory_ran_out():
            return replace(done, stderr=f"{done.stderr}out of memory: the device's kernel ended {argv[0]}\n")
        return done

    def end(self) -> None:
        """End what still runs, and wait until it has ended. Raises DeviceError: the board is out of reach."""
        for number, over in tuple(self._running.items()):
            self._kill(number)
            over.wait(10)

    def _ended(
        self, program: str, words: Mapping[str, str], silence: float, on_line: Callable[[str], None]
    ) -> Completed | None:
        """Start a program and hear it to its end; None: the link broke before it started, and it never will."""
        number = next(self._numbers)
        over = self._running[number] = threading.Event()
        try:
            return self._heard(number, program, words, silence, on_line)
        except LinkError:
            raise  # it is out of reach; the next client ends it
        except BaseException:
            # Silent for too long, or Ctrl-C.
            with suppress(DeviceError):
                self._kill(number)
            raise
        finally:
            over.set()
            del self._running[number]

    def _heard(
        self, number: int, program: str, words: Mapping[str, str], silence: float, on_line: Callable[[str], None]
    ) -> Completed | None:
        board, breaks, heard = self._shell.link.name, 0, Speech()
        self._require_same_boot(f"before {program} ran")
        script = self._filled(_START, number, **words)
        while True:
            seen, before = self._shell.openings, heard.bytes
            try:
                started = self._shell.link.start(script)
                started.end_input()
                started.speech.follow(heard)
                heard = started.speech
                return heard.listen(silence, on_line)
            except LinkError as error:
                self._shell.reopen(seen)
                breaks = breaks + 1 if heard.bytes == before else 0
                if breaks >= BREAKS:
                    raise LinkError(
                        f"{board}: the link breaks again and again while {program} runs: {error}", hint=error.hint
                    ) from None
            self._require_same_boot(f"while {program} ran")
            if self._shell.run(self._filled(_CLAIM, number)).returncode == 0:
                return None
            out, err = heard.bytes
            script = self._filled(_HEAR_ON, number, out=out, err=err)

    def _require_same_boot(self, when: str) -> None:
        """What was sent before a restart may not have reached the disk whole."""
        if self._shell.boot != self._boot:
            raise DeviceError(
                f"{self._shell.link.name} restarted {when}",
                hint="is its power supply weak, or a watchdog active? then run it again",
            )

    def _filled(self, script: str, number: int, **words: object) -> str:
        return script.format(work=self._work, job=f".run/{number}", **words)

    def _kill(self, number: int) -> None:
        self._shell.run(self._filled(_KILL, number))

    def _memory_ran_out(self) -> bool:
        before, self._out_of_memory = self._out_of_memory, self._kills()
        return self._out_of_memory > before

    def _kills(self) -> int:
        """Return how many processes the kernel has ended for want of memory; 0 where it does not tell."""
        said = self._shell.run(_KILLS).stdout
        return int(said) if said.strip().isdigit() else 0
