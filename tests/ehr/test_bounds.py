"""How much, how long and how deep an EHR may answer; over raw sockets where no well-behaved server would do it."""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from fhir_secondop.ehr import bounded
from fhir_secondop.ehr import client as client_module
from fhir_secondop.ehr.failures import EhrFailure
from tests.ehr.conftest import client_of
from tests.ehr.test_wire import raw

PATIENT = {"resourceType": "Patient", "birthDate": "1971-04-17"}
MB = 1 << 20


def failures(base: str, **settings: Any) -> tuple[str, str]:
    """The kinds of the failures of a read and of a write."""
    there = client_of(base, **settings)
    kinds = []
    acts: tuple[Callable[[], Any], ...] = (
        lambda: there.read("Patient/1"),
        lambda: there.write("POST", "Patient", PATIENT),
    )
    for act in acts:
        with pytest.raises(EhrFailure) as caught:
            act()
        kinds.append(caught.value.kind)
    return kinds[0], kinds[1]


@contextmanager
def measured(most: int) -> Iterator[None]:
    """Fails where more memory than that was held at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def bomb(size: int, times: int = 1) -> bytes:
    """So many bytes of blanks, packed that often."""
    body = b" " * size
    for _ in range(times):
        body = gzip.compress(body)
    return body


@pytest.mark.parametrize(("status", "location"), [(200, ""), (422, ""), (302, "http://127.0.0.1:1/"), (401, "")])
@pytest.mark.parametrize("times", [1, 2])
def test_a_packed_answer_counts_as_it_is_unpacked(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, location: str, times: int
) -> None:
    """Whatever its status: to say where a redirect leads, requests would read all of it."""
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", MB)
    headers = {"Content-Encoding": ", ".join(["gzip"] * times), **({"Location": location} if location else {})}
    body = bomb(100 * MB, times)
    for path in ("/fhir/Patient/1", "/fhir/Patient"):
        httpserver.expect_request(path).respond_with_data(body, status, headers=headers)
    with measured(20 * MB):
        assert failures(httpserver.url_for("/fhir")) == ("policy", "unknown")


def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", MB)

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with raw(flood) as address:
        assert failures(f"http://{address}/fhir") == ("policy", "unknown")


def lines(connection: socket.socket, line: bytes) -> None:
    while True:
        connection.sendall(line * 100)


HEADS: dict[str, tuple[bytes, bytes]] = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 1000 + b"\r\n"),
    "one header": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 1000),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 1000),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize(("begins", "goes_on"), HEADS.values(), ids=HEADS)
def test_a_head_without_end_is_left(begins: bytes, goes_on: bytes) -> None:
    def send(connection: socket.socket) -> None:
        connection.sendall(begins)
        lines(connection, goes_on)

    with raw(send) as address, measured(5 * MB):
        assert failures(f"http://{address}/fhir", timeout_s=30.0) == ("unreachable", "unknown")


def test_a_head_of_headers_that_are_each_allowed_is_too_large_together() -> None:
    """http.client allows 100 headers of 64 KiB."""

    def send(connection: socket.socket) -> None:
        head = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 60_000) for number in range(90))
        connection.sendall(
            b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 29\r\n\r\n" + b'{"resourceType": "Patient"}  '
        )

    with raw(send) as address:
        assert failures(f"http://{address}/fhir") == ("unreachable", "unknown")


def test_a_head_that_is_large_and_no_larger_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(connection: socket.socket) -> None:
        head = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 2000) for number in range(90))
        connection.sendall(
            b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 27\r\n\r\n" + b'{"resourceType": "Patient"}'
        )

    with raw(send) as address:
        there = client_of(f"http://{address}/fhir")
        assert there.read("Patient/1") == {"resourceType": "Patient"}
        monkeypatch.setattr(bounded, "MAX_HEAD_BYTES", 65536)
        with pytest.raises(EhrFailure):
            there.read("Patient/1")


PARTS: dict[str, tuple[bytes, bytes]] = {
    "head": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "chunk extension": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-More: x\r\n"),
    "empty packets": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(b"")),
}


@pytest.mark.parametrize(("begins", "goes_on"), PARTS.values(), ids=PARTS)
def test_no_part_of_an_answer_may_dribble_without_end(
    monkeypatch: pytest.MonkeyPatch, begins: bytes, goes_on: bytes
) -> None:
    """Each byte comes well within the time-out between two of them."""
    monkeypatch.setattr(client_module, "SLOWEST", 2)
    to_the_end: list[str] = []

    def dribble(connection: socket.socket) -> None:
        connection.sendall(begins)
        for _ in range(400):
            time.sleep(0.03)
            connection.sendall(goes_on)
        to_the_end.append("12 s")

    with raw(dribble) as address:
        assert failures(f"http://{address}/fhir", timeout_s=0.4) == ("unreachable", "unknown")
        assert to_the_end == []


def test_a_connection_is_as_patient_as_before_after_a_slow_answer() -> None:
    """The time that is left of one answer is not that of the next on the same connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30.0)
        theirs.sendall(b"abc")
        assert bounded._Bounded(ours, 5.0).read(3) == b"abc"
        assert ours.gettimeout() == 30.0


def test_a_proxy_whose_answer_has_no_end_is_left() -> None:
    """To CONNECT it may answer as much as an EHR's head may have."""

    def send(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        lines(connection, b"X-More: x\r\n")

    with raw(send) as address, measured(5 * MB):
        there = client_of("https://ehr.example/fhir", proxy=f"http://{address}", timeout_s=30.0)
        with pytest.raises(EhrFailure) as caught:
            there.read("Patient/1")
        assert caught.value.kind == "unreachable"


def test_an_answer_nested_too_deep_is_no_record(httpserver: HTTPServer) -> None:
    deep = '{"resourceType": "Patient", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    httpserver.expect_request("/fhir/Patient/1").respond_with_data(deep)
    httpserver.expect_request("/fhir/Patient").respond_with_data(deep, 201, headers={"Location": "Patient/2"})
    there = client_of(httpserver.url_for("/fhir"))
    with pytest.raises(EhrFailure) as caught:
        there.read("Patient/1")
    assert caught.value.kind == "validation"
    assert there.write("POST", "Patient", PATIENT).location == "Patient/2"  # it was accepted all the same
