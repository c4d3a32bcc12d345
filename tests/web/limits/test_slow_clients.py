"""A client that is slow on purpose holds one connection for a while, and nothing else. Real sockets, our listener."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from werkzeug.wrappers import Request, Response

from fhir_secondop.config import Settings
from fhir_secondop.web import listener
from tests.conftest import free_port
from tests.web.limits.conftest import Said, Wire

Start = Callable[..., Callable[[], Wire]]
SOON_S = 20.0  # within which something must have happened; never waited for when it does


def app(environ: Any, start_response: Any) -> Any:
    """Answers with how much it was sent; /big with a lot at once, /stream with a lot in pieces."""
    request = Request(environ)
    if request.path == "/stream":
        answer = Response(b"x" * 1_000_000 for _ in range(60))
    else:
        answer = Response(b"x" * 60_000_000 if request.path == "/big" else str(len(request.get_data())))
    return answer(environ, start_response)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a listener with other times and numbers; gives what opens a connection to it."""
    stack = ExitStack()

    def run(**changed: float) -> Callable[[], Wire]:
        for name, value in changed.items():
            if name in listener.OPTIONS:
                monkeypatch.setitem(listener.OPTIONS, name, value)
            else:
                monkeypatch.setattr(listener, name, value)
        port = free_port()
        server = listener.listening(app, Settings(port=port))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()

        def stop() -> None:
            server.task_dispatcher.shutdown()
            server._map.clear()  # its loop ends when there is nothing left to look after
            thread.join(SOON_S)
            server.socket.close()

        stack.callback(stop)

        def dial() -> Wire:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SOON_S))
            return Wire(sock)

        return dial

    yield run
    stack.close()


def dripping(wire: Wire, data: bytes) -> Said:
    """Sends a byte every 50 ms, for ever, until there is an answer or an end."""
    wire.sock.settimeout(0.05)
    sent = 0
    ends = time.monotonic() + SOON_S
    while time.monotonic() < ends:
        try:
            wire.send(data[sent : sent + 1] or b"x")
            sent += 1
            wire.held += (got := wire.sock.recv(65536))
            if not got:
                break
        except TimeoutError:
            continue
        except OSError:
            break
    wire.sock.settimeout(SOON_S)
    return wire.answer()


def refused(said: Said) -> None:
    """408 in our form; a reset may come before it is read, then it is only closed."""
    assert said.status in (408, 0)
    if said.status:
        assert said.issue()["code"] == "timeout"
        assert said.headers["connection"] == "close"


SLOW = {
    "request line": b"GET /" + b"a" * 5000,
    "headers": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Note: " + b"a" * 5000,
    "a header after the other": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(900)),
    "body": b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"a" * 5000,
    "chunked body": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 900,
    "chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 5000,
    "second request": b"GET / HTTP/1.1\r\n\r\nGET /" + b"a" * 5000,
}


@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW.keys())
def test_a_request_that_drips_is_ended(start: Start, data: bytes) -> None:
    dial = start(HEADER_S=0.5, BODY_S=0.5)
    head, _, rest = data.partition(b"\r\n\r\n")
    wire = dial()
    if rest:  # what comes at once is not what drips
        wire.send(head + b"\r\n\r\n")
    if rest.startswith(b"GET"):
        assert wire.answer().status == 200
    refused(dripping(wire, rest or data))


def test_a_request_that_stops_half_way_is_told_so(start: Start) -> None:
    dial = start(HEADER_S=0.5, BODY_S=0.5)
    for sent in (b"GET / HTTP/1.1\r\nHost:", b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"):
        wire = dial()
        wire.send(sent)
        said = wire.answer()
        assert (said.status, said.issue()["code"]) == (408, "timeout")
        assert wire.answer().status == 0


def test_a_connection_that_never_says_anything_is_closed(start: Start) -> None:
    assert start(HEADER_S=0.3)().answer().status == 0


def test_one_that_was_served_may_be_idle_for_longer(start: Start) -> None:
    wire = start(HEADER_S=0.3)()
    for _ in range(2):
        wire.send(b"GET / HTTP/1.1\r\n\r\n")
        assert wire.answer().status == 200
        time.sleep(2.5)  # two rounds of looking after connections
    wire.send(b"GET / HTTP/1.1\r\n\r\n")
    assert wire.answer().status == 200


def test_an_idle_one_is_closed_in_the_end(start: Start) -> None:
    wire = start(IDLE_S=0.3)()
    wire.send(b"GET / HTTP/1.1\r\n\r\n")
    assert wire.answer().status == 200
    assert wire.answer().status == 0


def test_a_large_body_that_comes_steadily_has_its_time(start: Start) -> None:
    dial = start(BODY_S=0.1, BODY_BYTES_PER_S=1000)
    wire = dial()
    wire.send(b"POST / HTTP/1.1\r\nContent-Length: 50000\r\n\r\n")
    for _ in range(5):  # 10,000 bytes each half second is ten times as fast as it must be
        wire.send(b"a" * 10_000)
        time.sleep(0.5)
    said = wire.answer()
    assert (said.status, said.body) == (200, b"50000")


def test_slow_clients_of_one_address_leave_room_for_others(start: Start) -> None:
    """All that one address may hold, and more: what is over is refused at once, what is left is served."""
    dial = start(CONNECTIONS_OF_ONE=10, HEADER_S=60)
    held = [dial() for _ in range(10)]
    for wire in held:
        wire.send(b"GET / HTTP/1.1\r\n")
    over = dial()
    assert over.answer().status == 503
    assert over.answer().status == 0
    held[0].send(b"\r\n")
    assert held[0].answer().status == 200


def test_when_all_connections_are_held_the_next_ones_are_served_as_soon_as_these_are_late(start: Start) -> None:
    dial = start(connection_limit=12, HEADER_S=1.0)
    held = [dial() for _ in range(20)]
    for wire in held:
        wire.send(b"GET / HTTP/1.1\r\n")
    last = dial()
    last.send(b"GET / HTTP/1.1\r\n\r\n")
    assert last.answer().status == 200


def test_idle_connections_make_way_when_all_are_taken(start: Start) -> None:
    dial = start(connection_limit=12, IDLE_WHEN_FULL_S=0.3)
    held = [dial() for _ in range(8)]
    for wire in held:
        wire.send(b"GET / HTTP/1.1\r\n\r\n")
        assert wire.answer().status == 200
    more = [dial() for _ in range(8)]
    for wire in more:
        wire.send(b"GET / HTTP/1.1\r\n\r\n")
        assert wire.answer().status == 200


def test_bodies_that_arrive_at_once_have_an_end(start: Start) -> None:
    dial = start(ARRIVING_BYTES=100_000)
    head = b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"
    first, second, small = dial(), dial(), dial()
    first.send(head + b"a" * 10)
    small.send(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
    assert small.answer().body == b"3"
    second.send(head)
    said = second.answer()
    assert (said.status, said.issue()["code"], said.headers["retry-after"]) == (503, "transient", "2")
    first.send(b"a" * 59_990)
    assert first.answer().body == b"60000"
    for _ in range(50):  # the room is given back a moment after the answer went out
        third = dial()
        third.send(head + b"a" * 60_000)
        said = third.answer()
        if said.status != 503:
            break
        time.sleep(0.1)
    assert said.body == b"60000"


def test_a_chunked_body_is_ended_when_there_is_no_room_for_it(start: Start) -> None:
    wire = start(ARRIVING_BYTES=100_000)()
    wire.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n" + b"a" * 150_000)
    assert wire.answer().status == 503


@pytest.mark.parametrize("path", [b"/big", b"/stream"])
def test_clients_that_do_not_take_their_answers_hold_no_thread(start: Start, path: bytes) -> None:
    dial = start(threads=4, UNTAKEN_S=0.5)
    for _ in range(8):
        dial().send(b"GET " + path + b" HTTP/1.1\r\n\r\n")
    wire = dial()
    wire.send(b"GET / HTTP/1.1\r\n\r\n")
    assert wire.answer().status == 200
