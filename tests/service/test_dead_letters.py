"""Deliveries over all cases: found, counted, looked into, and tried again many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.errors import Forbidden
from fhir_secondop.model import Caller
from fhir_secondop.service import circuits, deliveries, delivery, ledger, tries
from fhir_secondop.service.context import SERVICE
from fhir_secondop.service.deliveries import Asked
from fhir_secondop.service.tries import Try
from fhir_secondop.store import tables
from tests.service.hospitals import ONCOLOGIST, SURGEON, hospital
from tests.service.test_circuits import another
from tests.service.test_drift import delete
from tests.service.world import World, opened, refusal

Plain = dict[str, Any]


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def found(world: World, query: str, who: str = "desk", status: int = 200) -> Plain:
    answer = world.call("GET", f"/api/deliveries?{query}", who=who)
    assert answer.status_code == status, answer.get_data(as_text=True)
    plain: Plain = answer.get_json()
    return plain


def replay(world: World, status: int = 200, who: str = "desk", **body: Any) -> Plain:
    answer = world.call("POST", "/api/deliveries/replay", body, who)
    assert answer.status_code == status, answer.get_data(as_text=True)
    plain: Plain = answer.get_json()
    return plain


def entries(world: World) -> list[tuple[Any, ...]]:
    with world.context.database.reading() as connection:
        return sorted(tuple(row) for row in connection.execute(sa.select(tables.ehr_work)))


def test_what_waits_for_a_person_is_found_over_all_cases_and_tried_again_at_once(world: World) -> None:
    ehr = hospital(world)
    ehr.instead = lambda a: refusal(401, "login") if a.writes else None
    cases = [another(world, n) for n in range(2)]
    world.work(patience_s=60)  # the second of two people at one EHR waits for the first
    dead = found(world, "state=on-hold&ehr=lakeside&reason=auth&count=3")
    assert (len(dead["deliveries"]), dead["total"]) == (3, 4)
    row = dead["deliveries"][0]
    assert (row["ehr"], row["what"], row["version"], row["reason"]) == ("lakeside", "report", 1, "auth")
    assert row["case"] in cases
    assert "doctor" in row["todo"]
    assert "HTTP 401" in row["why"]
    (rest,) = found(world, f"state=on-hold&ehr=lakeside&count=3&after={dead['next']}")["deliveries"]
    assert rest["task"] not in [one["task"] for one in dead["deliveries"]]
    assert found(world, f"case={cases[0]}")["total"] == 4  # two went by link
    assert found(world, "state=done")["total"] == 4
    assert found(world, "state=on-hold&olderThanHours=1")["total"] == 0
    # What it would do is said, and nothing is done.
    writes = len(ehr.written)
    before = entries(world)
    rehearsed = replay(world, ehr="lakeside", reason="auth", dryRun=True, count=2)
    assert (len(rehearsed["deliveries"]), rehearsed["left"]) == (2, 2)
    said = rehearsed["deliveries"][0]
    assert said["now"]["rung"] == said["before"]["rung"] == "1"
    assert said["requests"][0]["method"] == "POST"
    assert "401" in said["held"]
    more = replay(world, ehr="lakeside", reason="auth", dryRun=True, count=2, after=rehearsed["next"])
    assert {r["task"] for r in more["deliveries"]} | {r["task"] for r in rehearsed["deliveries"]} == {
        d["task"] for case in cases for d in world.deliveries(case) if d["status"] == "on-hold"
    }
    assert (len(ehr.written), entries(world)) == (writes, before)
    # Tried again, each once, however often it is asked for.
    ehr.instead = lambda a: None
    replay(world, 422, ehr="lakeside")
    replay(world, 403, "reviewer", ehr="lakeside", changed="x")
    first = replay(world, ehr="lakeside", reason="auth", changed="The secret was renewed.", count=3)
    assert (len(first["replayed"]), first["left"]) == (3, 1)
    second = replay(world, ehr="lakeside", changed="The secret was renewed.")
    assert len(second["replayed"]) == 1
    assert replay(world, ehr="lakeside", changed="Once more.") == {"replayed": [], "refused": [], "left": 0}
    (refused,) = replay(world, tasks=first["replayed"][:1], changed="Once more.")["refused"]
    assert "on hold" in refused["why"]
    world.work(patience_s=60)
    for case in cases:
        for name in (SURGEON, ONCOLOGIST):
            done = world.delivery(case, name)
            assert (done["businessStatus"], done["evidence"]["replays"]) == ("verified", "1")
            assert done["evidence"]["replayed-by"] == "Desk: The secret was renewed."
    assert (len(ehr.reports), len(ehr.documents)) == (2, 2)
    assert found(world, "state=on-hold")["total"] == 0


def test_the_trail_says_whose_deliveries_were_shown(world: World) -> None:
    hospital(world)
    cases = [another(world, n) for n in range(2)]
    found(world, f"case={cases[0]}")
    found(world, "what=report")
    world.context.database.audit.flush()  # type: ignore[union-attr]
    with world.context.database.reading() as connection:
        column = tables.audit.c
        query = sa.select(column.case_id, column.number).where(column.route == "/api/deliveries")
        said = sorted(tuple(row) for row in connection.execute(query))
    shown = {case: len(world.deliveries(case)) for case in cases}
    assert said == sorted([*shown.items(), (cases[0], shown[cases[0]])])


def test_every_attempt_is_kept(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(500) if a.writes else None
    world.work(patience_s=8 * 3600)
    held = world.delivery(case_id, SURGEON)
    shown = world.call("GET", f"/api/deliveries/{held['task']}").get_json()
    assert [one["attempt"] for one in shown["attempts"]] == list(range(1, tries.MAX_ATTEMPTS + 1))
    assert {one["failure"] for one in shown["attempts"]} == {"unknown"}
    assert {one["rung"] for one in shown["attempts"]} == {"1"}
    assert shown["attempts"][-1]["status"] == "on-hold"
    ehr.instead = lambda a: None
    replay(world, tasks=[held["task"]], changed="Mended.")
    world.work(patience_s=3600)
    shown = world.call("GET", f"/api/deliveries/{held['task']}").get_json()
    last = shown["attempts"][-1]
    assert (last["number"], last["replay"], last["attempt"]) == (tries.MAX_ATTEMPTS + 1, 1, 1)
    assert (last["status"], last["outcome"], last["failure"]) == ("completed", "verified", "")
    assert world.call("GET", f"/api/deliveries/{case_id}").status_code == 404


def test_what_only_waits_has_a_code_for_a_reason_and_nothing_for_a_person_to_do(world: World) -> None:
    ehr = hospital(world, settle_s=60.0)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(500) if a.writes else None
    world.work(patience_s=20)
    reasons = {one["reason"] for one in found(world, "ehr=lakeside")["deliveries"]}
    assert reasons == {"waits"}
    assert "may still land" in world.delivery(case_id, SURGEON)["why"]
    (row, *_) = found(world, "ehr=lakeside&reason=waits")["deliveries"]
    assert row["todo"].startswith("Nothing")


def tried_three_times(world: World) -> tuple[str, str]:
    """A case whose delivery to the surgeon has failed three times, and its Task."""
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(500) if a.writes else None
    for _ in range(50):
        if world.delivery(case_id, SURGEON)["evidence"].get("attempt") == "3":
            break
        world.work(patience_s=3600, limit=1)
    return case_id, world.delivery(case_id, SURGEON)["task"]


def test_an_attempt_that_failed_on_our_side_takes_the_place_of_no_other(world: World) -> None:
    _, task = tried_three_times(world)
    before = world.call("GET", f"/api/deliveries/{task}").get_json()["attempts"]
    delivery.give_up(world.context, task, "It failed on our side (KeyError).", Try(attempt=4).number)
    after = world.call("GET", f"/api/deliveries/{task}").get_json()["attempts"]
    assert after[: len(before)] == before
    assert [(one["attempt"], one["failure"]) for one in after[len(before) :]] == [(4, "our-fault")]


def test_whichever_attempt_it_was_that_ended_its_workers_the_first_is_not_said_to_be(world: World) -> None:
    case_id, task = tried_three_times(world)
    before = world.call("GET", f"/api/deliveries/{task}").get_json()["attempts"]
    delivery.give_up(world.context, task, "It has ended the worker that carried it.")
    held = world.delivery(case_id, SURGEON)
    assert (held["status"], held["evidence"]["attempt"], held["evidence"]["last-failure"]) == (
        "on-hold",
        "3",
        "our-fault",
    )
    assert world.call("GET", f"/api/deliveries/{task}").get_json()["attempts"][:2] == before[:2]


def test_who_operates_sees_nothing_of_a_case(world: World) -> None:
    ehr = hospital(world)
    ehr.instead = lambda a: refusal(401, "login") if a.writes else None
    world.signed(sources=[])
    world.work(patience_s=60)
    operator = Caller("op", "Operator", frozenset({"operator"}))
    said = deliveries.search(world.context, operator, Asked(states=("on-hold",)))
    assert said["total"] == 2
    assert {key for row in said["deliveries"] for key in row} == {
        "task", "what", "version", "ehr", "state", "reason", "planned", "changed", "todo"
    }  # fmt: skip
    for who in ("reviewer", "clinic"):
        found(world, "state=on-hold", who, 403)
    for wrong, status in (("state=nothing", 422), ("ehr=nowhere", 404), ("count=0", 422), ("count=x", 422),
                          ("after=1", 422), ("name=x", 422)):  # fmt: skip
        found(world, wrong, status=status)


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        (("system/*.rs",), {"search", "show"}),
        (("system/ServiceRequest.rus",), {"replay", "pause", "resume"}),
        (("system/ServiceRequest.u?status=active", "system/Task.r?status=accepted"), set()),
        (("system/ServiceRequest.u", "system/Task.r"), {"search", "show", "replay", "rehearse", "pause", "resume"}),
    ],
)
def test_who_coordinates_does_it_by_its_scopes(world: World, scopes: tuple[str, ...], may: set[str]) -> None:
    ehr = hospital(world)
    ehr.instead = lambda a: refusal(401, "login") if a.writes else None
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    task = world.delivery(case_id, SURGEON)["task"]
    robot, context = Caller("robot", "Robot", frozenset({"coordinator"}), scopes), world.context
    asked: dict[str, Callable[[], Any]] = {
        "search": lambda: deliveries.search(context, robot, Asked(states=("on-hold",))),
        "show": lambda: deliveries.show(context, robot, task),
        "rehearse": lambda: deliveries.rehearse(context, robot, Asked(), (task,)),
        "replay": lambda: deliveries.replay(context, robot, Asked(), "It was mended.", (task,)),
        "pause": lambda: circuits.pause(context, robot, "lakeside", "Maintenance."),
        "resume": lambda: circuits.resume(context, robot, "lakeside"),
    }
    for name, ask in asked.items():
        with nullcontext() if name in may else pytest.raises(Forbidden, match="has no scope"):
            ask()
    assert (world.delivery(case_id, SURGEON)["status"] == "on-hold") == ("replay" not in may)


def test_the_rows_are_made_anew_from_the_tasks_as_they_were(world: World) -> None:
    world.ehr("riverside")
    hospital(world)
    world.signed()
    world.work(patience_s=60)
    world.amend(found(world, "what=report")["deliveries"][0]["case"])
    before = entries(world)
    assert {row[2] for row in before} == {"gather-records", "deliver-report"}
    assert {row[5] for row in before} >= {"done", "planned"}
    with world.context.database.transaction(SERVICE) as tx:
        tx.connection.execute(sa.delete(tables.ehr_work))
        tx.connection.execute(sa.delete(tables.reached).where(tables.reached.c.name == "ledger"))
    assert ledger.make(world.context.database, SERVICE) == len(before)
    assert entries(world) == before
    assert ledger.make(world.context.database, SERVICE) == 0


def test_a_delivery_that_was_given_up_is_open_nowhere_any_more(world: World) -> None:
    """PUT or PATCH of its Task, status failed: the one move of a delivery that plain FHIR may make."""
    ehr = hospital(world)
    ehr.instead = lambda a: refusal(401, "login") if a.writes else None
    world.signed(sources=[])
    world.work(patience_s=60)
    held = found(world, "state=on-hold")["deliveries"]
    assert len(held) == 2
    for one in held:
        stored = world.call("GET", f"/fhir/Task/{one['task']}").get_json()
        given_up = {**stored, "status": "failed", "statusReason": {"text": "It was handed over on paper."}}
        undated = {key: value for key, value in given_up.items() if key != "lastModified"}
        assert world.call("PUT", f"/fhir/Task/{one['task']}", undated).status_code == 422
        assert world.call("PUT", f"/fhir/Task/{one['task']}", given_up).status_code == 200
    assert found(world, "state=on-hold")["total"] == 0
    assert found(world, "state=over")["total"] == 2
    (queue,) = world.call("GET", "/api/connections").get_json()["connections"]
    assert (queue["held"], queue.get("oldest", "")) == (0, "")


def test_what_was_taken_out_after_a_colleague_had_it_is_sent_again_by_a_person_alone(world: World) -> None:
    """The colleague's delivery is done: nobody can have that one tried again."""
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    for _ in range(10):
        if "completed" in [world.delivery(case_id, n)["status"] for n in (SURGEON, ONCOLOGIST)]:
            break
        world.work(patience_s=60, limit=1)
    ehr.instead = lambda a: refusal(401, "login")
    world.work(patience_s=60)
    states = {world.delivery(case_id, n)["status"]: world.delivery(case_id, n)["task"] for n in (SURGEON, ONCOLOGIST)}
    assert states.keys() == {"completed", "on-hold"}
    ehr.instead = lambda a: None
    for resource in ehr.documents + ehr.reports:
        delete(ehr, resource["resourceType"], resource["id"])

    def again(changed: str) -> Plain:
        assert replay(world, tasks=[states["on-hold"]], changed=changed)["replayed"] == [states["on-hold"]]
        world.work(patience_s=60)
        (one,) = [d for d in world.deliveries(case_id) if d["task"] == states["on-hold"]]
        return one

    # Of that it is missing nobody knew yet.
    held = again("We may sign in again.")
    assert (held["status"], ehr.documents) == ("on-hold", [])
    assert "it is not there" in held["why"]
    sent = again("They looked: it is not there.")
    assert (sent["businessStatus"], len(ehr.documents), len(ehr.reports)) == ("verified", 1, 1)


def test_the_last_success_is_the_ehr_s_own(world: World) -> None:
    """It was moved by an acknowledgement, and by what went by link: an EHR that was dead had one of today."""
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    done = last_success(world)
    assert done in {world.delivery(case_id, name)["evidence"]["read-at"] for name in (SURGEON, ONCOLOGIST)}
    world.clock.forward(3600)
    world.post(case_id, "acknowledge", {"version": 1}, "surgeon")
    assert last_success(world) == done
    # It takes nothing any more: what goes there goes by link.
    ehr.instead = lambda a: refusal(403) if a.writes else None
    other = another(world, 2)
    world.work(patience_s=60)
    assert world.delivery(other, SURGEON)["evidence"]["rung"] == "10"
    assert last_success(world) == done


def last_success(world: World) -> str:
    (queue,) = world.call("GET", "/api/connections").get_json()["connections"]
    return str(queue["lastSuccess"])


def test_a_replay_of_many_says_of_each_what_became_of_it(world: World) -> None:
    ehr = hospital(world)
    ehr.instead = lambda a: refusal(401, "login") if a.writes else None
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    held = [one["task"] for one in found(world, "state=on-hold")["deliveries"]]
    (watch, *_) = [t["id"] for t in world.package(case_id, "Task") if t["id"] not in held]
    asked = [held[0], "00000000-0000-4000-8000-000000000000", watch, held[1]]
    said = replay(world, tasks=asked, changed="The secret was renewed.")
    assert said["replayed"] == held
    assert [one["task"] for one in said["refused"]] == asked[1:3]
    assert all(one["why"] for one in said["refused"])


def test_a_delivery_is_shown_by_its_task_however_many_there_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital(world)
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    monkeypatch.setattr(deliveries, "MOST", 1)
    for one in world.deliveries(case_id):
        assert world.call("GET", f"/api/deliveries/{one['task']}").get_json()["state"] == "done"
    with world.context.database.transaction(SERVICE) as tx:
        tx.connection.execute(sa.delete(tables.ehr_work))
    for one in world.deliveries(case_id):
        shown = world.call("GET", f"/api/deliveries/{one['task']}").get_json()
        assert (shown["task"], shown["state"]) == (one["task"], "done")
