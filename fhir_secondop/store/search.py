"""A Search and a visibility condition → a page.

Pages go by the creation number (keyset), bounded by the highest one at the first page: what matches throughout
appears exactly once, whatever is written meanwhile. The place to continue from is "after~bound", two creation numbers:
whoever shows it to a caller seals it, for it tells how much is stored here. In an order that writes can change, pages
go along a list that is kept of the first one (store.ordering).

Over several types each is searched by itself, as a search of it alone would be, and what comes first of all is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import criteria
from fhir_secondop.fhir.query import Search
from fhir_secondop.limits import Limits
from fhir_secondop.model import Visibility
from fhir_secondop.store import ordering, pending, tables
from fhir_secondop.store.conditions import Sees, condition
from fhir_secondop.store.narrowing import narrowed
from fhir_secondop.store.resources import Stored, found_by, rows, taken, visible


@dataclass(frozen=True, slots=True)
class Found:
    """One page. `next_page` is empty on the last; `total` is None unless it was asked for.

    `to_keep` is the list of a sorted search that has more pages (ordering.keep gives the next one), of which the first
    `shown` are done with.
    """

    matches: tuple[Stored, ...]
    next_page: str
    total: int | None
    to_keep: Sequence[int] = ()
    shown: int = 0


def seen_by(visibility: Visibility) -> Sees:
    """What may be found by a parameter of a type, for chains."""
    return lambda resource_type, code: sa.and_(visible(visibility), found_by(visibility, resource_type, code))


Conditions = list[ColumnElement[bool]]


def conditions_of(search: Search, visibility: Visibility, base_url: str) -> Conditions:
    """The conditions on `tables.resource` of all that matches, may be seen and is not deleted. Raises Invalid.

    Of a search of one type.
    """
    sees = seen_by(visibility)
    looked_at = (pair for each in search.criteria for pair in criteria.looked_at(search.type, each))
    return [
        tables.resource.c.type == search.type,
        tables.resource.c.deleted.is_(False),
        visible(visibility),
        *(condition(search.type, each, base_url, sees) for each in search.criteria),
        *(found_by(visibility, kind, code) for kind, code in looked_at),
    ]


def count(connection: Connection, conditions: Conditions) -> int:
    """How many resources these conditions hold for."""
    counted: int = connection.execute(
        sa.select(sa.func.count()).select_from(tables.resource).where(*conditions)
    ).scalar_one()
    return counted


@dataclass(frozen=True, slots=True)
class _Matching:
    """What matches, by type: the conditions of each, in the forms of store.narrowing."""

    of_types: list[Conditions]

    def all(self, *more: ColumnElement[bool]) -> Conditions:
        """The conditions of whatever matches, and of `more`."""
        if len(self.of_types) == 1:
            return [*self.of_types[0], *more]
        return [_one_of(sa.select(tables.resource.c.rid).where(*each, *more) for each in self.of_types)]

    def first(self, number: int, *, newest: bool = False) -> Conditions:
        """The conditions of the first ones, or the newest: at most so many of each type, if there are several.

        Each type is cut by itself, so that as little of it is looked at as when it was searched alone.
        """
        if len(self.of_types) == 1:
            return self.of_types[0]
        rid = tables.resource.c.rid
        order = rid.desc() if newest else rid.asc()
        cut = (sa.select(rid).where(*each).order_by(order).limit(number).subquery() for each in self.of_types)
        return [_one_of(sa.select(each.c.rid) for each in cut)]


def _one_of(found: Iterable[sa.Select[Any]]) -> ColumnElement[bool]:
    each = list(found)
    return tables.resource.c.rid.in_(sa.union_all(*each)) if each else sa.false()


def _by_type(connection: Connection, search: Search, visibility: Visibility, base_url: str) -> list[Conditions]:
    """What matches of each type that is asked for and of which something is stored."""
    parts = search.parts
    if search.also:
        there = _types_held(connection)
        parts = tuple((kind, wanted) for kind, wanted in parts if kind in there)
    asked = (replace(search, type=kind, criteria=wanted, also=()) for kind, wanted in parts)
    return [conditions_of(each, visibility, base_url) for each in asked]


def _types_held(connection: Connection) -> set[str]:
    """The types of which something is stored: by a jump in the index from each to the next."""
    kind = tables.resource.c.type
    first = sa.select(sa.func.min(kind).label("type")).cte("held", recursive=True)
    following = sa.select(sa.func.min(kind)).where(kind > first.c.type).correlate(first).scalar_subquery()
    held = first.union_all(sa.select(following).where(first.c.type.is_not(None)))
    return set(connection.execute(sa.select(held.c.type).where(held.c.type.is_not(None))).scalars())


def run(connection: Connection, search: Search, visibility: Visibility, base_url: str, *, counts: bool = True) -> Found:
    """The page of resources that match, may be seen and are not deleted, oldest first or as `_sort` says.

    `counts` as in store.narrowing. Raises Unavailable where it goes by a parameter whose index is being made.
    """
    resource = tables.resource.c
    pending.refuse(connection, pending.used(search))
    wanted = _by_type(connection, search, visibility, base_url)
    if search.sort and search.count:
        return _sorted(connection, search, _Matching([narrowed(connection, each) for each in wanted]), visibility)
    between = _place(search)
    total = None
    if search.total == "accurate" or search.count == 0:
        bound = [] if between is None else [resource.rid <= between[1]]
        total = count(connection, _Matching(wanted).all(*bound))
    if search.count == 0:
        return Found((), "", total)
    matching = _Matching([narrowed(connection, each, between, counts=counts) for each in wanted])
    query = rows(visibility).where(*matching.first(search.count + 1)).order_by(resource.rid)
    found, is_cut = taken(connection, query.limit(search.count + 1), visibility, search.limits.max_page_bytes)
    more = is_cut or len(found) > search.count
    found = found[: search.count]
    if not more:
        return Found(tuple(found), "", total)
    if between is None:
        newest = sa.select(resource.rid).where(*matching.first(1, newest=True))
        last = connection.execute(newest.order_by(resource.rid.desc()).limit(1)).scalar_one()
    else:
        last = between[1]
    return Found(tuple(found), f"{found[-1].rid}~{last}", total)


def _sorted(connection: Connection, search: Search, matching: _Matching, visibility: Visibility) -> Found:
    name, start = "", 0
    if search.page:
        name, start, rids = ordering.listed(connection, search, visibility)
    else:
        rids = ordering.ordered(connection, search, matching.all(), visibility)
    wanted = rids[start : start + search.count]

    def query(some: Sequence[int]) -> sa.Select[Any]:
        return rows(visibility).where(*matching.all(tables.resource.c.rid.in_(some)))

    found, done = _in_order(connection, query, visibility, wanted, search.limits)
    end = start + done
    return Found(
        tuple(found),
        f"{name}.{end}" if name and end < len(rids) else "",
        len(rids) if search.total == "accurate" else None,
        rids if not name and end < len(rids) else (),
        end,
    )


def _in_order(
    connection: Connection,
    query: Callable[[Sequence[int]], sa.Select[Any]],
    visibility: Visibility,
    rids: Sequence[int],
    limits: Limits,
) -> tuple[list[Stored], int]:
    """What is there of these, in their order, until that is as large as a page may be; and of how many that was.

    Whoever may no longer be seen, or no longer matches, has left the list.
    """
    found: list[Stored] = []
    place, at_once, left = 0, len(rids), limits.max_page_bytes
    while place < len(rids) and left > 0:
        some = rids[place : place + at_once]
        here, is_cut = taken(connection, query(some), visibility, left)
        if is_cut and len(some) > 1:
            at_once = len(some) // 4 or 1  # they come in any order: fewer, of which the first fit
            continue
        if here and found and here[0].bytes > left:
            break
        by_rid = {each.rid: each for each in here}
        found += [by_rid[rid] for rid in some if rid in by_rid]
        left -= sum(each.bytes for each in here)
        place += len(some)
    return found, place


def _place(asked: Search) -> tuple[int, int] | None:
    """The creation numbers of the last match before this page and of the last one of all; None on the first page."""
    if not asked.page:
        return None
    after, mark, last = asked.page.partition("~")
    if not mark or not all(each.isdecimal() and len(each) < 19 for each in (after, last)):
        raise Invalid("This page link is not one of ours; start the search again.", path="_page")
    return int(after), int(last)
