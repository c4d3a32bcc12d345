"""An index of the Tasks that go to or come from an EHR: a row each, written in the transaction that writes the Task.

The Tasks are the ledger; these rows only find them, and can be made anew from them (`service.ledger`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables
from fhir_secondop.store.database import Transaction

MOST_COUNTED = 10_000  # half a million took half a second


@dataclass(frozen=True, slots=True)
class Entry:
    """One Task. `place` is the organization ("system|value") that it goes to, or a connection's name; `state` and
    `reason` are of `service.ledger`; instants in ms since 1970. `done` is when its EHR did it, 0: not, or by no EHR.
    """

    task_id: str
    case_id: str
    kind: str
    version: int
    place: str
    state: str
    reason: str
    authored: int
    changed: int
    done: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; what is empty narrows nothing. `before` is the (authored, task_id) to go on after."""

    kinds: str = ""  # what the kind begins with
    places: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    reason: str = ""
    not_reasons: tuple[str, ...] = ()
    case_id: str = ""
    authored_before: int = 0
    after: tuple[int, str] | None = None


_TABLE = tables.ehr_work
_C = _TABLE.c
_COLUMNS = [_C[field.name] for field in fields(Entry)]


def place_of(connection: Connection, task_id: str) -> str | None:
    """Where a Task goes; None when it has no row yet."""
    return connection.execute(sa.select(_C.place).where(_C.task_id == task_id)).scalar_one_or_none()


def write(tx: Transaction, entry: Entry) -> None:
    """Puts the row in place of an earlier one of the same Task."""
    tx.connection.execute(sa.delete(_TABLE).where(_C.task_id == entry.task_id))
    tx.connection.execute(sa.insert(_TABLE).values(**asdict(entry)))


def find(connection: Connection, wanted: Wanted, count: int) -> list[Entry]:
    """The oldest that are wanted, at most so many."""
    query = sa.select(*_COLUMNS).where(*_conditions(wanted)).order_by(_C.authored, _C.task_id).limit(count)
    return [Entry(*row) for row in connection.execute(query)]


def every(connection: Connection, states: Collection[str]) -> list[Entry]:
    """Every one that is in one of these states, the oldest first."""
    query = sa.select(*_COLUMNS).where(_C.state.in_(states)).order_by(_C.authored, _C.task_id)
    return [Entry(*row) for row in connection.execute(query)]


def number(connection: Connection, wanted: Wanted) -> int:
    """How many are wanted, on all pages; beyond MOST_COUNTED nobody counts."""
    some = sa.select(sa.literal(1)).select_from(_TABLE).where(*_conditions(wanted)).limit(MOST_COUNTED)
    return int(connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one())


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    found = [_C.kind.startswith(wanted.kinds, autoescape=True)] if wanted.kinds else []
    for column, values in ((_C.place, wanted.places), (_C.state, wanted.states)):
        if values:
            found.append(column.in_(values))
    for column, value in ((_C.reason, wanted.reason), (_C.case_id, wanted.case_id)):
        if value:
            found.append(column == value)
    if wanted.not_reasons:
        found.append(_C.reason.not_in(wanted.not_reasons))
    if wanted.authored_before:
        found.append(_C.authored < wanted.authored_before)
    if wanted.after:
        at, task_id = wanted.after
        found.append(sa.or_(_C.authored > at, sa.and_(_C.authored == at, _C.task_id > task_id)))
    return found


@dataclass(frozen=True, slots=True)
class Count:
    """How many Tasks of a kind to one place are in a state, and when the oldest of them was planned."""

    place: str
    kind: str
    state: str
    number: int
    oldest: int


def counts(connection: Connection, states: Collection[str]) -> list[Count]:
    """Of those states."""
    query = (
        sa.select(_C.place, _C.kind, _C.state, sa.func.count(), sa.func.min(_C.authored))
        .where(_C.state.in_(states))
        .group_by(_C.place, _C.kind, _C.state)
    )
    return [Count(*row) for row in connection.execute(query)]


def last_done(connection: Connection, places: Collection[str], state: str) -> int:
    """When the EHR of these places last did what a Task in that state asked of it; 0 of none."""
    newest = (
        connection.execute(
            sa.select(_C.done).where(_C.place == place, _C.state == state).order_by(_C.done.desc()).limit(1)
        ).scalar()
        for place in places
    )
    return max((int(at) for at in newest if at), default=0)
