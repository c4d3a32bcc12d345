"""What the reviewer proposes before and with the report: delivered, answered, aged out, taken back; results arrive."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypdf
import pytest

from fhir_secondop.fhir.validate import validate
from fhir_secondop.service import proposing
from fhir_secondop.service.requeue import requeue
from tests.service.test_review import example
from tests.service.world import Ehr, World, opened

Plain = dict[str, Any]
TEST = {"kind": "test", "text": "zq-MRI of the breast", "why": "zq-the margin is not seen"}
DAY_S = 86_400
PDF = "application/pdf"


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.ehr("lakeside")
        yield made


def reviewed(world: World) -> str:
    case_id = world.gathered(sources=["lakeside"])
    world.accept(case_id)
    return case_id


def proposals(world: World, case_id: str) -> list[Plain]:
    found: list[Plain] = world.get(case_id)["proposals"]
    return found


def notices(world: World, case_id: str, topic: str) -> list[str]:
    return [n["text"] for n in world.get(case_id, "clocks")["notices"] if n["topic"] == topic]


def texts(ehr: Ehr) -> dict[str, tuple[str, str]]:
    """What an EHR holds of proposals: "1, version 2" → the document's status, and its text."""
    found = {}
    for document in ehr.documents:
        title = document["description"]
        if title.startswith("Proposal"):
            (file,) = [c["attachment"] for c in document["content"] if c["attachment"]["contentType"] == PDF]
            pages = pypdf.PdfReader(io.BytesIO(base64.b64decode(file["data"]))).pages
            said = " ".join(" ".join(page.extract_text() for page in pages).split())
            number, _, rest = title.removeprefix("Proposal ").partition(", case ")
            found[f"{number}, {rest.partition(', ')[2]}"] = (document["status"], said)
    return found


def result_of(world: World, case_id: str) -> str:
    return f"Observation/{next(r['id'] for r in world.package(case_id, 'Observation') if 'source' in r['meta'])}"


def test_a_proposal_before_the_report_reaches_every_recipient_and_is_no_order(world: World) -> None:
    case_id = reviewed(world)
    world.post(case_id, "propose", TEST, "desk", 403)
    world.post(case_id, "propose", {**TEST, "text": " "}, "reviewer", 422)
    world.post(case_id, "propose", {**TEST, "until": "2020-01-01"}, "reviewer", 422)
    made = world.post(case_id, "propose", TEST, "reviewer")
    assert made == world.post(case_id, "propose", TEST, "reviewer")
    (stored,) = [r for r in world.package(case_id, "ServiceRequest") if r.get("intent") == "proposal"]
    assert validate(stored) == []
    assert stored["basedOn"] == [{"reference": f"ServiceRequest/{case_id}"}]
    world.work(60)
    sent = world.deliveries(case_id, what="proposal")
    assert {d["to"] for d in sent} == {row["name"] for row in world.get(case_id, "alignment")["providers"]}
    assert {d["status"] for d in sent} == {"completed"}
    status, said = texts(world.ehrs["lakeside"])["1, version 1"]
    assert (status, "zq-MRI of the breast" in said, "Proposal, not an order" in said) == ("current", True, True)
    assert [r for r in world.ehrs["lakeside"].written if r.type == "ServiceRequest"] == []


def test_it_is_answered_once_by_a_recipient_and_the_reviewer_is_told(world: World) -> None:
    case_id = reviewed(world)
    world.post(case_id, "propose", TEST, "reviewer")
    answer = {"proposal": 1, "outcome": "declined", "reason": "zq-a pacemaker"}
    world.post(case_id, "answer-proposal", answer, "reviewer", 403)
    world.post(case_id, "answer-proposal", answer, "stranger", 404)
    world.post(case_id, "answer-proposal", {**answer, "reason": ""}, "pcp", 422)
    world.post(case_id, "answer-proposal", {**answer, "proposal": 2}, "pcp", 404)
    world.post(case_id, "answer-proposal", answer, "pcp")
    world.post(case_id, "answer-proposal", answer, "pcp")
    (one,) = proposals(world, case_id)
    assert (one["open"], one["outcome"]["outcome"], one["outcome"]["reason"]) == (False, "declined", "zq-a pacemaker")
    (said,) = notices(world, case_id, "proposal-ended")
    assert "zq-a pacemaker" in said
    world.post(case_id, "withdraw-proposal", {"proposal": 1, "reason": "x"}, "reviewer", 409)

    # Who decides may say otherwise; nobody else.
    assert "oncologist" not in [m["role"] for m in world.get(case_id, "alignment")["providers"]]
    world.post(case_id, "answer-proposal", {"proposal": 1, "outcome": "accepted"}, "surgeon")
    assert proposals(world, case_id)[0]["outcome"]["outcome"] == "accepted"
    world.post(case_id, "answer-proposal", answer, "pcp", 409)
    assert len(notices(world, case_id, "proposal-ended")) == 2
    (stored,) = [r for r in world.package(case_id, "ServiceRequest") if r.get("intent") == "proposal"]
    assert (validate(stored), stored["status"]) == ([], "completed")
    refused = world.call("PUT", f"/fhir/ServiceRequest/{stored['id']}", {**stored, "intent": "order"}, "reviewer")
    assert refused.status_code in (403, 422), refused.get_data(as_text=True)


def test_what_nobody_answers_ages_out_at_the_end_of_its_day_also_after_a_lost_job(world: World) -> None:
    case_id = reviewed(world)
    world.post(case_id, "propose", TEST, "reviewer")
    world.clock.forward(59 * DAY_S)
    world.work()
    assert proposals(world, case_id)[0]["open"]
    world.jobs, world.keys = [], set()  # every job is lost; they are made anew from what is stored
    requeue(world.context)
    assert [job.workflow for job in world.jobs].count(proposing.WORKFLOW) == 1
    world.clock.forward(3 * DAY_S)
    world.work()
    (one,) = proposals(world, case_id)
    assert (one["open"], one["outcome"]["outcome"]) == (False, "aged-out")
    assert len(notices(world, case_id, "proposal-ended")) == 1
    world.post(case_id, "answer-proposal", {"proposal": 1, "outcome": "accepted"}, "pcp", 409)
    requeue(world.context)
    assert [job for job in world.jobs if job.workflow == proposing.WORKFLOW] == []


def test_a_clock_ahead_of_ours_ages_nothing_out(world: World) -> None:
    case_id = reviewed(world)
    world.post(case_id, "propose", TEST, "reviewer")
    (one,) = proposals(world, case_id)
    assert proposing.age_out(world.context, one["reference"].split("/")[1], 1) == "later"
    assert proposals(world, case_id)[0]["open"]


def test_taken_back_its_second_version_says_so_where_the_first_is(world: World) -> None:
    case_id = reviewed(world)
    world.post(case_id, "propose", {**TEST, "text": "zq-MRI"}, "reviewer")
    world.work(60)
    world.post(case_id, "propose", {**TEST, "text": "zq-biopsy"}, "reviewer")  # not sent yet when the other goes
    world.post(case_id, "withdraw-proposal", {"proposal": 1, "reason": "zq-seen elsewhere"}, "desk", 403)
    world.post(case_id, "withdraw-proposal", {"proposal": 1, "reason": "zq-seen elsewhere"}, "reviewer")
    world.work(60)
    there = texts(world.ehrs["lakeside"])
    assert {name: status for name, (status, _) in there.items()} == {
        "1, version 1": "superseded", "1, version 2, WITHDRAWN": "current", "2, version 1": "current",
    }  # fmt: skip
    assert "zq-seen elsewhere" in there["1, version 2, WITHDRAWN"][1]
    assert [p["open"] for p in proposals(world, case_id)] == [False, True]


def test_the_report_carries_its_proposals_and_its_versions_take_them_back(world: World) -> None:
    case_id = world.signed(sources=["lakeside"])
    recommended = [r for r in example("review.json")["draft"]["recommendations"] if r.get("kind") in ("test", "plan")]
    assert recommended
    first = proposals(world, case_id)
    assert [(p["kind"], p["text"], p["inReport"]) for p in first] == [(r["kind"], r["text"], True) for r in recommended]
    assert world.deliveries(case_id, what="proposal") == []  # the report is how they reach everybody
    world.post(case_id, "withdraw-proposal", {"proposal": 1, "reason": "x"}, "reviewer", 409)
    world.post(case_id, "propose", TEST, "reviewer", 409)
    world.post(case_id, "answer-proposal", {"proposal": 1, "outcome": "accepted"}, "surgeon")

    changes = {"recommendations": [{"kind": "test", "text": "zq-CT instead"}]}
    world.post(case_id, "amend-report", {"kind": "amended", "reason": "zq-new", "changes": changes}, "reviewer")
    world.post(case_id, "sign", who="reviewer")
    now = proposals(world, case_id)
    assert now[0]["outcome"]["outcome"] == "accepted"  # what somebody has taken up stays
    assert {p["outcome"]["outcome"] for p in now[1 : len(first)]} <= {"withdrawn"}
    assert (now[-1]["text"], now[-1]["open"]) == ("zq-CT instead", True)
    world.amend(case_id, "entered-in-error", "The wrong patient.")
    assert [p["open"] for p in proposals(world, case_id)] == [False] * len(now)


def test_a_retracted_report_takes_back_what_was_proposed_before_it_too(world: World) -> None:
    case_id = reviewed(world)
    world.post(case_id, "propose", TEST, "reviewer")
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    world.post(case_id, "sign", who="reviewer")
    assert proposals(world, case_id)[0]["open"]
    world.amend(case_id, "entered-in-error", "The wrong patient.")
    assert proposals(world, case_id)[0]["outcome"]["outcome"] == "withdrawn"
    world.work(60)
    assert {d["status"] for d in world.deliveries(case_id, what="proposal", version=2)} == {"completed"}


def test_a_result_lets_a_waiting_case_go_on(world: World) -> None:
    case_id = reviewed(world)
    world.post(case_id, "propose", TEST, "reviewer")
    world.post(case_id, "pause", {"reason": "awaiting-tests"})
    arrived = {"proposal": 1, "result": result_of(world, case_id)}
    world.post(case_id, "proposal-result", {**arrived, "result": "Observation/none"}, status=404)
    world.post(case_id, "proposal-result", {**arrived, "result": "Patient/1"}, status=404)
    world.post(case_id, "proposal-result", arrived, "stranger", 404)
    assert world.post(case_id, "proposal-result", arrived)["brought"] == "resumed"
    assert world.post(case_id, "proposal-result", arrived)["brought"] == "noted"
    (one,) = proposals(world, case_id)
    assert (one["outcome"]["outcome"], one["results"]) == ("accepted", [arrived["result"]])
    assert world.get(case_id)["status"] == "accepted"
    assert len(notices(world, case_id, "result-arrived")) == 1


def test_a_result_after_the_signature_begins_an_addendum(world: World) -> None:
    case_id = world.signed(sources=["lakeside"])
    arrived = {"proposal": 1, "result": result_of(world, case_id)}
    assert world.post(case_id, "proposal-result", arrived)["brought"] == "addendum"
    assert world.get(case_id)["report"] == {"status": "final", "version": 1}  # it stays current until it is signed
    world.post(case_id, "sign", who="reviewer")
    assert world.get(case_id)["report"] == {"status": "appended", "version": 2}
    assert "A result arrived for" in world.pdf(case_id)
