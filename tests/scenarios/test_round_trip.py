"""The round trip that a second opinion stands on: a report that arrives once whatever breaks, a record that is only
this patient's, and nothing that is missing passed over.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.service.context import SERVICE, quarantine
from fhir_secondop.store import resources
from tests.service.world import World, opened, readable, record_of

Plain = dict[str, Any]
SURGEON, PCP = "Mockridge", "Placeholder"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On SQLite: what is tried here does not depend on the database."""
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


@pytest.fixture
def both(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On both databases."""
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


# ---- an amendment whose answer is cut off


@pytest.mark.parametrize("kind", ["amended", "corrected", "appended"])
def test_an_amendment_whose_answer_is_cut_off_is_there_once(world: World, kind: str) -> None:
    ehr = world.ehr("lakeside")
    case_id = world.signed(sources=[])
    world.work()
    assert world.delivery(case_id, SURGEON)["evidence"]["rung"] == "1"
    (report,), (document,) = ehr.reports, ehr.documents
    results = {r["id"] for r in ehr.held("Observation")}
    assert (report["status"], document["status"], document["docStatus"]) == ("final", "current", "final")

    world.amend(case_id, kind)
    sent = len(ehr.written)
    ehr.cut = lambda asked: asked.kind == "transaction" and len(ehr.written) == sent + 1
    world.work(limit=2)
    waiting = world.delivery(case_id, SURGEON, 2)
    assert (waiting["status"], waiting["businessStatus"]) == ("in-progress", "unknown")
    world.work(patience_s=600)

    # Exactly one report, updated in place, with the results that it had.
    (after,) = ehr.reports
    assert (after["id"], after["status"]) == (report["id"], kind)
    assert int(after["meta"]["versionId"]) == 2
    assert {r["id"] for r in ehr.held("Observation")} == results
    cited = {result["reference"] for result in after["result"]}
    judged = [r for r in ehr.held("Observation") if f"Observation/{r['id']}" in cited]
    assert [r["meta"]["versionId"] for r in judged] == ["2"] * len(cited)
    # Two documents: the first superseded, the second current and in its place.
    old, new = ehr.documents
    assert (old["id"], old["status"], old["docStatus"]) == (document["id"], "superseded", "final")
    assert (new["status"], new["docStatus"]) == ("current", "amended")
    assert new["relatesTo"] == [{"code": "replaces", "target": {"reference": f"DocumentReference/{old['id']}"}}]
    assert new["masterIdentifier"] != old["masterIdentifier"]
    assert new["identifier"][0] == old["identifier"][0]
    assert new["content"] != old["content"]
    # It was sent once, and found for everybody else who works there.
    assert len([a for a in ehr.written if a.kind == "transaction"]) == 2
    done = world.delivery(case_id, SURGEON, 2)
    assert (done["status"], done["businessStatus"]) == ("completed", "verified")
    assert (done["evidence"]["how"], done["evidence"]["superseded"]) == ("found there", "marked")
    board = {row["name"]: row for row in world.get(case_id, "alignment")["providers"]}
    assert {row["version"] for row in board.values()} == {2}
    assert next(row for name, row in board.items() if SURGEON in name)["copy"] == "verified"


def test_an_amendment_cut_off_again_and_again_is_there_once(both: World) -> None:
    world = both
    ehr = world.ehr("lakeside", "full", "lost-answer=1")
    case_id = world.signed(sources=[])
    world.work(patience_s=600)
    world.amend(case_id, "corrected")
    lost = iter(range(3))
    ehr.cut = lambda asked: asked.writes and next(lost, None) is not None
    world.work(patience_s=3600)
    assert [(d["status"], d["docStatus"]) for d in ehr.documents] == [("superseded", "final"), ("current", "amended")]
    assert [r["status"] for r in ehr.reports] == ["corrected"]


# ---- three people called Patient/1


TWIN_MARKS = ("Marena", "LK-77301", "1971-04-11", "555-0143", "Zanzibar", "41 Invented Road")


def twin() -> list[Resource]:
    """A near-twin's record: Patient/1 of her hospital. Everything of it has a mark that can be searched for."""
    about = {"subject": {"reference": "Patient/1"}}
    text = {"text": "Zanzibar fever"}
    patient: Resource = {
        "resourceType": "Patient", "id": "1", "active": True, "gender": "female", "birthDate": "1971-04-11",
        "identifier": [{"system": "https://lakeside.example/mrn", "value": "LK-77301"}],
        "name": [{"family": "Sampleton", "given": ["Marena"]}],
        "telecom": [{"system": "phone", "value": "+1-202-555-0143"}], "address": [{"line": ["41 Invented Road"]}],
    }  # fmt: skip
    return [
        patient,
        {"resourceType": "Condition", "id": "t1", "code": text, **about},
        {"resourceType": "Observation", "id": "t2", "status": "final", "code": text, **about},
        {"resourceType": "AllergyIntolerance", "id": "t3", "code": text, "patient": about["subject"],
         "clinicalStatus": {"coding": [
             {"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}]}},
        {"resourceType": "MedicationRequest", "id": "t4", "status": "active", "intent": "order",
         "medicationCodeableConcept": text, **about},
        {"resourceType": "DocumentReference", "id": "t5", "status": "current", "description": "Zanzibar", **about,
         "content": [{"attachment": {"contentType": "text/plain", "url": "Binary/t6"}}]},
        {"resourceType": "Binary", "id": "t6", "contentType": "text/plain",
         "data": base64.b64encode(b"Zanzibar letter").decode()},
        {"resourceType": "DiagnosticReport", "id": "t7", "status": "final", "code": text, "conclusion": "Zanzibar",
         **about},
        {"resourceType": "Coverage", "id": "t8", "status": "active", "beneficiary": about["subject"],
         "payor": [{"display": "Zanzibar Mutual"}]},
        {"resourceType": "Device", "id": "t9", "patient": about["subject"], "deviceName": [
            {"name": "Zanzibar pump", "type": "user-friendly-name"}]},
        {"resourceType": "Practitioner", "id": "of-the-twin", "name": [{"family": "Zanzibar"}]},
        {"resourceType": "Encounter", "id": "t10", "status": "finished", "class": {"code": "AMB"},
         "reasonCode": [text], "participant": [{"individual": {"reference": "Practitioner/of-the-twin"}}], **about},
    ]  # fmt: skip


def ours_as_second(record: list[Resource]) -> list[Resource]:
    """The example's record with the patient as Patient/2."""
    text = json.dumps(record).replace('"Patient/1"', '"Patient/2"')
    moved: list[Resource] = json.loads(text)
    nobody: Resource = {
        "resourceType": "Observation", "id": "of-nobody", "status": "final", "code": {"text": "weight"},
        "subject": {"reference": "Patient/2"}, "performer": [{"reference": "Practitioner/nobody"}],
    }  # fmt: skip
    return [nobody, *({**r, "id": "2"} if r["resourceType"] == "Patient" else r for r in moved)]


def third(world: World) -> None:
    """Our own store's Patient/1: somebody who has nothing to do with any of it."""
    person: Resource = {"resourceType": "Patient", "id": "1", "name": [{"family": "Third"}], "birthDate": "1950-01-01"}
    with world.context.database.transaction(SERVICE) as tx:
        resources.create(tx, codec.compose(person), person, base_url=world.context.base_url, resource_id="1")


def test_no_reference_ever_leads_to_another_patient(both: World) -> None:
    world = both
    a = world.ehr("riverside", "epic", vendor="epic", record=[
        r for r in record_of("riverside") if (r["resourceType"], r["id"]) != ("Patient", "2")
        and r.get("subject", r.get("patient", {})).get("reference") != "Patient/2"])  # fmt: skip
    # It passes over whom it was asked for, so that everything of the near-twin comes along.
    b = world.ehr("lakeside", "full", "ignores-patient", record=[*twin(), *ours_as_second(record_of("lakeside"))])
    third(world)
    before = {name: {(r["resourceType"], r["id"]) for r in e.held()} for name, e in world.ehrs.items()}
    case_id = world.gathered()
    assert {g["status"] for g in world.get(case_id)["gathering"]} == {"completed"}
    world.accept(case_id)
    drafted_and_signed(world, case_id)
    world.work()
    assert {d["businessStatus"] for d in world.deliveries(case_id) if "Standish" not in d["to"]} == {"verified"}
    world.amend(case_id)
    world.work(patience_s=60)
    assert [world.delivery(case_id, n, 2)["businessStatus"] for n in (SURGEON, PCP)] == ["verified"] * 2

    # Here: each reference to a Patient is to the request's, or to our copies of A's first and B's second.
    package = world.package(case_id)
    request = next(r for r in package if r["resourceType"] == "ServiceRequest" and r["id"] == case_id)
    known = {request["subject"]["reference"]} | {
        f"Patient/{r['id']}" for r in package if r["resourceType"] == "Patient" and "source" in r.get("meta", {})
    }
    assert len(known) == 3
    sources = {r["meta"]["source"] for r in package if r["resourceType"] == "Patient" and "source" in r.get("meta", {})}
    assert {s.partition("/_history")[0] for s in sources} == {f"{a.base}/Patient/1", f"{b.base}/Patient/2"}
    pointed = 0
    ours = {f"{r['resourceType']}/{r['id']}" for r in package}
    for resource in every_version(world, case_id):
        for text in refs.find(resource):
            ref = refs.parse(text)
            # What stands only over there is cited by its whole address: here another may have that id.
            assert ref is None or ref.base or ref.local in ours or ref.type == "Binary", text
            if ref is not None and ref.type == "Patient":
                pointed += 1
                there = {a.base: "Patient/1", b.base: "Patient/2"}
                assert ref.local in known if not ref.base else ref.local == there[ref.base], text
    assert pointed > 100
    # There: everything new is about the one who is ours over there.
    for ehr, patient in ((a, "Patient/1"), (b, "Patient/2")):
        new = [r for r in ehr.held() if (r["resourceType"], r["id"]) not in before[ehr.name]]
        assert len(new) >= 2
        said = [t for r in new for t in refs.find(r) if (ref := refs.parse(t)) and ref.type == "Patient"]
        assert set(said) == {patient}
        assert len(said) == len(new)

    # Of the near-twin nobody of the case's audience can read anything, anywhere; the coordinator may, apart from it.
    for who in ("reviewer", "pcp", "surgeon"):
        text = readable(world, case_id, who)
        assert "Maren" in text
        assert not [mark for mark in TWIN_MARKS if mark in text], who
    shown = "\n".join(
        world.call("GET", f"/api/second-opinions/{case_id}{c}").get_data(as_text=True)
        for c in ("", "/manifest", "/completeness", "/requests", "/alignment", "/package")
    ) + world.pdf(case_id)  # fmt: skip
    assert not [mark for mark in TWIN_MARKS if mark in shown]
    apart = quarantined(world, case_id)
    assert apart
    for kept in apart:
        refused = world.call("GET", f"/fhir/Binary/{kept}", who="reviewer")
        assert refused.status_code == 404
        assert not [mark for mark in TWIN_MARKS if mark in refused.get_data(as_text=True)]
    counted = sum(line["strangers"] for line in world.manifest(case_id, "Lakeside").values())
    assert counted == len(twin()) - 3  # but for the Patient, who was not searched for, the file and the doctor
    assert "about somebody else dropped" in world.pdf(case_id)


def drafted_and_signed(world: World, case_id: str) -> None:
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    world.post(case_id, "sign", who="reviewer")


def every_version(world: World, case_id: str) -> Iterator[Resource]:
    """Every version of every resource of a case, and what its pages hold is not among them."""
    with world.context.database.reading() as connection:
        for stored in resources.in_case(connection, case_id):
            if stored.type != "Binary":
                versions = resources.history(connection, EVERYTHING, stored.type, stored.id)
                yield from (version.resource for version in versions)


def quarantined(world: World, case_id: str) -> list[str]:
    """The ids of the Binaries that are kept apart from a case."""
    with world.context.database.reading() as connection:
        return [s.id for s in resources.in_case(connection, quarantine(case_id))]


# ---- what is missing is named


def test_each_gap_is_named_in_manifest_and_report_and_must_be_confirmed(world: World) -> None:
    lab = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
    many = [
        {"resourceType": "Observation", "id": f"many-{n}", "status": "final", "code": {"text": f"result {n}"},
         "category": [lab], "subject": {"reference": "Patient/1"}}
        for n in range(60)
    ]  # fmt: skip
    strangers = [
        {"resourceType": "Procedure", "id": f"p{n}", "status": "completed", "code": {"text": "Zanzibar"},
         "subject": {"reference": f"Patient/{n}"}}
        for n in (77, 78, 79)
    ]  # fmt: skip
    people = [{"resourceType": "Patient", "id": str(n), "name": [{"family": "Stranger"}]} for n in (77, 78, 79)]
    world.ehr("riverside", "full", "page-2-fails", record=[*record_of("riverside"), *many])
    world.ehr("lakeside", "full", "demands-category", "ignores-patient",
              record=[*people, *record_of("lakeside"), *strangers])  # fmt: skip
    world.ehr("hillcrest", "full", "withheld-notice")
    case_id = world.gathered(sources=["riverside", "lakeside", "hillcrest"])

    first = world.manifest(case_id, "Riverside")["Observation"]
    assert (first["outcome"], first["received"]) == ("truncated", 50)
    assert "HTTP 500" in first["detail"]
    second = world.manifest(case_id, "Lakeside")
    assert second["Observation"]["outcome"] == "answered"
    assert "Observation?patient=&category=laboratory" in second["Observation"]["asked"]
    assert (second["Procedure"]["strangers"], second["Procedure"]["received"]) == (3, 5)
    third_ = world.manifest(case_id, "Hillcrest")["Condition"]
    assert third_["withheld"] is True
    assert "suppressed" in third_["detail"]

    gaps = world.get(case_id, "completeness")["gaps"]
    named = [g for g in gaps if "/" in g]
    assert "riverside-sample-clinic/Observation" in named
    assert "hillcrest-placeholder-radiation-oncology/Condition" in named
    world.accept(case_id)
    refused = refusal_of(world, case_id, [])
    assert {g for g in gaps if f"lacks {g};" in refused} == set(gaps)
    for gap in gaps:  # each by itself stands in the way
        if "/" in gap or gap == gaps[0]:
            said = refusal_of(world, case_id, [g for g in gaps if g != gap])
            assert said.count("confirm that you know") == 1
            assert f"lacks {gap};" in said
    assert world.get(case_id)["report"] is None
    drafted_and_signed(world, case_id)

    text = world.pdf(case_id)
    assert "Observation: incomplete" in text
    assert "Condition: the source says that it withholds data" in text
    assert "Procedure: 3 about somebody else dropped" in text
    assert "Zanzibar" not in text
    assert "Zanzibar" not in readable(world, case_id, "reviewer")
    # The same lines stand in the document and in the report's text.
    (composition,) = world.package(case_id, "Composition")
    section = next(s for s in composition["section"] if s["title"] == "Records reviewed")
    for line in ("Observation: incomplete", "withholds data", "3 about somebody else dropped"):
        assert line in section["text"]["div"]


def refusal_of(world: World, case_id: str, confirmed: list[str]) -> str:
    """What the reviewer is told who signs with only these gaps confirmed."""
    world.draft(case_id, confirmed)
    answer = world.call("POST", f"/api/second-opinions/{case_id}/sign", {}, "reviewer")
    assert answer.status_code == 422
    assert {i["expression"][0] for i in answer.get_json()["issue"]} == {"gapsConfirmed"}
    return str(answer.get_data(as_text=True))
