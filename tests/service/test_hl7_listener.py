"""The listener itself: how it stops, whom it takes, and how long anybody may hold a place."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import pytest
import trustme

from fhir_secondop.hl7v2.framing import framed
from fhir_secondop.web import mllp
from fhir_secondop.web.hl7 import handle
from fhir_secondop.web.mllp import Listener, tls_context
from tests.service.conftest import RIVERSIDE, Bench, Listen
from tests.service.test_hl7_intake import cases, code, errors, example


def test_a_message_in_flight_is_answered_by_tls_when_the_listener_stops(
    bench: Bench, listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "ours.pem"))
    begun, stopping = threading.Event(), threading.Event()
    real = mllp.handle

    def slow(*args: Any) -> Any:
        begun.set()
        stopping.wait(5)
        return real(*args)

    monkeypatch.setattr(mllp, "handle", slow)
    listener = listen(tls=tls_context(str(tmp_path / "ours.pem"), "", ""))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        socket.create_connection(("127.0.0.1", listener.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as made,
    ):
        made.sendall(framed(example().encode()))
        assert begun.wait(5)
        stop = threading.Thread(target=listener.stop)
        stop.start()
        threading.Timer(0.5, stopping.set).start()
        answer = b""
        while not answer.endswith(b"\x1c\r"):
            more = made.recv(1 << 16)
            assert more, "closed without an answer"
            answer += more
        stop.join(5)
    assert code(hl7.parse(answer.strip(b"\x0b\x1c\r").decode())) == "AA"
    assert cases(bench) == 1


@pytest.mark.parametrize(("peer", "said"), [("192.0.2.7", {"MSH^1^4": "204"}), ("127.0.0.1", {"MSH^1": "100"})])
def test_a_message_of_nothing_but_delimiters_takes_little_memory(peer: str, said: Any, bench: Bench) -> None:
    service = replace(bench.service, settings=replace(bench.service.settings, hl7_senders={"riverside": RIVERSIDE}))
    handle(service, example().encode(), "192.0.2.7")  # what is imported once, is
    tracemalloc.start()
    try:
        handled = handle(service, f"{example()}ZZZ{'|' * 400_000}".encode(), peer)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert errors(hl7.parse(handled.answer.decode())) == said
    assert most < 20_000_000


def dripped(listener: Listener, data: bytes, seconds: float) -> bool:
    """Whether the connection was closed, a byte of `data` being sent every 50 ms for so long."""
    ends, left = time.monotonic() + seconds, iter(data)
    with socket.create_connection(("127.0.0.1", listener.port)) as made:
        made.settimeout(0.05)
        while time.monotonic() < ends:
            try:
                made.sendall(bytes([next(left)]))
                if made.recv(1) == b"":
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
    return False


@pytest.mark.parametrize("beginning", [b"", b"\x0bMSH|"])
def test_a_byte_now_and_then_keeps_no_place(beginning: bytes, bench: Bench, listen: Listen) -> None:
    assert dripped(listen(idle_s=0.5, message_s=0.5), beginning + b"\n" * 1000, 20)


def test_a_byte_now_and_then_keeps_no_place_in_the_handshake_either(
    bench: Bench, listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "ours.pem"))
    monkeypatch.setattr(mllp, "HANDSHAKE_S", 0.5)
    listener = listen(tls=tls_context(str(tmp_path / "ours.pem"), "", ""))
    # The beginning of a long record, of which a byte comes now and then.
    assert dripped(listener, b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + b"\x03" * 1000, 20)


def test_nobody_has_a_place_who_could_be_no_sender_and_no_address_has_them_all(bench: Bench, listen: Listen) -> None:
    nobody = listen(replace(RIVERSIDE, networks=("10.20.0.0/16",)))
    with socket.create_connection(("127.0.0.1", nobody.port)) as made:
        made.settimeout(5)
        assert made.recv(1) == b""
    shared = listen(most_of_one=2)
    with (
        socket.create_connection(("127.0.0.1", shared.port)),
        socket.create_connection(("127.0.0.1", shared.port)),
        socket.create_connection(("127.0.0.1", shared.port)) as third,
    ):
        third.settimeout(5)
        assert third.recv(1) == b""
        with socket.socket() as other:  # from another address
            other.bind(("127.0.0.2", 0))
            other.connect(("127.0.0.1", shared.port))
            other.settimeout(10)
            other.sendall(framed(example().encode()))
            assert other.recv(1) == b"\x0b"
