"""The case's copies of one source's resources: what is there already, and putting in what was gathered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion import records
from fhir_secondop.opinion.records import Copy
from fhir_secondop.service.context import Context, quarantine
from fhir_secondop.store import creating, resources, tables
from fhir_secondop.store.creating import New
from fhir_secondop.store.database import Transaction

_FILE = re.compile(r'"Binary/([A-Za-z0-9\-.]{1,64})"')
CHUNK = 200
CHUNK_CHARACTERS = 4_000_000
# Built once: a gathering runs it hundreds of times.
_FILES = sa.select(tables.resource.c.id).where(
    tables.resource.c.type == "Binary",
    tables.resource.c.id.in_(sa.bindparam("ids", expanding=True)),
    tables.resource.c.deleted.is_(False),
)

# The Provenance of a gathering names its pages; a file is named by what it belongs to.
_IS_PAGE = sa.and_(
    tables.resource.c.type == "Binary",
    sa.exists().where(
        tables.reference.c.type == "Provenance", tables.reference.c.param == "entity",
        tables.reference.c.target == sa.literal("Binary/") + tables.resource.c.id,
    ),
)  # fmt: skip


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
        fresh = {copy.id for copy in chunk if _held(copy, held) is None}
        # What a label kept out for a while has its id and its versions still.
        back = bring_back(tx, case_id, name, fresh)
        new = []
        for copy in chunk:
            had = _held(copy, held)
            if had is None and copy.id not in back:
                new.append(New(copy.id, copy.body, copy.resource))
                continue
            # The same version of the same resource; but what it cites may have been gathered only now.
            if had is not None and had.url == copy.source_url and _is_versioned(copy) and not had.cites_there:
                continue
            before = resources.read(tx.connection, EVERYTHING, copy.resource["resourceType"], copy.id)
            if before.body != copy.body or before.meta.get("source") != copy.source_url:
                resources.update(tx, before, copy.body, copy.resource, base_url=context.base_url)
        creating.create_many(tx, new, base_url=context.base_url, case_id=case_id, owner=resources.SOURCE + name)


def _held(copy: Copy, held: dict[str, Held]) -> Held | None:
    ref = refs.parse(copy.source_url)
    return held.get(ref.local) if ref is not None else None


def _is_versioned(copy: Copy) -> bool:
    ref = refs.parse(copy.source_url)
    return ref is not None and bool(ref.version)


def bring_back(tx: Transaction, case_id: str, name: str, ids: Iterable[str]) -> set[str]:
    """Puts what was set aside back into the case; the ids, of these, that had been."""
    resource = tables.resource.c
    aside = sa.and_(resource.case_id == quarantine(case_id), resource.owner == resources.SOURCE + name)
    moved = sa.update(tables.resource).where(aside, resource.id.in_(sorted(ids))).returning(resource.id)
    return set(tx.connection.execute(moved.values(case_id=case_id)).scalars())


def put_aside(tx: Transaction, case_id: str, name: str, keys: Iterable[str], held: dict[str, Held]) -> None:
    """Takes copies out of the case that a label keeps out from now on, with the files that only they name; and the
    source's pages, which may hold them.
    """
    ids = [records.copy_reference(case_id, name, key).partition("/")[2] for key in keys if key in held]
    if not ids:
        return
    resource = tables.resource.c
    own = sa.and_(resource.case_id == case_id, resource.owner == resources.SOURCE + name)
    moved = sa.update(tables.resource).where(own).values(case_id=quarantine(case_id))
    bodies = sa.select(tables.version.c.body).select_from(tables.resource.join(tables.version, resources.CURRENT))
    theirs = _files_named(tx.connection.execute(bodies.where(own, resource.id.in_(ids))).scalars())
    tx.connection.execute(moved.where(sa.or_(resource.id.in_(ids), _IS_PAGE)))
    if not theirs:
        return
    others = sa.select(tables.version.c.body).select_from(tables.resource.join(tables.version, resources.CURRENT))
    others = others.where(own, resource.type != "Binary", tables.version.c.body.contains('"Binary/'))
    theirs -= _files_named(tx.connection.execute(others.execution_options(yield_per=CHUNK)).scalars())
    tx.connection.execute(moved.where(resource.type == "Binary", resource.id.in_(sorted(theirs))))


def set_pages_aside(tx: Transaction, case_id: str) -> None:
    """Takes every page that came from an EHR out of the case: it is whole, whatever is withheld of what it brought."""
    resource = tables.resource.c
    own = sa.and_(resource.case_id == case_id, resource.owner.startswith(resources.SOURCE), _IS_PAGE)
    tx.connection.execute(sa.update(tables.resource).where(own).values(case_id=quarantine(case_id)))


def _files_named(bodies: Iterable[str]) -> set[str]:
    """The ids of the Binaries that these resources name."""
    return {found for body in bodies for found in _FILE.findall(body)}


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
