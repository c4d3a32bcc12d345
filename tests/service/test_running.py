"""What a worker runs while the database comes and goes, and what it has taken and does not run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from dbos import DBOSClient
from sqlalchemy.exc import InternalError, OperationalError

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Conflict, Unavailable
from fhir_secondop.service import running as module
from fhir_secondop.service import workflows
from fhir_secondop.service.context import SERVICE
from fhir_secondop.service.running import Running, Strays
from fhir_secondop.store.database import Database

FULL = OperationalError("INSERT", None, sqlite3.OperationalError("database or disk is full"))
AFTER_S = 10.0


class _ReadOnly(Exception):
    sqlstate = "25006"


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def act() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return act


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)


def test_a_step_waits_for_a_database_that_is_away() -> None:
    standby = InternalError("UPDATE", None, _ReadOnly())
    unsure = Unavailable("The commit was not confirmed; look whether it is there, or try again.")
    assert Running().through_outages(failing(FULL, standby, unsure)) == "done"


@pytest.mark.parametrize(("polling_s", "awaited", "others"), [(0.1, 0.1, 1.0), (5.0, 5.0, 5.0)])
def test_an_idle_worker_looks_seldom_for_what_nobody_waits_for(
    database: Database, polling_s: float, awaited: float, others: float
) -> None:
    workflows.prepare(database)
    client = DBOSClient(system_database_engine=database.engine, application_name=workflows.APPLICATION, lazy=True)
    for before in (60.0, polling_s):  # what an earlier start has said is said anew
        workflows.register_queues(client, workflows.Settings(polling_s=before))
    found = {queue.name: queue.polling_interval_sec for queue in client.list_queues()}
    assert (found.pop("gather"), found.pop("deliver")) == (awaited, awaited)
    assert len(found) >= 6
    assert set(found.values()) == {others}


@pytest.mark.parametrize("error", [Conflict("changed"), EhrFailure("capacity", "busy"), ValueError("ours")])
def test_what_is_no_outage_is_not_tried_again(error: Exception) -> None:
    act = failing(error)
    with pytest.raises(type(error)):
        Running().through_outages(act)
    assert act() == "done"


def test_a_step_waits_for_no_longer_than_is_set_and_not_in_a_worker_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = Running()
    stopped.stop()
    with pytest.raises(OperationalError):
        stopped.through_outages(failing(FULL, FULL))
    monkeypatch.setattr(module, "OUTAGE_S", -1.0)
    with pytest.raises(OperationalError):
        Running().through_outages(failing(FULL))


class Taken:
    """A database with one workflow that this worker has taken."""

    def __init__(self, database: Database, client: DBOSClient) -> None:
        self._database, self._client = database, client
        self.running = Running()
        self.strays = Strays(client, "one:1", self.running, AFTER_S)

    def set(self, status: str, executor: str) -> None:
        prefix = "" if self._database.is_sqlite else "dbos."
        with self._database.engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {prefix}workflow_status SET status = :s, executor_id = :e"),
                               {"s": status, "e": executor})  # fmt: skip

    @property
    def status(self) -> str:
        (found,) = self._client.list_workflows(load_output=False)
        return found.status


@pytest.fixture
def taken(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Taken]:
    monkeypatch.chdir(tmp_path)
    context = bootstrap.build(Settings(database=database_url, auth="none")).context
    with workflows.working(context, workflows.Settings(drain_s=0)):
        pass  # DBOS makes its tables
    with context.database.transaction(SERVICE) as tx:
        context.enqueue(tx, "deliver", "deliver-T-1", "lakeside", "T", 1, delay_s=3600)
    engine = context.database.engine
    client = DBOSClient(system_database_engine=engine, application_name=workflows.APPLICATION, lazy=True)
    yield Taken(context.database, client)
    context.database.dispose()


def test_what_was_taken_and_does_not_run_goes_back_to_its_queue(taken: Taken) -> None:
    taken.set("PENDING", "one:1")
    assert taken.strays.look(0.0) == 0  # it may be about to begin
    assert taken.strays.look(AFTER_S) == 0
    assert taken.strays.look(AFTER_S + 1) == 1
    assert taken.status == "ENQUEUED"
    assert taken.strays.look(AFTER_S + 2) == 0


def test_what_runs_and_what_is_another_ones_is_left_alone(taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    taken.set("PENDING", "two:1")
    assert [taken.strays.look(n * AFTER_S) for n in range(4)] == [0] * 4
    taken.set("PENDING", "one:1")
    monkeypatch.setattr(Running, "ids", {"deliver-T-1"})
    assert [taken.strays.look(n * AFTER_S) for n in range(4)] == [0] * 4
    assert taken.status == "PENDING"
    monkeypatch.setattr(Running, "ids", set())
    assert taken.strays.look(50.0) == 0  # missed from now on
