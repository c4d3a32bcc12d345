"""An address that stands for a server somewhere else.

python -m tests.faults.forwarding HOST PORT… forwards these ports.
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress


class Address:
    """Forwards to the server that is meant now."""

    def __init__(self, target: int, host: str = "127.0.0.1", port: int = 0, listens: str = "127.0.0.1") -> None:
        self._target, self._host = target, host
        self._listening = socket.create_server((listens, port))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((self._host, self._target))
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()

    def point_to(self, target: int) -> None:
        """From now on; who was connected is cut off."""
        self._target = target
        for one in self._open:
            one.close()

    def close(self) -> None:
        self._listening.close()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    for port in map(int, sys.argv[2:]):
        Address(port, sys.argv[1], port)
    threading.Event().wait()
