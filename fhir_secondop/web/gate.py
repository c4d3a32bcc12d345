"""How much is done at once: bounded work and a bounded queue for each class of requests; what is too much is shed.

What is shed was not begun, so nothing of it is stored, and the caller may send it again.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass

from fhir_secondop.errors import Unavailable

MAX_WAIT_S = 2.0
LARGE_BYTES = 4 * 1024 * 1024
HEALTH = frozenset({"/healthz", "/readyz"})


@dataclass(frozen=True, slots=True)
class Room:
    """How many requests of a class are worked on at once, and how many may wait for that."""

    at_once: int
    waiting: int


# One core of Python and one writer: more at once takes longer and needs more memory. A large body is several times its
# size when parsed. Who waits for events of a case holds a place and does nothing: fewer may wait than have a place here
# (service.following), so one who only reads them gets in, too.
ROOMS = {"read": Room(8, 16), "write": Room(4, 16), "large": Room(2, 4), "events": Room(40, 8)}
_EVENTS = re.compile(r"/api/second-opinions/[^/]+/events")
# Every place, and some for health and for refusing: no request that gets a thread waits for another one's.
THREADS = sum(room.at_once + room.waiting for room in ROOMS.values()) + 6


def class_of(method: str, path: str, length: int) -> str:
    """The class of a request; "" for those that never wait."""
    if path in HEALTH:
        return ""
    if length > LARGE_BYTES:
        return "large"
    if method in ("GET", "HEAD") and _EVENTS.fullmatch(path):
        return "events"
    return "read" if method in ("GET", "HEAD", "OPTIONS") or path.endswith("/_search") else "write"


class Arrived:
    """The requests that are here and not answered yet: whether one more would find its room full.

    Asked before anything is read of the request. An address may have half a room: one that floods shuts out none but
    itself, and half a room is more than is worked on at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Counter[str | tuple[str, str]] = Counter()  # of a class, and of a class from an address

    def enter(self, kind: str, address: str) -> None:
        """One came."""
        with self._lock:
            self._held[kind] += 1
            self._held[kind, address] += 1

    def leave(self, kind: str, address: str) -> None:
        """It was answered."""
        with self._lock:
            for key in (kind, (kind, address)):
                self._held[key] -= 1
                if not self._held[key]:
                    del self._held[key]  # bounded by what is here, not by who has ever been

    def is_full(self, kind: str, address: str, *, alone: bool) -> bool:
        """Whether there is no place for another; with `alone` the address may have them all, as a proxy's."""
        room = ROOMS.get(kind)
        if room is None:
            return False
        places = room.at_once + room.waiting
        return self._held[kind] >= places or (not alone and self._held[kind, address] >= places // 2)


class Gate:
    """The way into one room. `leave` must follow each `enter` that did not raise."""

    def __init__(self, room: Room, max_wait_s: float = MAX_WAIT_S) -> None:
        self._room = room
        self._max_wait_s = max_wait_s
        self._free = threading.Semaphore(room.at_once)
        self._lock = threading.Lock()
        self._waiting = 0

    def enter(self, waited_s: float = 0.0) -> None:
        """Waits for a place, `waited_s` counted in. Raises Unavailable when that would take too long."""
        left_s = self._max_wait_s - waited_s
        if left_s <= 0:
            raise _shed()
        if self._free.acquire(blocking=False):
            return
        with self._lock:
            if self._waiting >= self._room.waiting:
                raise _shed()
            self._waiting += 1
        try:
            if not self._free.acquire(timeout=left_s):
                raise _shed()
        finally:
            with self._lock:
                self._waiting -= 1

    def leave(self) -> None:
        """Gives the place to the next."""
        self._free.release()


def _shed() -> Unavailable:
    return Unavailable("Too much is asked at once; nothing was done for this request. Send it again later.")
