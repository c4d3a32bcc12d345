"""Answers that end: within a time, and with a head of a certain size at most.

A time-out between two bytes alone would let a server that dribbles hold us for days, in the head of its answer as in
its body or what follows.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

MAX_HEAD_BYTES = 256 * 1024  # status line and headers, and all that a server sends before them
_BUFFER = 64 * 1024


class BoundedAnswer(http.client.HTTPResponse):
    """An answer that is read within `longest_s` of its request, and whose head is no larger than MAX_HEAD_BYTES."""

    def __init__(self, sock: socket.socket, *args: Any, longest_s: float, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp.close()
        self._bounded = _Bounded(sock, longest_s)
        self.fp = io.BufferedReader(self._bounded, _BUFFER)

    def begin(self) -> None:
        """See HTTPResponse."""
        super().begin()
        self._bounded.in_head = False


class _Bounded(io.RawIOBase):
    """What comes from a socket. Raises TimeoutError when the time is over, HTTPException when the head is too large."""

    def __init__(self, sock: socket.socket, longest_s: float) -> None:
        self._sock = sock
        self._raw: io.RawIOBase = sock.makefile("rb", buffering=0)
        self._ends = time.monotonic() + longest_s
        self._size = 0
        self.in_head = True

    def readable(self) -> bool:
        """See RawIOBase."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See RawIOBase."""
        if self.in_head and self._size >= MAX_HEAD_BYTES:
            raise http.client.HTTPException("the head of the answer is too large")
        count = self._in_time(buffer)
        self._size += count or 0
        return count

    def _in_time(self, buffer: Any) -> int | None:
        left = self._ends - time.monotonic()
        usual = self._sock.gettimeout()
        if left <= 0:
            raise TimeoutError("the answer does not end")
        if usual is not None and usual <= left:
            return self._raw.readinto(buffer)
        self._sock.settimeout(left)
        try:
            return self._raw.readinto(buffer)
        finally:
            self._sock.settimeout(usual)

    def close(self) -> None:
        """See RawIOBase. The socket stays open for the next request."""
        if not self.closed:
            self._raw.close()
        super().close()
