"""That a worker lives, by its beats: who is declared gone, who is not, and what one that is gone can still write."""

from __future__ import annotations

from typing import NoReturn

import pytest

from fhir_secondop.errors import Unavailable
from fhir_secondop.model import Caller
from fhir_secondop.service import executors
from fhir_secondop.service.context import SERVICE
from fhir_secondop.service.executors import Lease
from fhir_secondop.store import executors as rows
from fhir_secondop.store import turns
from fhir_secondop.store.database import Database

LEASE_S = 10.0
BEAT_S = LEASE_S / executors.BEATS_A_LEASE
NOW = 1_800_000_000_000
TEN_YEARS = 315_360_000_000


class Ended(BaseException):
    """Stands for the end of the process."""


def lost() -> NoReturn:
    raise Ended


def lease(database: Database, name: str) -> Lease:
    """A worker of that name as another process has it: with a database object of its own."""
    own = Database(database.engine.url.render_as_string(hide_password=False), pool_size=2)
    made = Lease(own, executors.started(name, "1", NOW), LEASE_S, lost)
    made.join()
    return made


def watched(watcher: Lease, seconds: float, *, every: float = BEAT_S, since: float = 0.0) -> list[str]:
    """Who is declared gone by looks over that time."""
    found = []
    for n in range(int(seconds / every) + 1):
        found += [e.name for e in watcher.watch(since + n * every)]
    return found


def test_one_whose_beats_stand_still_for_longer_than_the_lease_is_gone(database: Database) -> None:
    one, two = lease(database, "one"), lease(database, "two")
    assert watched(one, LEASE_S) == []
    assert watched(one, LEASE_S, since=LEASE_S) == ["two"]
    with pytest.raises(Ended):
        two.beat(NOW)
    one.beat(NOW)


def test_one_that_beats_is_never_gone_however_the_clocks_jump(database: Database) -> None:
    one, two = lease(database, "one"), lease(database, "two")
    for n in range(30):
        two.beat(NOW + (-1) ** n * TEN_YEARS)
        assert one.watch(n * BEAT_S) == []
    with database.reading() as connection:
        assert [e.name for e in rows.living(connection)] == ["one", "two"]


def test_the_time_in_which_the_database_was_away_counts_for_nobody(database: Database) -> None:
    one, _ = lease(database, "one"), lease(database, "two")
    assert one.watch(0.0) == []
    assert one.watch(3600.0) == []  # an hour in which nobody could beat or look
    assert one.watch(3600.0 + BEAT_S) == []
    assert watched(one, LEASE_S, since=3600.0 + 2 * BEAT_S) == ["two"]


def test_what_a_worker_that_is_gone_writes_for_a_workflow_is_not_stored(database: Database) -> None:
    one, two = lease(database, "one"), lease(database, "two")
    with two._database.transaction(SERVICE) as tx:
        tx.tick()
    watched(one, 2 * LEASE_S)
    before = _clock(database)
    with pytest.raises(Ended), two._database.transaction(SERVICE) as tx:
        tx.tick()
    assert _clock(database) == before
    # Who is asked by somebody at the door answers all the same: a request is no workflow.
    with two._database.transaction(Caller("local", "Local", frozenset())) as tx:
        tx.tick()
    assert _clock(database) > before


def test_a_worker_of_the_same_name_takes_the_place_of_the_one_before(database: Database) -> None:
    first, second = lease(database, "one"), lease(database, "one")
    with pytest.raises(Ended):
        first.beat(NOW)
    second.beat(NOW)


def test_what_still_runs_after_a_worker_has_left_writes_nothing(database: Database) -> None:
    one = lease(database, "one")
    one.drain()
    one.beat(NOW)  # it lives while it ends what it has begun
    one.leave(clean=False)
    with pytest.raises(Unavailable, match="another one goes on"), one._database.transaction(SERVICE) as tx:
        tx.tick()


def test_a_worker_that_has_stopped_was_seen_too(database: Database) -> None:
    """Nobody has worked since it stopped, and not since whatever waits began to wait."""

    def seen() -> int | None:
        with database.reading() as connection:
            return rows.last_seen(connection, NOW)

    assert seen() is None
    one, two = lease(database, "one"), lease(database, "two")
    two.beat(NOW + 1_000)
    one.beat(NOW + 5_000)
    one.leave(clean=True)
    assert seen() == NOW + 5_000
    two.leave(clean=True)
    assert seen() == NOW + 5_000
    lease(database, "three").beat(NOW + TEN_YEARS)
    assert seen() == NOW + 5_000, "a clock that was wrong says nothing"


def test_a_turn_is_taken_once_and_comes_again(database: Database) -> None:
    assert turns.taken(database, "look", 1000, NOW)
    assert not turns.taken(database, "look", 1000, NOW + 999)
    assert turns.taken(database, "other", 1000, NOW)
    assert turns.taken(database, "look", 1000, NOW + 1000)


def test_a_turn_is_not_taken_twice_by_clocks_that_differ_a_little(database: Database) -> None:
    assert turns.taken(database, "look", 30_000, NOW + 1_000)
    assert not turns.taken(database, "look", 30_000, NOW), "by a machine that is a second behind"
    assert turns.taken(database, "look", 30_000, NOW + 31_000)


def test_a_clock_that_was_wrong_stops_no_turn_for_the_others(database: Database) -> None:
    assert turns.taken(database, "look", 1000, NOW + TEN_YEARS)
    assert turns.taken(database, "look", 1000, NOW)
    assert not turns.taken(database, "look", 1000, NOW)


def _clock(database: Database) -> int:
    with database.transaction(SERVICE) as tx:
        return tx.began
