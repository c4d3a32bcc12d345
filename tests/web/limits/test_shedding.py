"""What finds no place is refused at once and wholly, by the thread that takes connections. Real sockets."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from werkzeug.wrappers import Request, Response

from fhir_secondop.config import Settings
from fhir_secondop.web import connection, gate, listener
from fhir_secondop.web.gate import Arrived
from tests.conftest import free_port
from tests.web.limits.conftest import Said, Wire

READS = gate.ROOMS["read"].at_once + gate.ROOMS["read"].waiting
GET = b"GET /fhir/Patient/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /fhir/Patient HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n"


class House:
    """A listener whose requests stay until they are let go, health apart."""

    def __init__(self, stack: ExitStack, settings: Settings) -> None:
        self.go = threading.Event()
        self.inside = 0
        self._lock = threading.Lock()
        self._stack, self._port = stack, settings.port
        server = listener.listening(self, settings)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()

        def stop() -> None:
            self.go.set()
            server.task_dispatcher.shutdown()
            server._map.clear()
            thread.join(20)
            server.socket.close()

        stack.callback(stop)

    def __call__(self, environ, start_response):  # type: ignore[no-untyped-def]
        request = Request(environ)
        if request.path != "/healthz":
            with self._lock:
                self.inside += 1
            self.go.wait(30)
        return Response(str(len(request.get_data())))(environ, start_response)

    def dial(self, sent: bytes = b"", address: str = "127.0.0.1") -> Wire:
        """A connection from this address, on which this was sent."""
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=20, source_address=(address, 0))
        wire = Wire(self._stack.enter_context(sock))
        wire.send(sent)
        return wire

    def fill(self) -> list[Wire]:
        """As many reads as there is room for, from two addresses."""
        held = [self.dial(GET, f"127.0.0.{2 + n % 2}") for n in range(READS)]
        ends = time.monotonic() + 20
        while self.inside < READS:
            assert time.monotonic() < ends
            time.sleep(0.01)
        return held


Build = Callable[..., House]


@pytest.fixture
def build() -> Iterator[Build]:
    with ExitStack() as stack:
        yield lambda **settings: House(stack, Settings(port=free_port(), **settings))


def is_refusal(said: Said) -> bool:
    """Whether it is the whole of a 503 that says when to come back, and that it is the last of its connection."""
    assert said.status == 503
    assert said.issue()["code"] == "transient"
    assert len(said.body) == int(said.headers["content-length"])
    assert said.headers["cache-control"] == "no-store"
    return (said.headers["retry-after"], said.headers["connection"]) == ("2", "close")


def test_with_every_place_taken_200_new_connections_are_refused_wholly_and_health_answers(build: Build) -> None:
    house = build()
    held = house.fill()
    began = time.monotonic()
    with ThreadPoolExecutor(20) as clients:
        said = list(clients.map(lambda n: house.dial(GET, f"127.0.1.{n}").answer(), range(1, 201)))
    assert all(is_refusal(one) for one in said)
    assert time.monotonic() - began < 20, "refusing waited for what is being worked on"
    assert house.inside == READS
    assert house.dial(b"GET /healthz HTTP/1.1\r\n\r\n").answer().status == 200
    house.go.set()
    assert [wire.answer().status for wire in held] == [200] * READS
    assert house.dial(GET).answer().status == 200, "the places were not given back"


def test_a_body_that_is_still_being_sent_does_not_cost_the_client_its_refusal(build: Build) -> None:
    house = build()
    writes = gate.ROOMS["write"].at_once + gate.ROOMS["write"].waiting
    small = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n1"
    for number in range(writes):
        house.dial(small, f"127.0.0.{2 + number % 2}")
    while house.inside < writes:
        time.sleep(0.01)
    wire = house.dial(POST)
    time.sleep(0.3)
    for _ in range(20):
        wire.send(b"x" * 10_000)
        time.sleep(0.01)
    assert is_refusal(wire.answer())
    assert wire.answer().status == 0


def test_who_goes_on_sending_after_the_refusal_is_cut_off(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PARTING_S", 0.2)
    house = build()
    house.fill()
    wire = house.dial(b"GET /fhir/Patient HTTP/1.1\r\nX-Note: ", "127.0.0.9")
    assert is_refusal(wire.answer())

    def drip_for_20_s() -> None:
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            wire.send(b"x")
            time.sleep(0.05)

    with pytest.raises(ConnectionError):
        drip_for_20_s()


def test_a_connection_that_is_kept_is_refused_as_a_new_one_is(build: Build) -> None:
    house = build()
    wire = house.dial(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert wire.answer().status == 200
    house.fill()
    wire.send(GET)
    assert is_refusal(wire.answer())


def test_head_is_refused_without_a_body(build: Build) -> None:
    house = build()
    house.fill()
    wire = house.dial(b"HEAD / HTTP/1.1\r\n\r\n")
    assert wire.answer(head=True).status == 503
    assert not wire.sock.recv(100)
    assert not wire.held


def test_one_address_has_half_the_places_and_leaves_the_rest_to_others(build: Build) -> None:
    house = build()
    for _ in range(READS):
        house.dial(GET, "127.0.0.2")
    while house.inside < READS // 2:
        time.sleep(0.01)
    assert is_refusal(house.dial(GET, "127.0.0.2").answer())
    other = house.dial(GET, "127.0.0.3")
    house.go.set()
    assert other.answer().status == 200


def test_who_asks_again_as_soon_as_it_is_answered_is_counted_once(build: Build) -> None:
    """As many clients as an address has places, each with the next request on its way before the thread is free."""
    house = build()
    house.go.set()
    at_once = READS // 2
    wires = [house.dial(address="127.0.0.2") for _ in range(at_once)]

    def ask(wire: Wire) -> set[int]:
        statuses = set()
        for _ in range(60):
            wire.send(GET)
            statuses.add(wire.answer().status)
        return statuses

    with ThreadPoolExecutor(at_once) as threads:
        assert set().union(*threads.map(ask, wires)) == {200}


def test_the_proxy_has_all_places(build: Build) -> None:
    house = build(trusted_proxy="127.0.0.2")
    held = [house.dial(GET, "127.0.0.2") for _ in range(READS)]
    house.go.set()
    assert [wire.answer().status for wire in held] == [200] * READS


@pytest.fixture
def turns() -> Iterator[Callable[[], int]]:
    """How often another thread has had its turn, which it has whenever the interpreter's lock is given away."""
    ended, had = threading.Event(), [0]

    def waiting() -> None:
        while not ended.is_set():
            had[0] += 1
            time.sleep(0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(30)  # nothing is taken away meanwhile
    thread = threading.Thread(target=waiting)
    thread.start()
    yield lambda: had[0]
    ended.set()
    thread.join()
    sys.setswitchinterval(before)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_taking_and_refusing_a_connection_keeps_the_lock(turns: Callable[[], int], address: str) -> None:
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as listening:
        listening.setblocking(False)
        with socket.create_connection(listening.getsockname()[:2], timeout=20) as client:
            client.sendall(b"asked")
            before = turns()
            taken = connection.accept(listening)
            assert taken is not None
            sock, where = taken
            for _ in range(5000):  # each time that it is given away the other may have it, but need not be fast enough
                said = sock.recv(100, socket.MSG_PEEK)
                assert connection.accept(listening) is None
            assert said == sock.recv(100)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
            sent = sock.send(memoryview(b"answered"))
            sock.shutdown(socket.SHUT_WR)
            sock.close()
            after = turns()
            assert (said, sent, where) == (b"asked", 8, client.getsockname()[:2])
            assert client.recv(100) + client.recv(100) == b"answered"
            assert after == before
            time.sleep(0.05)  # gives the lock away
            assert turns() > after, "the other thread did not run at all"
            assert connection.accept(listening) is None


def test_a_connection_that_its_client_left_raises_what_a_socket_raises() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        sock, _ = connection.accept(listening) or pytest.fail("nobody came")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its close is a reset
        client.close()
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
        with pytest.raises(BrokenPipeError):
            sock.send(b"x")
        sock.close()
        sock.close()


def test_what_has_left_is_not_remembered() -> None:
    arrived = Arrived()
    for number in range(1000):
        arrived.enter("read", f"address {number}")
    assert arrived.is_full("read", "another", alone=True)
    for number in range(1000):
        arrived.leave("read", f"address {number}")
    assert not arrived.is_full("read", "another", alone=False)
    assert not arrived._held
