"""Index rows of a resource, from the search parameters of its type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.fhir import definitions, path
from fhir_secondop.fhir.pathcompiler import Step
from fhir_secondop.model import Resource
from fhir_secondop.store import composites, search_types, tables
from fhir_secondop.store.prepared import Prepared, Row, inserting
from fhir_secondop.store.search_types import PRESENT


@dataclass(frozen=True, slots=True)
class _Way:
    """A part of a search parameter's expression, and what becomes of the values that it finds."""

    code: str
    find: Step
    kind: search_types.Kind
    has_modifiers: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a type is indexed: the ways that something may be found by where a resource has that member; the others."""

    by_key: Mapping[str, tuple[_Way, ...]]
    always: tuple[_Way, ...]

    def ways(self, resource: Resource) -> Iterator[_Way]:
        """What may find something in this resource; by two of its members one stands there twice."""
        yield from self.always
        by_key = self.by_key
        for key in resource:
            if key in by_key:
                yield from by_key[key]


@cache
def _plan(resource_type: str) -> _Plan:
    """Of all parameters with rows of their own; _id and _lastUpdated are columns of the resource row itself."""
    by_key: dict[str, list[_Way]] = {}
    always = []
    for each in definitions.search_parameters(resource_type).values():
        if each.type not in search_types.KINDS or each.code in ("_id", "_lastUpdated"):
            continue
        for find, keys in path.branches(each.expression, resource_type):
            way = _Way(each.code, find, search_types.KINDS[each.type], each.type in ("token", "reference"))
            if keys is None:
                always.append(way)
            else:
                for key in keys:
                    by_key.setdefault(key, []).append(way)
    return _Plan({key: tuple(ways) for key, ways in by_key.items()}, tuple(always))


def rows_of(resource: Resource, base_url: str, rid: int = 0) -> dict[sa.Table, dict[Row, None]]:
    """The index rows of a resource with that row id, by table: each once, in the order of the table's columns.

    `base_url` is ours: an absolute reference to it is local.
    """
    resource_type = resource["resourceType"]
    found: dict[sa.Table, dict[Row, None]] = {}
    for table, row in (*_simple(resource, base_url), *composites.rows(resource, base_url)):
        row["rid"] = rid
        row["type"] = resource_type
        found.setdefault(table, {})[_IN_ORDER[table](row)] = None
    return found


def _simple(resource: Resource, base_url: str) -> Iterator[tuple[sa.Table, dict[str, Any]]]:
    whole = [(resource["resourceType"], resource)]
    for way in _plan(resource["resourceType"]).ways(resource):
        code, kind = way.code, way.kind
        for value_type, value in way.find(whole):
            if value is None:  # a primitive that has extensions alone
                continue
            # The rows are made for us: they are added to, not copied.
            rows = list(kind.rows(value_type, value, base_url))
            for row in rows:
                row["param"], row["place"] = code, 0
                yield kind.table, row
            if not rows:  # a text without a code, a unit without a number: no row to be found by, yet not missing
                yield tables.token, {"system": "", "code": "", "param": f"{code}:{PRESENT}", "place": 0}
            if way.has_modifiers:
                for table, modifier, row in search_types.of_modifiers(value_type, value):
                    row["param"], row["place"] = f"{code}:{modifier}", 0
                    yield table, row


_IN_ORDER = {table: itemgetter(*table.columns.keys()) for table in tables.INDEXES}
_INSERT = {table: inserting(table) for table in tables.INDEXES}
_DELETE = [Prepared(sa.delete(table).where(table.c.rid == sa.bindparam("of"))) for table in tables.INDEXES]


def write_many(connection: Connection, indexed: Iterable[tuple[int, Resource]], base_url: str) -> None:
    """Puts the index rows of resources in place, by row id; those of an earlier version must have been removed."""
    found: dict[sa.Table, list[Row]] = {}
    for rid, resource in indexed:
        for table, rows in rows_of(resource, base_url, rid).items():
            found.setdefault(table, []).extend(rows)
    for table, of_all in found.items():
        _INSERT[table].in_order(connection, of_all)


def remove(connection: Connection, rid: int) -> None:
    """Removes every index row of a resource."""
    for statement in _DELETE:
        statement.run(connection, of=rid)
