"""What is taken over of what nobody carries on: by DBOS's own rows, which the tests set as a death would leave them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOSClient

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.service import executors, takeover, workflows
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.service.repeated import Repeated
from fhir_secondop.service.requeue import _KEPT, carry_on
from fhir_secondop.service.takeover import TakeOver
from fhir_secondop.store import executors as rows
from tests.service.test_review import example
from tests.service.world import World, opened


class Left:
    """A database with one waiting workflow, and who looks for what is left behind."""

    def __init__(self, context: Context) -> None:
        self.context = context
        engine = context.database.engine
        self.prefix = "" if context.database.is_sqlite else "dbos."
        self.client = DBOSClient(system_database_engine=engine, application_name=workflows.APPLICATION, lazy=True)
        self.given_up: list[tuple[str, str]] = []
        self.taking = self.as_version(workflows.VERSION)
        with context.database.transaction(SERVICE) as tx:
            context.enqueue(tx, "deliver", "deliver-T-1", "lakeside", "T", 1, delay_s=3600)

    def as_version(self, version: str) -> TakeOver:
        give_up = {"deliver": lambda _, task, why: self.given_up.append((task, why))}
        return TakeOver(self.context, self.client, version, give_up)

    def set(self, **values: Any) -> None:
        names = ", ".join(f"{name} = :{name}" for name in values)
        with self.context.database.engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {self.prefix}workflow_status SET {names}"), values)

    def found(self) -> list[tuple[str, str, str, Any]]:
        listed = self.client.list_workflows(load_output=False)
        return [(w.workflow_id, w.status, w.app_version, list(w.input["args"])) for w in listed]  # type: ignore[misc, index]

    def lives(self, name: str, version: str) -> str:
        executor = executors.started(name, version, self.context.now())
        with self.context.database.transaction(SERVICE) as tx:
            rows.join(tx.connection, executor)
        return executor.id


@pytest.fixture
def left(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Left]:
    monkeypatch.chdir(tmp_path)
    service = bootstrap.build(Settings(database=database_url, auth="none"))
    context = service.context
    with workflows.working(context, workflows.Settings(drain_s=0)):
        pass  # DBOS makes its tables
    yield Left(context)
    context.database.dispose()


def test_a_workflow_of_a_worker_that_is_gone_goes_back_into_its_queue(left: Left) -> None:
    left.set(status="PENDING", executor_id=left.lives("other", "1"))
    assert left.taking.resume() == 0
    left.set(executor_id="nobody:1")
    assert left.taking.resume() == 1
    assert left.found() == [("deliver-T-1", "ENQUEUED", "1", ["T", 1])]
    (workflow,) = left.client.list_workflows()
    assert (workflow.queue_name, workflow.queue_partition_key) == ("deliver", "lakeside")


def test_one_that_ends_each_worker_which_carries_it_is_left_to_a_person(left: Left) -> None:
    for _ in range(takeover.MOST_TAKEN):
        left.set(status="PENDING", executor_id="nobody:1")
        assert left.taking.resume() == 1
        assert left.given_up == []
    left.set(status="PENDING", executor_id="nobody:1")
    assert left.taking.resume() == 1
    assert [task for task, _ in left.given_up] == ["T"]
    assert left.found() == [("deliver-T-1", "CANCELLED", "1", ["T", 1])]
    assert left.taking.resume() == 0


def test_one_that_gets_on_may_lose_its_workers_as_often_as_it_does(left: Left) -> None:
    values = "'deliver-T-1', :step, 'a step', 'null'"
    done = f"INSERT INTO {left.prefix}operation_outputs (workflow_uuid, function_id, function_name, output) VALUES"
    for number in range(2 * takeover.MOST_TAKEN):
        left.set(status="PENDING", executor_id="nobody:1")
        assert left.taking.resume() == 1
        if number % 15 == 0:
            with left.context.database.engine.begin() as connection:
                connection.execute(sa.text(f"{done} ({values})"), {"step": number + 1})
    assert left.given_up == []
    assert left.found()[0][1] == "ENQUEUED"


def test_one_that_can_t_be_left_to_a_person_does_not_stop_the_others(left: Left) -> None:
    def fails(context: Any, task: str, why: str) -> None:
        raise KeyError(task)

    taking = TakeOver(left.context, left.client, workflows.VERSION, {"deliver": fails})
    for _ in range(takeover.MOST_TAKEN + 2):
        left.set(status="PENDING", executor_id="nobody:1")
        assert taking.resume() == 1
    assert left.found()[0][1] == "PENDING"


def test_a_start_that_fails_leaves_no_thread_and_no_living_worker_behind(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: TakeOver) -> int:
        raise KeyError("args")

    with monkeypatch.context() as patched:
        patched.setattr(TakeOver, "resume", fails)
        with pytest.raises(KeyError):
            workflows.working(left.context, workflows.Settings(drain_s=0)).__enter__()
    with left.context.database.reading() as connection:
        assert rows.living(connection) == []
    assert {"heart", "take-over", "rounds"}.isdisjoint(thread.name for thread in threading.enumerate())
    with workflows.working(left.context, workflows.Settings(drain_s=0)):
        assert {"heart", "take-over", "rounds"} <= {thread.name for thread in threading.enumerate()}


def test_a_thread_goes_on_whatever_fails_and_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Semaphore(0)

    def act() -> None:
        done.release()
        raise OSError("content")

    thread = Repeated("heart", 0.01, act)
    thread.start()
    assert all(done.acquire(timeout=10) for _ in range(5))
    thread.stop()
    assert [record.getMessage() for record in caplog.records] == ["heart failed (OSError); it goes on trying"]


def test_what_failed_on_our_side_begins_anew_with_the_same_arguments(left: Left) -> None:
    left.set(status="ERROR")
    assert left.taking.retry() == 1
    assert left.found() == [("deliver-T-1@1", "DELAYED", "1", ["T", 1])]
    left.set(status="MAX_RECOVERY_ATTEMPTS_EXCEEDED")
    assert left.taking.retry() == 1
    assert left.found() == [("deliver-T-1@2", "DELAYED", "1", ["T", 1])]


def test_killed_after_the_new_one_was_there_and_before_the_old_one_was_gone_there_is_one(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    left.set(status="ERROR")

    def killed(ids: list[str]) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(left.client, "delete_workflows", killed)
        with pytest.raises(SystemExit):
            left.taking.retry()
    assert len(left.found()) == 2
    assert left.taking.retry() == 1
    assert [(key, status) for key, status, _, _ in left.found()] == [("deliver-T-1@1", "DELAYED")]


def test_an_older_version_is_adopted_when_none_of_its_workers_takes_new_work(left: Left) -> None:
    newer = left.as_version("2")
    older = left.lives("older", "1")
    assert newer.adopt() == 0
    with left.context.database.transaction(SERVICE) as tx:
        rows.become(tx.connection, older, rows.DRAINING)
    assert newer.adopt() == 1
    ((key, status, _, args),) = left.found()
    assert (key, status, args) == ("deliver-T-1@1", "DELAYED", ["T", 1])
    (workflow,) = left.client.list_workflows()
    assert workflow.delay_until_epoch_ms is not None
    assert 3_500_000 < workflow.delay_until_epoch_ms - left.context.now() <= 3_600_000


def test_a_newer_version_is_adopted_when_it_has_not_been_seen_for_long(left: Left) -> None:
    """Going back to the program before: not while the newer one may only be restarting."""
    older = left.as_version("0")
    assert older.adopt() == 0  # its last worker was seen a moment ago
    with left.context.database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE executor SET seen = seen - :back"), {"back": takeover.BACK_MS + 60_000})
    assert older.adopt() == 1


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


def test_a_task_that_no_workflow_carries_on_is_found_and_carried_on(world: World) -> None:
    for name in ("riverside", "lakeside"):
        world.ehr(name)
    world.open()
    gathering = [job for job in world.jobs if job.workflow == "gather"]
    assert len(gathering) == 2
    world.jobs[:] = []
    live = {("gather", gathering[0].args[0])}
    assert carry_on(world.context, lambda names, about=(): live) == 1
    (again,) = world.jobs
    assert again.args == gathering[1].args
    assert again.key != gathering[1].key


def test_every_waiting_workflow_is_known_by_what_it_is_about(left: Left) -> None:
    assert takeover.live(left.client, ("deliver", "gather")) == {("deliver", "T")}
    assert takeover.live(left.client, ("gather",)) == set()
    left.set(status="SUCCESS")
    assert takeover.live(left.client, ("deliver",)) == set()


def test_what_is_missed_between_two_pages_is_carried_on_all_the_same(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends between two pages moves the first of the next page to the one that was read."""
    monkeypatch.setattr(takeover, "PAGE", 1)
    with left.context.database.transaction(SERVICE) as tx:
        for task in ("U", "V"):
            left.context.enqueue(tx, "deliver", f"deliver-{task}-1", "lakeside", task, 1, delay_s=3600)
    listed = left.client.list_workflows

    ends = f"UPDATE {left.prefix}workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = 'deliver-T-1'"

    def then_one_ends(**asked: Any) -> Any:
        found = listed(**asked)
        with left.context.database.engine.begin() as connection:
            connection.execute(sa.text(ends))
        return found

    monkeypatch.setattr(left.client, "list_workflows", then_one_ends)
    assert ("deliver", "U") not in takeover.live(left.client, ("deliver",))
    found = takeover.live(left.client, ("deliver", "gather"), {"T", "U", "V", "W"})
    assert found == {("deliver", "U"), ("deliver", "V")}


def test_keys_begin_with_what_carries_a_task_and_its_id(world: World) -> None:
    """By that one is found which carries a Task."""
    world.ehr("lakeside", drift_hours=24)
    world.signed()
    world.work(patience_s=60)
    world.open(placer={**example("request.json")["placer"], "value": "another"})
    kept = [job for job in world.jobs if job.workflow in _KEPT]
    known = {(job.workflow, job.args[0]) for job in kept}
    assert {name for name, _ in known} == {"look-at-chart", "gather"}
    begins = [f"{job.workflow}-{job.args[0]}" for job in kept]
    assert all(job.key.startswith(how) for job, how in zip(kept, begins, strict=True))
    asked: list[set[str]] = []

    def live(names: tuple[str, ...], about: Any = ()) -> set[tuple[str, str]]:
        asked.append(set(about))
        return known if about else set()

    assert carry_on(world.context, live) == 0
    assert asked == [set(), {task for _, task in known}]


def test_what_waits_by_a_clock_that_ran_ahead_is_woken(left: Left) -> None:
    """A worker whose clock was ten years ahead had put a retry off by a quarter of an hour."""
    left.set(delay_until_epoch_ms=left.context.now() + 3_600_000)
    assert left.taking.hasten() == 0
    left.set(delay_until_epoch_ms=left.context.now() + 10 * 365 * 86_400_000)
    assert left.taking.hasten() == 0  # it has looked a moment ago
    with left.context.database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE round SET due = 0"))
    assert left.taking.hasten() == 1
    (waiting,) = left.client.list_workflows(load_output=False)
    assert (waiting.delay_until_epoch_ms or 0) <= left.context.now()
