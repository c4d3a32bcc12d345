"""Rung 8: what goes by HL7 v2, by MLLP and by file; what is sent once, and what waits for a person."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.sandbox.hl7 import Heard, Receiver
from fhir_secondop.service.context import SERVICE
from fhir_secondop.store import circuits
from fhir_secondop.store.circuits import Circuit
from tests.conftest import free_port
from tests.service.hospitals import few
from tests.service.world import World, opened

PCP, SURGEON, ONCOLOGIST = "Placeholder", "Mockridge", "Examplar"
SETTINGS = {"hl7_receiver": "LAB|LAKESIDE", "hl7_authority": "LKMRN", "hl7_sender": "SECONDOP|PLATFORM"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On SQLite: what is tried here does not depend on the database."""
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


@pytest.fixture
def both(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On both databases: for what stands or falls with a transaction."""
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver().start()
    yield made
    made.stop()


def by_mllp(world: World, receiver: Receiver, name: str = "riverside", **settings: Any) -> None:
    """That organization of the example has no FHIR endpoint, and an HL7 v2 interface. Riverside has one recipient."""
    hl7 = f"mllp://127.0.0.1:{receiver.port}"
    world.connect(name, "", hl7=hl7, **{**SETTINGS, **settings})
    world.start()


def pdf_of(heard: Heard) -> bytes:
    """The PDF that came along."""
    _, kind, subtype, encoding, data = heard.fields("OBX", 2)[5].split("^")
    assert (kind, subtype, encoding) == ("AP", "PDF", "Base64")
    return base64.b64decode(data)


def test_a_report_goes_as_mdm_t02_once_and_waits_for_the_acknowledgement(both: World, receiver: Receiver) -> None:
    by_mllp(both, receiver)
    case_id = both.signed(sources=[])
    assert "unverifiable" in both.work()
    done = both.delivery(case_id, PCP)
    assert (done["status"], done["businessStatus"], done["evidence"]["rung"]) == ("completed", "unverifiable", "8")
    assert done["evidence"]["location"] == f"MDM^T02 {receiver.heard[0].control_id}, AA"
    (heard,) = receiver.heard
    msh, pid, txa = heard.fields("MSH"), heard.fields("PID"), heard.fields("TXA")
    assert msh[2:6] == ["SECONDOP", "PLATFORM", "LAB", "LAKESIDE"]
    assert (msh[8], msh[17]) == ("MDM^T02^MDM_T02", "UNICODE UTF-8")
    assert pid[3] == "RS-100482^^^LKMRN^MR"  # that place's number of the patient, with who assigned it
    assert (pid[5], pid[7], pid[8]) == ("Sampleton^Maren^Elise^^^^L", "19710417", "F")
    assert (txa[14], txa[17], txa[19]) == ("RS-2026-0117^^https://riverside.example/orders^URI", "LA", "AV")
    assert pdf_of(heard).startswith(b"%PDF")
    assert "SECOND OPINION" in heard.fields("OBX", 1)[5]
    row = next(r for r in both.get(case_id, "alignment")["providers"] if PCP in r["name"])
    assert (row["rung"], row["state"]) == ("8", "unknown")  # an acknowledgement of a machine is nobody's reading


def test_an_amendment_replaces_an_addendum_adds_and_a_retraction_cancels(world: World, receiver: Receiver) -> None:
    by_mllp(world, receiver)
    case_id = world.signed(sources=[])
    world.work()
    for kind in ("amended", "appended", "entered-in-error"):
        world.amend(case_id, kind)
        world.work()
    events = [h.fields("MSH")[8] for h in receiver.heard]
    assert events == ["MDM^T02^MDM_T02", "MDM^T10^MDM_T02", "MDM^T06^MDM_T02", "MDM^T11^MDM_T01"]
    numbers = [h.fields("TXA")[12] for h in receiver.heard]
    parents = [h.fields("TXA")[13] for h in receiver.heard]
    assert len(set(numbers[:3])) == 3
    assert parents == ["", numbers[0], numbers[1], ""]
    assert numbers[3] == numbers[2]  # what is cancelled
    assert receiver.heard[3].fields("TXA")[19] == "CA"
    assert len({h.control_id for h in receiver.heard}) == 4


def test_one_message_goes_to_an_ehr_whoever_of_its_people_it_is_for(both: World, receiver: Receiver) -> None:
    by_mllp(both, receiver, "lakeside", organization="http://hl7.org/fhir/sid/us-npi|9000000102")
    case_id = both.signed(sources=[])
    both.work(patience_s=60)
    assert len(receiver.heard) == 1
    for name in (SURGEON, ONCOLOGIST):
        assert both.delivery(case_id, name)["businessStatus"] == "unverifiable"
    how = {both.delivery(case_id, name)["evidence"]["how"] for name in (SURGEON, ONCOLOGIST)}
    assert how == {"sent", "sent with another delivery"}


def test_a_message_that_nobody_answered_is_sent_again_by_a_person_alone_and_is_the_same(
    both: World, receiver: Receiver
) -> None:
    receiver.quirk, receiver.times = "drops", 1
    by_mllp(both, receiver)
    case_id = both.signed(sources=[])
    both.work(patience_s=3600)
    held = both.delivery(case_id, PCP)
    assert (held["status"], held["businessStatus"]) == ("on-hold", "unknown")
    assert "replay" in held["why"]
    assert len(receiver.heard) == 1
    both.post(case_id, "replay", {"task": held["task"], "changed": "They have not got it."})
    both.work(patience_s=60)
    assert both.delivery(case_id, PCP)["status"] == "completed"
    first, second = receiver.heard
    assert first.data == second.data


def test_where_the_receiver_recognises_a_message_it_is_sent_again_at_once(world: World, receiver: Receiver) -> None:
    receiver.quirk, receiver.times = "drops", 2
    by_mllp(world, receiver, hl7_dedupes=True)
    case_id = world.signed(sources=[])
    world.work(patience_s=3600)
    assert world.delivery(case_id, PCP)["status"] == "completed"
    assert len({h.data for h in receiver.heard}) == 1
    assert len(receiver.heard) == 3


def test_what_never_answers_ends_with_a_person_after_so_many_tries(world: World, receiver: Receiver) -> None:
    receiver.quirk = "drops"
    by_mllp(world, receiver, hl7_dedupes=True)
    case_id = world.signed(sources=[])
    world.work(patience_s=100_000)
    held = world.delivery(case_id, PCP)
    assert (held["status"], held["businessStatus"]) == ("on-hold", "unknown")
    assert 3 < len(receiver.heard) <= 12
    assert len({h.data for h in receiver.heard}) == 1


def test_a_refusal_for_its_content_leaves_the_link_and_says_where(world: World, receiver: Receiver) -> None:
    receiver.quirk = "ae=204"
    by_mllp(world, receiver)
    case_id = world.signed(sources=[])
    world.work(patience_s=3600)
    done = world.delivery(case_id, PCP)
    assert (done["status"], done["evidence"]["rung"]) == ("completed", "10")
    assert "code 204, at PID-3" in done["evidence"]["rung-why"]
    assert len(receiver.heard) == 1


def test_a_refusal_that_may_pass_is_tried_again(world: World, receiver: Receiver) -> None:
    receiver.quirk, receiver.times = "ar", 2
    by_mllp(world, receiver)
    case_id = world.signed(sources=[])
    world.work(patience_s=3600)
    assert world.delivery(case_id, PCP)["status"] == "completed"
    assert len(receiver.heard) == 3


def test_where_nobody_listens_nothing_was_sent_and_it_is_tried_again(world: World, receiver: Receiver) -> None:
    by_mllp(world, receiver)
    world.signed(sources=[])
    world.work()  # the address is confirmed: from here on it is the message that finds nobody
    other = world.signed(sources=[], placer={"system": "https://riverside.example/orders", "value": "RS-2"})
    receiver.stop()
    world.work(patience_s=10)
    waits = world.delivery(other, PCP)
    assert (waits["status"], waits["businessStatus"], waits["evidence"]["sent"]) == ("in-progress", "planned", "no")
    again = Receiver().start(receiver.port)
    world.work(patience_s=3600)
    again.stop()
    assert world.delivery(other, PCP)["status"] == "completed"
    assert len(again.heard) == 1


@pytest.mark.parametrize("way", ["mllp", "folder", "refused"])
def test_who_answers_a_message_is_there_again(way: str, world: World, receiver: Receiver, tmp_path: Path) -> None:
    if way == "folder":
        (tmp_path / "outbox").mkdir()
        world.connect("riverside", "", hl7_folder=str(tmp_path / "outbox"), **SETTINGS)
        world.start()
    else:
        by_mllp(world, receiver)
        receiver.quirk = "ae=101" if way == "refused" else ""
    for number, known in enumerate((
        Circuit("riverside", failures=5, trips=3, opened=1, until=1, why="unreachable"),
        Circuit("riverside", failures=4),
    )):  # fmt: skip
        world.signed(sources=[], placer={"system": "https://riverside.example/orders", "value": f"RS-{number}"})
        with world.context.database.transaction(SERVICE) as tx:
            circuits.write(tx, known)
        world.work()
        with world.context.database.reading() as connection:
            assert circuits.read(connection, "riverside") == Circuit("riverside")


def test_a_number_of_the_patient_at_that_place_is_never_guessed(world: World, receiver: Receiver) -> None:
    by_mllp(world, receiver, patient_system="https://elsewhere.example/mrn")
    case_id = world.signed(sources=[])
    world.work()
    held = world.delivery(case_id, PCP)
    assert held["status"] == "on-hold"
    assert "no number of the patient" in held["why"]
    assert receiver.heard == []


def test_an_ehr_with_a_fhir_endpoint_that_takes_no_documents_gets_a_message(world: World, receiver: Receiver) -> None:
    hl7 = f"mllp://127.0.0.1:{receiver.port}"
    world.ehr("riverside", "read-only", record=few("riverside"), hl7=hl7, hl7_kind="oru", **SETTINGS)
    world.start()
    case_id = world.signed(sources=[])
    world.work()
    assert world.delivery(case_id, PCP)["evidence"]["rung"] == "8"
    (heard,) = receiver.heard
    assert heard.fields("MSH")[8] == "ORU^R01^ORU_R01"
    assert heard.fields("PID")[3].startswith("RS-100482^")
    assert pdf_of(heard).startswith(b"%PDF")
    world.amend(case_id)
    world.work()
    assert [h.fields("OBR")[25] for h in receiver.heard] == ["F", "C"]
    assert len({h.fields("OBR")[3] for h in receiver.heard}) == 1  # one result over its versions


def test_a_message_goes_as_a_file_once(both: World, tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    folder.mkdir()
    both.connect("riverside", "", hl7_folder=str(folder), **SETTINGS)
    both.start()
    case_id = both.signed(sources=[])
    both.work()
    done = both.delivery(case_id, PCP)
    (file,) = folder.glob("*.hl7")
    assert done["evidence"]["location"] == f"MDM^T02 {file.stem}, put into the folder"
    assert file.read_bytes().startswith(b"MSH|^~\\&|SECONDOP|PLATFORM|LAB|LAKESIDE|")
    assert list((folder / ".work").iterdir()) == []


def test_a_preview_shows_the_message_and_sends_nothing(world: World, receiver: Receiver) -> None:
    by_mllp(world, receiver)
    case_id = world.signed(sources=[])
    (row,) = world.post(case_id, "preview-delivery", {"to": PCP})["deliveries"]
    assert row["rung"] == 8
    assert row["requests"][0]["body"].startswith("MSH|")
    assert receiver.heard == []


def test_no_message_goes_to_an_address_that_nobody_allowed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))]
    )
    world.connect("riverside", "", hl7=f"mllp://engine.riverside.example:{free_port()}", **SETTINGS)
    world.start()
    case_id = world.signed(sources=[])
    world.work()
    held = world.delivery(case_id, PCP)
    assert held["status"] == "on-hold"
    assert "networks" in held["why"]
