"""Short ways to put a resource into a store and to search it: what every test here begins with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from fhir_secondop.access import rights
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec, query
from fhir_secondop.model import EVERYTHING, Caller, Visibility
from fhir_secondop.store import resources, search, tables
from fhir_secondop.store.database import Database, Transaction, now_ms
from fhir_secondop.store.prepared import Prepared
from fhir_secondop.store.resources import Stored

BASE = "https://secondop.example.org/fhir"
DESK = Caller("desk", "Desk", frozenset({"coordinator"}), ("system/*.cruds",))


def create(tx: Transaction, resource: dict[str, Any], **options: Any) -> Stored:
    """Stores a resource as the endpoint would."""
    body, parsed = codec.split(json.dumps(resource))
    return resources.create(tx, body, parsed, base_url=BASE, **options)


def put(database: Database, resource: dict[str, Any], *, caller: Caller = DESK, **options: Any) -> Stored:
    """Stores a resource in a transaction of its own."""
    with database.transaction(caller) as tx:
        return create(tx, resource, **options)


def update(database: Database, before: Stored, resource: dict[str, Any], **options: Any) -> Stored:
    """Stores the next version in a transaction of its own."""
    with database.transaction(DESK) as tx:
        body, parsed = codec.split(json.dumps(resource))
        return resources.update(tx, before, body, parsed, base_url=BASE, **options)


def delete(database: Database, before: Stored, **options: Any) -> Stored:
    """Deletes in a transaction of its own."""
    with database.transaction(DESK) as tx:
        return resources.delete(tx, before, **options)


def everything(
    database: Database, kind: str, asked: str, *, visibility: Visibility = EVERYTHING, pages: int = 1000
) -> list[str]:
    """The ids that a search finds, over all its pages."""
    wanted = query.parse(kind, asked)
    found: list[str] = []
    for _ in range(pages):
        with database.reading() as connection:
            page = search.run(connection, wanted, visibility, BASE)
        found += [match.id for match in page.matches]
        if not page.next_page:
            return found
        wanted = query.parse(kind, asked + f"&_page={page.next_page}")
    raise AssertionError("the pages do not end")


def named(database: Database, kind: str, stored: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Stores resources of a type under ids that a test can read."""
    with database.transaction(DESK) as tx:
        for name, rest in stored:
            create(tx, {"resourceType": kind, **rest}, resource_id=name)


def refused(database: Database, kind: str, asked: str) -> bool:
    """Whether the search is refused as invalid."""
    try:
        everything(database, kind, asked)
    except Invalid:
        return True
    return False


def let_in(database: Database, case_id: str, *parties: str) -> None:
    """Puts parties into the audience of a case."""
    with database.transaction(DESK) as tx:
        for party in parties:
            tx.connection.execute(sa.insert(tables.audience).values(case_id=case_id, party=party, part="record"))


def counts(database: Database) -> dict[str, int]:
    """How many rows each table has: what "nothing was stored" is measured by."""
    with database.reading() as connection:
        return {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in tables.metadata.sorted_tables
        }


def sees(caller: Caller) -> Visibility:
    """What the service lets a caller see."""
    return rights.visibility(caller, now_ms())


def cut_off(database: Database, connection: sa.Connection) -> None:
    """PostgreSQL ends what is behind a connection, by statements that SQLAlchemy knows nothing of."""
    ((mine,),) = Prepared(sa.text("SELECT pg_backend_pid()")).all(connection)
    with database.engine.connect() as other:
        other.execute(sa.text(f"SELECT pg_terminate_backend({mine}, 5000)"))
