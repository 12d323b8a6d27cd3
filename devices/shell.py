"""A board's shell over a link that may break: scripts that may be run twice are, once the link is back."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from devices.link import Link, LinkError, Program
from devices.provision import messages
from devices.transport import Completed
from msq.errors import DeviceError, MsqError, StorageError

SILENCE = 120.0
"""Seconds without a word after which a script of our own is taken for hung."""
PIECE = 1 << 17
"""Bytes that are sent at once."""


class Shell:
    """Scripts that are given to it are safe to run twice.

    Args:
        link: opened here.
        patience: seconds for which a broken link is tried again; a board restarts in less than a minute.
    Raises:
        DeviceError: the board cannot be reached, refuses this user or is not trusted.
    """

    def __init__(self, link: Link, patience: float = 90.0) -> None:
        self.link, self.patience = link, patience
        self.boot = ""
        """Differs after the board has restarted."""
        self.on_return: Callable[[], None] = lambda: None
        """Called whenever the link is back."""
        self._openings = 0
        self._opening = threading.RLock()
        link.open()
        self.boot = self._boot()

    def run(self, script: str, silence: float = SILENCE) -> Completed:
        """Run a script and return how it ended, whatever its exit code. Raises DeviceError."""
        return self._lasting(lambda: self._heard(self.link.start(script), silence))

    def must(self, script: str, what: str, silence: float = SILENCE) -> str:
        """Run a script that is to succeed and return its stdout.

        Args:
            what: what it is for, as in "NAME: WHAT failed".
        Raises:
            StorageError: no space, or no permission, on the board.
            DeviceError: it failed otherwise.
        """
        done = self.run(script, silence)
        if done.returncode:
            raise self.failure(done, what)
        return done.stdout

    def send(self, file: Path, offset: int, script: str) -> Completed:
        """Run a script whose stdin is a file from `offset` on. Raises LinkError: how far it came is to be asked."""
        program = self.link.start(script)
        with file.open("rb") as stream:
            stream.seek(offset)
            try:
                while piece := stream.read(PIECE):
                    program.feed(piece)
            except BrokenPipeError:
                pass  # It ended before it had read all; why, it says itself.
        return self._heard(program, SILENCE)

    def receive(self, script: str, file: Path) -> Completed:
        """Run a script whose stdout becomes a file. Raises DeviceError."""

        def attempt() -> Completed:
            program = self.link.start(script)
            program.end_input()
            with file.open("wb") as stream:
                return program.speech.listen(SILENCE, into=stream)

        return self._lasting(attempt)

    def reopen(self, seen: int) -> None:
        """Open the link again, unless another thread did since it had been opened `seen` times.

        Raises:
            LinkError: the board was out of reach for as long as `patience` lasts.
        """
        with self._opening:
            if self._openings != seen:
                return
            end, pause = time.monotonic() + self.patience, 0.2
            messages.print(f"{self.link.name}: the link broke; connecting again …", style="yellow", highlight=False)
            while not self._opened():
                if time.monotonic() + pause > end:
                    raise LinkError(
                        f"{self.link.name}: the link broke and did not come back within {self.patience:g} s: "
                        f"{self._refused}",
                        hint=self._refused.hint,
                    )
                time.sleep(pause)
                pause = min(2 * pause, 5.0)
            self._openings += 1

    def _opened(self) -> bool:
        try:
            self.link.open()
            self.boot = self._boot()
        except DeviceError as error:
            # Whatever it says: a board that starts refuses users whom it takes a moment later.
            self._refused = error
            return False
        try:
            self.on_return()
        except LinkError as error:
            self._refused = error
            return False
        return True

    @property
    def openings(self) -> int:
        """How often the link was opened again, for `reopen`."""
        return self._openings

    def failure(self, done: Completed, what: str) -> MsqError:
        """Return the error for a script of ours that failed."""
        words = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        for line in words:
            if "No space left" in line or "quota exceeded" in line.lower():
                return StorageError(
                    f"{self.link.name}: no space left on the device: {what} failed",
                    hint=f"free space there; what the toolchain keeps is in {self.link.home}",
                )
            if "Permission denied" in line or "Read-only file system" in line:
                return StorageError(f"{self.link.name}: {what} failed: {line.strip()}", hint="choose another user")
        return DeviceError(f"{self.link.name}: {what} failed: {words[-1].strip()}")

    def _lasting(self, attempt: Callable[[], Completed]) -> Completed:
        for _ in range(5):
            seen = self._openings
            try:
                return attempt()
            except LinkError as error:
                last = error
                self.reopen(seen)
        raise LinkError(f"{self.link.name}: the link breaks again and again: {last}", hint=last.hint)

    def _heard(self, program: Program, silence: float) -> Completed:
        program.end_input()
        return program.speech.listen(silence)

    def _boot(self) -> str:
        return self._heard(self.link.start("cat /proc/sys/kernel/random/boot_id 2>/dev/null"), SILENCE).stdout.strip()
