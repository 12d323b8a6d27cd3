"""An Android phone over ADB, by its serial or, over the network, "host:port": adbutils talks to the real adb server,
which it starts where none runs. What runs on a phone needs no Python.
"""

import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress

import adbutils
from adbutils import AdbConnection

from devices.board import Board
from devices.link import LinkError
from devices.profile import Profile
from devices.speech import Speech
from msq.errors import DeviceError, UsageError

PATIENCE = 15.0
"""Seconds for each step of connecting."""

KEEP_ALIVE = 10.0
"""Seconds after which the phone is tried again, for as long as the link is open."""

# Packets of the shell service, version 2: kind, length, data.
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_HEADER = struct.Struct("<BI")


class AdbProgram:
    """See devices.link.Program."""

    def __init__(self, connection: AdbConnection) -> None:
        self.speech = Speech()
        self._connection = connection
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        try:
            while True:
                kind, size = _HEADER.unpack(self._connection.read_exact(_HEADER.size))
                data = self._connection.read_exact(size)
                if kind == _EXIT:
                    self.speech.tell(data[0])
                    return
                if kind in (_STDOUT, _STDERR):
                    self.speech.tell(("out" if kind == _STDOUT else "err", data))
        except (OSError, EOFError) as error:
            self.speech.tell(LinkError(f"link lost: {error}", hint="is the phone still connected? try `adb devices`"))
        finally:
            self._connection.close()

    def feed(self, data: bytes) -> None:
        """Write to its stdin, and wait until there is room."""
        try:
            self._connection.conn.sendall(_HEADER.pack(_STDIN, len(data)) + data)
        except (OSError, adbutils.AdbError):
            # It ended, or the link broke: the one who listens learns which.
            raise BrokenPipeError from None

    def end_input(self) -> None:
        """Close its stdin."""
        with suppress(OSError, adbutils.AdbError):  # it ended by itself, or the link is broken
            self._connection.conn.sendall(_HEADER.pack(_CLOSE_STDIN, 0))


class AdbLink:
    """See devices.link.Link.

    Args:
        name: of the phone, for messages. address: its serial, or "host:port".
    """

    home = "/data/local/tmp/msq"
    shared = "/data/local/tmp"

    def __init__(self, name: str, address: str) -> None:
        self.name, self._address = name, address
        self._programs: list[AdbConnection] = []
        self._connected = False
        self._closed = threading.Event()

    def open(self) -> None:
        """Connect, dropping an older connection."""
        self.close()
        client = adbutils.AdbClient(socket_timeout=PATIENCE)
        try:
            if ":" in self._address:
                said = client.connect(self._address, timeout=PATIENCE)
                if not said.startswith(("connected", "already")):
                    raise adbutils.AdbError(said)
                # What the user connected stays so.
                self._connected = said.startswith("connected")
            states = {item.serial: item.state for item in client.list()}
        except (OSError, EOFError, adbutils.AdbError) as error:
            raise LinkError(
                f"{self.name}: no link: {error}", hint="is it on, and does the adb server run? try `adb devices`"
            ) from None
        state = states.get(self._address)
        if state == "unauthorized":
            raise DeviceError(
                f"{self.name}: does not let this machine in", hint="allow USB debugging on the phone's screen"
            )
        if state != "device":
            others = ", ".join(serial for serial in states if serial != self._address) or "none"
            raise LinkError(
                f"{self.name}: no link: adb says it is {state or 'not connected'}; connected are: {others}",
                hint="is the phone on, and USB debugging allowed? try `adb devices`",
            )
        self._device, self._closed = client.device(self._address), threading.Event()
        threading.Thread(target=self._watch, args=(self._device, self._closed), daemon=True).start()

    def start(self, script: str) -> AdbProgram:
        """Start a script of its shell."""
        try:
            connection = _opened(self._device, f"shell,v2,raw:{script}")
            # What a program says it may say late.
            connection.conn.settimeout(None)
        except (OSError, EOFError, adbutils.AdbError) as error:
            raise LinkError(
                f"{self.name}: no link: {error}", hint="is the phone still connected? try `adb devices`"
            ) from None
        self._programs = [program for program in self._programs if not program.closed] + [connection]
        return AdbProgram(connection)

    def close(self) -> None:
        """Disconnect."""
        self._closed.set()
        self._drop()
        if self._connected:
            with suppress(OSError, EOFError, adbutils.AdbError):  # the server is gone, and the connection with it
                adbutils.AdbClient(socket_timeout=PATIENCE).disconnect(self._address)
            self._connected = False

    def _drop(self) -> None:
        for program in self._programs:
            with suppress(OSError, adbutils.AdbError):  # it ended by itself
                program.conn.shutdown(socket.SHUT_RDWR)

    def _watch(self, device: adbutils.AdbDevice, closed: threading.Event) -> None:
        """Break the link where the phone is gone: who waits for its answer would not learn of it."""
        while not closed.wait(KEEP_ALIVE):
            try:
                # The cheapest of its services.
                _opened(device, "sync:").close()
            except (OSError, EOFError, adbutils.AdbError):
                if not closed.is_set():
                    self._drop()
                return


def _opened(device: adbutils.AdbDevice, service: str) -> AdbConnection:
    connection, name = device.open_transport(timeout=PATIENCE), service.encode()
    connection.conn.sendall(b"%04x" % len(name) + name)
    connection.check_okay()
    return connection


class Adb(Board):
    """A phone whose profile says its serial, or "host:port"."""

    def prepare(self, profile: Profile, packages: Sequence[str] | None) -> None:
        """Lock the phone and make a working folder.

        Raises:
            DeviceError: it cannot be reached, is in use by another; or `packages` are wanted, and thus Python.
            StorageError: no space on it.
        """
        profile.admit(packages)
        super().prepare(profile, None)

    def link(self, profile: Profile) -> AdbLink:
        """Return the way to the phone, not yet opened."""
        if not profile.address:
            raise UsageError(
                f"device {profile.name!r} says no serial",
                hint=f"name it adb:SERIAL, or `msq device add NAME --serial SERIAL --profile {profile.name}`",
            )
        return AdbLink(profile.title, profile.address)


TRANSPORT = Adb
