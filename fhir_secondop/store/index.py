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
from fhir_secondop.store.search_types import PRESENT


def rows_of(resource: Resource, base_url: str) -> dict[sa.Table, list[dict[str, Any]]]:
    """The index rows of a resource, by table, without `rid`.

    `base_url` is ours: an absolute reference to it is local.
    """
    resource_type = resource["resourceType"]
    found: dict[sa.Table, list[dict[str, Any]]] = {}
    seen = set()
    for table, row in (*_simple(resource, base_url), *composites.rows(resource, base_url)):
        if (each := (table, *row.values())) not in seen:
            seen.add(each)
            found.setdefault(table, []).append({"type": resource_type, **row})
    return found


def _simple(resource: Resource, base_url: str) -> Iterator[tuple[sa.Table, dict[str, Any]]]:
    for parameter, kind in _kinds(resource["resourceType"]):
        code = parameter.code
        for value_type, value in path.select(parameter, resource):
            rows = list(kind.rows(value_type, value, base_url))
            for row in rows:
                yield kind.table, {"param": code, "place": 0, **row}
            if not rows:  # a text without a code, a unit without a number: no row to be found by, yet not missing
                yield tables.token, {"param": f"{code}:{PRESENT}", "place": 0, "system": "", "code": ""}
            if parameter.type in ("token", "reference"):
                for table, modifier, row in search_types.of_modifiers(value_type, value):
                    yield table, {"param": f"{code}:{modifier}", "place": 0, **row}


@cache
def _kinds(resource_type: str) -> tuple[tuple[definitions.SearchParameter, search_types.Kind], ...]:
    """The parameters with rows of their own; _id and _lastUpdated are columns of the resource row itself."""
    known = definitions.search_parameters(resource_type).values()
    return tuple(
        (each, search_types.KINDS[each.type])
        for each in known
        if each.type in search_types.KINDS and each.code not in ("_id", "_lastUpdated")
    )


def write_many(connection: Connection, indexed: Iterable[tuple[int, Resource]], base_url: str) -> None:
    """Puts the index rows of resources in place, by row id; those of an earlier version must have been removed."""
    found: dict[sa.Table, list[dict[str, Any]]] = {}
    for rid, resource in indexed:
        for table, rows in rows_of(resource, base_url).items():
            found.setdefault(table, []).extend({"rid": rid, **row} for row in rows)
    for table, rows in found.items():
        connection.execute(sa.insert(table), rows)


def remove(connection: Connection, rid: int) -> None:
    """Removes every index row of a resource."""
    for table in tables.INDEXES:
        connection.execute(sa.delete(table).where(table.c.rid == rid))
