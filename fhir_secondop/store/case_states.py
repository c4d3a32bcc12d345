"""An index of the cases: in which stage each is and what in it needs a person, so that few are found among many.

The rows follow what was written, in its order, and can be made anew from it (`service.case_states`). They only find:
what is shown of a case is read from the case, as its reader may see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.errors import NotFound
from fhir_secondop.model import Visibility
from fhir_secondop.store import resources, tables

MOST_COUNTED = 1000
UNREADABLE = "unreadable"
"""The stage of a case of which nobody can say where it stands."""


@dataclass(frozen=True, slots=True)
class State:
    """One case. `rid` is that of its ServiceRequest; `needs` are kinds."""

    rid: int
    case_id: str
    stage: str
    ended: bool
    needs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; what is empty narrows nothing. `before` is the case to go on after."""

    stage: str = ""
    need: str = ""
    before: str = ""


def write(connection: Connection, case_ids: Sequence[str], states: Sequence[State]) -> None:
    """Puts the rows in place of those of these cases; one without a state is in the index no more."""
    mine = tables.case_state.c.case_id.in_(case_ids)
    rids = list(connection.execute(sa.select(tables.case_state.c.rid).where(mine)).scalars())
    for table in (tables.case_need, tables.case_state):
        connection.execute(sa.delete(table).where(table.c.rid.in_(rids)))
    if states:
        rows = [{"rid": s.rid, "case_id": s.case_id, "stage": s.stage, "ended": s.ended} for s in states]
        connection.execute(sa.insert(tables.case_state), rows)
    if needs := [{"kind": kind, "rid": one.rid} for one in states for kind in one.needs]:
        connection.execute(sa.insert(tables.case_need), needs)


def find(connection: Connection, visibility: Visibility, wanted: Wanted, count: int) -> list[str]:
    """The ids of at most so many cases that may be seen: first those that have not ended, the newest first.

    Raises NotFound where `wanted.before` is none that may be seen.
    """
    seen = _seen(connection, visibility)
    query = sa.select(seen.c.case_id).where(seen.c.stage != UNREADABLE, *_conditions(seen, wanted))
    if wanted.before:
        at = _place(connection, seen, wanted.before)
        same = sa.and_(seen.c.ended == at.ended, seen.c.rid < at.rid)
        query = query.where(same if at.ended else sa.or_(same, seen.c.ended.is_(True)))
    query = query.order_by(seen.c.ended, seen.c.rid.desc()).limit(count)
    return list(connection.execute(query).scalars())


def newest(connection: Connection, visibility: Visibility, count: int, before: str) -> list[str]:
    """The ids of at most so many cases that may be seen, the newest first; after `before` where that is one.

    Raises NotFound where it is none that may be seen.
    """
    seen = _seen(connection, visibility)
    query = sa.select(seen.c.case_id).order_by(seen.c.rid.desc()).limit(count)
    if before:
        query = query.where(seen.c.rid < _place(connection, seen, before).rid)
    return list(connection.execute(query).scalars())


def _place(connection: Connection, seen: sa.FromClause, case_id: str) -> Any:
    """The row of a case, as far as the order of the lists goes."""
    at = connection.execute(sa.select(seen.c.ended, seen.c.rid).where(seen.c.case_id == case_id)).first()
    if at is None:
        raise NotFound(f"There is no case {case_id}.", path="before")
    return at


def unreadable(connection: Connection, visibility: Visibility, count: int) -> list[str]:
    """The ids of at most so many cases that may be seen and can't be read, the oldest first."""
    seen = _seen(connection, visibility)
    query = sa.select(seen.c.case_id).where(seen.c.stage == UNREADABLE).order_by(seen.c.rid).limit(count)
    return list(connection.execute(query).scalars())


def needing(connection: Connection, visibility: Visibility, kinds: Iterable[str], count: int) -> dict[str, list[str]]:
    """Kind → the ids of at most so many cases that may be seen and in which it waits, the oldest first."""
    seen = _seen(connection, visibility)
    parts = [
        sa.select(sa.literal(kind).label("kind"), seen.c.case_id, seen.c.rid)
        .where(_needs(seen, kind)).order_by(seen.c.rid).limit(count).subquery().select()
        for kind in kinds
    ]  # fmt: skip
    found: dict[str, list[str]] = {}
    if parts:
        for row in sorted(connection.execute(sa.union_all(*parts)), key=lambda row: row.rid):
            found.setdefault(row.kind, []).append(row.case_id)
    return found


def numbers(connection: Connection, visibility: Visibility, stages: Iterable[str]) -> dict[str, int]:
    """Stage → how many cases that may be seen are in it; beyond MOST_COUNTED nobody counts."""
    seen = _seen(connection, visibility)
    return _numbers(connection, seen, {stage: seen.c.stage == stage for stage in stages})


def needed(connection: Connection, visibility: Visibility, kinds: Iterable[str]) -> dict[str, int]:
    """Kind → in how many cases that may be seen it waits for a person, those of 0 left out; counted as `numbers`."""
    seen = _seen(connection, visibility)
    found = _numbers(connection, seen, {kind: _needs(seen, kind) for kind in kinds})
    return {kind: number for kind, number in found.items() if number}


def _numbers(
    connection: Connection, seen: sa.FromClause, conditions: Mapping[str, sa.ColumnElement[bool]]
) -> dict[str, int]:
    counted = []
    for condition in conditions.values():
        some = sa.select(sa.literal(1)).select_from(seen).where(condition).limit(MOST_COUNTED)
        counted.append(sa.select(sa.func.count()).select_from(some.subquery()).scalar_subquery())
    row = connection.execute(sa.select(*counted)).one() if counted else ()
    return dict(zip(conditions, map(int, row), strict=True))


def _seen(connection: Connection, visibility: Visibility) -> sa.FromClause:
    """The rows of the cases that may be seen: made once for a statement where they are few, else along the indexes."""
    state = tables.case_state.c
    query = sa.select(*state)
    if visibility.narrowed:  # by what the requests say
        resource = tables.resource.c
        of = tables.case_state.join(tables.resource, resource.rid == state.rid)
        return query.select_from(of).where(resources.visible(visibility)).subquery("seen")
    if visibility.everything:
        return query.subquery("seen")
    # What `resources.visible` comes to for the request of a case, which is of no record.
    own = resources.own_cases(visibility)
    query = query.where(state.rid.not_in(resources.withheld(visibility)))
    if resources.has_few_cases(connection, visibility):
        return query.where(state.case_id.in_(own)).cte("seen")
    return query.where((state.case_id + "").in_(own)).subquery("seen")  # by no index: nothing begins with the many


def _conditions(seen: sa.FromClause, wanted: Wanted) -> Iterable[sa.ColumnElement[bool]]:
    if wanted.stage:
        yield seen.c.stage == wanted.stage
    if wanted.need:
        yield _needs(seen, wanted.need)


def _needs(seen: sa.FromClause, kind: str) -> sa.ColumnElement[bool]:
    need = tables.case_need.c
    return seen.c.rid.in_(sa.select(need.rid).where(need.kind == kind))
