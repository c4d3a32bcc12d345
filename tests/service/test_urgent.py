"""Something critical is told at once, by a call: raised, escalated by the clock, closed by a recorded conversation."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.config import Settings
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, REPORT, Resource
from fhir_secondop.opinion import codes, progress
from fhir_secondop.service import audience, requeue, urgent, worklist
from fhir_secondop.store import resources
from tests.service.conftest import TOKENS
from tests.service.test_review import example
from tests.service.world import SURGEON as SURGEONS_TOKEN
from tests.service.world import World, opened, readable

Plain = dict[str, Any]
FINDING = {"finding": "zq-cord-compression on the new images"}
SPOKEN = {"with": "Dr. Harlan Mockridge", "readBack": "zq-operate-today"}
PATIENT = """
[callers.maren]
name = "Maren"
token = "maren"
roles = ["patient"]
scopes = ["user/*.rs", "user/ServiceRequest.u"]

[callers.auditor]
name = "An auditor"
token = "auditor"
roles = ["auditor"]
scopes = ["user/AuditEvent.rs"]
"""
PCP, SURGEON = "Dr. Ines Placeholder", "Dr. Harlan Mockridge"


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        (made.folder / "tokens.toml").write_text(TOKENS + SURGEONS_TOKEN + PATIENT)
        made.start()
        yield made


def accepted(world: World) -> str:
    case_id = world.gathered(sources=[])
    world.accept(case_id)
    return case_id


def contact(world: World, case_id: str) -> Resource:
    (found,) = [t for t in world.package(case_id, "Task") if codes.has(t["code"], codes.TASK, "urgent-contact")]
    return found


def call(world: World, case_id: str) -> Plain:
    found: Plain = world.get(case_id)["urgent"]["calls"][0]
    return found


def needs(world: World, who: str = "desk") -> list[progress.Need]:
    (one,) = worklist.listed(world.context, world.caller(who), 20)
    return progress.needs(one.case)


def test_only_the_reviewer_who_has_accepted_raises_it_and_nothing_is_signed(world: World) -> None:
    case_id = world.gathered(sources=[])
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    world.post(case_id, "raise-urgent", FINDING, "reviewer", 409)
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    for who, status in (("desk", 403), ("pcp", 403), ("surgeon", 403), ("stranger", 404)):
        world.post(case_id, "raise-urgent", FINDING, who, status)
    world.post(case_id, "raise-urgent", {"finding": " "}, "reviewer", 422)
    assert "urgent" not in world.get(case_id)

    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    world.post(case_id, "raise-urgent", FINDING, "reviewer")  # a form that was sent twice
    task = contact(world, case_id)
    coordination = next(t for t in world.package(case_id, "Task") if t["code"]["coding"][0]["code"] == "fulfill")
    assert (task["priority"], task["intent"], task["status"]) == ("stat", "order", "in-progress")
    assert task["focus"]["reference"] == f"ServiceRequest/{case_id}"
    assert task["partOf"] == [{"reference": f"Task/{coordination['id']}"}]
    assert (task["owner"]["display"], task["input"][0]["valueReference"]["display"]) == (SURGEON, PCP)
    said = call(world, case_id)
    assert (said["open"], said["to"], said["deputy"], said["step"], said["callNext"]) == (
        True, SURGEON, PCP, "raised", SURGEON)  # fmt: skip
    assert said["since"] == task["authoredOn"]


def test_whom_to_call_is_named_by_npi_and_a_wrong_name_is_said(world: World) -> None:
    case_id = accepted(world)
    for body, path in (
        ({"to": "nobody"}, "to"), ({"deputy": "nobody"}, "deputy"),
        ({"to": "9000000111", "deputy": "9000000111"}, "deputy"),
    ):  # fmt: skip
        refused = world.post(case_id, "raise-urgent", {**FINDING, **body}, "reviewer", 422)
        assert f"'{path}'" in str(refused), refused
    world.post(case_id, "raise-urgent", {**FINDING, "to": "9000000111"}, "reviewer")
    assert (call(world, case_id)["to"], call(world, case_id)["deputy"]) == (PCP, SURGEON)


def test_it_escalates_by_the_clock_and_stays_open(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    seen = [call(world, case_id)["step"]]
    for minutes in (14, 2, 15, 30):  # 14, 16, 31 and 61 after it was raised
        world.clock.forward(minutes * 60)
        world.work()
        seen.append(call(world, case_id)["step"])
    assert seen == ["raised", "raised", "deputy", "coordinator", "unreached"]
    assert call(world, case_id)["callNext"] == f"{SURGEON}, {PCP}, the coordinator"
    assert call(world, case_id)["open"]
    history = world.call("GET", f"/fhir/Task/{contact(world, case_id)['id']}/_history").get_json()
    assert history["total"] == 4


def test_a_step_runs_twice_late_early_and_after_a_restart_without_harm(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    task_id = contact(world, case_id)["id"]
    assert urgent.escalate(world.context, task_id, 1, 1) == "later"  # too early: it comes again
    assert [j.args for j in world.jobs if j.workflow == "escalate" and j.args[2] == 2] == [(task_id, 1, 2)]
    world.jobs = [j for j in world.jobs if j.workflow != "escalate"]
    world.keys = {k for k in world.keys if not k.startswith("escalate")}
    assert requeue.requeue(world.context) >= 1
    assert sorted(j.args[1] for j in world.jobs if j.workflow == "escalate") == [1, 2, 3]
    world.clock.forward(31 * 60)
    assert urgent.escalate(world.context, task_id, 2, 1) == "coordinator"
    assert urgent.escalate(world.context, task_id, 2, 1) == "ended"
    assert urgent.escalate(world.context, task_id, 1, 1) == "ended"  # it never goes back
    assert call(world, case_id)["step"] == "coordinator"


@pytest.mark.parametrize("minutes", [0, 5])
def test_a_time_to_the_minute_is_of_the_site_and_never_before_it_was_raised(world: World, minutes: int) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    raised = contact(world, case_id)["authoredOn"]
    world.clock.forward(600)
    at = times.instant(times.interval(raised).low + minutes * 60_000)[:16]
    world.post(case_id, "record-call", {**SPOKEN, "at": at})
    assert call(world, case_id)["conversation"]["at"] == (raised if minutes == 0 else f"{at}:00Z")


def test_a_recorded_conversation_alone_closes_it(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "record-call", SPOKEN, status=409)  # nothing was raised
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    task = contact(world, case_id)
    for status in ("completed", "cancelled", "failed", "on-hold"):
        moved = {**task, "status": status, "statusReason": {"text": "x"}, "output": [
            {"type": {"text": "x"}, "valueString": "x"}]}  # fmt: skip
        for who in ("desk", "surgeon"):
            answer = world.call("PUT", f"/fhir/Task/{task['id']}", moved, who)
            assert answer.status_code == 403, (who, status, answer.get_data(as_text=True))
            assert "$record-call" in answer.get_data(as_text=True)
    cancelled = world.call("POST", f"/fhir/Task/{task['id']}/$cancel", {
        "resourceType": "Parameters", "parameter": [{"name": "reason", "valueCode": "no-capacity"}]})  # fmt: skip
    assert cancelled.status_code == 409
    world.post(case_id, "record-call", {"with": "x"}, status=422)
    world.post(case_id, "record-call", {**SPOKEN, "readBack": " "}, status=422)
    world.post(case_id, "record-call", {**SPOKEN, "at": "2999-01-01T00:00:00Z"}, status=422)
    raised = times.interval(task["authoredOn"]).low
    for at, status in ((raised - 1000, 422), (raised - 60_000, 422)):  # it is about this one: nobody knew it before
        refused = world.post(case_id, "record-call", {**SPOKEN, "at": times.instant(at)}, status=status)
        assert "'at'" in str(refused)
    for at in (raised - 60_000, raised + 120_000):  # to the minute, as a form gives it
        refused = world.post(case_id, "record-call", {**SPOKEN, "at": times.instant(at)[:16]}, status=422)
        assert "'at'" in str(refused)
    world.post(case_id, "record-call", {**SPOKEN, "at": "2026-02-30T09:30"}, status=422)
    world.post(case_id, "record-call", SPOKEN, "stranger", 404)
    assert call(world, case_id)["open"]

    world.clock.forward(16 * 60)
    world.work()
    world.post(case_id, "record-call", SPOKEN, "surgeon")
    ended = contact(world, case_id)
    said = conversation(world, case_id)
    assert ended["status"] == "completed"
    assert ended["output"][-1]["valueReference"]["reference"] == f"Communication/{said['id']}"
    assert said["payload"] == [{"contentString": "zq-operate-today"}]
    assert said["recipient"][0]["display"] == SURGEON
    assert call(world, case_id)["conversation"] == {
        "by": world.caller("surgeon").name,
        "with": SURGEON,
        "at": said["sent"],
        "readBack": "zq-operate-today",
    }
    assert said["recipient"][0]["reference"]
    assert said["sender"]["display"] == world.caller("surgeon").name
    (kept,) = [p for p in world.package(case_id, "Provenance")
               if p["target"][0]["reference"].startswith(f"Communication/{said['id']}")]  # fmt: skip
    assert kept["agent"][0]["who"]["display"] == world.caller("surgeon").name
    before = world.call("GET", f"/fhir/Task/{task['id']}/_history").get_json()["total"]
    world.clock.forward(60 * 60)
    world.work()
    assert world.call("GET", f"/fhir/Task/{task['id']}/_history").get_json()["total"] == before
    world.post(case_id, "record-call", SPOKEN, "surgeon", 409)
    assert world.get(case_id)["urgent"]["open"] is False


@pytest.mark.parametrize(("who", "status"), [("desk", 200), ("clinic", 404), ("reviewer", 200), ("pcp", 200)])
def test_who_has_it_in_hand_or_is_called_records_it(world: World, who: str, status: int) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    answer = world.call("POST", f"/api/second-opinions/{case_id}/record-call", SPOKEN, who)
    assert answer.status_code == status, answer.get_data(as_text=True)


def test_a_member_who_is_neither_called_nor_deputy_does_not_record_it(world: World) -> None:
    providers = copy.deepcopy(example("request.json")["providers"])
    case_id = accepted(world)
    others = [p["npi"] for p in providers.values() if p.get("npi") not in ("9000000111", "9000000112", None)]
    assert others, "the example has a third provider"
    world.post(case_id, "raise-urgent", {**FINDING, "to": others[0], "deputy": "9000000112"}, "reviewer")
    world.post(case_id, "record-call", SPOKEN, "pcp", 403)
    world.post(case_id, "record-call", SPOKEN, "surgeon")


def test_of_two_that_are_open_the_one_is_named(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    world.post(case_id, "raise-urgent", {"finding": "Another."}, "reviewer")
    refused = world.post(case_id, "record-call", SPOKEN, status=422)
    assert "task" in str(refused)
    newest = world.get(case_id)["urgent"]["calls"][0]
    world.post(case_id, "record-call", {**SPOKEN, "task": newest["task"]})
    calls = world.get(case_id)["urgent"]["calls"]
    assert [c["open"] for c in calls] == [False, True]


def test_it_is_the_first_need_of_the_coordinator_and_who_is_next_changes(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    first = needs(world)[0]
    assert (first.kind, first.whom) == ("urgent", SURGEON)
    assert next(iter(progress.NEEDS)) == "urgent"
    world.clock.forward(16 * 60)
    world.work()
    assert needs(world)[0].whom == PCP
    world.post(case_id, "record-call", SPOKEN)
    assert "urgent" not in [n.kind for n in needs(world)]


def let_in(world: World, case_id: str) -> None:
    """The patient comes in by a link, as `invite-patient` lets in who holds it."""
    with world.context.database.transaction(world.caller("desk")) as tx:
        audience.admit(tx, case_id, {"maren"}, part=REPORT)


def conversation(world: World, case_id: str) -> Plain:
    """The recorded conversation; other Communications of the case are notices."""
    (found,) = [c for c in world.package(case_id, "Communication") if "partOf" in c]
    return found


def patients_view(world: World, case_id: str) -> list[str]:
    """Whatever a patient can ask about the case, without the times of asking and the patient's own traces."""
    found = []
    for path in (
        f"/fhir/ServiceRequest/{case_id}/$package",
        f"/api/second-opinions/{case_id}",
        "/api/second-opinions",
        f"/api/second-opinions/{case_id}/package",
        f"/api/second-opinions/{case_id}/alignment",
        f"/api/second-opinions/{case_id}/requests",
        f"/api/second-opinions/{case_id}/manifest",
        "/fhir/Task?_count=200&_total=accurate",
        "/fhir/Task?code=urgent-contact&_total=accurate",
        "/fhir/Task?priority=stat",
        "/fhir/Communication?_total=accurate",
        "/fhir/Provenance?_count=200",
        f"/fhir/Task?focus=ServiceRequest/{case_id}&_count=0",
        f"/fhir/ServiceRequest/{case_id}/_history",
    ):
        answer = world.call("GET", path, who="maren")
        assert answer.status_code == 200, (path, answer.get_data(as_text=True))
        found.append(re.sub(r'"timestamp":"[^"]*"', "", answer.get_data(as_text=True)))
    for path in (f"/fhir/ServiceRequest/{case_id}/$audit-trail", f"/api/second-opinions/{case_id}/audit-trail"):
        trail = world.call("GET", f"{path}?_count=1000", who="maren").get_json()
        rows = trail["rows"] if "rows" in trail else [e["resource"] for e in trail["entry"]]
        found += [str(row) for row in rows if "maren" not in str(row)]
    return found


def test_the_patient_reads_by_no_route_that_something_was_raised_spoken_of_or_looked_at(world: World) -> None:
    case_id = accepted(world)
    let_in(world, case_id)
    before = patients_view(world, case_id)
    assert any("accept" in one for one in before)
    world.post(case_id, "raise-urgent", {"finding": " "}, "reviewer", 422)
    path = world.post(case_id, "raise-urgent", FINDING, "reviewer")["resource"]
    for who in ("surgeon", "pcp", "desk", "reviewer"):
        assert world.call("GET", f"/fhir/{path}", who=who).status_code == 200, who
        assert world.call("GET", f"/fhir/{path}/_history", who=who).status_code == 200
    world.clock.forward(16 * 60)
    world.work()
    assert patients_view(world, case_id) == before
    world.post(case_id, "record-call", SPOKEN, "surgeon")
    assert patients_view(world, case_id) == before
    task, said = contact(world, case_id), conversation(world, case_id)
    for path in (f"Task/{task['id']}", f"Task/{task['id']}/_history", f"Task/{task['id']}/_history/1",
                 f"Communication/{said['id']}"):  # fmt: skip
        assert world.call("GET", f"/fhir/{path}", who="maren").status_code == 404, path
    for code, body in (("raise-urgent", FINDING), ("record-call", {**SPOKEN, "task": task["id"]})):
        world.post(case_id, code, body, "maren", 403)
    (listed,) = worklist.listed(world.context, world.caller("maren"), 20)
    assert urgent.urgent.of_case(listed.case) == []
    everything = readable(world, case_id, "maren")
    assert "zq-" not in everything
    assert task["id"] not in everything
    assert all("zq-" in readable(world, case_id, who) for who in ("desk", "reviewer", "surgeon", "pcp"))
    assert world.call("GET", f"/fhir/Task/{task['id']}", who="stranger").status_code == 404
    whole = world.call("GET", f"/api/second-opinions/{case_id}/audit-trail?_count=1000", who="auditor").get_json()
    assert {"$raise-urgent", "$record-call"} <= {row["operation"] for row in whole["rows"]}


def test_a_patient_who_asked_without_any_physician_has_somebody_found_by_the_coordinator(world: World) -> None:
    items = [{k: v for k, v in i.items() if k != "author"} for i in example("request.json")["underReview"]]
    asked = {**example("request.json"), "requester": "patient", "providers": {}, "pathway": "self", "sources": [],
             "underReview": items}  # fmt: skip
    for name in ("pcp", "decision", "inform"):
        asked.pop(name, None)
    opened_by = world.call("POST", "/api/second-opinions", asked, "clinic")  # the portal through which it was asked
    assert opened_by.status_code == 201, opened_by.get_data(as_text=True)
    case_id = opened_by.get_json()["id"]
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    said = {"declaration": {"interests": "none"}, "attestation": "I know none of them."}
    world.post(case_id, "accept", said, "reviewer")
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    assert (call(world, case_id)["to"], call(world, case_id)["deputy"]) == ("the coordinator", "")
    assert needs(world)[0].whom == "the coordinator"
    world.clock.forward(61 * 60)
    world.work()
    assert call(world, case_id)["callNext"] == "the coordinator"
    assert "zq-" not in readable(world, case_id, "clinic")
    world.post(case_id, "record-call", {"with": "Dr. On Duty", "readBack": "zq-come in now"})
    assert not call(world, case_id)["open"]


def test_who_leaves_the_case_no_longer_reads_it_and_who_comes_next_does(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    path = f"/fhir/Task/{contact(world, case_id)['id']}"
    world.post(case_id, "withdraw", {"reason": "reviewer-unavailable"}, "reviewer")
    assert world.call("GET", path, who="reviewer").status_code == 404
    assert call(world, case_id)["open"]  # it needs a call all the same
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    assert world.call("GET", path, who="reviewer").status_code == 404
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    assert world.call("GET", path, who="reviewer").status_code == 200


def test_after_a_stop_of_hours_each_step_stands_there_once_and_in_order(world: World) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    task_id = contact(world, case_id)["id"]
    world.clock.forward(5 * 3600)
    world.jobs.sort(key=lambda job: -job.at)  # the last step comes first
    for job in [j for j in world.jobs if j.workflow == "escalate"]:
        world.workflows["escalate"](*job.args)
    with world.context.database.reading() as connection:
        versions = resources.history(connection, EVERYTHING, "Task", task_id)
    steps = [urgent.urgent.STEPS[urgent.urgent.step_of(v.resource)] for v in reversed(versions)]
    assert steps == ["raised", "deputy", "coordinator", "unreached"]


def test_a_step_that_fails_on_our_side_comes_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    case_id = accepted(world)
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    world.clock.forward(16 * 60)
    with monkeypatch.context() as broken:
        broken.setattr("fhir_secondop.service.workflows.log", Silent())
        broken.setattr(urgent.urgent, "escalated", fail)
        assert world.work() == ["later"]
    assert call(world, case_id)["step"] == "raised"
    world.clock.forward(61)
    assert world.work() == ["deputy"]


class Silent:
    def error(self, *said: Any) -> None:
        """A fault of ours is expected here."""


def fail(*_: Any) -> Resource:
    raise RuntimeError


@pytest.mark.parametrize("kind", ["final", "amended"])
def test_what_is_critical_is_signed_with_its_own_call_not_with_any_earlier_one(world: World, kind: str) -> None:
    case_id = accepted(world)
    gaps = world.get(case_id, "completeness")["gaps"]
    whole = {**example("review.json")["draft"], "gapsConfirmed": gaps}
    critical = [{**i, "significance": "critical"} for i in whole["items"] if i["item"] in (0, 1)]
    assert {i["item"] for i in critical} == {0, 1}

    def draft(*contacts: str) -> None:
        told = [{**i, **({"urgentContact": contacts[i["item"]]} if contacts else {})} for i in critical]
        if kind == "amended":
            amendment = {"kind": kind, "reason": "Seen later.", "changes": {**whole, "items": told}}
            world.post(case_id, "amend-report", amendment, "reviewer")
        else:
            world.post(case_id, "submit-report", {**whole, "items": told}, "reviewer")

    def refused() -> set[str]:
        said = world.post(case_id, "sign", who="reviewer", status=422)
        return {path for issue in said["issue"] for path in issue["expression"]}

    if kind == "amended":
        world.post(case_id, "submit-report", whole, "reviewer")
        world.post(case_id, "sign", who="reviewer")
    world.post(case_id, "raise-urgent", FINDING, "reviewer")
    first = contact(world, case_id)["id"]
    world.post(case_id, "record-call", SPOKEN, "surgeon")
    both = {f"items[{n}].urgentContact" for n, _ in enumerate(critical)}
    draft()
    assert refused() == both  # there was a call; about what, nobody has said
    draft(first, first)
    assert refused() < both  # one call for two findings
    world.post(case_id, "raise-urgent", {"finding": "zq-another"}, "reviewer")
    (second,) = {c["task"] for c in world.get(case_id)["urgent"]["calls"]} - {first}
    draft(first, second)
    assert refused() < both  # raised, and nobody has spoken about it
    world.post(case_id, "record-call", SPOKEN, "surgeon")
    world.post(case_id, "sign", who="reviewer")


def test_the_minutes_are_the_sites_own() -> None:
    assert Settings(urgent_minutes="5,10,20").escalation == (5, 10, 20)
    assert Settings().escalation == (15, 30, 60)
