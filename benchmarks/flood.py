"""Requests at a rate, whatever is answered: each over a connection of its own, none waits for another.

A process of its own, so that what it costs is no part of what is measured, and says how much that was. Plain sockets
and epoll: a connection costs it a tenth of a millisecond, some times less than what it costs an HTTP library.
"""

from __future__ import annotations

import heapq
import itertools
import json
import multiprocessing
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

JSON = "application/fhir+json"
ANSWERED_WITHIN_S = 20.0
UNFINISHED = 0  # where a status would stand: closed, reset or silent, so that nothing was said


@dataclass
class Tally:
    """What was answered. `written` are the addresses of acknowledged writes."""

    statuses: Counter[int] = field(default_factory=Counter)
    done_in_time: int = 0  # while it lasted: afterwards there is no overload any more
    written: list[str] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)  # of what was done
    refused_ms: list[float] = field(default_factory=list)
    unanswered: Counter[str] = field(default_factory=Counter)  # and why
    without_retry_after: int = 0  # of the 503 and 429
    offered_per_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def done(self) -> int:
        return self.statuses[200] + self.statuses[201]

    def note(self, status: int, named: dict[str, str], took_s: float) -> None:
        """Counts one answer."""
        self.statuses[status] += 1
        (self.took_ms if status < 400 else self.refused_ms).append(took_s * 1000)
        if status == 201:
            place = named["location"]
            self.written.append(place[place.index("/fhir/") :].partition("/_history")[0])
        self.without_retry_after += status in (429, 503) and "retry-after" not in named


def mixed(known: Sequence[str], number: int, page: int) -> tuple[str, str, bytes]:
    """The request of this number: of ten four reads, three searches (for `page`), three writes."""
    place = number % 10
    if place < 4 and known:
        return "GET", known[number % len(known)], b""
    if place < 7 and page:
        return "GET", f"/fhir/Patient?_count={page}", b""
    if place < 7:
        return "GET", f"/fhir/Patient?identifier=urn:bench|{number // 2}", b""
    patient = {"resourceType": "Patient", "identifier": [{"system": "urn:bench", "value": str(number)}],
               "name": [{"family": "Benchley"}]}  # fmt: skip
    return "POST", "/fhir/Patient", json.dumps(patient).encode()


def written_out(method: str, path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer desk\r\n"
    head += f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def named(head: bytes) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}


class _Asked:
    """One request under way."""

    __slots__ = ("at", "held", "length", "out", "said", "sock", "status")

    def __init__(self, sock: socket.socket, out: bytes, at: float) -> None:
        self.sock, self.out, self.at = sock, out, at
        self.held = b""
        self.status, self.said, self.length = UNFINISHED, dict[str, str](), 0


class _Flood:
    def __init__(self, port: int, clients: Sequence[str]) -> None:
        self.tally = Tally()
        self._port, self._clients = port, clients
        self._poll = select.epoll()
        self._under_way: dict[int, _Asked] = {}
        self._ends: list[tuple[float, int, _Asked]] = []  # a heap: what is silent for too long
        self._order = itertools.count()

    def begin(self, number: int, out: bytes, at: float) -> None:
        """Opens a connection for one request; `at` is when it was due, from which its time counts."""
        try:
            sock = socket.socket()
        except OSError as error:
            self.tally.unanswered[f"not asked: {error.strerror}"] += 1  # as many as this process may have open
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is found at connect, by both ends
        sock.bind((self._clients[number % len(self._clients)], 0))
        sock.connect_ex(("127.0.0.1", self._port))
        asked = _Asked(sock, out, at)
        self._under_way[sock.fileno()] = asked
        self._poll.register(sock.fileno(), select.EPOLLOUT)
        heapq.heappush(self._ends, (at + ANSWERED_WITHIN_S, next(self._order), asked))

    def look(self, wait_s: float) -> None:
        """What has come until now, or within this time."""
        for number, _ in self._poll.poll(wait_s):
            asked = self._under_way[number]
            try:
                self._go_on(asked)
            except OSError as error:
                self._end(asked, type(error).__name__)
        now = time.perf_counter()
        while self._ends and self._ends[0][0] < now:
            asked = heapq.heappop(self._ends)[2]
            if asked.sock.fileno() != -1:
                self._end(asked, "silent")

    @property
    def waits(self) -> bool:
        return bool(self._under_way)

    def _go_on(self, asked: _Asked) -> None:
        if asked.out:
            asked.out = asked.out[asked.sock.send(asked.out) :]
            if not asked.out:
                self._poll.modify(asked.sock.fileno(), select.EPOLLIN)
            return
        data = asked.sock.recv(1 << 20)
        if not data:
            self._end(asked, "closed half-way" if asked.held or asked.status else "closed")
            return
        if asked.status:
            asked.length -= len(data)
        else:
            asked.held += data
            head, ended, rest = asked.held.partition(b"\r\n\r\n")
            if not ended:
                return
            asked.status, asked.said = named(head)
            asked.length = int(asked.said.get("content-length", 0)) - len(rest)
        if asked.length <= 0:
            self._end(asked, "")

    def _end(self, asked: _Asked, why: str) -> None:
        if why:
            self.tally.unanswered[why] += 1
        else:
            self.tally.note(asked.status, asked.said, time.perf_counter() - asked.at)
        del self._under_way[asked.sock.fileno()]
        asked.sock.close()  # epoll forgets it


def _flood(
    ended: Any, port: int, clients: Sequence[str], seconds: float, rate_per_s: float, known: list[str], first: int,
    page: int,
) -> None:  # fmt: skip
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    flood = _Flood(port, clients)
    began, begun = time.perf_counter(), 0
    while (now := time.perf_counter()) < began + seconds:
        for _ in range(min(int((now - began) * rate_per_s) - begun, 200)):
            out = written_out(*mixed(known, first + begun, page))
            flood.begin(begun, out, began + begun / rate_per_s)
            begun += 1
        flood.look(0.002)
    flood.tally.done_in_time = flood.tally.done
    flood.tally.offered_per_s = begun / (time.perf_counter() - began)
    flood.tally.cpu_s = time.process_time()
    while flood.waits:
        flood.look(0.1)
    ended.send(flood.tally)


def flooded(
    port: int, clients: Sequence[str], seconds: float, rate_per_s: float, known: list[str], first: int, page: int
) -> Tally:
    """Asks the requests from number `first` on at a rate for so long; returns when the last has its answer, or none."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_flood, args=(there, port, clients, seconds, rate_per_s, known, first, page))
    child.start()
    there.close()
    try:
        tally: Tally = here.recv()
    finally:
        child.join()
    return tally
