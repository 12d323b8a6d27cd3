"""What a started program says, passed on line by line until it ends or falls silent."""

import queue
from collections.abc import Callable
from typing import BinaryIO, Literal

from devices.transport import Completed
from msq.errors import DeviceError, MsqError

Heard = tuple[Literal["out", "err"], bytes] | int | MsqError
"""Bytes of stdout or stderr; at last the exit code, or why it will never be known."""


class Speech:
    """Threads that hear the program `tell`; one that waits for it calls `listen`."""

    def __init__(self) -> None:
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._said = {"out": bytearray(), "err": bytearray()}
        self._passed = 0

    @property
    def bytes(self) -> tuple[int, int]:
        """How many bytes of stdout and of stderr `listen` has kept."""
        return len(self._said["out"]), len(self._said["err"])

    def follow(self, earlier: "Speech") -> None:
        """Take it that what this one is told goes on from where listening to an earlier one broke off."""
        self._said, self._passed = earlier._said, earlier._passed

    def tell(self, heard: Heard) -> None:
        """Pass on what was heard. Nothing may follow an exit code or an error."""
        self._heard.put(heard)

    def next(self, silence: float) -> Heard:
        """Return what was heard next. Raises queue.Empty after `silence` seconds without it."""
        return self._heard.get(timeout=silence)

    def listen(
        self, silence: float, on_line: Callable[[str], None] = lambda line: None, into: BinaryIO | None = None
    ) -> Completed:
        """Return all that it said once it has ended.

        Args:
            silence: seconds without a word after which it is taken for hung.
            on_line: called with each line of stdout as it comes.
            into: where its stdout goes instead.
        Raises:
            DeviceError: it was silent for too long; stopping it is the caller's.
            MsqError: what `tell` was given.
        """
        said = self._said
        while True:
            try:
                heard = self.next(silence)
            except queue.Empty:
                last = _text(said["err"]).strip().splitlines()
                raise DeviceError(
                    f"no sign of life for {silence:g} s, so it was stopped"
                    + (f"; the last it said: {last[-1].strip()}" if last else ""),
                    hint="is the machine overloaded or out of memory? try fewer images",
                ) from None
            if isinstance(heard, MsqError):
                raise heard
            if into and not isinstance(heard, int) and heard[0] == "out":
                into.write(heard[1])
                continue
            if not isinstance(heard, int):
                said[heard[0]] += heard[1]
            output = said["out"]
            whole = len(output) if isinstance(heard, int) else output.rfind(b"\n") + 1
            if whole > self._passed:
                lines = _text(output[self._passed : whole]).removesuffix("\n").split("\n")
                self._passed = whole
                for line in lines:
                    on_line(line)
            if isinstance(heard, int):
                return Completed(heard, _text(output), _text(said["err"]))


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", errors="replace")
