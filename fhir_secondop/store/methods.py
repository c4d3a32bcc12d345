"""By which method of HTTP a version came about, where that is not POST for the first one and PUT for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.prepared import inserting
from fhir_secondop.store.resources import Stored

_INSERT = inserting(tables.version_method)
_AT_ONCE = 300  # in one statement


def note(tx: Transaction, stored: Stored, method: str) -> None:
    """Says by which method a version of this transaction came about."""
    if method != implied(stored):
        _INSERT.run(tx.connection, rid=stored.rid, version=stored.version, method=method)


def implied(stored: Stored) -> str:
    """The method by which such a version comes about unless something else is said of it."""
    return "DELETE" if stored.deleted else "POST" if stored.version == 1 else "PUT"


def noted(connection: Connection, versions: Sequence[Stored]) -> Mapping[tuple[int, int], str]:
    """By rid and version the methods of those of which one is noted."""
    columns, found = tables.version_method.c, {}
    rids = sorted({each.rid for each in versions})
    for start in range(0, len(rids), _AT_ONCE):
        query = sa.select(columns.rid, columns.version, columns.method).where(
            columns.rid.in_(rids[start : start + _AT_ONCE]),
            columns.version.between(min(v.version for v in versions), max(v.version for v in versions)),
        )
        found.update({(row.rid, row.version): row.method for row in connection.execute(query)})
    return found
