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
from fhir_secondop.service import circuits, deliveries, delivery, ledger
from fhir_secondop.service.context import SERVICE
from fhir_secondop.service.deliveries import Asked
from fhir_secondop.store import tables
from tests.service.test_circuits import another
from tests.service.test_deliveries import ONCOLOGIST, SURGEON, hospital
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
    assert [one["attempt"] for one in shown["attempts"]] == list(range(1, delivery.MAX_ATTEMPTS + 1))
    assert {one["failure"] for one in shown["attempts"]} == {"unknown"}
    assert {one["rung"] for one in shown["attempts"]} == {"1"}
    assert shown["attempts"][-1]["status"] == "on-hold"
    ehr.instead = lambda a: None
    replay(world, tasks=[held["task"]], changed="Mended.")
    world.work(patience_s=3600)
    shown = world.call("GET", f"/api/deliveries/{held['task']}").get_json()
    last = shown["attempts"][-1]
    assert (last["number"], last["replay"], last["attempt"]) == (delivery.MAX_ATTEMPTS + 1, 1, 1)
    assert (last["status"], last["outcome"], last["failure"]) == ("completed", "verified", "")
    assert world.call("GET", f"/api/deliveries/{case_id}").status_code == 404


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
