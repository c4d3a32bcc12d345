"""An index of the cases: in which stage each is and what in it needs a person, so that few are found among many.

The rows follow what was written, in its order, and can be made anew from it (`service.case_states`). They only find:
what is shown of a case is read from the case, as its reader may see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.errors import NotFound
from fhir_secondop.model import EVERYTHING, Visibility
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


@dataclass(frozen=True, slots=True)
class Most:
    """How many ids of each list are wanted at most: of those wanted, of those in which a kind waits, of those that
    can't be read.
    """

    wanted: int
    of_a_kind: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Overview:
    """What there is for somebody. `wanted` and `unreadable` are ids, the newest and the oldest first; `stages` and
    `needs` how many cases each has; `needing` the ids of those in which a kind waits, the oldest first.

    Beyond MOST_COUNTED nobody counts; a kind that waits nowhere is left out.
    """

    wanted: list[str]
    stages: dict[str, int]
    needs: dict[str, int]
    needing: dict[str, list[str]]
    unreadable: list[str]


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
    query = _wanted(connection, _seen(connection, visibility), wanted, count)
    return [row.case_id for row in connection.execute(query)]


def overview(
    connection: Connection, visibility: Visibility, wanted: Wanted, most: Most, stages: Sequence[str],
    kinds: Sequence[str],
) -> Overview:  # fmt: skip
    """What `find` finds, and of all cases that may be seen how many are in each of these stages, in how many each of
    these kinds waits, and the oldest of those. Raises as `find`.

    One statement: what somebody may see is made once for all of it, where that is little (`_seen`).
    """
    seen = _seen(connection, visibility)
    needs = _needs(seen)
    lists = {
        ("wanted", ""): _wanted(connection, seen, wanted, most.wanted),
        ("unreadable", ""): _unreadable(seen, most.unreadable),
        **{("needing", kind): _oldest(needs, needs.c.kind == kind, most.of_a_kind) for kind in kinds},
    }
    counts = {
        **{("stages", stage): sa.select(seen.c.rid).where(seen.c.stage == stage) for stage in stages},
        **{("needs", kind): sa.select(needs.c.rid).where(needs.c.kind == kind) for kind in kinds},
    }
    parts = [
        *(_part(*name, *query.subquery().c) for name, query in lists.items()),
        *(_part(*name, sa.literal(""), sa.false(), _count(query)) for name, query in counts.items()),
    ]
    found: dict[tuple[str, str], list[Any]] = {name: [] for name in lists}
    for row in connection.execute(sa.union_all(*parts)):
        found.setdefault((row.part, row.key), []).append(row)
    number = {name: int(found[name][0].number) for name in counts}
    newest_first = sorted(found["wanted", ""], key=lambda row: (row.ended, -row.number))
    ids = {name: [row.case_id for row in sorted(found[name], key=lambda row: row.number)] for name in lists}
    return Overview(
        wanted=[row.case_id for row in newest_first],
        stages={stage: number["stages", stage] for stage in stages},
        needs={kind: number["needs", kind] for kind in kinds if number["needs", kind]},
        needing={kind: ids["needing", kind] for kind in kinds if ids["needing", kind]},
        unreadable=ids["unreadable", ""],
    )


def _part(part: str, key: str, case_id: Any, ended: Any, number: Any) -> sa.Select[Any]:
    """One list, or one number, of a union of them."""
    return sa.select(
        sa.literal(part).label("part"), sa.literal(key).label("key"), case_id.label("case_id"), ended.label("ended"),
        number.label("number"),
    )  # fmt: skip


def _count(query: sa.Select[Any]) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.count()).select_from(query.limit(MOST_COUNTED).subquery()).scalar_subquery()


def _wanted(connection: Connection, seen: sa.FromClause, wanted: Wanted, count: int) -> sa.Select[Any]:
    query = sa.select(seen.c.case_id, seen.c.ended, seen.c.rid).where(seen.c.stage != UNREADABLE)
    if wanted.stage:
        query = query.where(seen.c.stage == wanted.stage)
    if wanted.need:
        need = tables.case_need.c
        query = query.where(seen.c.rid.in_(sa.select(need.rid).where(need.kind == wanted.need)))
    if wanted.before:
        at = _place(connection, seen, wanted.before)
        same = sa.and_(seen.c.ended == at.ended, seen.c.rid < at.rid)
        query = query.where(same if at.ended else sa.or_(same, seen.c.ended.is_(True)))
    return query.order_by(seen.c.ended, seen.c.rid.desc()).limit(count)


def _oldest(of: sa.FromClause, condition: sa.ColumnElement[bool], count: int) -> sa.Select[Any]:
    return sa.select(of.c.case_id, of.c.ended, of.c.rid).where(condition).order_by(of.c.rid).limit(count)


def _unreadable(seen: sa.FromClause, count: int) -> sa.Select[Any]:
    return _oldest(seen, seen.c.stage == UNREADABLE, count)


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


def unreadable(connection: Connection, count: int) -> list[str]:
    """The ids of at most so many of all cases that can't be read, the oldest first."""
    found = connection.execute(_unreadable(_seen(connection, EVERYTHING), count))
    return [row.case_id for row in found]


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


def _needs(seen: sa.FromClause) -> sa.FromClause:
    """What waits for a person in the cases of `seen`, made as that is."""
    need = tables.case_need.c
    of = tables.case_need.join(seen, need.rid == seen.c.rid)
    query = sa.select(need.kind, seen.c.case_id, seen.c.ended, seen.c.rid).select_from(of)
    return query.cte("needs") if isinstance(seen, sa.CTE) else query.subquery("needs")
