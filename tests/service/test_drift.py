"""Charts looked at again after a delivery: what contradicts opens one item for a person; a failing EHR opens none."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.sandbox.signin import VISITOR
from fhir_secondop.service import drift, watches
from fhir_secondop.service.requeue import requeue
from fhir_secondop.store import resources
from tests.service.hospitals import ONCOLOGIST, PCP, SURGEON, clinic, few
from tests.service.world import Ehr, World, nothing_found, opened, refusal

Plain = dict[str, Any]
DAY_S = 86_400
ANSWER = {"answer": "no-contradiction", "reason": "zq-they renamed it"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On SQLite: what a chart shows does not depend on our database."""
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


@pytest.fixture
def both(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def delivered(world: World, *quirks: str, **settings: Any) -> tuple[Ehr, str]:
    """Lakeside holds the report of a case; its chart is watched from now on."""
    ehr = world.ehr("lakeside", "full", *quirks, record=few("lakeside"), **settings)
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    return ehr, case_id


def look(world: World, days: float = 1.01) -> list[str]:
    """What the looks say that are due by then."""
    world.clock.forward(days * DAY_S)
    due = [job for job in world.jobs if job.workflow == watches.WORKFLOW and job.at <= world.clock()]
    world.jobs = [job for job in world.jobs if job not in due]
    return [world.workflows[job.workflow](*job.args) for job in due]


def items(world: World, case_id: str) -> list[Plain]:
    found: list[Plain] = world.get(case_id).get("toCheck", [])
    return found


def row(world: World, case_id: str, name: str = SURGEON) -> Plain:
    (found,) = [r for r in world.get(case_id, "alignment")["providers"] if name in r["name"]]
    return dict(found)


def change(ehr: Ehr, **changes: Any) -> None:
    """Somebody over there changes our document."""
    (document,) = ehr.documents
    ehr.put({**document, **changes})


def delete(ehr: Ehr, kind: str, resource_id: str) -> None:
    with ehr.database.transaction(VISITOR) as tx:
        resources.delete(tx, resources.read(tx.connection, EVERYTHING, kind, resource_id))


def replaced(document: Resource) -> list[Plain]:
    form = {**document["content"][0]["attachment"], "data": base64.b64encode(b"something else").decode()}
    return [{"attachment": form}]


def test_as_long_as_the_copy_stands_a_look_opens_nothing(world: World) -> None:
    ehr, case_id = delivered(world)
    written = len(ehr.written)
    assert look(world) == ["0 opened, 0 closed"]
    assert look(world) == ["0 opened, 0 closed"]
    assert items(world, case_id) == []
    assert len(ehr.written) == written  # nothing is written there
    assert row(world, case_id)["state"] == "informed"


def test_no_chart_is_asked_before_its_hours_are_over(world: World) -> None:
    ehr, _ = delivered(world)
    before = len(ehr.seen)
    assert look(world, 0.9) == []
    (job,) = [j for j in world.jobs if j.workflow == watches.WORKFLOW]
    assert world.workflows[job.workflow](*job.args) == "again: not due yet"  # by a clock ahead of ours
    assert len(ehr.seen) == before
    assert look(world, 0.2)[-1] == "0 opened, 0 closed"


@pytest.mark.parametrize(
    ("finding", "says"),
    [("status", "entered-in-error"), ("content", "another content"), ("patient", "another patient")],
)
def test_what_was_changed_there_opens_one_item_and_closes_by_itself(world: World, finding: str, says: str) -> None:
    ehr, case_id = delivered(world)
    (before,) = ehr.documents
    ehr.put({"resourceType": "Patient", "id": "zq-somebody", "name": [{"family": "Zqelse"}]})
    changes: dict[str, Plain] = {
        "status": {"status": "entered-in-error"}, "content": {"content": replaced(before)},
        "patient": {"subject": {"reference": "Patient/zq-somebody"}},
    }  # fmt: skip
    change(ehr, **changes[finding])
    assert look(world) == ["1 opened, 0 closed"]
    assert look(world) == ["0 opened, 0 closed"]  # the same is not said twice
    (one,) = items(world, case_id)
    assert (one["open"], one["finding"], one["where"]) == (True, finding, f"DocumentReference/{before['id']}")
    assert says in one["says"]
    assert "Mockridge" in one["owner"]  # the decision owner
    (stored,) = [t for t in world.package(case_id, "Task") if t["id"] == one["task"]]
    assert validate(stored) == []
    assert "zq-somebody" not in str(stored)  # whose chart it stands in is not ours to tell
    for name in (SURGEON, ONCOLOGIST):
        assert (row(world, case_id, name)["state"], row(world, case_id, name)["aligned"]) == ("to-check", False)
    assert any("to check" in notice and says in notice for notice in world.get(case_id, "alignment")["notices"])
    assert ehr.documents[0].get("status") == changes[finding].get("status", "current")  # nothing is corrected

    ehr.put(before)
    assert look(world) == ["0 opened, 1 closed"]
    (one,) = items(world, case_id)
    assert (one["open"], one["answer"]) == (False, "resolved")
    assert row(world, case_id)["state"] == "informed"
    change(ehr, **changes[finding])  # again: a new item
    assert look(world) == ["1 opened, 0 closed"]
    assert len(items(world, case_id)) == 2


def test_a_copy_is_gone_only_when_two_looks_do_not_find_it(both: World) -> None:
    world = both
    ehr, case_id = delivered(world)
    (document,) = ehr.documents
    delete(ehr, "DocumentReference", document["id"])
    assert look(world) == ["0 opened, 0 closed"]
    assert items(world, case_id) == []
    ehr.instead = lambda asked: refusal(503)
    assert look(world) == ["again: capacity"]  # says nothing: what was suspected stays suspected, and no more
    ehr.instead = lambda asked: refusal(403) if asked.type == "DocumentReference" else None
    assert look(world) == ["0 opened, 0 closed"]  # nor does this
    assert items(world, case_id) == []
    ehr.instead = lambda asked: None
    assert look(world) == ["1 opened, 0 closed"]
    (one,) = items(world, case_id)
    assert (one["finding"], "is gone" in one["says"]) == ("gone", True)


def test_a_copy_that_is_there_again_at_the_second_look_was_never_gone(world: World) -> None:
    ehr, case_id = delivered(world)
    (document,) = ehr.documents

    def lost(asked: Any) -> Any:
        if asked.type != "DocumentReference":
            return None
        return refusal(404, "not-found") if asked.id == document["id"] else nothing_found()

    for instead in (lost, lambda asked: None, lost):  # once again is once
        ehr.instead = instead
        assert look(world) == ["0 opened, 0 closed"]
    assert items(world, case_id) == []


def test_a_copy_with_another_id_there_is_found_by_its_identifier(world: World) -> None:
    ehr, case_id = delivered(world)
    (document,) = ehr.documents
    delete(ehr, "DocumentReference", document["id"])
    ehr.put({**document, "id": "moved-there"})
    assert look(world) + look(world) == ["0 opened, 0 closed"] * 2
    assert items(world, case_id) == []


def test_an_ehr_that_fails_or_refuses_opens_nothing_and_is_asked_again(world: World) -> None:
    ehr, case_id = delivered(world)
    change(ehr, status="entered-in-error")
    for status in (500, 503, 429, 401, 403):
        ehr.instead = partial(refused_with, status)
        before = len(ehr.seen)
        (said,) = look(world)
        assert said.startswith("again: ")
        assert 0 < len(ehr.seen) - before <= 2
    assert items(world, case_id) == []
    ehr.instead = lambda asked: None
    assert look(world) == ["1 opened, 0 closed"]


def refused_with(status: int, _: Any) -> Any:
    return refusal(status)


@pytest.mark.parametrize("status", [200, 403])
def test_a_document_that_is_not_shown_is_no_finding(world: World, status: int) -> None:
    ehr, case_id = delivered(world)
    where = ehr.documents[0]["id"]

    def hidden(asked: Any) -> Any:
        """200: an error with a wrong status."""
        if asked.type != "DocumentReference":
            return None
        return refusal(status) if asked.id == where else nothing_found()

    ehr.instead = hidden
    said = look(world) + look(world) + look(world)
    assert items(world, case_id) == []
    if status == 200:  # an error with a wrong status says nothing of the copy: it is looked for again
        assert set(said) == {"again: unreachable"}
        return
    assert said == ["0 opened, 0 closed"] * 3
    (watched,) = world.get(case_id)["watched"]
    assert where in watched["why"]  # it is said that it was not seen


def test_a_patient_who_is_not_certain_there_any_more_is_an_item_after_two_looks(world: World) -> None:
    ehr, case_id = delivered(world)
    (patient,) = [p for p in ehr.held("Patient") if f"Patient/{p['id']}" == ehr.documents[0]["subject"]["reference"]]
    ehr.put({**patient, "active": False})
    assert look(world) == ["0 opened, 0 closed"]
    assert look(world) == ["1 opened, 0 closed"]
    (one,) = items(world, case_id)
    assert (one["finding"], one["where"]) == ("patient-unsure", "Patient")
    ehr.put(patient)
    assert look(world) == ["0 opened, 1 closed"]


def test_a_newer_version_of_ours_is_no_contradiction_and_ends_what_was_seen_of_the_older(world: World) -> None:
    ehr, case_id = delivered(world)
    change(ehr, content=replaced(ehr.documents[0]))
    assert look(world) == ["1 opened, 0 closed"]
    world.amend(case_id)
    assert look(world) == ["0 opened, 0 closed"]  # it is under way: nothing is looked at
    world.work(patience_s=60)
    assert world.delivery(case_id, SURGEON, 2)["businessStatus"] == "verified"
    assert look(world) == ["0 opened, 1 closed"]
    (one,) = items(world, case_id)
    assert (one["answer"], one["how"]) == ("resolved", "a newer version stands there")


def test_what_we_supersede_between_the_look_and_its_item_is_no_finding(
    both: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = both
    ehr, case_id = delivered(world)
    change(ehr, status="superseded")
    looked = drift._looked

    def then_amended(*args: Any) -> Any:
        found = looked(*args)
        world.amend(case_id)
        return found

    monkeypatch.setattr(drift, "_looked", then_amended)
    assert look(world) == ["0 opened, 0 closed"]
    assert items(world, case_id) == []


def test_a_look_that_was_killed_before_its_item_was_stored_opens_it_once(
    both: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = both
    _, case_id = delivered(world)
    change(world.ehrs["lakeside"], status="entered-in-error")
    world.clock.forward(1.01 * DAY_S)
    (job,) = [j for j in world.jobs if j.workflow == watches.WORKFLOW]

    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(drift, "enqueue", killed)  # the last thing in the transaction
        with pytest.raises(Killed):
            world.workflows[job.workflow](*job.args)
    assert items(world, case_id) == []
    assert world.workflows[job.workflow](*job.args) == "1 opened, 0 closed"
    assert world.workflows[job.workflow](*job.args) == "looked before"  # what was done is not done twice
    world.jobs, world.keys = [], set()  # every job is lost; they are made anew from the Tasks
    requeue(world.context)
    assert look(world) == ["0 opened, 0 closed"]
    assert len(items(world, case_id)) == 1


def test_of_two_workers_who_look_at_once_one_counts(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = both
    ehr, case_id = delivered(world)
    change(ehr, status="entered-in-error")
    looked = drift._looked
    said: list[str] = []

    def meanwhile(*args: Any) -> Any:
        found = looked(*args)
        if not said:
            said.append("begun")
            said.append(world.workflows[watches.WORKFLOW](*job.args))
        return found

    monkeypatch.setattr(drift, "_looked", meanwhile)
    world.clock.forward(1.01 * DAY_S)
    (job,) = [j for j in world.jobs if j.workflow == watches.WORKFLOW]
    assert world.workflows[watches.WORKFLOW](*job.args) == "looked before"
    assert said[1] == "1 opened, 0 closed"
    (watch,) = [t for t in world.package(case_id, "Task") if "watch-chart" in str(t["code"])]
    assert watch["meta"]["versionId"] == "2"
    assert len(items(world, case_id)) == 1


def test_an_item_is_closed_by_who_decides_or_coordinates_with_a_reason_and_stays_closed(world: World) -> None:
    ehr, case_id = delivered(world)
    change(ehr, content=replaced(ehr.documents[0]))
    look(world)
    (one,) = items(world, case_id)
    for who, status in (("pcp", 403), ("reviewer", 403), ("stranger", 404)):
        world.post(case_id, "close-check", {"task": one["task"], **ANSWER}, who, status)
    world.post(case_id, "close-check", {"task": one["task"], "answer": "no-contradiction", "reason": " "}, status=422)
    world.post(case_id, "close-check", {"task": "x", **ANSWER}, status=404)
    stored = world.call("GET", f"/fhir/Task/{one['task']}").get_json()
    moved = world.call(
        "PUT", f"/fhir/Task/{one['task']}", {**stored, "status": "failed", "statusReason": {"text": "x"}}
    )
    assert (moved.status_code, "$close-check" in moved.get_data(as_text=True)) == (403, True)
    world.post(case_id, "close-check", {"task": one["task"], **ANSWER}, "surgeon")
    world.post(case_id, "close-check", {"task": one["task"], **ANSWER}, "surgeon")
    world.post(case_id, "close-check", {"task": one["task"], **ANSWER, "answer": "diverged"}, "desk", 409)
    (one,) = items(world, case_id)
    assert (one["open"], one["answer"], one["reason"]) == (False, "no-contradiction", ANSWER["reason"])
    assert row(world, case_id)["state"] == "informed"
    assert look(world) == ["0 opened, 0 closed"]  # the same thing is not asked again
    change(ehr, status="entered-in-error")
    assert look(world) == ["1 opened, 0 closed"]  # another thing is


def test_diverged_is_said_by_a_person_until_a_look_finds_it_mended(both: World) -> None:
    world = both
    ehr, case_id = delivered(world)
    (before,) = ehr.documents
    change(ehr, status="entered-in-error")
    look(world)
    (one,) = items(world, case_id)
    world.post(case_id, "close-check", {"task": one["task"], "answer": "diverged", "reason": "zq-taken out"})
    assert (row(world, case_id)["state"], row(world, case_id)["aligned"]) == ("diverged", False)
    assert any("the chart diverges" in notice for notice in world.get(case_id, "alignment")["notices"])
    ehr.put(before)
    assert look(world) == ["0 opened, 1 closed"]
    assert row(world, case_id)["state"] == "informed"
    (one,) = items(world, case_id)
    assert (one["answer"], one["by"], one["reason"]) == ("resolved", "Desk", "zq-taken out")
    told = [event["kind"] for event in world.get(case_id, "events")["events"]]
    assert [kind for kind in told if kind.startswith("check-")] == ["check-opened", "check-diverged", "check-resolved"]


def test_without_consent_nothing_is_asked_and_with_it_again(world: World) -> None:
    ehr, case_id = delivered(world)
    change(ehr, status="entered-in-error")
    (patient,) = world.package(case_id, "Patient")
    consent = {
        "resourceType": "Consent", "status": "active", "patient": {"reference": f"Patient/{patient['id']}"},
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope",
                              "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "policyRule": {"text": "none"}, "provision": {"type": "deny"},
    }  # fmt: skip
    answer = world.call("POST", "/fhir/Consent", consent)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    before = len(ehr.seen)
    assert look(world) + look(world) == ["0 opened, 0 closed"] * 2
    assert len(ehr.seen) == before
    stored = answer.get_json()
    assert world.call("PUT", f"/fhir/Consent/{stored['id']}", {**stored, "status": "inactive"}).status_code == 200
    assert look(world) == ["1 opened, 0 closed"]


def test_it_ends_some_days_after_the_last_act_and_a_delivery_begins_it_anew(both: World) -> None:
    world = both
    ehr, case_id = delivered(world)
    before = len(ehr.seen)
    assert look(world, 91) == ["ended: nothing has happened for 90 days"]
    assert [j for j in world.jobs if j.workflow == watches.WORKFLOW] == []
    assert len(ehr.seen) == before
    plan = {"version": 1, "decision": "adopt", "text": "As the second opinion says."}
    world.post(case_id, "plan-of-record", plan, "surgeon")
    world.work(patience_s=60)
    assert look(world) == ["0 opened, 0 closed"]
    assert [w["ended"] for w in world.get(case_id)["watched"]] == ["nothing has happened for 90 days", ""]


def test_with_no_hours_no_chart_is_watched(world: World) -> None:
    _, case_id = delivered(world, drift_hours=0)
    assert [j for j in world.jobs if j.workflow == watches.WORKFLOW] == []
    assert [t for t in world.package(case_id, "Task") if "watch-chart" in str(t["code"])] == []


def test_a_connection_that_was_taken_away_or_switched_off_ends_it(world: World) -> None:
    ehr, _ = delivered(world)
    world.connections["lakeside"] = replace(world.connections["lakeside"], drift_hours=0)
    world.start()
    before = len(ehr.seen)
    assert look(world) == ["ended: charts are not looked at there"]
    assert len(ehr.seen) == before


def test_a_chart_of_an_ehr_that_is_paused_or_silent_is_put_off_by_its_hours(world: World) -> None:
    """Each look is a version of the watch: three paused days were some 500."""
    ehr, case_id = delivered(world)
    (watch,) = [t for t in world.package(case_id, "Task") if "watch-chart" in str(t["code"])]
    world.call("POST", "/api/connections/lakeside/pause", {"reason": "They move their servers."})
    before = len(ehr.seen)
    world.work(patience_s=3.1 * DAY_S, limit=2000)
    assert len(ehr.seen) == before
    (after,) = [t for t in world.package(case_id, "Task") if t["id"] == watch["id"]]
    assert int(after["meta"]["versionId"]) - int(watch["meta"]["versionId"]) == 3
    world.call("POST", "/api/connections/lakeside/resume")
    assert look(world) == ["0 opened, 0 closed"]


def test_the_daily_budget_of_files_is_kept_by_looks_too(world: World) -> None:
    ehr, case_id = delivered(world, documents_per_day=1, drift_hours=1)
    world.clock.forward(DAY_S - world.clock() / 1000 % DAY_S)  # a day begins
    (document,) = ehr.documents
    form = {k: v for k, v in document["content"][0]["attachment"].items() if k != "data"}
    data = document["content"][0]["attachment"]["data"]
    ehr.put({"resourceType": "Binary", "id": "theirs", "contentType": form["contentType"], "data": data})
    change(ehr, content=[{"attachment": {**form, "url": "Binary/theirs"}}])
    hour = 1.01 / 24
    assert look(world, hour) == ["0 opened, 0 closed"]  # where the bytes stand is theirs to choose
    assert look(world, hour) == ["again: quota"]
    assert look(world, hour) == []  # not before tomorrow
    assert len(ehr.asked("read", "Binary")) == 1
    assert look(world) == ["0 opened, 0 closed"]
    assert items(world, case_id) == []


def test_a_note_as_text_is_compared_without_its_white_space(world: World) -> None:
    ehr = clinic(world)
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    assert world.delivery(case_id, PCP)["evidence"]["rung"] == "5"
    assert look(world) == ["0 opened, 0 closed"]
    change(ehr, status="entered-in-error")
    assert look(world) == ["1 opened, 0 closed"]
    assert row(world, case_id, PCP)["state"] == "to-check"
    assert row(world, case_id)["state"] != "to-check"  # of the others' charts nothing was seen


def test_a_repository_is_looked_at_as_well_and_concerns_nobody_of_the_board(world: World) -> None:
    archive = world.ehr("archive", "full", record=[], role="repository")
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    before = [row["state"] for row in world.get(case_id, "alignment")["providers"]]
    change(archive, status="entered-in-error")
    written = len(archive.written)
    assert look(world) == ["1 opened, 0 closed"]
    assert [row["state"] for row in world.get(case_id, "alignment")["providers"]] == before
    assert any("archive" in notice for notice in world.get(case_id, "alignment")["notices"])
    (patient,) = archive.held("Patient")
    delete(archive, "Patient", patient["id"])
    assert look(world)[-1] == "0 opened, 0 closed"
    assert look(world)[-1] == "1 opened, 0 closed"
    assert len(archive.written) == written  # nobody is created there by a look
