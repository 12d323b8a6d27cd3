"""A child process whose lines are passed on as they come, and that is stopped when it falls silent."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from devices.speech import Speech
from devices.transport import Completed
from msq.errors import DeviceError


class Process:
    """A started program in a process group of its own, so that it can be stopped with all it started.

    Raises:
        DeviceError: the program is not there or cannot be run.
    """

    def __init__(self, argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        try:
            self._child = subprocess.Popen(
                argv,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"{argv[0]}: cannot be started: {error.strerror}") from None
        assert self._child.stdout is not None and self._child.stderr is not None
        self._speech = Speech()
        pumps = [
            threading.Thread(target=self._pump, args=("out", self._child.stdout), daemon=True),
            threading.Thread(target=self._pump, args=("err", self._child.stderr), daemon=True),
        ]
        for pump in pumps:
            pump.start()
        threading.Thread(target=self._end, args=(pumps,), daemon=True).start()

    def _pump(self, stream: Literal["out", "err"], pipe: IO[bytes]) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), 1 << 16):
                self._speech.tell((stream, data))

    def _end(self, pumps: Sequence[threading.Thread]) -> None:
        for pump in pumps:
            pump.join()
        code = self._child.wait()
        self._speech.tell(code if code >= 0 else 128 - code)

    def wait(self, silence: float, on_line: Callable[[str], None] | None = None) -> Completed:
        """Pass on its lines until it ends; see devices.transport.Transport.run for arguments and errors."""
        try:
            return self._speech.listen(silence, on_line or (lambda line: None))
        finally:
            self.stop()

    def stop(self) -> None:
        """Kill it with all it started, if it still runs."""
        if self._child.poll() is None:
            with suppress(ProcessLookupError):  # it just ended
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
