"""A client's connection whose calls keep the interpreter.

Python gives its lock away around each call of the system, and may get it back only when a thread at work gives it up,
which that must after 5 ms. The one thread that takes connections makes half a dozen calls for each. Measured with
`benchmarks/overload.py --open --page 500`: of 1,747 a second 805 were answered with the ordinary ones, all of
1,796 with these. None of them can wait, since the sockets are non-blocking; what waits is `poll`, once a round.
"""

from __future__ import annotations

import ctypes
import os
import socket
from errno import EAGAIN, ECONNABORTED, EWOULDBLOCK
from typing import Any

_SYSTEM = ctypes.PyDLL(None, use_errno=True)  # PyDLL, unlike CDLL, keeps the lock
for _name, _takes in {
    "recv": (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    "send": (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int),
}.items():
    getattr(_SYSTEM, _name).argtypes = _takes
    getattr(_SYSTEM, _name).restype = ctypes.c_ssize_t
_ACCEPT = getattr(_SYSTEM, "accept4", None)  # Linux and the BSDs; without it the ordinary one, which is only slower
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_ADDRESS_BYTES = 128  # of a sockaddr_storage
_WHERE = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(8, 24)}  # in a sockaddr; the port before both


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))  # of the class that belongs to the number


class Connection(socket.socket):
    """A non-blocking socket; what can't be done at once raises BlockingIOError, as of every such socket."""

    def setblocking(self, flag: bool | int) -> None:
        """It is non-blocking from the start: nothing to be done."""
        if flag:
            raise ValueError("A connection that keeps the lock must not wait.")

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """What has come, at most so much; nothing at the end of it."""
        into = ctypes.create_string_buffer(bufsize)
        taken = _SYSTEM.recv(self.fileno(), into, bufsize, flags)
        if taken < 0:
            raise _failure()
        return into.raw[:taken] if taken == bufsize else ctypes.string_at(into, taken)

    def send(self, data: Any, flags: int = 0) -> int:
        """How much of it could be sent at once."""
        sent: int = _SYSTEM.send(self.fileno(), bytes(data), len(data), flags | _NO_SIGNAL)
        if sent < 0:
            raise _failure()
        return sent

    def shutdown(self, how: int) -> None:
        """Says that nothing more will be sent, or taken."""
        if _SYSTEM.shutdown(self.fileno(), how) < 0:
            raise _failure()

    def close(self) -> None:
        """Gives it back to the system."""
        number = self.detach()
        if number != -1:
            _SYSTEM.close(number)


def accept(listening: socket.socket) -> tuple[socket.socket, tuple[Any, ...]] | None:
    """The next connection that waits there, and its address; None when none does."""
    if _ACCEPT is None or listening.family not in _WHERE:
        try:
            return listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
    address, length = ctypes.create_string_buffer(_ADDRESS_BYTES), ctypes.c_uint32(_ADDRESS_BYTES)
    how = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    number = _ACCEPT(listening.fileno(), address, ctypes.byref(length), how)
    if number < 0:
        if ctypes.get_errno() in (EAGAIN, EWOULDBLOCK, ECONNABORTED):
            return None
        raise _failure()
    host = socket.inet_ntop(listening.family, address.raw[_WHERE[listening.family]])
    port = int.from_bytes(address.raw[2:4], "big")
    return Connection(listening.family, socket.SOCK_STREAM, 0, fileno=number), (host, port)
