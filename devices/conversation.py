"""Programs on a device that speak JSON, an object a line: progress, results, and the error that ended them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from devices.transport import Completed, Transport
from msq.errors import DeviceError, MsqError, StorageError, error_of

SILENCE = 900.0
"""Seconds without a word after which an agent is taken for hung: under emulation one batch can take minutes."""

Message = dict[str, Any]


def converse(
    transport: Transport,
    argv: Sequence[str],
    hear: Callable[[Message], None] = lambda message: None,
    silence: float = SILENCE,
) -> list[Message]:
    """Run a program of the device to its end and return what it said, "what" of each message its topic.

    Args:
        argv: program and arguments. hear: called with each message as it comes. silence: seconds; see SILENCE.
    Raises:
        MsqError: what the program said went wrong, in its own class; DeviceError when it died without a word.
    """
    said: list[Message] = []

    def listen(line: str) -> None:
        if message := _message(line):
            said.append(message)
            hear(message)

    completed = transport.run(argv, silence, listen)
    if completed.returncode:
        raise _failure(said, completed)
    return said


def classes_to(pass_on: Callable[[list[int]], None]) -> Callable[[Message], None]:
    """Return what `converse` calls as `hear`, so that the classes of images are passed on as they are told."""

    def hear(message: Message) -> None:
        if message.get("what") == "images":
            pass_on(message["predictions"])

    return hear


def _message(line: str) -> Message:
    """Return the message that a line holds; empty for what a library printed."""
    if not line.startswith("{"):
        return {}
    try:
        message: Message = json.loads(line)
    except ValueError:
        return {}
    return message


def _failure(said: Sequence[Message], completed: Completed) -> MsqError:
    """Return the error that was told of, in its own class, else a DeviceError with the last words on stderr."""
    for message in reversed(said):
        if "error" in message:
            kind = error_of(message.get("exit_code"), DeviceError)
            return kind(message["error"], hint=message.get("hint", ""))
    words = completed.stderr.strip().splitlines()
    if words and "No space left on device" in words[-1]:
        return StorageError("no space left on the device for what the agent writes", hint="free space there")
    how = f"was killed by signal {completed.returncode - 128}" if completed.returncode > 128 else "failed"
    return DeviceError(
        f"the agent {how} (exit code {completed.returncode}): {words[-1].strip() if words else 'it said nothing'}",
        hint="out of memory on the device? otherwise this is a bug of the toolchain",
    )
