"""A cable between a client and a server of this machine that can be cut, now or after so many bytes."""

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path


class Cable:
    """port: where clients come. carried: bytes that went from client to server, over all connections."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.carried = 0
        self._left: int | None = None
        self._plugged = True
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, size: int) -> None:
        """Break the connections once, when `size` more bytes have gone to the server."""
        self._left = size

    def cut(self) -> None:
        """Break all connections now."""
        for pair in tuple(self._pairs):
            for end in pair:
                with suppress(OSError):  # it is gone by itself
                    end.shutdown(socket.SHUT_RDWR)

    def unplug(self) -> None:
        """Break all connections and let no new one through."""
        self._plugged = False
        self.cut()

    def plug(self) -> None:
        self._plugged = True

    def close(self) -> None:
        # Closing alone would let in the one who is being waited for.
        with suppress(OSError):  # it was closed before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._plugged:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        pair = (client, server)
        self._pairs.add(pair)
        with client, server:
            try:
                while True:
                    for source in select.select(pair, [], [])[0]:
                        data = source.recv(1 << 15)
                        if not data:
                            return
                        (server if source is client else client).sendall(data)
                        if source is client:
                            self._count(len(data))
            except OSError:
                pass
            finally:
                self._pairs.discard(pair)

    def _count(self, size: int) -> None:
        self.carried += size
        if self._left is not None:
            self._left -= size
            if self._left <= 0:
                self._left = None
                self.cut()


def listening(port: int) -> list[str]:
    """Return the addresses of this machine, as /proc/net has them, that listen at a port."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")]
