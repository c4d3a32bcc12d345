"""Names that lead where a test says: only the answers of the resolver are faked, everything after them is real."""

from __future__ import annotations

import socket
from typing import Any

import pytest


class Resolver:
    """`answers[name]` are its addresses; a list of lists is used up one lookup after the other, the last one stays.

    `asked` are the names of the table that were looked up; others go to the real resolver.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self._resolve)

    def _resolve(self, host: Any, port: Any, family: int = 0, kind: int = 0, *more: Any, **named: Any) -> Any:
        if host not in self.answers:
            return self._real(host, port, family, kind, *more, **named)
        self.asked.append(host)
        left = self.answers[host]
        found = left.pop(0) if len(left) > 1 else left[0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [_entry(address, int(port)) for address in found]


def _entry(address: str, port: int) -> Any:
    if ":" not in address:
        return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
    return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))


class Plugs:
    """What sockets are connected to. `instead[address]` is where a connection to that address really goes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.to: list[tuple[str, int]] = []
        self.instead: dict[str, str] = {}
        real = socket.socket.connect

        def connect(plug: socket.socket, address: Any) -> None:
            self.to.append(address[:2])
            real(plug, (self.instead.get(address[0], address[0]), *address[1:]))

        patch.setattr(socket.socket, "connect", connect, raising=False)

    @property
    def addresses(self) -> list[str]:
        """The addresses alone."""
        return [address for address, _ in self.to]
