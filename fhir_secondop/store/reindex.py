"""The index made anew: when search parameters have changed, or how they are indexed.

In batches, each a transaction that says how far it has come: whoever stops, or is stopped, is followed by the next one
from there, and others read and write meanwhile. What is written meanwhile is indexed as it is written.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.fhir import definitions
from fhir_secondop.store import index, resources, tables
from fhir_secondop.store.database import Database

FORM = 2
"""Goes up when the rows of a parameter look otherwise than before."""
BATCH = 200

Tell = Callable[[int, int], None]
"""(resources done, resources in all)"""


def fingerprint() -> str:
    """Changes when a search parameter changes, or what is indexed for it."""
    return f"{FORM}-{definitions.search_parameters_digest()}"


def bring_up_to_date(database: Database, base_url: str, tell: Tell = lambda done, whole: None) -> int:
    """Indexes all resources anew unless that has been done with these parameters; gives how many it did."""
    with database.reading() as connection:
        if _state(connection) == (fingerprint(), True):
            return 0
        whole = connection.execute(sa.select(sa.func.count()).select_from(tables.resource)).scalar_one()
    done = 0
    while (number := _batch(database, base_url)) is not None:
        done += number
        tell(done, whole)
    return done


def again(database: Database, base_url: str, tell: Tell = lambda done, whole: None) -> int:
    """Indexes all resources anew in any case; gives how many. One that was interrupted is gone on with."""
    with database.reading() as connection:
        state = _state(connection)
    if state is None or state[1]:
        with database.appending() as connection:
            _set(connection, done=0, complete=False)
    return bring_up_to_date(database, base_url, tell)


def _state(connection: Connection) -> tuple[str, bool] | None:
    state = tables.index_state.c
    row = connection.execute(sa.select(state.fingerprint, state.complete)).first()
    return None if row is None else (row.fingerprint, bool(row.complete))


def _batch(database: Database, base_url: str) -> int | None:
    """Indexes the next resources; None when there is none left, which it then writes down."""
    resource, state = tables.resource.c, tables.index_state.c
    with database.appending() as connection:
        # Read in the transaction that goes on from there: several may be at it.
        row = connection.execute(sa.select(state.fingerprint, state.done, state.complete).with_for_update()).first()
        if row is not None and row.fingerprint == fingerprint() and row.complete:
            return None
        after = row.done if row is not None and row.fingerprint == fingerprint() else 0
        query = resources.rows().where(resource.rid > after).order_by(resource.rid).limit(BATCH).with_for_update()
        found = [resources.stored(each) for each in connection.execute(query)]
        for each in found:
            index.remove(connection, each.rid)
        index.write_many(connection, ((each.rid, each.resource) for each in found if not each.deleted), base_url)
        _set(connection, done=found[-1].rid if found else after, complete=not found)
    return len(found) if found else None


def _set(connection: Connection, *, done: int, complete: bool) -> None:
    connection.execute(sa.delete(tables.index_state))
    values = {"id": 1, "fingerprint": fingerprint(), "done": done, "complete": complete}
    connection.execute(sa.insert(tables.index_state).values(**values))
