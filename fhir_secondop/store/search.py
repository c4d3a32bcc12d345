"""A Search and a visibility condition → a page.

Pages go by the creation number (keyset), bounded by the highest one at the first page: what matches throughout
appears exactly once, whatever is written meanwhile. The place to continue from is "after~bound", two creation numbers:
whoever shows it to a caller seals it, for it tells how much is stored here. In an order that writes can change, pages
go along a list that is kept of the first one (store.ordering).

Over several types each is searched by itself, as a search of it alone would be, and what comes first of all is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Invalid, TooCostly
from fhir_secondop.fhir.query import Part, Search
from fhir_secondop.model import Visibility
from fhir_secondop.store import narrowing, ordering, pending, plans, tables
from fhir_secondop.store.prepared import Ready, Row, each
from fhir_secondop.store.resources import FETCHED, Stored, taken


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


class _Running:
    """A search on a connection: its form, its values, and for each type by which condition it goes."""

    __slots__ = ("_connection", "_values", "_visibility", "best", "dialect", "form")

    def __init__(
        self, connection: Connection, search: Search, visibility: Visibility, base_url: str, *, counts: bool
    ) -> None:
        self._connection = connection
        self._visibility = visibility
        self.dialect = connection.dialect
        self.form, self._values = plans.asked(_parts(connection, search), visibility, base_url)
        self.best = tuple(self._best(each, counts=counts) for each in self.form.each_alone())

    def _best(self, form: plans.Form, *, counts: bool) -> int:
        number = plans.lists(self.dialect, form)
        if number == 1 and not counts:
            return 0
        few = narrowing.FEW
        return narrowing.fewest(number, lambda most: self.rows(plans.counts(self.dialect, form, most, few))[0])

    def rows(self, statement: Ready, **values: Any) -> list[Row]:
        """What a statement of it finds."""
        return list(each(self._connection, statement, {**self._values, **values}))

    def taken(self, statement: Ready, most_bytes: int, values: Mapping[str, Any]) -> tuple[list[Stored], bool]:
        """The resources that it finds, as resources.taken says."""
        with closing(each(self._connection, statement, {**self._values, **values}, at_once=FETCHED)) as found:
            return taken(found, self._visibility, most_bytes)


def _parts(connection: Connection, search: Search) -> Sequence[Part]:
    """What is asked of each type; of several, of those of which something is stored."""
    if not search.also:
        return search.parts
    there = _types_held(connection)
    return [(kind, wanted) for kind, wanted in search.parts if kind in there]


def _types_held(connection: Connection) -> set[str]:
    """The types of which something is stored: by a jump in the index from each to the next."""
    kind = tables.resource.c.type
    first = sa.select(sa.func.min(kind).label("type")).cte("held", recursive=True)
    following = sa.select(sa.func.min(kind)).where(kind > first.c.type).correlate(first).scalar_subquery()
    held = first.union_all(sa.select(following).where(first.c.type.is_not(None)))
    return set(connection.execute(sa.select(held.c.type).where(held.c.type.is_not(None))).scalars())


def run(connection: Connection, search: Search, visibility: Visibility, base_url: str, *, counts: bool = True) -> Found:
    """The page of resources that match, may be seen and are not deleted, oldest first or as `_sort` says.

    Without `counts` a single condition is taken to match few, as those of a conditional write do. Raises Unavailable
    where it goes by a parameter whose index is being made.
    """
    pending.refuse(connection, pending.used(search))
    running = _Running(connection, search, visibility, base_url, counts=counts)
    if search.sort and search.count:
        return _sorted(connection, running, search, visibility)
    between = _place(search)
    follows = between is not None
    after, last = between or (0, 0)
    dialect, form, best = running.dialect, running.form, running.best
    total = None
    if search.total == "accurate" or search.count == 0:
        ((total,),) = running.rows(plans.total(dialect, form, bounded=follows), last=last)
    if search.count == 0:
        return Found((), "", total)
    found, is_cut = running.taken(
        plans.page(dialect, form, best, follows=follows),
        search.limits.max_page_bytes,
        {"most": search.count + 1, "after": after, "last": last},
    )
    more = is_cut or len(found) > search.count
    found = found[: search.count]
    if not more:
        return Found(tuple(found), "", total)
    if not follows:
        ((last,),) = running.rows(plans.newest(dialect, form, best), most=1)
    return Found(tuple(found), f"{found[-1].rid}~{last}", total)


def _sorted(connection: Connection, running: _Running, search: Search, visibility: Visibility) -> Found:
    name, start = "", 0
    if search.page:
        name, start, rids = ordering.listed(connection, search, visibility)
    else:
        rids = _all_in_order(running, search)
    found, done = _in_order(running, rids[start : start + search.count], search.limits.max_page_bytes)
    end = start + done
    return Found(
        tuple(found),
        f"{name}.{end}" if name and end < len(rids) else "",
        len(rids) if search.total == "accurate" else None,
        rids if not name and end < len(rids) else (),
        end,
    )


def _all_in_order(running: _Running, search: Search) -> list[int]:
    """The creation numbers of all that match, sorted. Raises TooCostly beyond max_sorted."""
    if not running.form.parts:
        return []  # nothing is stored of any of the types
    most = search.limits.max_sorted
    statement = plans.in_order(running.dialect, running.form, running.best, search.sort)
    rids = [rid for (rid,) in running.rows(statement, most=most + 1)]
    if len(rids) > most:
        said = f"More than {most} resources match: too many to sort (max_sorted); make the search narrower."
        raise TooCostly(said, path="_sort")
    return rids


def _in_order(running: _Running, rids: Sequence[int], most_bytes: int) -> tuple[list[Stored], int]:
    """What is there of these, in their order, until that is as large as a page may be; and of how many that was.

    Whoever may no longer be seen, or no longer matches, has left the list.
    """
    found: list[Stored] = []
    place, at_once, left = 0, len(rids), most_bytes
    while place < len(rids) and left > 0:
        some = rids[place : place + at_once]
        statement = plans.among(running.dialect, running.form, running.best, len(some))
        here, is_cut = running.taken(statement, left, {f"r{n}": rid for n, rid in enumerate(some)})
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
