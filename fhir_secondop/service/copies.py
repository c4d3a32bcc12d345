"""The case's copies of one source's resources: what is there already, and putting in what was gathered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion import records
from fhir_secondop.opinion.records import Copy
from fhir_secondop.service.context import Context, quarantine
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.resources import New

CHUNK = 200
CHUNK_CHARACTERS = 4_000_000
# Built once: a gathering runs it hundreds of times.
_FILES = sa.select(tables.resource.c.id).where(
    tables.resource.c.type == "Binary",
    tables.resource.c.id.in_(sa.bindparam("ids", expanding=True)),
    tables.resource.c.deleted.is_(False),
)


@dataclass(frozen=True, slots=True)
class Held:
    """A copy that the case has: its source URL with the version, and whether it still cites anything over there."""

    url: str
    cites_there: bool


def held(connection: Connection, case_id: str, name: str, base: str) -> dict[str, Held]:
    """The copies of this source that the case has, by their key there ("Observation/7")."""
    cites_there = tables.version.c.body.contains(f'"{base}/', autoescape=True).label("cites_there")
    rows = connection.execute(
        sa.select(tables.resource.c.type, tables.version.c.meta, cites_there)
        .select_from(tables.resource.join(tables.version, resources.CURRENT))
        .where(
            tables.resource.c.case_id == case_id,
            tables.resource.c.owner == resources.SOURCE + name,
            tables.resource.c.deleted.is_(False),
            # Pages are Binaries too; their files keep what they are by their own ids.
            tables.resource.c.type != "Binary",
        )
    )
    found = {}
    for row in rows:
        url = str(codec.trusted(row.meta).get("source", ""))
        ref = refs.parse(url)
        if ref is not None and ref.base == base:
            found[ref.local] = Held(url, bool(row.cites_there))
    return found


def files(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Those of these ids under which there is a Binary."""
    return set(connection.execute(_FILES, {"ids": list(ids)}).scalars())


def store(
    tx: Transaction, context: Context, case_id: str, name: str, copies: Iterable[Copy], held: dict[str, Held]
) -> None:
    """Puts the copies in: new ones in bulk, changed ones as their next version, unchanged ones not at all."""
    for chunk in _chunks(copies):
        new = []
        for copy in chunk:
            ref = refs.parse(copy.source_url)
            had = held.get(ref.local) if ref is not None else None
            if had is None:
                new.append(New(copy.id, copy.body, copy.resource))
                continue
            # The same version of the same resource; but what it cites may have been gathered only now.
            if had.url == copy.source_url and ref is not None and ref.version and not had.cites_there:
                continue
            before = resources.read(tx.connection, EVERYTHING, copy.resource["resourceType"], copy.id)
            if before.body != copy.body or before.meta.get("source") != copy.source_url:
                resources.update(tx, before, copy.body, copy.resource, base_url=context.base_url)
        resources.create_many(tx, new, base_url=context.base_url, case_id=case_id, owner=resources.SOURCE + name)


def put_aside(tx: Transaction, case_id: str, name: str, keys: Iterable[str], held: dict[str, Held]) -> None:
    """Takes copies out of the case that a label keeps out from now on, and the source's pages, which may hold them."""
    ids = [records.copy_reference(case_id, name, key).partition("/")[2] for key in keys if key in held]
    if not ids:
        return
    resource = tables.resource.c
    own = sa.and_(resource.case_id == case_id, resource.owner == resources.SOURCE + name)
    # The Provenance of a gathering names its pages; a file is named by what it belongs to.
    named = sa.exists().where(
        tables.reference.c.type == "Provenance", tables.reference.c.param == "entity",
        tables.reference.c.target == sa.literal("Binary/") + resource.id,
    )  # fmt: skip
    pages = sa.and_(resource.type == "Binary", named)
    moved = sa.update(tables.resource).where(own, sa.or_(resource.id.in_(ids), pages))
    tx.connection.execute(moved.values(case_id=quarantine(case_id)))


def _chunks(copies: Iterable[Copy]) -> Iterator[list[Copy]]:
    """Copies in lots of so many, or so many characters: a document may carry its file inline."""
    chunk: list[Copy] = []
    size = 0
    for copy in copies:
        chunk.append(copy)
        size += len(copy.body.text)
        if len(chunk) >= CHUNK or size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
