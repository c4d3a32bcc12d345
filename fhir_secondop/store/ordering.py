"""_sort: matches in an order that a write can change, so that pages go along a list that is kept of the first one.

A list belongs to who asked and to what was asked, and ends after a while: then the search begins again.
Source: https://hl7.org/fhir/R4/search.html#sort
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.errors import Gone, Invalid
from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.query import Search
from fhir_secondop.model import Visibility
from fhir_secondop.store import tables
from fhir_secondop.store.database import Database, now_ms
from fhir_secondop.store.narrowing import of_resource
from fhir_secondop.store.resources import found_by
from fhir_secondop.store.search_types import KINDS

KEPT_MS = 15 * 60_000
MAX_LISTS = 1000  # kept at once, of all callers; the oldest make room
_VALUE = {
    "token": ("code", "code"), "string": ("folded", "folded"), "date": ("low", "high"), "uri": ("uri", "uri"),
    "reference": ("target", "target"), "number": ("low", "high"), "quantity": ("low", "high"),
}  # fmt: skip
"""Kind → the column whose least value counts, and that whose highest does."""


def in_order(
    dialect: Dialect,
    types: Sequence[str],
    sort: Iterable[tuple[str, bool]],
    conditions: Iterable[ColumnElement[bool]],
    visibility: Visibility,
    most: Any,
) -> sa.Select[Any]:
    """The rids of at most so many that match, in order; what has no such value comes last."""
    resource = tables.resource.c
    order: list[ColumnElement[Any]] = []
    for code, is_descending in sort:
        value: ColumnElement[Any]
        if code in ("_id", "_lastUpdated"):
            value = resource.id if code == "_id" else resource.updated
        else:
            value = _value(dialect, types, code, is_descending)
            # What a reader does not see of a resource says nothing of its place either.
            seen = [sa.or_(resource.type != kind, found_by(visibility, kind, code)) for kind in types
                    if (kind, code) in visibility.unsearchable]  # fmt: skip
            if seen:
                value = sa.case((sa.and_(*seen), value), else_=sa.null())
            order.append(value.is_(None))
        order.append(value.desc() if is_descending else value.asc())
    # No more is looked at than may be sorted, however much matches.
    matching = sa.select(resource.rid).where(*conditions).limit(most).correlate(None)
    return sa.select(resource.rid).where(resource.rid.in_(matching)).order_by(*order, resource.rid)


def _value(dialect: Dialect, types: Sequence[str], code: str, is_descending: bool) -> sa.ScalarSelect[Any]:
    """The least or highest value that a resource has of a parameter, looked up resource by resource."""
    kind = definitions.search_parameters(types[0])[code].type  # the same of all
    columns = KINDS[kind].table.c
    column: ColumnElement[Any] = columns[_VALUE[kind][is_descending]]
    if dialect.name == "postgresql" and isinstance(column.type, sa.Text):
        column = sa.collate(column, "C")
    value = sa.func.max(column) if is_descending else sa.func.min(column)
    of_types = columns.type == types[0] if len(types) == 1 else columns.type.in_(list(types))
    mine = [of_types, columns.param == code]
    if isinstance(column.type, sa.Text):
        mine.append(column != "")  # a system without a code is no value to sort by
    return of_resource(KINDS[kind].table, mine, value).scalar_subquery()


def keep(database: Database, search: Search, visibility: Visibility, rids: Sequence[int], shown: int) -> str:
    """Keeps the list, and gives the page that comes after the first so many of it."""
    name, now = uuid.uuid4().hex, now_ms()
    values = {"id": name, "asked": _asked(search, visibility), "rids": json.dumps(rids), "expires": now + KEPT_MS}
    with database.appending() as connection:
        columns = tables.search_list.c
        connection.execute(sa.delete(tables.search_list).where(columns.expires < now))
        beyond = sa.select(columns.id).order_by(columns.expires.desc()).offset(MAX_LISTS - 1)
        connection.execute(sa.delete(tables.search_list).where(columns.id.in_(beyond.correlate(None))))
        connection.execute(sa.insert(tables.search_list).values(**values))
    return f"{name}.{shown}"


def listed(connection: Connection, search: Search, visibility: Visibility) -> tuple[str, int, list[int]]:
    """The list that a page link names: its name, the place in it, and the rids. Raises Invalid, Gone."""
    name, _, place = search.page.partition(".")
    if not place.isdecimal() or len(place) > 9 or len(name) != 32:
        raise Invalid("This page link is not one of ours; start the search again.", path="_page")
    columns = tables.search_list.c
    row = connection.execute(sa.select(columns.asked, columns.rids, columns.expires).where(columns.id == name)).first()
    if row is None or row.expires < now_ms():
        raise Gone("This page is no longer kept; start the search again.")
    if row.asked != _asked(search, visibility):
        raise Invalid("This page link is of another search; start the search again.", path="_page")
    return name, int(place), json.loads(row.rids)


def _asked(search: Search, visibility: Visibility) -> str:
    asked = (visibility.owner, search.parts, search.sort)
    return hashlib.sha256(repr(asked).encode()).hexdigest()
