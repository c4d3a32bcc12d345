"""A Search and a visibility condition → a page.

Pages go by the creation number (keyset), bounded by the highest one at the first page: what matches throughout
appears exactly once, whatever is written meanwhile. The place to continue from is "after~bound", two ids of matches:
the numbers themselves would tell how much is stored here that the caller may not see. In an order that writes can
change, pages go along a list that is kept of the first one (store.ordering).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import criteria
from fhir_secondop.fhir.query import Search
from fhir_secondop.limits import Limits
from fhir_secondop.model import Visibility
from fhir_secondop.store import ordering, tables
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


def conditions_of(search: Search, visibility: Visibility, base_url: str) -> list[ColumnElement[bool]]:
    """The conditions on `tables.resource` of all that matches, may be seen and is not deleted. Raises Invalid."""
    sees = seen_by(visibility)
    looked_at = (pair for each in search.criteria for pair in criteria.looked_at(search.type, each))
    return [
        tables.resource.c.type == search.type,
        tables.resource.c.deleted.is_(False),
        visible(visibility),
        *(condition(search.type, each, base_url, sees) for each in search.criteria),
        *(found_by(visibility, kind, code) for kind, code in looked_at),
    ]


def count(connection: Connection, conditions: list[ColumnElement[bool]]) -> int:
    """How many resources these conditions hold for."""
    counted: int = connection.execute(
        sa.select(sa.func.count()).select_from(tables.resource).where(*conditions)
    ).scalar_one()
    return counted


def run(connection: Connection, search: Search, visibility: Visibility, base_url: str, *, counts: bool = True) -> Found:
    """The page of resources that match, may be seen and are not deleted, oldest first or as `_sort` says.

    `counts` as in store.narrowing.
    """
    resource = tables.resource.c
    wanted = conditions_of(search, visibility, base_url)
    if search.sort and search.count:
        return _sorted(connection, search, narrowed(connection, wanted), visibility)
    first, last = _place(connection, search, visibility)
    between = (first.rid, last.rid) if first is not None and last is not None else None
    conditions = narrowed(connection, wanted, between, counts=counts)
    total = None
    if search.total == "accurate" or search.count == 0:
        total = count(connection, wanted if last is None else [*wanted, resource.rid <= last.rid])
    if search.count == 0:
        return Found((), "", total)
    query = rows(visibility).where(*conditions).order_by(resource.rid).limit(search.count + 1)
    found, is_cut = taken(connection, query, visibility, search.limits.max_page_bytes)
    more = is_cut or len(found) > search.count
    found = found[: search.count]
    if not more:
        return Found(tuple(found), "", total)
    if last is None:
        newest = sa.select(resource.id).where(*conditions).order_by(resource.rid.desc()).limit(1)
        bound = connection.execute(newest).scalar_one()
    else:
        bound = last.id
    return Found(tuple(found), f"{found[-1].id}~{bound}", total)


def _sorted(
    connection: Connection, search: Search, conditions: list[ColumnElement[bool]], visibility: Visibility
) -> Found:
    name, start = "", 0
    if search.page:
        name, start, rids = ordering.listed(connection, search, visibility)
    else:
        rids = ordering.ordered(connection, search, conditions, visibility)
    query = rows(visibility).where(*conditions)
    found, done = _in_order(connection, query, visibility, rids[start : start + search.count], search.limits)
    end = start + done
    return Found(
        tuple(found),
        f"{name}.{end}" if name and end < len(rids) else "",
        len(rids) if search.total == "accurate" else None,
        rids if not name and end < len(rids) else (),
        end,
    )


def _in_order(
    connection: Connection, query: sa.Select[Any], visibility: Visibility, rids: Sequence[int], limits: Limits
) -> tuple[list[Stored], int]:
    """What is there of these, in their order, until that is as large as a page may be; and of how many that was.

    Whoever may no longer be seen, or no longer matches, has left the list.
    """
    found: list[Stored] = []
    place, at_once, left = 0, len(rids), limits.max_page_bytes
    while place < len(rids) and left > 0:
        some = rids[place : place + at_once]
        here, is_cut = taken(connection, query.where(tables.resource.c.rid.in_(some)), visibility, left)
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


def _place(connection: Connection, asked: Search, visibility: Visibility) -> tuple[Any, Any]:
    """The rows of the last match before this page and of the last one of all pages; None, None on the first page."""
    if not asked.page:
        return None, None
    ids = asked.page.split("~")
    resource = tables.resource.c
    query = sa.select(resource.id, resource.rid).where(
        resource.type == asked.type, resource.id.in_(ids), visible(visibility)
    )
    found = {row.id: row for row in connection.execute(query)}
    if len(ids) != 2 or not set(ids) <= set(found):
        raise Invalid("This page link is not one of ours; start the search again.", path="_page")
    return found[ids[0]], found[ids[1]]
