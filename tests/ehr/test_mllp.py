"""One message by MLLP: what is an answer to it, what is none, and what each answer means."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from fhir_secondop.ehr import hl7_answers, mllp
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Malformed
from fhir_secondop.hl7v2.framing import Blocks, framed
from fhir_secondop.model import Connection
from fhir_secondop.sandbox.hl7 import QUIRKS, Receiver
from fhir_secondop.store.database import now_ms
from tests.conftest import free_port

MESSAGE = b"MSH|^~\\&|SECONDOP|PLATFORM|LAB|LAKESIDE|20261129||MDM^T02^MDM_T02|ONE|P|2.5.1\rEVN|T02\r"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver().start()
    yield made
    made.stop()


def connection(port: int, **settings: object) -> Connection:
    whole = {"timeout_s": 0.4, "hl7": f"mllp://127.0.0.1:{port}", **settings}
    return Connection("there", "", **whole)  # type: ignore[arg-type]


def failed(port: int) -> EhrFailure:
    with pytest.raises(EhrFailure) as caught:
        Client(connection(port), now=now_ms).message(MESSAGE, "ONE")
    return caught.value


@pytest.mark.parametrize("quirk", ["silent=0.1", "silent=2", "another", "garbage", "late=1", "drops"])
def test_what_is_no_answer_to_this_message_leaves_the_outcome_unknown(quirk: str, receiver: Receiver) -> None:
    receiver.quirk = quirk
    began = time.monotonic()
    assert failed(receiver.port).kind == "unknown"
    assert time.monotonic() - began < 10  # it ends
    assert len(receiver.heard) == 1


@pytest.mark.parametrize(("quirk", "code"), [("", "AA"), ("twice", "AA"), ("first-another", "AA"), ("ca", "CA")])
def test_the_answer_to_this_message_is_found(quirk: str, code: str, receiver: Receiver) -> None:
    receiver.quirk = quirk
    assert mllp.send(connection(receiver.port), MESSAGE, "ONE").code == code


@pytest.mark.parametrize(
    ("quirk", "kind", "why"),
    [
        ("ae=101", "validation", "code 101, at PID-3"),
        ("ae=204", "validation", "code 204, at PID-3"),
        ("ae=205", "duplicate", "code 205, at PID-3"),
        ("ae=207", "capacity", "code 207, at PID-3"),
        ("ae=SAMPLETON", "validation", "at PID-3"),
        ("ar", "capacity", "there: the message was answered with AR."),
        ("ar=200", "scope", "code 200, at PID-3"),
        ("ar=203", "scope", "code 203, at PID-3"),
    ],
)
def test_each_refusal_has_its_class(quirk: str, kind: str, why: str, receiver: Receiver) -> None:
    receiver.quirk = quirk
    failure = failed(receiver.port)
    assert failure.kind == kind
    assert why in failure.why
    assert "SAMPLETON" not in failure.why + failure.message  # what they write may name the patient


def test_where_nobody_listens_nothing_was_sent() -> None:
    assert failed(free_port()).kind == "unreachable"


def test_an_old_error_segment_is_read_too() -> None:
    said = b"MSH|^~\\&|A|B|C|D|20261129||ACK|1|P|2.3\rMSA|AE|ONE\rERR|PID^1^5^101\r"
    assert hl7_answers.answer_to(said, "ONE") == hl7_answers.Answer("AE", "101", "PID-5")


def test_over_tls_the_name_must_be_right(receiver: Receiver, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    receiver.stop()
    secure = Receiver().start(tls=context)
    trusted = {"ca_bundle": str(tmp_path / "ca.pem")}
    found = mllp.send(connection(secure.port, hl7=f"mllps://localhost:{secure.port}", **trusted), MESSAGE, "ONE")
    assert found.code == "AA"
    for other in ({}, {**trusted, "hl7": f"mllps://127.0.0.1:{secure.port}"}):
        there = connection(secure.port, **{"hl7": f"mllps://localhost:{secure.port}", **other})
        with pytest.raises(EhrFailure) as caught:
            mllp.send(there, MESSAGE, "ONE")
        assert caught.value.kind == "unreachable"
    secure.stop()
    assert len(secure.heard) == 1


def blocks_of(*pieces: bytes) -> Blocks:
    left = list(pieces)
    return Blocks(lambda: left.pop(0) if left else b"", 100)


def test_blocks_are_told_apart_however_the_bytes_come() -> None:
    stream = b"noise" + framed(b"one") + b"\n" + framed(b"two\rlines") + framed(b"")
    for size in (1, 2, 3, 7, 100):
        blocks = blocks_of(*(stream[at : at + size] for at in range(0, len(stream), size)))
        assert [blocks.next() for _ in range(4)] == [b"one", b"two\rlines", b"", None]


def test_a_block_that_breaks_off_or_is_too_large_is_none() -> None:
    for stream in (b"\x0bone", b"\x0bone\x1c", b"\x0b" + b"x" * 200 + b"\x1c\r"):
        with pytest.raises(Malformed):
            blocks_of(stream).next()
    with pytest.raises(Malformed):
        framed(b"a\x1cb")


def test_the_page_lists_every_quirk_of_the_receiver() -> None:
    page = (Path(__file__).parent.parent.parent / "docs/hl7v2.md").read_text("utf-8")
    for name, (says, _) in QUIRKS.items():
        assert f"| `{name}` | {says} |" in page
