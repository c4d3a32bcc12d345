"""The case's copies of one source's resources: what is there already, and putting in what was gathered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion.records import Copy
from fhir_secondop.service.context import SOURCE, Context
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.resources import New

CHUNK = 200


def held(connection: Connection, case_id: str, name: str, base: str) -> dict[str, str]:
    """The copies of this source that the case has: key there ("Observation/7") → source URL with version."""
    rows = connection.execute(
        sa.select(tables.resource.c.type, tables.version.c.meta)
        .select_from(tables.resource.join(tables.version, resources.CURRENT))
        .where(
            tables.resource.c.case_id == case_id,
            tables.resource.c.owner == SOURCE + name,
            tables.resource.c.deleted.is_(False),
            # Pages are Binaries too; their files keep what they are by their own ids.
            tables.resource.c.type != "Binary",
        )
    )
    found = {}
    for row in rows:
        url = str(codec.parse(row.meta).get("source", ""))
        ref = refs.parse(url)
        if ref is not None and ref.base == base:
            found[ref.local] = url
    return found


def store(
    tx: Transaction, context: Context, case_id: str, name: str, copies: Iterable[Copy], held: dict[str, str]
) -> None:
    """Puts the copies in: new ones in bulk, changed ones as their next version, unchanged ones not at all."""
    for chunk in _chunks(copies):
        new = []
        for copy in chunk:
            ref = refs.parse(copy.source_url)
            before_url = held.get(ref.local) if ref is not None else None
            if before_url is None:
                new.append(New(copy.id, copy.body, copy.resource))
                continue
            if before_url == copy.source_url and ref is not None and ref.version:
                continue  # the same version of the same resource
            before = resources.read(tx.connection, EVERYTHING, copy.resource["resourceType"], copy.id)
            if before.body != copy.body or before.meta.get("source") != copy.source_url:
                resources.update(tx, before, copy.body, copy.resource, base_url=context.base_url)
        resources.create_many(tx, new, base_url=context.base_url, case_id=case_id, owner=SOURCE + name)


def _chunks(copies: Iterable[Copy]) -> Iterator[list[Copy]]:
    going = iter(copies)
    while chunk := list(islice(going, CHUNK)):
        yield chunk
