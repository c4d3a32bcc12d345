"""Whole reviews, from the request to its end: the paths on which a second opinion goes, and those on which it fails."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.opinion import workflow
from fhir_secondop.service import tokens
from tests.service.conftest import TOKENS
from tests.service.world import SURGEON, World, opened

Plain = dict[str, Any]
NPI = "http://hl7.org/fhir/sid/us-npi"


def read(example: str, name: str) -> Plain:
    plain: Plain = json.loads((files("fhir_secondop.examples") / example / name).read_text("utf-8"))
    return plain


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def person(word: str, npi: str, *roles: str) -> str:
    """A caller of the token file."""
    return (
        f'\n[callers.{word}]\nname = "Dr. {word.title()}"\ntoken = "{word}"\nroles = {json.dumps(list(roles))}\n'
        f'scopes = ["user/*.rus"]\nparties = ["{NPI}|{npi}"]\n'
    )


def cast(world: World, example: str) -> Plain:
    """The people of an example as callers, by the key that it has for them; the reviewer is `second`."""
    request, review = read(example, "request.json"), read(example, "review.json")
    known = {key: p["npi"] for key, p in request["providers"].items() if "npi" in p}
    text = TOKENS + SURGEON + "".join(person(f"p-{key}", npi, "provider") for key, npi in known.items())
    text += person("second", review["reviewer"]["npi"], "reviewer") + person("next", "9000000777", "reviewer")
    (world.folder / "tokens.toml").write_text(text)
    world.start()
    return request


def begin(world: World, request: Plain) -> str:
    answer = world.call("POST", "/api/second-opinions", request)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    world.work()
    case_id: str = answer.get_json()["id"]
    return case_id


def reviewed(world: World, case_id: str, example: str, who: str = "second", reviewer: Plain | None = None) -> None:
    """Asked, accepted, drafted and signed."""
    review = read(example, "review.json")
    world.post(case_id, "ask-reviewer", {"reviewer": reviewer or review["reviewer"]})
    world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "I know none of them."}, who)
    gaps = world.get(case_id, "completeness")["gaps"]
    world.post(case_id, "submit-report", {**review["draft"], "gapsConfirmed": gaps}, who)
    world.post(case_id, "sign", who=who)
    world.work(60)


def answered(world: World, case_id: str, request: Plain, decision: str = "adopt", version: int = 1) -> Plain:
    """Everybody acknowledges, by signing in or by link; the owner decides and sets the plan. The board."""
    for key in request["providers"]:
        world.call("POST", f"/api/second-opinions/{case_id}/acknowledge", {"version": version}, f"p-{key}")
    owner = f"p-{request['decision']['owner']}" if "decision" in request else ""
    if owner:
        world.post(case_id, "decide", {"version": version, "decision": decision}, owner)
        if "pcp" in request:
            world.post(case_id, "decide", {"version": version, "decision": decision}, f"p-{request['pcp']}")
        world.post(case_id, "plan-of-record", {"version": version, "decision": decision, "text": "As proposed."}, owner)
        world.work(60)
        for key in request["providers"]:
            body = {"version": 1, "what": "plan"}
            world.call("POST", f"/api/second-opinions/{case_id}/acknowledge", body, f"p-{key}")
    world.work(60)
    return world.get(case_id, "alignment")


def statuses(world: World, case_id: str) -> tuple[list[str], list[str]]:
    """Of the coordination Tasks and of the review Tasks, oldest first."""
    tasks = world.package(case_id, "Task")
    return ([t["status"] for t in tasks if workflow.is_coordination(t)],
            [t["status"] for t in tasks if workflow.is_review(t)])  # fmt: skip


def test_breast_partly_agreed_ends_aligned(world: World) -> None:
    request = cast(world, "breast-treatment-plan")
    for source in request["sources"]:
        world.ehr(source)
    case_id = begin(world, request)
    reviewed(world, case_id, "breast-treatment-plan")
    assert "partial (diagnosis and treatment)" in world.pdf(case_id)
    board = answered(world, case_id, request, "adopt-in-part")
    assert board["case"]["aligned"] is True, board["waitingFor"]
    assert statuses(world, case_id) == (["completed"], ["completed"])
    assert world.get(case_id)["thirdOpinion"]["suggested"] is False


def test_spine_discordant_goes_to_a_third_opinion(world: World) -> None:
    request = cast(world, "spine-surgery")
    case_id = begin(world, request)
    reviewed(world, case_id, "spine-surgery")
    assert "discordant" in world.pdf(case_id)
    said = world.get(case_id)["thirdOpinion"]
    assert said == {"suggested": True, "why": "the two opinions are discordant"}
    owner = f"p-{request['decision']['owner']}"
    world.post(case_id, "decide", {"version": 1, "decision": "seek-third-opinion"}, owner)
    third = world.post(case_id, "third-opinion", {"reason": "The two disagree on fusion."}, owner)["id"]
    world.work()
    assert world.get(case_id, "alignment")["case"]["aligned"] is False
    reader = {"family": "Sample", "given": ["Tertia"], "npi": "9000000777", "organization": {"name": "Northfield"},
              "specialty": read("spine-surgery", "review.json")["reviewer"]["specialty"]}  # fmt: skip
    world.post(third, "ask-reviewer", {"reviewer": reader})
    world.post(third, "accept", {"declaration": {"interests": "none"}, "attestation": "None."}, "next")
    world.post(third, "first-read", {"assessment": "Stenosis; I see no instability."}, "next")
    gaps = world.get(third, "completeness")["gaps"]
    world.post(third, "submit-report", {**read("spine-surgery", "review.json")["draft"], "gapsConfirmed": gaps}, "next")
    world.post(third, "sign", who="next")
    assert statuses(world, third) == (["completed"], ["completed"])
    assert "first read was written without the first opinion" in world.pdf(third)


def test_refused_for_a_conflict_of_interest_the_case_goes_to_the_next(world: World) -> None:
    request = cast(world, "breast-treatment-plan")
    case_id = begin(world, request)
    author = request["providers"]["oncologist"]
    himself = {**author, "organization": {"name": "Elsewhere"}}
    assert "author of what is under review" in str(
        world.post(case_id, "ask-reviewer", {"reviewer": himself}, status=409)
    )
    world.post(case_id, "ask-reviewer", {"reviewer": read("breast-treatment-plan", "review.json")["reviewer"]})
    paid = {"declaration": {"interests": "paid by the maker"}, "attestation": "None."}
    assert "override" in str(world.post(case_id, "accept", paid, "second", 422))
    world.post(case_id, "decline", {"reason": "conflict-of-interest"}, "second")
    assert statuses(world, case_id) == (["requested"], ["rejected"])
    other = {**read("breast-treatment-plan", "review.json")["reviewer"], "family": "Sample", "npi": "9000000777",
             "organization": {"name": "Northfield Made-up Hospital"}}  # fmt: skip
    reviewed(world, case_id, "breast-treatment-plan", "next", other)
    assert statuses(world, case_id) == (["completed"], ["rejected", "completed"])


def test_withdrawn_after_acceptance_the_next_reviewer_begins_anew(world: World) -> None:
    request = cast(world, "breast-treatment-plan")
    case_id = begin(world, request)
    review = read("breast-treatment-plan", "review.json")
    world.post(case_id, "ask-reviewer", {"reviewer": review["reviewer"]})
    world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "None."}, "second")
    world.post(case_id, "submit-report", {**review["draft"], "conclusion": "zq-half-written"}, "second")
    world.post(case_id, "withdraw", {"reason": "reviewer-unavailable", "text": "I am ill."}, "second")
    assert statuses(world, case_id) == (["failed", "requested"], ["failed"])
    other = {**review["reviewer"], "family": "Sample", "given": ["Nele"], "npi": "9000000777",
             "organization": {"name": "Northfield Made-up Hospital"}}  # fmt: skip
    reviewed(world, case_id, "breast-treatment-plan", "next", other)
    assert statuses(world, case_id) == (["failed", "completed"], ["failed", "completed"])
    printed = world.pdf(case_id)
    assert "zq-half-written" not in printed
    assert "Nele Sample" in printed
    assert world.call("GET", f"/api/second-opinions/{case_id}", who="second").status_code == 404


def test_read_from_the_record_alone_the_encounter_is_virtual(world: World) -> None:
    request = cast(world, "breast-treatment-plan")
    case_id = begin(world, request)
    reviewed(world, case_id, "breast-treatment-plan")
    encounter = next(e for e in world.package(case_id, "Encounter") if e["status"] == "finished")
    assert encounter["class"]["code"] == "VR"
    assert "record-review" in str(encounter["type"])
    assert encounter["period"]["end"]
    assert {p["type"][0]["coding"][0]["code"] for p in encounter["participant"]} == {"CON", "REF"}


def test_a_patient_who_asks_without_any_physician_gets_the_report(world: World) -> None:
    request = copy.deepcopy(cast(world, "breast-treatment-plan"))
    for name in ("pcp", "decision", "inform", "reviewer"):
        request.pop(name, None)
    reviewed_items = [{k: v for k, v in item.items() if k != "author"} for item in request["underReview"]]
    request |= {"requester": "patient", "providers": {}, "pathway": "self", "sources": [],
                "underReview": reviewed_items}  # fmt: skip
    case_id = begin(world, request)
    task = next(t for t in world.package(case_id, "Task") if workflow.is_coordination(t))
    assert task["requester"] == {"display": "Second opinion platform"}
    reviewed(world, case_id, "breast-treatment-plan")
    board = world.get(case_id, "alignment")
    assert board["providers"] == []
    assert "no primary care provider is known: nobody there gets the report" in board["notices"]
    link = world.post(case_id, "invite-patient", {"relationship": "self", "name": "Maren"})
    assert "/case-link/" in link["link"]
    assert "the patient" in world.pdf(case_id)


def test_amended_after_delivery_everybody_is_behind_until_they_hold_it(world: World) -> None:
    request = cast(world, "breast-treatment-plan")
    for source in request["sources"]:
        world.ehr(source)
    case_id = begin(world, request)
    reviewed(world, case_id, "breast-treatment-plan")
    assert answered(world, case_id, request)["case"]["aligned"] is True
    body = {"kind": "corrected", "reason": "The dose was wrong.", "changes": {"conclusion": "The dose is 2.5 mg."}}
    world.post(case_id, "amend-report", body, "second")
    world.post(case_id, "sign", who="second")
    board = world.get(case_id, "alignment")
    assert board["case"]["aligned"] is False
    assert not any(row["aligned"] for row in board["providers"])
    world.work(60)
    board = answered(world, case_id, request, version=2)
    assert {row["version"] for row in board["providers"]} == {2}


def test_a_report_on_the_wrong_patient_is_taken_back_from_everywhere(world: World) -> None:
    request = cast(world, "breast-treatment-plan")
    ehrs = [world.ehr(source) for source in request["sources"]]
    case_id = begin(world, request)
    reviewed(world, case_id, "breast-treatment-plan")
    assert any(e.documents for e in ehrs)
    world.post(case_id, "amend-report", {"kind": "entered-in-error", "reason": "It is about another patient."},
               "second")  # fmt: skip
    world.post(case_id, "sign", who="second")
    world.work(60)
    for ehr in ehrs:
        for document in ehr.documents:
            assert (document["status"], document.get("docStatus")) in {
                ("superseded", "final"), ("current", "entered-in-error"), ("entered-in-error", "entered-in-error"),
            }, document  # fmt: skip
    reports = [r for r in world.package(case_id, "DiagnosticReport") if "source" not in r.get("meta", {})]
    assert [r["status"] for r in reports] == ["entered-in-error"]
    link = next((d for d in world.deliveries(case_id) if d["evidence"].get("rung") == "10" and d["version"] == 1), None)
    if link is not None:
        page = world.client.get(f"/ack/{tokens.make(world.context, tokens.ACKNOWLEDGE, link['task'])}")
        assert "replaced" in page.get_data(as_text=True)
    world.post(case_id, "amend-report", {"kind": "amended", "reason": "x", "changes": {}}, "second", 409)


def test_critical_before_signing_is_called_first_and_signed_then(world: World) -> None:
    request = cast(world, "spine-surgery")
    case_id = begin(world, request)
    review = read("spine-surgery", "review.json")
    owner = f"p-{request['decision']['owner']}"
    world.post(case_id, "ask-reviewer", {"reviewer": review["reviewer"]})
    world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "None."}, "second")
    draft = copy.deepcopy({**review["draft"], "gapsConfirmed": world.get(case_id, "completeness")["gaps"]})
    draft["items"][0]["significance"] = "critical"
    world.post(case_id, "submit-report", draft, "second")
    refused = world.post(case_id, "sign", who="second", status=422)
    assert "$raise-urgent" in str(refused)
    assert "items[0].urgentContact" in str(refused)
    assert world.get(case_id)["report"] is None

    world.post(case_id, "raise-urgent", {"finding": "Cauda equina is compressed."}, "second")
    world.clock.forward(16 * 60)
    world.work()
    (one,) = world.get(case_id)["urgent"]["calls"]
    assert (one["open"], one["step"], one["callNext"]) == (True, "deputy", one["deputy"])
    draft["items"][0]["urgentContact"] = one["task"]
    world.post(case_id, "submit-report", draft, "second")
    world.post(case_id, "sign", who="second", status=422)  # nobody has spoken yet
    world.post(case_id, "record-call", {"with": one["to"], "readBack": "MRI today, then theatre."}, owner)
    world.post(case_id, "sign", who="second")
    world.work(60)
    assert statuses(world, case_id) == (["completed"], ["completed"])
    assert world.get(case_id)["urgent"]["open"] is False
    world.post(case_id, "raise-urgent", {"finding": "And a mass beside it."}, "second")  # after signing, too
    assert world.get(case_id)["urgent"]["open"] is True
