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
import sqlalchemy as sa
import trustme

from fhir_secondop.errors import Unavailable
from fhir_secondop.hl7v2.framing import framed
from fhir_secondop.store import tables
from fhir_secondop.web import mllp
from fhir_secondop.web.hl7 import handle
from fhir_secondop.web.mllp import Listener, tls_context
from tests.service.conftest import RIVERSIDE, Bench, Listen
from tests.service.test_hl7_intake import cases, code, errors, example, sent


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


def recorded(bench: Bench) -> list[Any]:
    """The rows of the audit that say what was asked, oldest first."""
    audit = bench.service.context.database.audit
    assert audit is not None
    audit.flush()
    query = sa.select(tables.audit).where(tables.audit.c.kind == "access").order_by(tables.audit.c.at, tables.audit.c.n)
    with bench.service.context.database.reading() as connection:
        return list(connection.execute(query))


def test_a_message_leaves_a_trace_whatever_became_of_it(
    bench: Bench, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(recorded(bench))
    message = example()
    undated = message.replace("|19710417|", "||").replace("RS-MSG-1", "RS-MSG-2")
    strange = message.replace("|RIVERSIDE|", "|ELSEWHERE|", 1).replace("REF^I12^REF_I12", "Sampleton^Maren")
    taken, *_ = sent(listen(), message, message, undated, strange)
    case_id = str(taken.segment("RF1")[11]).split("^")[0]
    found = recorded(bench)[before:]
    assert [(r.status, r.caller, r.route, r.case_id) for r in found] == [
        (200, "hl7-riverside", "HL7 v2 REF^I12", case_id),  # the repeat: of the first its writes tell
        (422, "hl7-riverside", "HL7 v2 REF^I12", None),
        (403, "", "HL7 v2 -", None),
    ]
    assert len({r.request for r in found} - {""}) == 3
    with bench.service.context.database.reading() as connection:
        wrote = connection.execute(sa.select(tables.audit.c.request).where(tables.audit.c.kind == "write"))
        assert {row.request for row in wrote} != {""}
    assert "an HL7 v2 message from 127.0.0.1 is refused: required at PID[1]-7" in caplog.text
    assert "an HL7 v2 message from 127.0.0.1 is refused: forbidden at MSH[1]-4" in caplog.text
    assert "Sampleton" not in repr(found) + caplog.text


def test_what_can_not_be_recorded_is_not_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise Unavailable("The audit can't be written.")

    service = replace(bench.service, settings=replace(bench.service.settings, hl7_senders={"riverside": RIVERSIDE}))
    assert service.context.database.audit is not None
    with monkeypatch.context() as broken:
        broken.setattr(service.context.database.audit, "check", full)
        handled = handle(service, example().encode(), "")
    assert (handled.retryable, code(hl7.parse(handled.answer.decode())), cases(bench)) == (True, "AE", 0)
    assert handle(service, example().encode(), "").accepted
