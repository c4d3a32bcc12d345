"""Jobs that are over are forgotten after a while, on both databases; what is open keeps its own."""

from __future__ import annotations

import pytest

from fhir_secondop.service import ended, watches
from fhir_secondop.service.context import SERVICE
from tests.service.test_takeover import Left, left  # noqa: F401 the fixture
from tests.store.rows import create

DAY_MS = 86_400_000


@pytest.fixture
def kept(left: Left) -> Left:  # noqa: F811
    """Five ended workflows: of a closed Task (two), of an open one, of no Task; the fifth waits."""
    with left.context.database.transaction(SERVICE) as tx:
        for task, status in (("T", "completed"), ("open", "in-progress")):
            create(tx, {"resourceType": "Task", "status": status, "intent": "order"}, resource_id=task)
        for key, about in (("deliver-T-2", "T"), ("deliver-open-1", "open"), ("clocks-c-1-0", "case")):
            left.context.enqueue(tx, "deliver", key, "lakeside", about, 1, delay_s=3600)
    left.set(status="SUCCESS", completed_at=left.context.now() - 31 * DAY_MS)
    with left.context.database.transaction(SERVICE) as tx:
        left.context.enqueue(tx, "deliver", "deliver-waiting-1", "lakeside", "T", 3, delay_s=3600)
    return left


def names(left: Left) -> set[str]:  # noqa: F811
    return {name for name, *_ in left.found()}


def test_what_ended_long_ago_is_forgotten_and_an_open_task_keeps_its_own(kept: Left) -> None:
    assert ended.forget(kept.context, kept.client, 30) == 3
    assert names(kept) == {"deliver-open-1", "deliver-waiting-1"}
    assert ended.forget(kept.context, kept.client, 30) == 0


def test_what_ended_lately_stays_and_0_days_forget_nothing(kept: Left) -> None:
    assert ended.forget(kept.context, kept.client, 32) == 0
    assert ended.forget(kept.context, kept.client, 0) == 0
    assert len(names(kept)) == 5


def test_what_stays_is_passed_over_and_not_looked_at_for_ever(kept: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended, "AT_ONCE", 1)
    assert ended.forget(kept.context, kept.client, 30) == 3
    assert names(kept) == {"deliver-open-1", "deliver-waiting-1"}


def test_what_failed_on_our_side_is_for_the_take_over_and_not_forgotten(kept: Left) -> None:
    kept.set(status="ERROR")
    assert ended.forget(kept.context, kept.client, 30) == 0


def test_looks_at_a_chart_are_forgotten_while_it_is_watched(kept: Left) -> None:
    """There is one a day for some months; the number of a look is what refuses a repeat, and the Task keeps it."""
    with kept.context.database.transaction(SERVICE) as tx:
        for number in range(3):
            key = f"{watches.WORKFLOW}-open-{number}"
            kept.context.enqueue(tx, watches.WORKFLOW, key, "lakeside", "open", number, delay_s=3600)
    kept.set(status="SUCCESS", completed_at=kept.context.now() - 31 * DAY_MS)
    assert ended.forget(kept.context, kept.client, 30) == 7
    assert names(kept) == {"deliver-open-1"}
