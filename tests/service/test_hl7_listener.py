"""The listener itself: how it stops, whom it takes, and how long anybody may hold a place."""

from __future__ import annotations

import socket
import ssl
import threading
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
from fhir_secondop.web.mllp import tls_context
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
