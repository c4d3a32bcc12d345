"""Jobs made anew from the Tasks: one that can't be made stops no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_secondop.service.requeue import carry_on, requeue
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
    carry_on(world.context, lambda names: set())
    assert {job.args[0] for job in world.jobs if job.workflow == "deliver"} == mine
    set_deleted(world, broken, False)
    requeue(world.context)
    assert {job.args[0] for job in world.jobs if job.workflow == "deliver"} == waiting
