"""Writers who wait share a commit: none is told before it is durable, and what fails is undone alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.errors import Conflict, Unavailable
from fhir_secondop.model import EVERYTHING
from fhir_secondop.store import commits, resources, tables
from fhir_secondop.store.audit.audit import Audit
from fhir_secondop.store.audit.verify import verify
from fhir_secondop.store.database import Database, Transaction, is_away, now_ms
from tests.store.rows import DESK, create, cut_off, everything

BASIC = {"resourceType": "Basic", "code": {"text": "x"}}


class Writers:
    """Threads that write into one database, and the transactions that they shared for it."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.database.audit = Audit(self.database, strict=False, now=now_ms)
        self.threads = ThreadPoolExecutor(16)
        self._shared: set[sa.RootTransaction | None] = set()

    @property
    def commits(self) -> int:
        """How many transactions of the database there were for all that was written since the last `together` began."""
        return len(self._shared)

    def write(self, name: str, then: Callable[[Transaction], None] = lambda tx: None) -> Future[str]:
        """Creates a resource in a thread of its own, and does more in its transaction."""

        def run() -> str:
            with self.database.transaction(DESK) as tx:
                self._shared.add(tx.connection.get_transaction())
                create(tx, BASIC, resource_id=name)
                then(tx)
            return name

        return self.threads.submit(run)

    def together(self, *writes: tuple[str, Callable[[Transaction], None]]) -> dict[str, Any]:
        """What becomes of writers who all came while another one wrote, by name: "stored", or the error."""
        self._shared.clear()
        go, inside = threading.Event(), threading.Event()

        def hold(tx: Transaction) -> None:
            inside.set()
            assert go.wait(20)

        first = self.write("first", hold)
        assert inside.wait(20)
        running = {"first": first}
        for number, (name, then) in enumerate(writes, 1):
            running[name] = self.write(name, then)
            self.until_waiting(number)
        go.set()
        return {name: future.exception(20) or "stored" for name, future in running.items()}

    def until_waiting(self, number: int) -> None:
        """Returns when so many wait for their turn."""
        ends = time.monotonic() + 20
        while self.database._commits._waiting < number:
            assert time.monotonic() < ends
            time.sleep(0.001)

    def stored(self) -> set[str]:
        return set(everything(self.database, "Basic", ""))


@pytest.fixture
def writers(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writers]:
    monkeypatch.setattr(commits, "LONGEST_S", 60)  # the first one waits until all the others have come
    made = Writers(database_url)
    yield made
    made.threads.shutdown()
    made.database.dispose()


def nothing(tx: Transaction) -> None:
    return None


def breaks(tx: Transaction) -> None:
    raise Conflict("No.")


def is_whole(database: Database) -> bool:
    """Whether the audit's chains hold, and every write is in them."""
    with database.reading() as connection:
        written = connection.execute(
            sa.select(sa.func.count()).select_from(tables.audit).where(tables.audit.c.kind == "write")
        ).scalar_one()
        versions = connection.execute(sa.select(sa.func.count()).select_from(tables.version)).scalar_one()
        return bool(written == versions and not verify(connection).bad)


def test_those_who_wait_share_one_commit(writers: Writers) -> None:
    names = [f"w{number}" for number in range(8)]
    found = writers.together(*((name, nothing) for name in names))
    assert set(found.values()) == {"stored"}
    assert writers.commits == 1
    assert writers.stored() == {"first", *names}
    assert is_whole(writers.database)


def test_a_writer_alone_commits_alone(writers: Writers) -> None:
    for number in range(3):
        writers.write(f"w{number}").result(20)
    assert writers.commits == 3


def test_what_fails_is_undone_alone(writers: Writers) -> None:
    found = writers.together(("a", nothing), ("b", breaks), ("c", nothing), ("d", breaks))
    assert {name: type(what) for name, what in found.items()} == {
        "first": str, "a": str, "b": Conflict, "c": str, "d": Conflict,
    }  # fmt: skip
    assert writers.commits == 1
    assert writers.stored() == {"first", "a", "c"}
    assert is_whole(writers.database)


def test_one_who_fails_first_harms_nobody(writers: Writers) -> None:
    go, inside = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        inside.set()
        assert go.wait(20)
        breaks(tx)

    first = writers.write("first", hold)
    assert inside.wait(20)
    second = writers.write("second")
    writers.until_waiting(1)
    go.set()
    assert isinstance(first.exception(20), Conflict)
    assert second.result(20) == "second"
    assert writers.stored() == {"second"}


def test_nobody_is_told_before_the_commit(writers: Writers) -> None:
    told: list[bool] = []
    earlier: list[Future[str]] = []

    def look(tx: Transaction) -> None:
        time.sleep(0.02)  # time enough for one who would not wait
        told.extend(future.done() for future in earlier)
        told.append(bool(writers.stored()))

    go, inside = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        inside.set()
        assert go.wait(20)

    earlier.append(writers.write("first", hold))
    assert inside.wait(20)
    second = writers.write("second", look)
    writers.until_waiting(1)
    go.set()
    assert second.result(20) == "second"
    assert told == [False, False]


def test_a_commit_that_fails_fails_for_all_and_the_next_one_goes_on(writers: Writers) -> None:
    def full(connection: Any) -> None:
        if connection.get_execution_options().get("secondop_write"):
            raise sqlite3.OperationalError("database or disk is full")

    sa.event.listen(writers.database.engine, "commit", full)
    found = writers.together(("a", nothing), ("b", breaks), ("c", nothing))
    sa.event.remove(writers.database.engine, "commit", full)
    # Who ended it has the error itself.
    assert isinstance(found.pop("b"), Conflict)
    assert all(isinstance(what, Unavailable | sqlite3.OperationalError) for what in found.values())
    assert writers.stored() == set()
    assert writers.write("after").result(20) == "after"
    assert is_whole(writers.database)


def test_when_the_database_gives_all_up_nobody_is_told_that_it_is_stored(writers: Writers) -> None:
    """Of a full disk SQLite undoes the whole transaction, others' parts as well."""

    def lost(tx: Transaction) -> None:
        driver: Any = tx.connection.connection.driver_connection
        driver.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    found = writers.together(("a", nothing), ("b", lost), ("c", nothing))
    assert isinstance(found["first"], Unavailable)
    assert isinstance(found["b"], sqlite3.OperationalError)
    # Who had not begun begins anew; in which order they come is the system's affair.
    assert writers.stored() == {name for name, what in found.items() if what == "stored"} <= {"a", "c"}
    assert writers.write("after").result(20) == "after"


def test_who_passes_over_an_error_of_the_database_is_not_told_that_it_is_stored(writers: Writers) -> None:
    """PostgreSQL then commits nothing; of SQLite's transaction only that statement is lost."""

    def passes_over(tx: Transaction) -> None:
        with pytest.raises(sa.exc.DBAPIError):
            tx.connection.exec_driver_sql("SELECT nothing FROM nowhere")

    found = writers.together(("a", nothing), ("b", passes_over), ("c", nothing))
    stored = writers.stored()
    assert stored == {name for name, what in found.items() if what == "stored"}
    assert ("b" in stored) is writers.database.is_sqlite
    assert writers.write("after").result(20) == "after"
    assert is_whole(writers.database)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_breaks_between_two_writers_is_an_outage_for_both(writers: Writers) -> None:
    """Which is tried again, and answered with 503."""

    def ends(tx: Transaction) -> None:
        cut_off(writers.database, tx.connection)

    found = writers.together(("a", ends), ("b", nothing), ("c", nothing))
    failed = {name: what for name, what in found.items() if what != "stored"}
    assert {"first", "a"} <= set(failed)
    assert all(isinstance(what, Unavailable) or is_away(what) for what in failed.values()), failed
    assert writers.stored() == set(found) - set(failed)
    assert writers.write("after").result(20) == "after"


def test_many_writers_at_once_are_all_stored_once(writers: Writers) -> None:
    names = [f"w{number}" for number in range(300)]
    futures = [writers.write(name, breaks if number % 7 == 3 else nothing) for number, name in enumerate(names)]
    failed = {name for name, future in zip(names, futures, strict=True) if future.exception(60)}
    assert failed == {name for number, name in enumerate(names) if number % 7 == 3}
    assert writers.stored() == set(names) - failed
    assert writers.commits < 200
    assert is_whole(writers.database)
    with writers.database.reading() as connection:
        times = [resources.read(connection, EVERYTHING, "Basic", name).updated for name in writers.stored()]
    assert len(set(times)) == len(times)


def test_what_was_acknowledged_is_there_after_a_kill(database: Database) -> None:
    told: set[str] = set()
    for _ in range(3):
        command = [sys.executable, "-m", "tests.store.writer", database.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            told |= {running.stdout.readline().strip() for _ in range(60)}
            running.kill()
            told |= {line.strip() for line in running.stdout if line.endswith("\n")}
    with database.reading() as connection:
        stored = set(connection.execute(sa.select(tables.resource.c.id)).scalars())
        if database.is_sqlite:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    assert len(told) >= 180
    assert told <= stored
