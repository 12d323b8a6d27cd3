"""A way to a board, over which programs of its shell are started. Implementations: in transports/ssh.py and adb.py."""

from typing import Protocol

from devices.speech import Speech
from msq.errors import DeviceError


class LinkError(DeviceError):
    """The way to the board is closed or broke: what was asked for may have been done, in part, or not at all."""


class Program(Protocol):
    """A program that was started on the board."""

    speech: Speech
    """What it says; a LinkError in it means that its end was not heard."""

    def feed(self, data: bytes) -> None:
        """Write to its stdin, and wait until there is room. Raises LinkError; BrokenPipeError when it reads no more."""
        ...

    def end_input(self) -> None:
        """Close its stdin. Harmless when the link is broken."""
        ...


class Link(Protocol):
    """Open it, start programs, from any thread; when it broke, open it again."""

    name: str
    """The board as its user named it, for messages."""
    home: str
    """Where it keeps what is worth keeping, as a word of its shell: "$HOME/.cache/msq"."""
    shared: str
    """A folder of the board in which each of its users may write."""

    def open(self) -> None:
        """Connect, dropping an older connection.

        Raises:
            LinkError: it cannot be reached now.
            DeviceError: it refuses this user, or is not trusted; trying again changes nothing.
        """
        ...

    def start(self, script: str) -> Program:
        """Start a script of the board's POSIX shell, in a process group of its own whose number is `$$`.

        Raises:
            LinkError: the link is closed or breaks.
        """
        ...

    def close(self) -> None:
        """Disconnect. Harmless when called again."""
        ...
