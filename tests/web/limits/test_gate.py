"""Only so much is done at once, only so much waits, and what is refused was not begun."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from fhir_secondop.config import Settings
from fhir_secondop.errors import Unavailable
from fhir_secondop.web import gate, inbound
from fhir_secondop.web.gate import Gate, Room
from fhir_secondop.web.throttle import Throttle


def until(true: Callable[[], bool]) -> None:
    """Waits for what another thread does."""
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.002)


def test_what_is_over_the_work_and_the_queue_is_refused_at_once() -> None:
    one = Gate(Room(at_once=2, waiting=1), max_wait_s=20)
    one.enter()
    one.enter()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(one.enter)
        until(lambda: one._waiting == 1)
        with pytest.raises(Unavailable):
            one.enter()
        one.leave()
        assert waiting.result(20) is None
    assert one._waiting == 0


def test_who_waits_too_long_is_refused_and_leaves_the_queue() -> None:
    one = Gate(Room(1, 1), max_wait_s=0.05)
    one.enter()
    for _ in range(3):
        with pytest.raises(Unavailable):
            one.enter()
    one.leave()
    one.enter()


def test_what_was_waited_before_counts() -> None:
    one = Gate(Room(1, 1), max_wait_s=2)
    one.enter(waited_s=1.9)
    one.leave()
    with pytest.raises(Unavailable):
        one.enter(waited_s=2.0)
    one.enter()  # it took no place


CLASSES = {
    ("GET", "/fhir/Patient/1", 0): "read",
    ("HEAD", "/fhir/Patient/1", 0): "read",
    ("OPTIONS", "/", 0): "read",
    ("POST", "/fhir/Patient/_search", 100): "read",
    ("POST", "/fhir/Patient/_search", gate.LARGE_BYTES + 1): "large",
    ("POST", "/fhir/Patient", 100): "write",
    ("POST", "/fhir/Patient", gate.LARGE_BYTES): "write",
    ("POST", "/fhir", gate.LARGE_BYTES + 1): "large",
    ("PUT", "/fhir/Patient/1", 10): "write",
    ("BREW", "/", 10): "write",
    ("GET", "/fhir/Patient/1", gate.LARGE_BYTES + 1): "large",
    ("GET", "/healthz", 0): "",
    ("GET", "/readyz", 0): "",
    ("POST", "/healthz", gate.LARGE_BYTES + 1): "",
    ("GET", "/healthz/", 0): "read",
    ("GET", "/api/second-opinions/1/events", 0): "events",
    ("HEAD", "/api/second-opinions/1/events", 0): "events",
    ("POST", "/api/second-opinions/1/events", 0): "write",
    ("GET", "/api/second-opinions/1/2/events", 0): "read",
}


@pytest.mark.parametrize(("asked", "name"), CLASSES.items())
def test_each_request_has_its_class(asked: tuple[str, str, int], name: str) -> None:
    assert gate.class_of(*asked) == name


def test_every_place_has_a_thread_and_health_has_some() -> None:
    assert sum(room.at_once + room.waiting for room in gate.ROOMS.values()) < gate.THREADS


class Busy:
    """An application whose requests stay until they are let go."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.most: dict[str, int] = {}
        self.go = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        kind = gate.class_of(request.method, request.path, 0)
        if request.path == "/broken":
            raise RuntimeError
        if kind:
            with self._lock:
                self.inside.append(kind)
                self.most[kind] = max(self.most.get(kind, 0), self.inside.count(kind))
            self.go.wait(20)
            with self._lock:
                self.inside.remove(kind)
        return Response("done")(environ, start_response)


class Nobody:
    def authenticate(self, request: Any) -> Any:
        raise AssertionError


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Busy, Callable[[str, str], int]]]:
    monkeypatch.setattr(inbound, "Gate", partial(Gate, max_wait_s=20))  # the counts, on a machine however slow
    app = Busy()
    guarded = inbound.guarded(app, Throttle(Nobody(), Settings(requests_per_s=0)))  # type: ignore[arg-type]

    def ask(method: str, path: str) -> int:
        # Each thread its own client: it has no lock.
        return Client(guarded).open(path, method=method, buffered=True).status_code

    yield app, ask
    app.go.set()


def test_a_full_house_serves_what_it_can_refuses_the_rest_and_answers_health(
    busy: tuple[Busy, Callable[[str, str], int]],
) -> None:
    app, ask = busy
    asked: list[tuple[str, Future[int]]] = []
    with ThreadPoolExecutor(120) as threads:
        for method in ("GET", "POST"):
            asked += [(method, threads.submit(ask, method, "/x")) for _ in range(50)]
        read, write = gate.ROOMS["read"], gate.ROOMS["write"]
        refused = {"GET": 50 - read.at_once - read.waiting, "POST": 50 - write.at_once - write.waiting}
        until(lambda: sum(f.done() for _, f in asked) >= sum(refused.values()))
        assert [ask("GET", path) for path in ("/healthz", "/readyz")] == [200, 200]
        app.go.set()
        answers = [(method, future.result(20)) for method, future in asked]
    for method, count in refused.items():
        assert sorted(status for name, status in answers if name == method) == [200] * (50 - count) + [503] * count
    assert app.most == {"read": gate.ROOMS["read"].at_once, "write": gate.ROOMS["write"].at_once}
    assert (ask("GET", "/x"), ask("POST", "/x")) == (200, 200)


def test_reads_go_on_while_writes_are_full(busy: tuple[Busy, Callable[[str, str], int]]) -> None:
    app, ask = busy
    with ThreadPoolExecutor(40) as threads:
        writes = [threads.submit(ask, "POST", "/x") for _ in range(30)]
        until(lambda: sum(f.done() for f in writes) >= 10)
        read = threads.submit(ask, "GET", "/x")
        until(lambda: "read" in app.inside)
        app.go.set()
        assert read.result(20) == 200


def test_a_request_that_breaks_gives_its_place_back(busy: tuple[Busy, Callable[[str, str], int]]) -> None:
    app, ask = busy
    app.go.set()
    for _ in range(gate.ROOMS["read"].at_once + 1):
        with pytest.raises(RuntimeError):
            ask("GET", "/broken")
    assert ask("GET", "/x") == 200


def test_a_refusal_says_when_to_come_back_and_that_nothing_was_done(
    busy: tuple[Busy, Callable[[str, str], int]],
) -> None:
    app, _ = busy
    guarded = inbound.guarded(app, Throttle(Nobody(), Settings(requests_per_s=0)))  # type: ignore[arg-type]
    long_ago = {inbound.RECEIVED_AT: time.monotonic() - 60}
    answer = Client(guarded).post("/fhir/Patient", environ_base=long_ago, buffered=True)
    assert answer.json
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json["issue"][0]["code"] == "transient"
    assert app.most == {}
