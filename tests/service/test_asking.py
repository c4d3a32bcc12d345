"""What the record lacks: asked of the right holder once, taken in by link, checked, and closed by what arrives."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.opinion import uploads
from fhir_secondop.service import asking, tokens
from fhir_secondop.service.context import SERVICE, load, put
from tests.service.world import DAY_MS, World, opened, record_of, refusal

Plain = dict[str, Any]
BORN = "1971-04-17"
PDF = b"%PDF-1.7\nthe pathology report"
PATIENTS_OWN = ("Sampleton", "Maren", "1971", "RS-100482", "LK-77310", "555-0142")


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


def asked(world: World, case_id: str, who: str = "desk") -> dict[str, Plain]:
    """The requests of a case by their item."""
    rows = world.get(case_id, "requests", who)["requests"]
    assert len({row["item"] for row in rows}) == len(rows), "one request a gap"
    return {row["item"]: row for row in rows}


def link_of(world: World, case_id: str, item: str = "images") -> str:
    """The path of an upload link."""
    link: str = asked(world, case_id)[item]["uploadLink"]
    assert link.startswith(world.context.public_url)
    return link.removeprefix(world.context.public_url)


def send(world: World, link: str, data: bytes, name: str = "x.pdf", *, born: str = BORN, who: str = "A. Clerk") -> Any:
    """What a browser posts."""
    form = {"file": (io.BytesIO(data), name), "birthDate": born, "name": who}
    # A client of its own: several may send at once.
    return world.client.application.test_client().post(link, data=form, content_type="multipart/form-data")


def state_of(world: World, case_id: str, item: str = "images") -> str:
    """The state of a checklist item."""
    (found,) = [i["state"] for i in world.get(case_id, "completeness")["items"] if i["code"] == item]
    return str(found)


def documents(world: World, case_id: str, who: str = "desk") -> list[Resource]:
    """The DocumentReferences of the case that were uploaded, as somebody sees them."""
    return [d for d in world.package(case_id, "DocumentReference", who=who) if "source" not in d.get("meta", {})]


# ---- who is asked, and how


def test_each_gap_is_asked_for_once_and_again_when_gathered_again(world: World) -> None:
    world.ehr("lakeside")
    case_id = world.gathered(sources=["lakeside"])
    items = {i["code"]: i["state"] for i in world.get(case_id, "completeness")["items"]}
    found = asked(world, case_id)
    assert set(found) == {code for code, state in items.items() if state == "requested"} != set()
    assert "missing" not in items.values()
    tasks = [t["id"] for t in world.package(case_id, "Task") if "Please send" in t["code"].get("text", "")]
    for _ in range(2):
        world.post(case_id, "gather")
        world.work()
    assert asked(world, case_id) == found
    assert [t["id"] for t in world.package(case_id, "Task") if "Please send" in t["code"].get("text", "")] == tasks


def test_the_source_that_refused_it_is_asked_and_not_the_one_that_has_sent_all(world: World) -> None:
    world.ehr("riverside", record=record_of("riverside"))
    lakeside = world.ehr("lakeside", record=[r for r in record_of("lakeside") if r["resourceType"] == "Patient"])
    lakeside.instead = lambda a: refusal(400, "invalid") if a.type in ("DiagnosticReport", "Observation") else None
    case_id = world.gathered()
    found = asked(world, case_id)
    assert found["pathology-report"]["from"] == "Lakeside Specimen Hospital"
    # Everybody has answered for images, and has none: whoever asked for the opinion is asked.
    assert found["images"]["from"] == "Riverside Sample Clinic"


@pytest.mark.parametrize(
    ("telecom", "channel"),
    [
        ([{"system": "phone", "value": "+1 555 0110"}, {"system": "fax", "value": "+1 555 0111"}], "fax +1 555 0111"),
        ([{"system": "fax", "value": "+1 555 0111"},
          {"system": "email", "value": "records@lakeside.direct.example"}], "direct records@lakeside.direct.example"),
        ([{"system": "email", "value": "records@lakeside.example"}], "email records@lakeside.example"),
        ([{"system": "phone", "value": "+1 555 0110"}], "phone +1 555 0110"),
        ([], "phone"),
    ],
)  # fmt: skip
def test_the_channel_is_the_best_that_the_holder_has(world: World, telecom: list[Plain], channel: str) -> None:
    case_id = world.open(sources=["lakeside"])
    with world.context.database.transaction(SERVICE) as tx:
        case = load(tx.connection, EVERYTHING, case_id)
        organization = next(o for o in case.of_type("Organization") if o["name"].startswith("Lakeside"))
        put(tx, world.context, case_id, {**organization, "telecom": telecom} if telecom else organization)
    world.work()
    row = asked(world, case_id)["pathology-report"]
    assert (row["from"], row["channel"]) == ("Lakeside Specimen Hospital", channel)


def test_only_the_coordinator_sees_the_links(world: World) -> None:
    case_id = world.gathered()
    world.accept(case_id)
    assert all("uploadLink" in row for row in asked(world, case_id).values())
    for who in ("reviewer", "pcp"):
        assert not any("uploadLink" in row for row in asked(world, case_id, who).values())
        assert "/upload/" not in json.dumps(world.package(case_id, who=who))
    assert world.call("GET", f"/api/second-opinions/{case_id}/requests", who="stranger").status_code == 404


def test_an_open_request_goes_to_somebody_else_by_hand(world: World) -> None:
    case_id = world.gathered()
    patient = world.package(case_id, "Patient")[0]
    before = asked(world, case_id)
    body = {"item": "images", "holder": f"Patient/{patient['id']}"}
    world.post(case_id, "request-item", body, "pcp", status=403)
    world.post(case_id, "request-item", body)
    after = asked(world, case_id)
    assert (after["images"]["from"], after["images"]["channel"]) == ("the patient", "patient")
    assert after["images"]["task"] == before["images"]["task"]
    assert set(after) == set(before)
    # What the patient sends is labelled as that.
    assert send(world, link_of(world, case_id), PDF).status_code == 200
    (document,) = documents(world, case_id)
    assert [c["code"] for c in document["meta"]["security"]] == ["PATAST"]


def test_a_doctor_who_is_asked_by_hand_is_named(world: World) -> None:
    case_id = world.gathered()
    role = next(r for r in world.package(case_id, "PractitionerRole"))
    world.post(case_id, "request-item", {"item": "images", "holder": f"PractitionerRole/{role['id']}"})
    row = asked(world, case_id)["images"]
    assert row["from"].startswith("Dr. ")
    assert row["channel"].startswith("phone")
    condition = next(r for r in world.package(case_id, "Condition"))
    world.post(case_id, "request-item", {"item": "images", "holder": f"Condition/{condition['id']}"}, status=404)


def test_something_that_is_on_no_checklist_is_asked_for_with_a_title(world: World) -> None:
    case_id = world.gathered()
    world.post(case_id, "request-item", {"item": "cardiology-letter"}, status=422)
    world.post(case_id, "request-item", {"item": "cardiology-letter", "title": "Cardiology letter of June"})
    assert asked(world, case_id)["cardiology-letter"]["what"] == "Please send: Cardiology letter of June"
    assert send(world, link_of(world, case_id, "cardiology-letter"), PDF).status_code == 200
    assert asked(world, case_id)["cardiology-letter"]["status"] == "completed"


# ---- what is taken


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def ccda(family: str = "Sampleton", given: str = "Maren", born: str = "19710417", head: str = "") -> bytes:
    """A C-CDA document of that patient."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>{head}
<ClinicalDocument xmlns="urn:hl7-org:v3"><typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
<recordTarget><patientRole><id root="2.16.840.1.113883.19" extension="X-1"/><patient><name><given>{given}</given>
<family>{family}</family></name><birthTime value="{born}"/></patient></patientRole></recordTarget>
<component><structuredBody/></component></ClinicalDocument>""".encode()


KINDS = [
    (PDF, "application/pdf"),
    (png(), "image/png"),
    (b"\xff\xd8\xff\xe0 a photograph", "image/jpeg"),
    (b"II*\x00 a fax", "image/tiff"),
    (b"MM\x00* a fax", "image/tiff"),
    (ccda(), "application/hl7-cda+xml"),
]


def test_what_a_file_is_says_its_content_and_not_its_name(world: World) -> None:
    case_id = world.gathered()
    items = sorted(asked(world, case_id))
    assert len(items) >= len(KINDS)
    for item, (data, kind) in zip(items, KINDS, strict=False):
        assert state_of(world, case_id, item) == "requested"
        answer = send(world, link_of(world, case_id, item), data, "virus.exe")
        assert answer.status_code == 200, answer.get_data(as_text=True)
        assert "Thank you" in answer.get_data(as_text=True)

        row = asked(world, case_id)[item]
        assert row["status"] == "completed"
        assert state_of(world, case_id, item) == "present"
        document = documents(world, case_id)[-1]
        assert row["arrived"] == [f"DocumentReference/{document['id']}"]
        form = document["content"][0]["attachment"]
        assert (form["contentType"], form["size"]) == (kind, len(data))
        assert base64.b64decode(form["hash"]) == hashlib.sha1(data).digest()
        stored = world.call("GET", f"/fhir/{form['url']}").get_json()
        assert (base64.b64decode(stored["data"]), stored["contentType"]) == (data, kind)
        # Who sent it, and its fingerprint, stand in the case.
        said = json.dumps(world.package(case_id, "Provenance"))
        assert hashlib.sha256(data).hexdigest() in said
        assert "A. Clerk" in said
        # The item is no gap any more.
        assert item not in world.get(case_id, "completeness")["gaps"]


NOT_TAKEN = [
    (b"", "empty"),
    (b"MZ\x90\x00 a program", "no PDF, PNG"),
    (b"#!/bin/sh\n", "no PDF, PNG"),
    (b"<html><body>ClinicalDocument</body></html>", "no C-CDA"),
    (b"<?xml version='1.0'?><Patient xmlns='http://hl7.org/fhir'/>", "no PDF, PNG"),
    (b" %PDF-1.7 not at the beginning", "no PDF, PNG"),
    (ccda(head="<!DOCTYPE ClinicalDocument>"), "DOCTYPE"),
    (ccda(family="&x;", head='<!DOCTYPE ClinicalDocument [<!ENTITY x SYSTEM "file:///etc/passwd">]>'), "DOCTYPE"),
    (ccda(family="&b;", head="<!DOCTYPE ClinicalDocument [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]>"), "DOCTYPE"),
    (ccda()[:-20], "well-formed"),
    (ccda().replace(b"<patient>", b"<other>").replace(b"</patient>", b"</other>"), "names no patient"),
    (ccda().replace(b"urn:hl7-org:v3", b"urn:another"), "no C-CDA"),
]  # fmt: skip


def test_what_is_none_of_these_is_refused_and_the_link_stays_open(world: World) -> None:
    case_id = world.gathered()
    link = link_of(world, case_id)
    for data, said in NOT_TAKEN:
        answer = send(world, link, data, "report.pdf")
        page = answer.get_data(as_text=True)
        assert (answer.status_code, said in page) == (422, True), (data, page)
        assert "root:" not in page
    assert asked(world, case_id)["images"]["status"] == "requested"
    assert documents(world, case_id) == []
    assert send(world, link, PDF).status_code == 200


def test_a_file_over_the_bound_is_refused_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 1000)
    case_id = world.gathered()
    link = link_of(world, case_id)
    answer = send(world, link, PDF + b"x" * 1000)
    assert answer.status_code == 422
    assert "send it in parts" in answer.get_data(as_text=True)
    assert send(world, link, PDF + b"x" * (1000 - len(PDF))).status_code == 200


def test_a_body_that_is_larger_than_any_file_may_be_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from fhir_secondop.web import uploads as door

    monkeypatch.setattr(door, "MAX_BYTES", 1000)
    case_id = world.gathered()
    answer = send(world, link_of(world, case_id), PDF + b"x" * 100_000)
    assert answer.status_code == 413
    assert answer.mimetype == "text/html"
    assert "This did not work" in answer.get_data(as_text=True)
    assert asked(world, case_id)["images"]["status"] == "requested"


def test_a_form_without_file_or_name_says_what_is_missing(world: World) -> None:
    case_id = world.gathered()
    link = link_of(world, case_id)
    answer = world.client.post(link, data={"birthDate": BORN, "name": "A. Clerk"})
    assert (answer.status_code, "Choose a file" in answer.get_data(as_text=True)) == (422, True)
    answer = send(world, link, PDF, who="  ")
    assert (answer.status_code, "who you are" in answer.get_data(as_text=True)) == (422, True)


# ---- whose it is


def test_a_wrong_date_of_birth_is_counted_and_locks_the_link(both: World) -> None:
    world = both
    case_id = world.gathered()
    link = link_of(world, case_id)
    for _ in range(asking.MAX_WRONG - 1):
        assert send(world, link, PDF, born="1971-04-11").status_code == 403
    assert asked(world, case_id)["images"]["status"] == "requested"
    assert send(world, link, PDF, born="").status_code == 403
    row = asked(world, case_id)["images"]
    assert row["status"] == "on-hold"
    assert "locked" in row["why"]
    assert "uploadLink" not in row
    assert send(world, link, PDF).status_code == 410  # the right one comes too late
    assert world.client.get(link).status_code == 410
    assert documents(world, case_id) == []
    assert state_of(world, case_id) == "requested"
    # A person opens it anew.
    world.post(case_id, "request-item", {"item": "images"})
    assert send(world, link_of(world, case_id), PDF).status_code == 200
    assert state_of(world, case_id) == "present"


def test_guesses_at_once_are_all_counted(both: World) -> None:
    world = both
    case_id = world.gathered()
    link = link_of(world, case_id)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: send(world, link, PDF, born=f"1971-05-0{n + 1}").status_code, range(8)))
    assert set(answers) <= {403, 410}
    assert answers.count(403) >= asking.MAX_WRONG
    assert asked(world, case_id)["images"]["status"] == "on-hold"


def test_two_files_at_once_are_one(both: World) -> None:
    world = both
    case_id = world.gathered()
    link = link_of(world, case_id)

    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(lambda n: send(world, link, PDF + b"%d" % n).status_code, range(4)))
    assert answers == [200, 410, 410, 410]
    assert len(documents(world, case_id)) == 1


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        ({"born": "19710411"}, "date of birth"),
        ({"family": "Samplesen"}, "family name"),
        ({"given": "Marena"}, "given name"),  # a twin has the same date of birth and family name
    ],
)
def test_a_document_of_somebody_else_is_kept_apart(world: World, other: dict[str, str], fact: str) -> None:
    case_id = world.gathered()
    world.accept(case_id)
    link = link_of(world, case_id)
    data = ccda(**other) + b"<!-- ZANZIBAR -->"
    answer = send(world, link, data)
    assert answer.status_code == 200
    assert "names another patient" in answer.get_data(as_text=True)
    row = asked(world, case_id)["images"]
    assert row["status"] == "on-hold"
    assert fact in row["why"]
    assert state_of(world, case_id) == "requested"
    for who in ("reviewer", "pcp"):
        assert documents(world, case_id, who) == []
        found = world.call("GET", "/fhir/DocumentReference", who=who).get_json()
        assert "uploaded" not in json.dumps(found)
        assert _binaries(world, who) == []
    # The coordinator may look at it; the sender can't send once more.
    assert len(_binaries(world, "desk")) == 1
    assert send(world, link, PDF).status_code == 410
    # A person asks again: what comes now belongs to the case, and the other stays apart.
    world.post(case_id, "request-item", {"item": "images"})
    assert send(world, link_of(world, case_id), ccda()).status_code == 200
    assert state_of(world, case_id) == "present"
    (document,) = documents(world, case_id, "reviewer")
    assert len(_binaries(world, "reviewer")) == 1
    assert len(_binaries(world, "desk")) == 2
    assert document["content"][0]["attachment"]["size"] == len(ccda())


def _binaries(world: World, who: str) -> list[Resource]:
    found = world.call("GET", "/fhir/Binary", who=who).get_json()
    return [e["resource"] for e in found.get("entry", [])]


def test_a_document_that_says_the_same_in_other_words_is_taken(world: World) -> None:
    same = [{"family": "SAMPLETON"}, {"given": "Maren Elise"}, {"given": "ELISE"}, {"given": ""}, {"born": "1971"},
            {"born": "19710417083000-0500"}]  # fmt: skip
    case_id = world.gathered()
    for item, words in zip(sorted(asked(world, case_id)), same, strict=False):
        send(world, link_of(world, case_id, item), ccda(**words))
        assert asked(world, case_id)[item]["status"] == "completed", words
    assert len(documents(world, case_id)) == len(same)


# ---- the link and its page


def test_the_form_works_and_shows_nothing_of_the_patient(world: World) -> None:
    case_id = world.gathered()
    link = link_of(world, case_id)
    shown = world.client.get(link)
    page = shown.get_data(as_text=True)
    assert shown.status_code == 200
    assert "The breast images themselves" in page
    assert not [own for own in PATIENTS_OWN if own in page]
    assert shown.headers["Cache-Control"] == "no-store"
    assert shown.headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in shown.headers["Content-Security-Policy"]
    # What the form says is what is taken.
    (form,) = re.findall(r"<form[^>]*>.*?</form>", page, re.DOTALL)
    assert 'enctype="multipart/form-data"' in form
    (action,) = re.findall(r'action="([^"]+)"', form)
    fields = set(re.findall(r'name="([^"]+)"', form))
    assert (action, fields) == (link, {"file", "birthDate", "name"})
    for answer in (
        send(world, link, PDF, born="1990-01-01"), send(world, link, b"nothing"), send(world, link, PDF),
        send(world, link, PDF), world.client.get(link),
    ):  # fmt: skip
        assert not [own for own in PATIENTS_OWN if own in answer.get_data(as_text=True)]
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_file_that_is_posted_again_finds_the_link_closed(world: World) -> None:
    case_id = world.gathered()
    link = link_of(world, case_id)
    assert send(world, link, PDF).status_code == 200
    before = world.package(case_id)
    assert send(world, link, PDF).status_code == 410
    assert send(world, link, b"%PDF- another").status_code == 410
    assert world.package(case_id) == before


def test_a_link_that_we_did_not_make_opens_nothing(world: World) -> None:
    case_id = world.gathered()
    path, _, token = link_of(world, case_id).rpartition("/")
    signature = "A" if token[-8] != "A" else "B"
    for other in (token[:-2], token[:-8] + signature + token[-7:], "x", f"{token}/y", "A" * len(token)):
        assert world.client.get(f"{path}/{other}").status_code == 404
        assert send(world, f"{path}/{other}", PDF).status_code == 404
    assert asked(world, case_id)["images"]["status"] == "requested"


def test_a_link_of_another_purpose_opens_nothing(world: World) -> None:
    case_id = world.gathered()
    task = asked(world, case_id)["images"]["task"]
    other = tokens.make(world.context, tokens.ACKNOWLEDGE, task)
    assert world.client.get(f"/upload/{other}").status_code == 404
    assert world.client.get(f"/ack/{tokens.make(world.context, tokens.UPLOAD, task)}").status_code == 404


def test_a_link_ends_after_a_month_and_is_renewed_by_asking_again(world: World) -> None:
    case_id = world.gathered()
    link = link_of(world, case_id)
    world.clock.ahead_ms += asking.LINK_DAYS * DAY_MS + 60_000
    assert send(world, link, PDF).status_code == 410
    world.post(case_id, "request-item", {"item": "images"})
    assert send(world, link_of(world, case_id), PDF).status_code == 200


def test_a_consent_taken_back_closes_the_link(world: World) -> None:
    case_id = world.gathered()
    link = link_of(world, case_id)
    patient = world.package(case_id, "Patient")[0]
    tho = "http://terminology.hl7.org/CodeSystem"
    deny = {
        "resourceType": "Consent", "status": "active", "patient": {"reference": f"Patient/{patient['id']}"},
        "scope": {"coding": [{"system": f"{tho}/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "64292-6"}]}],
        "policyRule": {"coding": [{"system": f"{tho}/v3-ActCode", "code": "OPTOUT"}]}, "provision": {"type": "deny"},
    }  # fmt: skip
    assert world.call("POST", "/fhir/Consent", deny).status_code == 201
    assert send(world, link, PDF).status_code == 410


# ---- what closes a request otherwise


def test_a_request_is_closed_by_what_comes_with_the_record(world: World) -> None:
    ehr = world.ehr("lakeside", record=[r for r in record_of("lakeside") if r["resourceType"] == "Patient"])
    case_id = world.gathered(sources=["lakeside"])
    link = link_of(world, case_id, "allergies")
    ehr.put(next(r for r in record_of("lakeside") if r["resourceType"] == "AllergyIntolerance"))
    world.post(case_id, "gather")
    world.work()
    row = asked(world, case_id)["allergies"]
    assert row["status"] == "completed"
    assert [r.partition("/")[0] for r in row["arrived"]] == ["AllergyIntolerance"]
    assert state_of(world, case_id, "allergies") == "present"
    assert send(world, link, PDF).status_code == 410


def test_what_was_uploaded_stays_when_the_record_is_gathered_again(world: World) -> None:
    world.ehr("lakeside")
    case_id = world.gathered(sources=["lakeside"])
    send(world, link_of(world, case_id), PDF)
    world.post(case_id, "gather")
    world.work()
    assert state_of(world, case_id) == "present"
    assert asked(world, case_id)["images"]["status"] == "completed"
    assert len(documents(world, case_id)) == 1


def test_a_report_can_be_signed_without_confirming_what_has_arrived(world: World) -> None:
    world.ehr("lakeside")
    case_id = world.gathered(sources=["lakeside"])
    send(world, link_of(world, case_id), PDF)
    gaps = world.get(case_id, "completeness")["gaps"]
    assert "images" not in gaps
    world.sign(case_id)
    assert "images themselves" not in world.pdf(case_id).partition("Missing from the record")[2][:200]
