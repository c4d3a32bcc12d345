"""The index of the cases: it says what they say, whoever writes; what waits in an old case is not passed over."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.opinion import progress
from fhir_secondop.service import case_states, intake, worklist
from fhir_secondop.service.context import SERVICE
from fhir_secondop.store import resources, tables
from fhir_secondop.store.case_states import Wanted
from tests.service.hospitals import hospital
from tests.service.test_review import example
from tests.service.world import World, opened

ORDERS = "https://riverside.example/orders"


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def rows(world: World) -> set[tuple[Any, ...]]:
    with world.context.database.reading() as connection:
        return {
            *map(tuple, connection.execute(sa.select(tables.case_state))),
            *map(tuple, connection.execute(sa.select(tables.case_need))),
        }


def forget(world: World) -> None:
    with world.context.database.transaction(SERVICE) as tx:
        for table in (tables.case_state, tables.case_need):
            tx.connection.execute(sa.delete(table))
        tx.connection.execute(sa.delete(tables.reached).where(tables.reached.c.name == case_states.NAME))


def standing(world: World, case_id: str) -> tuple[str, set[str]]:
    """The stage of a case and what in it needs a person, by the index."""
    case_states.follow(world.context)
    state, need = tables.case_state.c, tables.case_need.c
    with world.context.database.reading() as connection:
        (found,) = connection.execute(sa.select(state.rid, state.stage).where(state.case_id == case_id))
        kinds = set(connection.execute(sa.select(need.kind).where(need.rid == found.rid)).scalars())
    return found.stage, kinds


def overview(world: World, need: str = "", limit: int = 50, before: str = "", who: str = "desk") -> worklist.Overview:
    return worklist.overview(
        world.context, world.caller(who), progress.NEEDS, Wanted(need=need, before=before), limit, 10
    )  # fmt: skip


def many(world: World, count: int) -> list[str]:
    """Cases that have just come in, oldest first."""
    return [world.open(placer={"system": ORDERS, "value": f"n{number}"}) for number in range(count)]


def cancel(world: World, case_id: str) -> None:
    """Ends a case."""
    task = intake.find_case(world.context, SERVICE, case_id).coordination["id"]
    why = {"resourceType": "Parameters", "parameter": [{"name": "reason", "valueString": "duplicate"}]}
    answer = world.call("POST", f"/fhir/Task/{task}/$cancel", why)
    assert answer.status_code == 200, answer.get_data(as_text=True)


def test_it_follows_a_case_through_its_stages_and_is_the_same_when_it_is_made_anew(world: World) -> None:
    hospital(world)
    case_id = world.open()
    assert standing(world, case_id)[0] == "gathering"
    world.work()
    assert standing(world, case_id)[0] == "to-assign"
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    assert standing(world, case_id)[0] == "asked"
    world.post(case_id, "decline", {"reason": "no-capacity"}, "reviewer")
    assert "choose" in standing(world, case_id)[1]
    world.accept(case_id)
    assert standing(world, case_id)[0] == "review"
    world.sign(case_id)
    world.ehrs["lakeside"].instead = lambda asked: None
    assert standing(world, case_id)[0] == "delivering"
    world.work(3600 * 24)
    found = rows(world)
    assert standing(world, case_id)[0] in ("delivering", "responses")
    found = rows(world)
    forget(world)
    assert case_states.make(world.context) == 1
    assert rows(world) == found
    assert case_states.make(world.context) == 0


def test_what_waits_in_an_old_case_stands_first_however_many_came_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = world.signed(placer={"system": ORDERS, "value": "old"})
    world.work()
    kinds = standing(world, old)[1]
    assert "hand-over" in kinds  # nothing is connected: a sheet of paper waits for somebody
    newer = many(world, 4)
    found = overview(world, limit=2)
    assert [one.case.id for one in found.page] == newer[:1:-1]
    assert old in [one.case.id for one in found.needing]
    assert found.needs["hand-over"] == 1
    assert [one.case.id for one in overview(world, "hand-over").page] == [old]
    monkeypatch.setattr(worklist, "NEEDING", 0)
    assert (overview(world).needing, overview(world).needs["hand-over"]) == ([], 1)


def test_what_has_ended_comes_after_all_that_has_not(world: World) -> None:
    newer = many(world, 3)
    gone = world.open(placer={"system": ORDERS, "value": "cancelled"})
    cancel(world, gone)
    pages, before = [], ""
    while True:
        found = overview(world, limit=1, before=before)
        pages += [one.case.id for one in found.page]
        before = found.older
        if not before:
            break
    assert pages == [*newer[::-1], gone]
    assert found.stages["closed"] == 1


def test_it_finds_for_nobody_what_is_not_theirs(world: World) -> None:
    many(world, 3)
    found = overview(world, who="stranger")
    assert (found.page, sum(found.stages.values()), found.needs, found.needing) == ([], 0, {}, [])
    assert worklist.listed(world.context, world.caller("stranger"), 10) == []
    assert sum(overview(world, who="desk").stages.values()) == 3


def test_one_that_read_earlier_does_not_overwrite_who_came_further(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case_id,) = many(world, 1)
    states = case_states._states

    def overtaken(connection: Any, context: Any, ids: Any) -> Any:
        found = states(connection, context, ids)
        monkeypatch.setattr(case_states, "_states", states)
        cancel(world, case_id)
        case_states.follow(context)
        return found

    monkeypatch.setattr(case_states, "_states", overtaken)
    case_states.follow(world.context)
    assert standing(world, case_id)[0] == "closed"


@pytest.mark.parametrize("who", ["pcp", "reviewer", "stranger"])
def test_who_has_few_cases_and_who_has_many_see_theirs(world: World, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    others = many(world, 2)
    hospital(world)
    theirs = world.signed()

    def seen() -> Any:
        found = overview(world, who=who)
        with world.context.database.reading() as connection:
            newest, _ = worklist.newest(world.context, connection, world.caller(who), 10, "")
        return [one.case.id for one in found.page], found.stages, found.needs, newest

    few = seen()
    expected = {"pcp": {theirs, *others}, "reviewer": {theirs}, "stranger": set()}[who]
    assert (set(few[0]), set(few[3]), sum(few[1].values())) == (expected, expected, len(expected))
    monkeypatch.setattr(resources, "FEW_CASES", 0)
    assert seen() == few


def test_many_at_once_end_in_the_same_rows(world: World) -> None:
    with ThreadPoolExecutor(6) as pool:
        following = [pool.submit(case_states.follow, world.context) for _ in range(6)]
        ids = many(world, 5)
        following += [pool.submit(case_states.follow, world.context) for _ in range(6)]
        for one in following:
            one.result()
    case_states.follow(world.context)
    found = rows(world)
    forget(world)
    assert case_states.make(world.context) == len(ids)
    assert rows(world) == found


def test_one_case_that_can_t_be_read_takes_nobody_s_list_away(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = many(world, 3)
    caplog.set_level("ERROR", logger=case_states.__name__)
    needs = progress.needs

    def broken(case: Any, candidates: Any) -> Any:
        if case.id == ids[1]:
            raise KeyError("owner")
        return needs(case, candidates)

    monkeypatch.setattr(progress, "needs", broken)
    assert [one.case.id for one in overview(world).page] == [ids[2], ids[0]]
    assert overview(world).unreadable == [ids[1]]
    assert [r.getMessage() for r in caplog.records if "can't" in r.getMessage()] == [
        f"case {ids[1]} can't be read: KeyError"
    ]  # fmt: skip
    forget(world)
    assert case_states.make(world.context) == 3
    assert len(overview(world).page) == 2
    monkeypatch.setattr(progress, "needs", needs)  # a program that can read it
    assert case_states.make(world.context) == 1
    assert [one.case.id for one in overview(world).page] == ids[::-1]
    assert overview(world).unreadable == []


def test_in_small_steps_it_comes_to_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    many(world, 3)
    case_states.follow(world.context)
    found = rows(world)
    monkeypatch.setattr(case_states, "VERSIONS", 2)
    monkeypatch.setattr(case_states, "CASES", 1)
    with world.context.database.transaction(SERVICE) as tx:
        mine = tables.reached.c.name == case_states.NAME
        tx.connection.execute(sa.update(tables.reached).where(mine).values(at=0))
    case_states.follow(world.context)
    assert rows(world) == found
    forget(world)
    assert case_states.make(world.context) == 3
    assert rows(world) == found
