"""Who works on this database: a row for each start of a worker, with the beats by which the others see that it lives.

A beat is a count and no time: clocks of machines differ, and jump. Who watches measures by its own monotonic clock for
how long a count has stood still. A row that is `gone` stays so; the next start of the same worker has another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables

WORKING, DRAINING, GONE = "working", "draining", "gone"
_ROW = tables.executor.c
_APART_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Executor:
    """One start of a worker. `version` is that of the workflows that it runs; `started` and `seen` (its last beat, by
    its own clock) are in ms since 1970, for people to read."""

    id: str
    name: str
    version: str
    host: str
    pid: int
    state: str
    beats: int
    started: int
    seen: int


def join(connection: Connection, executor: Executor) -> None:
    """Enters a start of a worker. One of the same name that went before it is gone: the name is held by one process."""
    connection.execute(
        sa.update(tables.executor).where(_ROW.name == executor.name, _ROW.state != GONE).values(state=GONE)
    )
    row = {name: getattr(executor, name) for name in (c.name for c in _ROW)}
    connection.execute(sa.insert(tables.executor).values(row))


def beat(connection: Connection, executor_id: str, now: int) -> bool:
    """One more beat; False when the executor is gone for the others."""
    beaten = sa.update(tables.executor).where(_ROW.id == executor_id, _ROW.state != GONE)
    return connection.execute(beaten.values(beats=_ROW.beats + 1, seen=now)).rowcount == 1


def become(connection: Connection, executor_id: str, state: str) -> None:
    """The executor says that it drains, or that it is gone."""
    connection.execute(sa.update(tables.executor).where(_ROW.id == executor_id).values(state=state))


def bury(connection: Connection, executor: Executor) -> bool:
    """Declares one gone whose beats stand still; False when it has beaten meanwhile, or somebody else has done it."""
    same = sa.and_(_ROW.id == executor.id, _ROW.beats == executor.beats, _ROW.state != GONE)
    return connection.execute(sa.update(tables.executor).where(same).values(state=GONE)).rowcount == 1


def living(connection: Connection) -> list[Executor]:
    """Those that are not gone, oldest first."""
    rows = connection.execute(sa.select(tables.executor).where(_ROW.state != GONE).order_by(_ROW.started, _ROW.id))
    return [Executor(**row._mapping) for row in rows]


def versions(connection: Connection, *, seen_after: int | None = None) -> set[str]:
    """The versions of those that take new work; with `seen_after`, in ms since 1970, of all that were seen since."""
    condition = _ROW.state == WORKING if seen_after is None else _ROW.seen > seen_after
    return set(connection.execute(sa.select(_ROW.version).where(condition)).scalars())


def last_seen(connection: Connection, now: int) -> int | None:
    """When any was seen last, those included that are gone by now, by its own clock in ms since 1970; None where none
    ever was, or all are forgotten. One whose clock is more than an hour ahead of `now` says nothing of when.
    """
    query = sa.select(sa.func.max(_ROW.seen)).where(_ROW.seen <= now + _APART_MS)
    seen: int | None = connection.execute(query).scalar_one()
    return seen


def lives(connection: Connection, executor_id: str) -> bool:
    """Whether it is not gone. Within a write transaction nobody can declare it gone before the commit."""
    query = sa.select(_ROW.id).where(_ROW.id == executor_id, _ROW.state != GONE)
    return connection.execute(query).one_or_none() is not None


def forget(connection: Connection, before: int) -> None:
    """Deletes the rows of those that are gone and were seen last before `before`, in ms since 1970."""
    connection.execute(sa.delete(tables.executor).where(_ROW.state == GONE, _ROW.seen < before))
