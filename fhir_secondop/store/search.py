"""A Search and a visibility condition → a page.

Pages go by the creation number (keyset), bounded by the highest one at the first page: what matches throughout
appears exactly once, whatever is written meanwhile. The place to continue from is "after~bound", two ids of matches:
the numbers themselves would tell how much is stored here that the caller may not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir.query import Search
from fhir_secondop.model import Visibility
from fhir_secondop.store import tables
from fhir_secondop.store.conditions import condition
from fhir_secondop.store.resources import Stored, found_by, rows, stored, visible


@dataclass(frozen=True, slots=True)
class Found:
    """One page. `next_page` is empty on the last; `total` is None unless it was asked for."""

    matches: tuple[Stored, ...]
    next_page: str
    total: int | None


def run(connection: Connection, search: Search, visibility: Visibility, base_url: str) -> Found:
    """The page of resources that match, may be seen and are not deleted, oldest first."""
    resource = tables.resource.c
    conditions = [
        resource.type == search.type,
        resource.deleted.is_(False),
        visible(visibility),
        *(condition(search.type, criterion, base_url) for criterion in search.criteria),
        *(found_by(visibility, search.type, criterion.code) for criterion in search.criteria),
    ]
    first, last = _place(connection, search, visibility)
    total = None
    if search.total == "accurate" or search.count == 0:
        counted = sa.select(sa.func.count()).select_from(tables.resource).where(*conditions)
        if last is not None:
            counted = counted.where(resource.rid <= last.rid)
        total = connection.execute(counted).scalar_one()
    if search.count == 0:
        return Found((), "", total)
    query = rows(visibility).where(*conditions).order_by(resource.rid).limit(search.count + 1)
    if first is not None and last is not None:
        query = query.where(resource.rid > first.rid, resource.rid <= last.rid)
    found = [stored(row, visibility) for row in connection.execute(query)]
    more = len(found) > search.count
    found = found[: search.count]
    if not more:
        return Found(tuple(found), "", total)
    if last is None:
        newest = sa.select(resource.id).where(*conditions).order_by(resource.rid.desc()).limit(1)
        bound = connection.execute(newest).scalar_one()
    else:
        bound = last.id
    return Found(tuple(found), f"{found[-1].id}~{bound}", total)


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
