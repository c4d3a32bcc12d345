"""By which of its conditions a search goes, and how the others are looked at: what keeps a search of 20 as fast over a
million resources as over ten thousand.

SQLite plans without knowing how many rows match: of `rid IN (SELECT …)` it makes the whole list, be it every active
order that there is, and goes through all of a type to look each up. So we count, no further than `FEW`: a search goes
by the condition that fewest rows match, and asks of each of these rows whether the others hold (EXISTS, by rid). Where
each matches many, it goes through the type in the order of creation and ends at a full page, which then is near.
PostgreSQL has statistics and turns either form into the other; there the conditions stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, ColumnElement

from fhir_secondop.store import tables

FEW = 2000
"""Rows that make a list sooner than a page is found by going through a type of a million."""
FEWER = (100, 500)
"""Where some condition has no more than one of these, nobody counts on: to 2,000 takes longer than the page."""
ALL = -1
"""Instead of the number of a condition: a search goes through all of its type."""
_RID = tables.resource.c.rid
_BY_RID = {table: f"INDEXED BY {table.name}_rid" for table in tables.INDEXES}


def held(table: sa.Table, conditions: Iterable[ColumnElement[bool]]) -> ColumnElement[bool]:
    """The condition on `tables.resource` that it has an index row of that kind; looked up resource by resource."""
    return of_resource(table, conditions, sa.literal(1)).exists()


def of_resource(table: sa.Table, conditions: Iterable[ColumnElement[bool]], what: ColumnElement[Any]) -> sa.Select[Any]:
    """What stands in the index rows of a resource that is at hand."""
    found = sa.select(what).select_from(table).where(table.c.rid == _RID, *conditions)
    # Else SQLite goes by what the rows say, and looks through all those of a type again for each resource.
    return found.correlate(tables.resource).with_hint(table, _BY_RID[table], "sqlite")


def is_few(connection: Connection, resource_type: str) -> bool:
    """Whether no more than FEW resources of a type are stored."""
    of_type = sa.select(_RID).where(tables.resource.c.type == resource_type).limit(FEW + 1).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(of_type)).scalar_one() <= FEW


def listed(table: sa.Table, conditions: Iterable[ColumnElement[bool]]) -> ColumnElement[bool]:
    """The same, as a list of resources that is made once."""
    return _RID.in_(sa.select(table.c.rid).where(*conditions).correlate(None))


def with_ids(resource_type: str, ids: sa.Select[Any] | Sequence[str]) -> ColumnElement[bool]:
    """The condition on `tables.resource` that it has one of these ids, as a list: else SQLite goes by the creation."""
    known = tables.resource.alias()
    return _RID.in_(sa.select(known.c.rid).where(known.c.type == resource_type, known.c.id.in_(ids)).correlate(None))


@dataclass(frozen=True, slots=True)
class _List:
    """A condition that demands to stand in one of some lists."""

    condition: ColumnElement[bool]
    selects: Sequence[sa.Select[Any]]

    @property
    def driving(self) -> ColumnElement[bool]:
        """The condition so that a search goes by it."""
        if len(self.selects) == 1:
            return self.condition
        return sa.and_(_RID.in_(sa.union_all(*self.selects)), self.condition)

    def counted(self, most: int) -> ColumnElement[int]:
        """How many rows its lists have, counted to one beyond `most`. A chain is not gone through for that."""
        parts = (part for select in self.selects for part in visitors.iterate(select) if part is not select)
        if any(isinstance(part, sa.Select) for part in parts):
            return sa.literal(FEW)
        rows = sa.union_all(*self.selects) if len(self.selects) > 1 else self.selects[0]
        return sa.select(sa.func.count()).select_from(rows.limit(most + 1).subquery()).scalar_subquery()


@dataclass(frozen=True, slots=True)
class Ways:
    """What must hold of a type, parted into what a search can go by and the rest."""

    lists: Sequence[_List]
    others: Sequence[ColumnElement[bool]]

    def counted(self, most: int) -> sa.Select[Any]:
        """How many rows each of the lists has, counted to one beyond `most`."""
        numbers: list[Any] = [each.counted(most) for each in self.lists]
        return sa.select(*numbers)

    def narrowed(self, best: int, between: tuple[Any, Any] | None = None) -> list[ColumnElement[bool]]:
        """The conditions so that SQLite goes by that list; by the order of creation where that is ALL.

        `between` are the creation numbers after which, and up to which, a page may go.
        """
        within = []
        if between is not None:
            # With a sum no index is gone through by it: the list is shorter than what lies between two pages.
            rid = _RID + 0 if best != ALL else _RID
            within = [rid > between[0], rid <= between[1]]
        forms = (each.driving if n == best else _looked_up(each.condition) for n, each in enumerate(self.lists))
        return [*self.others, *within, *forms]


def ways(conditions: Sequence[ColumnElement[bool]], *, is_sqlite: bool) -> Ways:
    """By what a search can go."""
    lists = [_List(each, selects) for each in conditions if (selects := _selects(each))] if is_sqlite else []
    return Ways(lists, [each for each in conditions if not lists or not _selects(each)])


def fewest(number: int, counts: Callable[[int], Sequence[int]]) -> int:
    """Which of so many lists the fewest rows match; ALL where each matches many. `counts(most)` are their numbers."""
    for most in (*(each for each in FEWER if each < FEW), FEW) if number else ():
        numbers = counts(most)
        best = min(range(number), key=numbers.__getitem__)
        if numbers[best] <= most:
            return best
    return ALL


def _selects(condition: ColumnElement[bool]) -> list[sa.Select[Any]]:
    """The lists in one of which a resource must stand for this condition; none where it is not of that form."""
    if isinstance(condition, BinaryExpression):
        inner = getattr(condition.right, "element", condition.right)
        if condition.operator is operators.in_op and condition.left is _RID and isinstance(inner, sa.Select):
            return [inner]
        return []
    if isinstance(condition, BooleanClauseList):
        found = [_selects(each) for each in condition.clauses]
        if condition.operator is operators.or_:
            return [select for each in found for select in each] if all(found) else []
        return next((each for each in found if each), [])
    return []


def _looked_up(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition without its lists, where that can be said: each asked of a resource that is at hand."""
    if isinstance(condition, BooleanClauseList):
        join = sa.or_ if condition.operator is operators.or_ else sa.and_
        return join(*map(_looked_up, condition.clauses))
    for select in _selects(condition):
        (table,) = select.columns_clause_froms
        if table is tables.version:
            return sa.true()  # _lastUpdated: what it says of the resource itself stands beside it
        if isinstance(table, sa.Table) and table in _BY_RID and select.whereclause is not None:
            return held(table, [select.whereclause])
    return condition
