"""Index rows of a resource, from the search parameters of its type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.fhir import definitions, path
from fhir_secondop.model import Resource
from fhir_secondop.store import search_types, tables


def rows_of(resource: Resource, base_url: str) -> dict[sa.Table, list[dict[str, Any]]]:
    """The index rows of a resource, by table, without `rid`.

    `base_url` is ours: an absolute reference to it is local.
    """
    resource_type = resource["resourceType"]
    found: dict[sa.Table, list[dict[str, Any]]] = {}
    for parameter in definitions.search_parameters(resource_type).values():
        kind = search_types.KINDS.get(parameter.type)
        # _id and _lastUpdated are columns of the resource row itself.
        if kind is None or parameter.code in ("_id", "_lastUpdated"):
            continue
        seen = set()
        for value_type, value in path.select(parameter, resource):
            for row in kind.rows(value_type, value, base_url):
                key = tuple(row.values())
                if key not in seen:
                    seen.add(key)
                    found.setdefault(kind.table, []).append({"type": resource_type, "param": parameter.code, **row})
    return found


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
    for table in (tables.token, tables.string, tables.date, tables.reference):
        connection.execute(sa.delete(table).where(table.c.rid == rid))
