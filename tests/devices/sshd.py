"""A real SSH server in this process, whose programs run on this machine in a folder that plays the board's home."""

import asyncio
import os
import signal
import threading
from pathlib import Path

import asyncssh

from devices.profile import Profile

SIGNALS = {number.value: number.name.removeprefix("SIG") for number in signal.Signals}


class Board(asyncssh.SSHServer):
    """Lets its key in, and jump hosts' connections through."""

    def connection_requested(self, *_: object) -> bool:
        return True


class Sshd:
    """host: 127.0.0.1. config: an configuration that knows it as "board". path: where programs are looked up."""

    def __init__(self, folder: Path, path: str, **options: object) -> None:
        self.home, self.folder = folder / "home", folder
        self.home.mkdir(parents=True)
        self.environment = {"HOME": str(self.home), "PATH": path}
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        (folder / "key").touch(0o600)
        self.key.write_private_key(folder / "key")
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.server = self.call(self._serve(options))
        self.port = self.server.get_port()
        self.config = self.configuration(self.port)

    def call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def configuration(self, port: int, more: str = "", name: str = "config") -> Path:
        """Write a configuration that reaches the server, as "board", on another port."""
        hosts = self.folder / f"{name}-hosts"
        hosts.write_text(f"[127.0.0.1]:{port} {self.host_key.export_public_key().decode()}")
        text = f"Host board\n HostName 127.0.0.1\n Port {port}\n User me\n IdentityFile {self.folder / 'key'}\n"
        text += f" UserKnownHostsFile {hosts}\n IdentityAgent none\n{more}"
        (self.folder / name).write_text(text)
        return self.folder / name

    def close(self) -> None:
        self.server.close()

    async def _serve(self, options: dict[str, object]) -> asyncssh.SSHAcceptor:
        keys = asyncssh.import_authorized_keys(self.key.export_public_key().decode())
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Board,
            server_host_keys=[self.host_key],
            authorized_client_keys=keys,
            process_factory=self._run,
            encoding=None,
            **options,
        )

    async def _run(self, process: asyncssh.SSHServerProcess) -> None:
        child = await asyncio.create_subprocess_shell(
            process.command or "true",
            env=self.environment,
            cwd=self.home,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        feeding = asyncio.ensure_future(_pump(process.stdin, child.stdin, ends=True))
        await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
        code = await child.wait()
        feeding.cancel()
        if code < 0:
            process.exit_with_signal(SIGNALS[-code])
        else:
            process.exit(code)


async def _pump(source, target, ends: bool = False) -> None:
    try:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    except (OSError, asyncssh.Error):
        pass  # the program or the link ended
    if ends:
        target.close()


def board(transport: str) -> Profile:
    """Return a profile of a board that a configuration knows as "board"."""
    return Profile(name="board", title="Board", processor="any", transport=transport, address="board")


def path_with_python(folder: Path, python: Path) -> str:
    """Return a PATH on which python3 is `python`."""
    folder.mkdir()
    (folder / "python3").symlink_to(python)
    return f"{folder}:{os.environ['PATH']}"
