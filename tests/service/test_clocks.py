"""The clocks of a real case: pauses, what is announced once, and who is told. The clock is the world's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir import times
from fhir_secondop.opinion import clock_file, progress
from fhir_secondop.service import clocks
from fhir_secondop.service.context import SERVICE, load
from fhir_secondop.service.requeue import requeue
from tests.service.test_review import example
from tests.service.world import DAY_MS, World, opened

Plain = dict[str, Any]
MONDAY = times.interval("2027-03-01T09:00:00Z").low  # and no holiday in our own calendar


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world on a Monday at nine. No EHR: the record is in at once, with gaps."""
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.clock.ahead_ms = MONDAY - made.clock()
        yield made


def days_on(world: World, days: float) -> list[str]:
    """So many days later, with everything done that came due on the way."""
    target = world.clock() + int(days * DAY_MS)
    said = world.work(days * 86_400)
    world.clock.ahead_ms += max(0, target - world.clock())
    return said


def asked(world: World, **changes: Any) -> str:
    """A case whose decision is to be made on the Wednesday after next, unless said otherwise."""
    decision = {**example("request.json")["decision"], "deadline": "2027-03-17"}
    request = {**example("request.json"), "decision": decision, **changes}
    answer = world.call("POST", "/api/second-opinions", {k: v for k, v in request.items() if v is not None})
    assert answer.status_code == 201, answer.get_data(as_text=True)
    case_id: str = answer.get_json()["id"]
    world.work()
    return case_id


def told(world: World, case_id: str, topic: str) -> list[Plain]:
    return [n for n in world.get(case_id, "clocks")["notices"] if n["topic"] == topic]


def test_a_breach_is_announced_once_and_stands_on_the_work_list_until_the_report(world: World) -> None:
    case_id = asked(world)
    world.accept(case_id)
    assert world.get(case_id, "clocks")["dueDay"] == "2027-03-15"
    days_on(world, 13.9)
    assert told(world, case_id, "overdue") == []
    days_on(world, 0.2)
    (notice,) = told(world, case_id, "overdue")
    assert notice["text"].startswith("The second opinion was due on 2027-03-15 09:00 UTC: 10 business days")
    assert notice["to"] == ["Dr. Clara Standin"]
    before = world.package(case_id, "Communication")
    for _ in range(3):
        clocks.look(world.context, case_id, 7)
        requeue(world.context)
        world.work()
    assert world.package(case_id, "Communication") == before
    case = _case(world, case_id)
    assert [n.kind for n in progress.needs(case)].count("overdue") == 1
    days_on(world, 30)
    assert [n["text"].split(": ")[1] for n in told(world, case_id, "overdue")] == [
        "10 business days since the record was complete.", "15 business days since the request.",
    ]  # fmt: skip
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    world.post(case_id, "sign", who="reviewer")
    assert "overdue" not in [n.kind for n in progress.needs(_case(world, case_id))]
    stood = world.get(case_id, "clocks")
    assert all(c["stopped"] and c["breached"] for c in stood["clocks"])
    days_on(world, 30)
    assert world.get(case_id, "clocks") == stood


def _case(world: World, case_id: str) -> Any:
    with world.context.database.transaction(SERVICE) as tx:
        return load(tx.connection, world.context.visibility(SERVICE), case_id)


def test_a_report_in_time_announces_nothing_ever(world: World) -> None:
    case_id = asked(world)
    world.sign(case_id)
    days_on(world, 60)
    assert told(world, case_id, "overdue") == []


def test_the_decision_owner_is_told_on_acceptance_and_when_we_fall_behind_the_deadline(world: World) -> None:
    case_id = asked(world)
    assert world.get(case_id, "clocks")["notices"] == []
    world.accept(case_id)
    (notice,) = told(world, case_id, "accepted")
    assert notice["to"] == ["Dr. Harlan Mockridge"]
    assert "Dr. Clara Standin has accepted" in notice["text"]
    assert "due on 2027-03-15 (UTC)" in notice["text"]
    (stored,) = world.package(case_id, "Communication", who="surgeon")
    role = stored["recipient"][0]["reference"]
    (entry,) = world.call("GET", f"/fhir/Communication?recipient={role}", who="surgeon").get_json()["entry"]
    assert entry["resource"]["id"] == stored["id"]

    world.post(case_id, "pause", {"reason": "awaiting-tests", "text": "a genomic assay"}, "reviewer")
    days_on(world, 1.9)
    assert told(world, case_id, "due-after-deadline") == []
    days_on(world, 2)  # two business days and more: due on the 18th now
    (late,) = told(world, case_id, "due-after-deadline")
    assert late["to"] == ["Dr. Harlan Mockridge"]
    assert "after your deadline, 2027-03-17" in late["text"]
    assert "on hold (awaiting tests: a genomic assay)" in late["text"]
    days_on(world, 10)
    assert len(told(world, case_id, "due-after-deadline")) == 1
    assert told(world, case_id, "overdue") == []  # it waits: no promise is broken


def test_a_due_date_after_the_deadline_is_told_with_the_acceptance(world: World) -> None:
    decision = {**example("request.json")["decision"], "deadline": "2027-03-12"}
    case_id = asked(world, decision=decision)
    assert told(world, case_id, "due-after-deadline") == []
    world.accept(case_id)
    assert "That is after your deadline, 2027-03-12." in told(world, case_id, "accepted")[0]["text"]
    assert len(told(world, case_id, "due-after-deadline")) == 1
    assert world.get(case_id, "clocks")["afterDeadline"] is True


def test_nothing_is_said_where_nobody_is_named_to_decide(world: World) -> None:
    case_id = asked(world, decision=None)
    world.accept(case_id)
    days_on(world, 3)
    assert world.get(case_id, "clocks")["notices"] == []


def test_a_case_on_hold_goes_on_where_it_was_with_its_review(world: World) -> None:
    case_id = asked(world)
    world.accept(case_id)
    first = world.post(case_id, "pause", {"reason": "consent-withheld", "text": "asked again"}, "reviewer")
    assert (first["status"], first["businessStatus"]) == ("on-hold", "records-incomplete")
    assert world.post(case_id, "pause", {"reason": "consent-withheld", "text": "asked again"}) == first
    said = world.post(case_id, "pause", {"reason": "awaiting-tests"}, status=409)
    assert "on hold already (consent withheld: asked again)" in str(said)
    review = next(t for t in world.package(case_id, "Task") if "owner" in t and t["status"] == "on-hold")
    assert review["statusReason"]["text"] == "asked again"
    assert "on hold" in str(
        world.post(case_id, "submit-report", example("review.json")["draft"], "reviewer", status=409)
    )
    days_on(world, 2)
    assert world.get(case_id, "clocks")["paused"] == "consent withheld: asked again"
    again = world.post(case_id, "resume", who="reviewer")
    assert (again["status"], again["businessStatus"]) == ("accepted", "records-incomplete")
    assert {t["status"] for t in world.package(case_id, "Task") if t["id"] == review["id"]} == {"accepted"}
    found = world.get(case_id, "clocks")
    assert (found["paused"], found["dueDay"], len(found["pauses"])) == ("", "2027-03-17", 1)
    assert "not on hold" in str(world.post(case_id, "resume", status=409))
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    held = world.post(case_id, "pause", {"reason": "awaiting-information"}, "reviewer")
    assert (held["status"], held["businessStatus"]) == ("on-hold", "awaiting-information")
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])  # one goes on writing meanwhile
    assert "resume it" in str(world.post(case_id, "sign", who="reviewer", status=409))
    assert world.post(case_id, "resume")["businessStatus"] == "record-review"
    assert world.post(case_id, "sign", who="reviewer")["status"] == "final"
    assert "can't go from completed to on-hold" in str(
        world.post(case_id, "pause", {"reason": "duplicate"}, status=409)
    )


def test_before_acceptance_a_case_may_wait_for_somebody_and_for_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = asked(world)
    assert "from requested to on-hold" in str(world.post(case_id, "pause", {"reason": "duplicate"}, status=409))
    waits = world.post(case_id, "pause", {"reason": "awaiting-coverage"})
    assert (waits["status"], waits["businessStatus"]) == ("requested", "awaiting-coverage")
    # What the record becomes meanwhile is seen when the case goes on.
    monkeypatch.setattr("fhir_secondop.opinion.checklist.GAPS", frozenset())
    assert world.post(case_id, "resume")["businessStatus"] == "records-complete"
    assert len(world.get(case_id, "clocks")["clocks"]) == 2


def test_only_who_has_the_case_in_hand_pauses_it(world: World) -> None:
    case_id = asked(world)
    world.accept(case_id)
    for who, status in (("surgeon", 403), ("stranger", 404)):
        world.post(case_id, "pause", {"reason": "awaiting-tests"}, who, status=status)
        world.post(case_id, "resume", {}, who, status=status)
    assert world.post(case_id, "pause", {"reason": "not-a-reason"}, status=422)


def test_a_hold_by_a_plain_update_stops_the_clocks_too(world: World) -> None:
    case_id = asked(world)
    world.accept(case_id)
    task = next(t for t in world.package(case_id, "Task") if "partOf" not in t)
    # What it says of when it was changed is not what counts.
    held = {**task, "status": "on-hold", "statusReason": {"text": "x"}, "lastModified": "2027-03-01T09:01:00Z"}
    days_on(world, 1)
    assert world.call("PUT", f"/fhir/Task/{task['id']}", held).status_code == 200
    days_on(world, 1)
    found = world.get(case_id, "clocks")
    assert found["paused"] == "x"
    assert found["clocks"][0]["elapsed"] == "1 business day"
    days_on(world, 3)
    assert len(told(world, case_id, "due-after-deadline")) == 1  # long before anything would have been due


def test_the_review_goes_along_with_a_hold_by_a_plain_update(world: World) -> None:
    case_id = asked(world)
    world.accept(case_id)
    held = _case(world, case_id).coordination
    for status in ("on-hold", "accepted"):
        body = {**held, "status": status, "statusReason": {"text": "a meeting"}}
        assert world.call("PUT", f"/fhir/Task/{held['id']}", body).status_code == 200
        case = _case(world, case_id)
        assert {case.coordination["status"], *(review["status"] for review in case.reviews)} == {status}


def test_all_looks_made_anew_from_the_tasks_miss_nothing(world: World) -> None:
    case_id = asked(world)
    held = asked(world, placer={"system": "https://riverside.example/orders", "value": "held"})
    for one in (case_id, held):
        world.accept(one)
    world.post(held, "pause", {"reason": "awaiting-tests"})
    world.jobs.clear()
    world.keys.clear()
    requeue(world.context)
    days_on(world, 15)
    assert len(told(world, case_id, "overdue")) == 1
    assert len(told(world, held, "due-after-deadline")) == 1


def test_no_workflow_is_called_by_its_case(world: World) -> None:
    """Its id stands in traces and log lines."""
    world.ehr("riverside")
    case_id = world.signed()
    world.work()
    assert {key.partition("-")[0] for key in world.keys} >= {"clocks", "deliver", "gather"}
    assert [key for key in world.keys if case_id in key] == []


def test_a_look_that_comes_too_early_sets_the_next(world: World) -> None:
    case_id = asked(world)
    world.accept(case_id)
    jobs = [job for job in world.jobs if job.workflow == clocks.WORKFLOW]
    for job in jobs:
        world.jobs.remove(job)
        assert world.workflows[job.workflow](*job.args) == "in time"
    days_on(world, 15)
    assert len(told(world, case_id, "overdue")) == 1


def test_a_site_counts_by_its_own_calendar(world: World, tmp_path: Path) -> None:
    file = tmp_path / "clocks.toml"
    text = 'zone = "America/New_York"\nholidays = ["2027-03-02"]\n'
    file.write_text(text + "".join(f'[{p}]\nsince_request = "2 business days"\n' for p in clock_file.PRIORITIES))
    object.__setattr__(world.context, "clocks", clock_file.load(file))
    found = world.get(asked(world), "clocks")
    assert found["clocks"][0]["dueThere"] == "2027-03-04 04:00 America/New_York"


def test_the_priority_of_the_request_sets_the_target(world: World) -> None:
    case_id = asked(world, priority="stat")
    assert world.get(case_id, "clocks")["due"].startswith("2027-03-01T17:00:0")
    world.accept(case_id)
    assert world.get(case_id, "clocks")["dueDay"] == "2027-03-01"
    days_on(world, 0.2)
    assert len(told(world, case_id, "overdue")) == 1
