"""A board over SSH: keys, agent, ~/.ssh/config with its jump hosts, and known_hosts, as ssh itself would use them.

By asyncssh rather than paramiko: it reads all of ~/.ssh/config by itself, and its tests' server is a real one.
"""

import asyncio
import os
import shlex
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import asyncssh

from devices.board import Board
from devices.link import LinkError
from devices.profile import Profile
from devices.speech import Speech
from msq.errors import DeviceError, UsageError

PATIENCE = 15.0
"""Seconds for each step of connecting."""
KEEP_ALIVE = 10.0
"""Seconds of silence after which the link is tried; it counts as broken after three such trials."""

Result = TypeVar("Result")


class SshProgram:
    """See devices.link.Program."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self.speech = Speech()
        self._process = process

    async def hear(self) -> None:
        """Tell `speech` what the program says until it ends."""
        pumps = (self._pump("out", self._process.stdout), self._pump("err", self._process.stderr))
        try:
            await asyncio.gather(*pumps)
            await self._process.wait_closed()
            code = self._process.returncode
        except (OSError, asyncssh.Error) as error:
            self.speech.tell(LinkError(f"link lost: {error}"))
            return
        if code is None:
            self.speech.tell(LinkError("link lost"))
        else:
            self.speech.tell(code if code >= 0 else 128 - code)

    async def _pump(self, stream: Literal["out", "err"], reader: asyncssh.SSHReader[bytes]) -> None:
        while data := await reader.read(1 << 16):
            self.speech.tell((stream, data))

    def feed(self, data: bytes) -> None:
        """Write to its stdin, and wait until there is room."""

        async def write() -> None:
            self._process.stdin.write(data)
            await self._process.stdin.drain()

        _call(write())

    def end_input(self) -> None:
        """Close its stdin."""

        def end() -> None:
            with suppress(OSError):  # it ended by itself, or the link is broken
                self._process.stdin.write_eof()

        _loop().call_soon_threadsafe(end)


class SshLink:
    """See devices.link.Link.

    Args:
        name: of the board, for messages.
        address: "[user@]host[:port]", host as in ~/.ssh/config, or a name or number of the network.
        config: read instead of ~/.ssh/config.
    """

    home = "${XDG_CACHE_HOME:-$HOME/.cache}/msq"
    shared = "/tmp"

    def __init__(self, name: str, address: str, config: Path | None = None) -> None:
        self.name = name
        self._options: dict[str, Any] = {"config": [str(config)]} if config else {}
        user, _, host = address.rpartition("@")
        host, port = _split(host)
        self._options |= {"host": host} | ({"username": user} if user else {}) | ({"port": port} if port else {})
        self._connection: asyncssh.SSHClientConnection | None = None
        self._hearing: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Connect, dropping an older connection."""
        self.close()

        async def connect() -> asyncssh.SSHClientConnection:
            return await asyncssh.connect(
                **self._options,
                connect_timeout=PATIENCE,
                login_timeout=PATIENCE,
                keepalive_interval=KEEP_ALIVE,
                keepalive_count_max=3,
            )

        ssh, ssh_copy_id = (shlex.join(self.command(program)) for program in ("ssh", "ssh-copy-id"))
        try:
            self._connection = _call(connect())
        except LinkError as error:
            raise LinkError(f"{self.name}: {error}", hint=error.hint) from None
        except asyncssh.HostKeyNotVerifiable:
            raise DeviceError(
                f"{self.name}: its host key is not the one that known_hosts has, or not there",
                hint=f"run `{ssh}` once: it shows the key's fingerprint, and says if the key has changed",
            ) from None
        except asyncssh.PermissionDenied:
            raise DeviceError(
                f"{self.name}: refuses the login",
                hint=f"let a key in with `{ssh_copy_id}`; ssh-add unlocks one that has a passphrase",
            ) from None
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise DeviceError(f"{self.name}: an SSH key cannot be used: {error}", hint="try ssh-add") from None
        except asyncssh.ConfigParseError as error:
            raise DeviceError(f"{self.name}: {error}", hint="mend the SSH configuration") from None

    def start(self, script: str) -> SshProgram:
        """Start a script of its shell."""
        connection = self._connection
        if connection is None:
            raise LinkError(f"{self.name}: not connected")

        async def begin() -> SshProgram:
            # The user's own shell may be no POSIX shell.
            process = await connection.create_process(f"exec sh -c {shlex.quote(script)}", encoding=None)
            program = SshProgram(process)
            task = asyncio.ensure_future(program.hear())
            self._hearing.add(task)
            task.add_done_callback(self._hearing.discard)
            return program

        return _call(begin())

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            _loop().call_soon_threadsafe(self._connection.abort)
            self._connection = None

    def command(self, program: str = "ssh") -> list[str]:
        """Return the argv that reaches the board by ssh itself, or by a program of its family."""
        host, port = self._options["host"], self._options.get("port")
        user = f"{self._options['username']}@" if "username" in self._options else ""
        config = ["-F", self._options["config"][0]] if "config" in self._options else []
        # A project's devices.toml is not trusted: no address is an option.
        return [program, *config, *(["-p", str(port)] if port else []), "--", f"{user}{host}"]


class Ssh(Board):
    """A board whose profile says "[user@]host[:port]".

    Args:
        config: read instead of ~/.ssh/config.
    """

    def __init__(self, config: Path | None = None) -> None:
        super().__init__()
        self._config = config

    def link(self, profile: Profile) -> SshLink:
        """Return the way to the board, not yet opened."""
        if not profile.address:
            raise UsageError(
                f"device {profile.name!r} says no address",
                hint=f"name it ssh:user@host, or `msq device add NAME --host user@host --profile {profile.name}`",
            )
        return SshLink(profile.title, profile.address, self._config)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop in which all links live, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ssh", daemon=True).start()
    return loop


def _call(work: Coroutine[Any, Any, Result]) -> Result:
    """Do asyncssh's work in its loop, and wait for it."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except (BrokenPipeError, asyncssh.HostKeyNotVerifiable, asyncssh.PermissionDenied):
        raise
    except (OSError, TimeoutError, CancelledError, asyncssh.Error) as error:
        raise LinkError(f"no link: {_reason(error)}", hint="is the board on, and in the network? try `ssh`") from None
    except KeyboardInterrupt:
        future.cancel()
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE:g} s"
    if isinstance(error, OSError) and error.errno:
        # Numbers of name resolution are below 0, and others than the system's.
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
    return str(error) or type(error).__name__


def _split(host: str) -> tuple[str, int | None]:
    """Split "host:port"; an IPv6 address with a port is in brackets."""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        return host, int(port.lstrip(":")) if port.lstrip(":").isdigit() else None
    name, colon, port = host.rpartition(":")
    return (name, int(port)) if colon and ":" not in name and port.isdigit() else (host, None)


TRANSPORT = Ssh
