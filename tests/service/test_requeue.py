"""Jobs made anew from the Tasks: one that can't be made stops no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from fhir_secondop.service import ledger
from fhir_secondop.service import requeue as requeues
from fhir_secondop.service.context import SERVICE
from fhir_secondop.service.requeue import carry_on, requeue
from fhir_secondop.store import tables
from tests.service.test_reminders import set_deleted
from tests.service.test_review import example
from tests.service.world import World, opened


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def test_a_task_that_fails_stops_no_other(world: World) -> None:
    placer = example("request.json")["placer"]
    broken, other = (world.gathered(sources=[], placer={**placer, "value": f"case-{number}"}) for number in range(2))
    for case_id in (broken, other):
        world.sign(case_id)
    waiting = {job.args[0] for job in world.jobs if job.workflow == "deliver"}
    set_deleted(world, broken, True)
    mine = {one["task"] for one in world.deliveries(other)}
    assert mine < waiting
    world.jobs.clear()
    world.keys.clear()
    assert requeue(world.context) > 0
    assert {job.args[0] for job in world.jobs if job.workflow == "deliver"} == mine
    world.jobs.clear()
    carry_on(world.context, lambda names, about=(): set())
    assert {job.args[0] for job in world.jobs if job.workflow == "deliver"} == mine
    set_deleted(world, broken, False)
    requeue(world.context)
    assert {job.args[0] for job in world.jobs if job.workflow == "deliver"} == waiting


def test_what_is_open_is_looked_for_once_however_many_batches_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked anew for each batch it took four times as long with twice as many Tasks."""
    monkeypatch.setattr(requeues, "AT_ONCE", 1)
    monkeypatch.setattr(ledger, "AT_ONCE", 1)
    case_id = world.gathered(sources=[])
    world.sign(case_id)
    world.jobs.clear()
    asked: list[str] = []

    def see(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "FROM ix_token" in statement and "ehr_work" not in statement:
            asked.append(statement)

    sa.event.listen(world.context.database.engine, "before_cursor_execute", see)
    assert carry_on(world.context, lambda names, about=(): set()) == 4
    assert len(asked) == 1
    with world.context.database.transaction(SERVICE) as tx:
        tx.connection.execute(sa.delete(tables.reached).where(tables.reached.c.name == "ledger"))
    assert ledger.make(world.context.database, SERVICE) == 4
    assert len(asked) == 2
