"""A child process whose lines are passed on as they come, and that is stopped when it falls silent."""

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

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
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"{argv[0]}: cannot be started: {error.strerror}") from None
        self._lines: queue.SimpleQueue[tuple[bool, str | None]] = queue.SimpleQueue()
        assert self._child.stdout is not None and self._child.stderr is not None
        for is_output, stream in ((True, self._child.stdout), (False, self._child.stderr)):
            threading.Thread(target=self._pump, args=(is_output, stream), daemon=True).start()

    def _pump(self, is_output: bool, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put((is_output, line))
        self._lines.put((is_output, None))

    def wait(self, silence: float, on_line: Callable[[str], None] | None = None) -> Completed:
        """Pass on its lines until it ends; see devices.transport.Transport.run for arguments and errors."""
        output: list[str] = []
        errors: list[str] = []
        streams = 2
        try:
            while streams:
                is_output, line = self._lines.get(timeout=silence)
                if line is None:
                    streams -= 1
                    continue
                (output if is_output else errors).append(line)
                if is_output and on_line:
                    on_line(line.rstrip("\n"))
            code = self._child.wait(silence)
        except (queue.Empty, subprocess.TimeoutExpired):
            said = f"; the last it said: {errors[-1].strip()}" if errors else ""
            raise DeviceError(
                f"no sign of life for {silence:g} s, so it was stopped{said}",
                hint="is the machine overloaded or out of memory? try fewer images",
            ) from None
        finally:
            self.stop()
        return Completed(code if code >= 0 else 128 - code, "".join(output), "".join(errors))

    def stop(self) -> None:
        """Kill it with all it started, if it still runs."""
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
