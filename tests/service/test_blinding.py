"""Blind-first: a word planted in the first opinion reaches the reviewer by no way until the first read is locked."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.model import Resource
from tests.service.test_review import example
from tests.service.world import World, opened, readable, record_of

Plain = dict[str, Any]
PLANTED = "zqxfirstopinion"
LUMP = {"system": "http://snomed.info/sct", "code": "254837009", "display": f"Malignant {PLANTED}"}


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.ehr("lakeside", record=planted_record())
        yield made


def planted_record() -> list[Resource]:
    """Lakeside's record, in which others repeat the first opinion wherever a system may."""
    found = copy.deepcopy(record_of("lakeside"))
    patient = {"reference": f"Patient/{next(r['id'] for r in found if r['resourceType'] == 'Patient')}"}
    said = {"coding": [LUMP], "text": PLANTED}
    loinc = "http://loinc.org"
    note = base64.b64encode(f"Plan: {PLANTED}".encode()).decode()
    found += [
        {"resourceType": "Condition", "id": "same", "subject": patient, "code": {"coding": [LUMP]},
         "note": [{"text": PLANTED}]},
        {"resourceType": "CarePlan", "id": "plan", "status": "active", "intent": "plan", "subject": patient,
         "description": PLANTED},
        {"resourceType": "ClinicalImpression", "id": "thought", "status": "completed", "subject": patient,
         "summary": PLANTED},
        {"resourceType": "Encounter", "id": "visit", "status": "finished", "subject": patient,
         "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
         "text": {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{PLANTED}</div>'},
         "reasonCode": [said], "diagnosis": [{"condition": {"reference": "Condition/same", "display": PLANTED}}]},
        {"resourceType": "Procedure", "id": "biopsy", "status": "completed", "subject": patient,
         "code": {"text": "Core biopsy"}, "reasonCode": [said], "performedDateTime": "2026-10-01"},
        {"resourceType": "MedicationRequest", "id": "tablet", "status": "active", "intent": "order",
         "subject": patient, "medicationCodeableConcept": {"text": "Letrozole"}, "reasonCode": [said]},
        {"resourceType": "ServiceRequest", "id": "planned", "status": "active", "intent": "plan", "subject": patient,
         "code": said},
        {"resourceType": "Binary", "id": "letter", "contentType": "text/plain", "data": note},
        {"resourceType": "DocumentReference", "id": "consult", "status": "current", "subject": patient,
         "type": {"coding": [{"system": loinc, "code": "11488-4"}]}, "description": PLANTED,
         "content": [{"attachment": {"contentType": "text/plain", "url": "Binary/letter"}}]},
        {"resourceType": "Observation", "id": "size", "status": "final", "subject": patient,
         "code": {"text": "Tumour size"}, "valueString": "18 mm"},
        {"resourceType": "DiagnosticReport", "id": "histology", "status": "final", "subject": patient,
         "code": {"coding": [{"system": loinc, "code": "60570-9"}], "text": "Pathology"}, "conclusion": "As seen."},
    ]  # fmt: skip
    return found


def planted_request() -> Plain:
    """The example's request with the word in each place of the first opinion."""
    request = copy.deepcopy(example("request.json"))
    for item in request["underReview"]:
        item["text"] = f"{PLANTED} {item['text']}"
    request["underReview"][0]["code"] = LUMP
    request["decision"]["text"] = f"Operation {PLANTED}"
    request["reasons"] = [{"code": "doubt-treatment-plan", "text": f"Because {PLANTED}"}]
    return request


def asked(world: World, *, first: bool = True) -> str:
    """A case with its record, of which a reviewer was asked to read blind first."""
    answer = world.call("POST", "/api/second-opinions", {
        **planted_request(), "sources": ["lakeside"], **({"blindFirst": True} if first else {})})  # fmt: skip
    assert answer.status_code == 201, answer.get_data(as_text=True)
    case_id: str = answer.get_json()["id"]
    world.work()
    if not first:
        world.post(case_id, "blind-first", {"on": True})
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    return case_id


def accepted(world: World) -> str:
    case_id = asked(world)
    answer = world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "None known."},
                        "reviewer")  # fmt: skip
    assert PLANTED not in str(answer)
    return case_id


READ = {"assessment": "Looks like a small tumour.", "diagnoses": ["Ductal carcinoma"], "plan": "Excise it."}


@pytest.mark.parametrize("first", [True, False], ids=["asked for in the request", "switched on by the desk"])
def test_what_is_planted_in_the_first_opinion_is_read_nowhere_before_the_lock(world: World, first: bool) -> None:
    case_id = asked(world, first=first)
    shown = readable(world, case_id, "reviewer")
    assert PLANTED not in shown
    # What a safe opinion needs is there: results, pathology, what is taken; and each cut is marked as one.
    for kept in ("18 mm", "As seen.", "Letrozole", "Core biopsy", "SUBSETTED", "free-text", *example(
            "request.json")["questions"]):  # fmt: skip
        assert kept in shown, kept
    assert PLANTED in readable(world, case_id, "desk")
    assert PLANTED in readable(world, case_id, "surgeon")

    world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "None known."}, "reviewer")
    assert PLANTED not in readable(world, case_id, "reviewer")
    world.post(case_id, "first-read", READ, "reviewer")
    shown = readable(world, case_id, "reviewer")
    assert shown.count(PLANTED) > 20
    assert {r["id"] for r in world.package(case_id, who="reviewer")} >= {r["id"] for r in world.package(case_id)}


@pytest.mark.parametrize("search", [
    "ServiceRequest?code=11429006", "Encounter?reason-code=254837009", "Encounter?reason-code:missing=false",
    "Encounter?diagnosis:missing=false", "Procedure?reason-code=254837009", "Condition?code=254837009",
    "CarePlan?status=active", "CarePlan?_total=accurate&_count=0",
    "Task?focus:ServiceRequest.code=11429006", "Patient?_has:ServiceRequest:subject:code=11429006",
    "Patient?_has:Condition:subject:code=254837009",
    "ServiceRequest?patient._has:Encounter:patient:reason-code=254837009",
    "Patient?_has:Encounter:patient:diagnosis:Condition.code=254837009",
])  # fmt: skip
def test_nothing_is_found_by_what_is_not_read(world: World, search: str) -> None:
    case_id = accepted(world)

    def found() -> int:
        answer = world.call("GET", f"/fhir/{search}", who="reviewer")
        assert answer.status_code == 200, answer.get_data(as_text=True)
        said = answer.get_json()
        hits: int = said["total"] if "total" in said else len(said.get("entry", []))
        return hits

    before = found()
    world.post(case_id, "first-read", READ, "reviewer")
    assert found() >= 1
    assert before == 0


def test_no_report_is_written_before_the_first_read_is_locked(world: World) -> None:
    case_id = accepted(world)
    draft = example("review.json")["draft"]
    assert "first-read" in str(world.post(case_id, "submit-report", draft, "reviewer", 409))
    world.post(case_id, "first-read", READ, "reviewer")
    world.post(case_id, "submit-report", draft, "reviewer")


def test_a_locked_first_read_is_changed_by_nobody_and_a_change_stands_beside_it(world: World) -> None:
    case_id = accepted(world)
    made = world.post(case_id, "first-read", READ, "reviewer")["resource"]
    resource = world.call("GET", f"/fhir/{made}", who="reviewer").get_json()
    changed = {**resource, "summary": "Something else."}
    for who in ("reviewer", "desk"):
        assert world.call("PUT", f"/fhir/{made}", changed, who).status_code == 403
        assert world.call("DELETE", f"/fhir/{made}", None, who).status_code in (400, 403)
    # Nor does the asker read it before the report is signed.
    assert world.call("GET", f"/fhir/{made}", who="pcp").status_code == 404
    world.post(case_id, "first-read", {"assessment": "Larger than I thought."}, "reviewer", 422)
    again = {"assessment": "Larger than I thought.", "reason": "I saw the second series."}
    second = world.post(case_id, "first-read", again, "reviewer")["resource"]
    assert world.call("GET", f"/fhir/{second}", who="reviewer").get_json()["previous"]["reference"] == made

    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    world.post(case_id, "sign", who="reviewer")
    printed = world.pdf(case_id)
    for said in (READ["assessment"], READ["plan"], again["assessment"], again["reason"], "locked"):
        assert str(said) in printed, said
    assert world.call("GET", f"/fhir/{made}", who="pcp").get_json()["summary"] == READ["assessment"]
    (composition,) = world.package(case_id, "Composition")
    assert READ["assessment"] in str([s for s in composition["section"] if s["title"] == "Blindness"])


def test_however_often_it_is_changed_no_first_read_is_written_over(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "first-read", READ, "reviewer")
    made = [
        world.post(case_id, "first-read", {"assessment": f"Thought {n}.", "reason": "More."}, "reviewer")["resource"]
        for n in range(25)
    ]
    assert len(set(made)) == 25
    assert world.call("GET", f"/fhir/{made[20]}", who="reviewer").get_json()["summary"] == "Thought 20."


def test_breaking_the_blind_always_works_and_is_printed(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "break-blind", {}, "reviewer", 422)
    why = "The patient bleeds; I must know what was planned."
    assert PLANTED not in readable(world, case_id, "reviewer")
    world.post(case_id, "break-blind", {"reason": why}, "reviewer")
    assert PLANTED in readable(world, case_id, "reviewer")
    world.post(case_id, "break-blind", {"reason": "again"}, "reviewer")
    world.post(case_id, "first-read", READ, "reviewer", 409)
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    world.post(case_id, "sign", who="reviewer")
    assert why in world.pdf(case_id)


def test_the_next_reviewer_reads_blind_again(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "first-read", READ, "reviewer")
    world.post(case_id, "withdraw", {"reason": "reviewer-unavailable"}, "reviewer")
    assert world.call("GET", f"/api/second-opinions/{case_id}", who="reviewer").status_code == 404
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    world.post(case_id, "blind-first", {"on": False}, status=409)
    shown = readable(world, case_id, "reviewer")
    assert PLANTED not in shown
    assert READ["assessment"] not in shown


def test_what_is_gathered_later_is_withheld_too(world: World) -> None:
    case_id = accepted(world)
    world.ehrs["lakeside"].put({**next(r for r in planted_record() if r["id"] == "plan"), "id": "plan-2"})
    world.post(case_id, "gather", {"full": True}, "reviewer")
    world.work()
    assert PLANTED not in readable(world, case_id, "reviewer")


def test_only_the_reviewer_opens_and_only_before_anybody_was_asked_it_is_switched(world: World) -> None:
    case_id = accepted(world)
    for code, body in (("first-read", READ), ("break-blind", {"reason": "x"})):
        world.post(case_id, code, body, "desk", 403)
    world.post(case_id, "blind-first", {"on": False}, "reviewer", 403)
    world.post(case_id, "blind-first", {"on": False}, status=409)


def test_an_urgent_call_tells_a_blind_reviewer_nothing_of_the_first_opinion(world: World) -> None:
    case_id = accepted(world)
    answer = world.post(case_id, "raise-urgent", {"finding": "zq-seen: the spine is compressed."}, "reviewer")
    task = answer["resource"]
    assert PLANTED not in str(answer)
    for body in ({"to": "nobody"}, {"to": "9000000112", "deputy": "9000000112"}):
        refused = world.post(case_id, "raise-urgent", {"finding": "x", **body}, "reviewer", 422)
        assert PLANTED not in str(refused)
    said = {"with": "Dr. Harlan Mockridge", "readBack": f"We stop {PLANTED} and operate today."}
    closed = world.post(case_id, "record-call", said, "surgeon")
    assert closed["status"] == "completed"
    shown = readable(world, case_id, "reviewer")
    assert "zq-seen" in shown
    assert PLANTED not in shown
    assert world.get(case_id, who="reviewer")["urgent"]["calls"][0]["conversation"] is None
    assert not [c for c in world.package(case_id, "Communication", who="reviewer") if "partOf" in c]
    assert "We stop" in readable(world, case_id, "surgeon")
    world.post(case_id, "gather", {"full": True}, "reviewer")  # what is withheld is said anew
    world.work()
    assert PLANTED not in readable(world, case_id, "reviewer")

    world.post(case_id, "first-read", READ, "reviewer")
    assert "We stop" in readable(world, case_id, "reviewer")
    world.post(case_id, "raise-urgent", {"finding": f"zq-later: {PLANTED} would kill."}, "reviewer")
    world.post(case_id, "withdraw", {"reason": "reviewer-unavailable"}, "reviewer")
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "None known."}, "reviewer")
    shown = readable(world, case_id, "reviewer")  # who reads blind next
    assert [word for word in (PLANTED, "zq-seen", "zq-later", task) if word in shown] == []
    assert "zq-later" in readable(world, case_id, "surgeon")
    world.post(case_id, "first-read", READ, "reviewer")
    assert "zq-later" in readable(world, case_id, "reviewer")


def test_why_a_proposal_ended_and_what_was_proposed_before_tell_a_blind_reviewer_nothing(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "propose", {"kind": "test", "text": "zq-first", "why": "zq-why"}, "reviewer")
    declined = {"proposal": 1, "outcome": "declined", "reason": f"We do {PLANTED} anyway."}
    world.post(case_id, "answer-proposal", declined, "surgeon")
    shown = readable(world, case_id, "reviewer")
    assert [word for word in ("zq-first", "zq-why") if word not in shown] == []  # the reviewer's own words
    assert PLANTED not in shown
    (one,) = world.get(case_id, who="reviewer")["proposals"]
    assert (one["outcome"]["outcome"], one["outcome"].get("reason")) == ("declined", None)
    world.post(case_id, "gather", {"full": True}, "reviewer")
    world.work()
    assert PLANTED not in readable(world, case_id, "reviewer")

    world.post(case_id, "first-read", READ, "reviewer")
    assert "anyway" in readable(world, case_id, "reviewer")
    world.post(case_id, "propose", {"kind": "plan", "text": f"zq-second, no {PLANTED}"}, "reviewer")
    world.post(case_id, "withdraw", {"reason": "reviewer-unavailable"}, "reviewer")
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "None known."}, "reviewer")
    shown = readable(world, case_id, "reviewer")
    assert [word for word in (PLANTED, "zq-first", "zq-second") if word in shown] == []
    world.post(case_id, "propose", {"kind": "test", "text": "zq-third"}, "reviewer")
    assert [p["number"] for p in world.get(case_id)["proposals"]] == [1, 2, 3]
    assert "zq-second" in readable(world, case_id, "surgeon")
