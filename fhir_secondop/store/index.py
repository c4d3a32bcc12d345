"""Index rows of a resource, from the search parameters of its type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.fhir import definitions, path
from fhir_secondop.model import Resource
from fhir_secondop.store import composites, search_types, tables
from fhir_secondop.store.prepared import Prepared, inserting
from fhir_secondop.store.search_types import PRESENT


def rows_of(resource: Resource, base_url: str, rid: int = 0) -> dict[sa.Table, list[dict[str, Any]]]:
    """The index rows of a resource with that row id, by table.

    `base_url` is ours: an absolute reference to it is local.
    """
    resource_type = resource["resourceType"]
    found: dict[sa.Table, list[dict[str, Any]]] = {}
    seen = set()
    for table, row in (*_simple(resource, base_url), *composites.rows(resource, base_url)):
        if (each := (table, *row.values())) not in seen:
            seen.add(each)
            row["rid"] = rid
            row["type"] = resource_type
            found.setdefault(table, []).append(row)
    return found


def _simple(resource: Resource, base_url: str) -> Iterator[tuple[sa.Table, dict[str, Any]]]:
    for parameter, kind in _kinds(resource["resourceType"]):
        code = parameter.code
        for value_type, value in path.select(parameter, resource):
            # The rows are made for us: they are added to, not copied.
            rows = list(kind.rows(value_type, value, base_url))
            for row in rows:
                row["param"], row["place"] = code, 0
                yield kind.table, row
            if not rows:  # a text without a code, a unit without a number: no row to be found by, yet not missing
                yield tables.token, {"system": "", "code": "", "param": f"{code}:{PRESENT}", "place": 0}
            if parameter.type in ("token", "reference"):
                for table, modifier, row in search_types.of_modifiers(value_type, value):
                    row["param"], row["place"] = f"{code}:{modifier}", 0
                    yield table, row


@cache
def _kinds(resource_type: str) -> tuple[tuple[definitions.SearchParameter, search_types.Kind], ...]:
    """The parameters with rows of their own; _id and _lastUpdated are columns of the resource row itself."""
    known = definitions.search_parameters(resource_type).values()
    return tuple(
        (each, search_types.KINDS[each.type])
        for each in known
        if each.type in search_types.KINDS and each.code not in ("_id", "_lastUpdated")
    )


_INSERT = {table: inserting(table) for table in tables.INDEXES}
_DELETE = [Prepared(sa.delete(table).where(table.c.rid == sa.bindparam("of"))) for table in tables.INDEXES]


def write_many(connection: Connection, indexed: Iterable[tuple[int, Resource]], base_url: str) -> None:
    """Puts the index rows of resources in place, by row id; those of an earlier version must have been removed."""
    found: dict[sa.Table, list[dict[str, Any]]] = {}
    for rid, resource in indexed:
        for table, rows in rows_of(resource, base_url, rid).items():
            found.setdefault(table, []).extend(rows)
    for table, rows in found.items():
        _INSERT[table].many(connection, rows)


def remove(connection: Connection, rid: int) -> None:
    """Removes every index row of a resource."""
    for statement in _DELETE:
        statement.run(connection, of=rid)
