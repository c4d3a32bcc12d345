"""The index made anew: when search parameters have changed, or how they are indexed.

In batches, each a transaction that says how far it has come: whoever stops, or is stopped, is followed by the next one
from there, and others read and write meanwhile. What is written meanwhile is indexed as it is written.

Of R4's parameters that is done before the service answers, whose own use cases go by them; of ours while it does, and
until then nothing is searched by them (store.pending).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from fhir_secondop.fhir import definitions
from fhir_secondop.store import index, pending, resources, tables
from fhir_secondop.store.database import Database

log = logging.getLogger(__name__)
BATCH = 200
PAUSE_S = 0.05  # between two batches beside a service: each holds the one write lock
AGAIN_S = 5.0  # after a failure

Tell = Callable[[int, int], None]
"""(resources done, resources in all)"""


def fingerprint() -> str:
    """Changes when a search parameter of R4's changes, or what is indexed for it."""
    return f"{pending.FORM}-{definitions.search_parameters_digest()}"


def bring_up_to_date(database: Database, base_url: str, tell: Tell = lambda done, whole: None) -> int:
    """Indexes all resources anew unless that has been done with R4's parameters; gives how many it did.

    Those of ours that are to be indexed are written down; `finish` does it, or a `beside`.
    """
    with database.reading() as connection:
        is_done = _state(connection) == (fingerprint(), True)
        whole = connection.execute(sa.select(sa.func.count()).select_from(tables.resource)).scalar_one()
    done = 0
    while not is_done and (number := _batch(database, base_url)) is not None:
        done += number
        tell(done, whole)
    pending.begin(database)
    return done


def finish(database: Database, base_url: str) -> int:
    """Indexes by what was added of ours; gives how many resources."""
    done = 0
    while (number := _batch_of_ours(database, base_url)) is not None:
        done += number
    return done


@contextmanager
def beside(database: Database, base_url: str) -> Iterator[None]:
    """Does the same in a thread, beside a service; on leaving it stops, and the next one goes on from there."""
    ends = threading.Event()

    def work() -> None:
        done = 0
        while not ends.is_set():
            try:
                number = _batch_of_ours(database, base_url)
            except SQLAlchemyError as error:
                # Its text may quote a row. Until it is done the searches concerned are refused, and say why.
                log.error("indexing by a search parameter of ours failed (%s); again in %.0f s", type(error), AGAIN_S)
                ends.wait(AGAIN_S)
                continue
            if number is None:
                if done:
                    log.info("the index by search parameters of ours is complete: %d resources", done)
                return
            done += number
            ends.wait(PAUSE_S)

    thread = threading.Thread(target=work, name="index", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def upgrade(database: Database, base_url: str, tell: Tell = lambda done, whole: None) -> int:
    """Brings the whole index up to date, that of our parameters too; gives how many resources it indexed."""
    return bring_up_to_date(database, base_url, tell) + finish(database, base_url)


def again(database: Database, base_url: str, tell: Tell = lambda done, whole: None) -> int:
    """Indexes all resources anew in any case; gives how many. One that was interrupted is gone on with."""
    with database.reading() as connection:
        state = _state(connection)
    if state is None or state[1]:
        with database.appending() as connection:
            _set(connection, done=0, complete=False)
    return upgrade(database, base_url, tell)


def _state(connection: Connection) -> tuple[str, bool] | None:
    state = tables.index_state.c
    row = connection.execute(sa.select(state.fingerprint, state.complete).where(state.id == pending.OF_R4)).first()
    return None if row is None else (row.fingerprint, bool(row.complete))


def _batch(database: Database, base_url: str) -> int | None:
    """Indexes the next resources; None when there is none left, which it then writes down."""
    resource, state = tables.resource.c, tables.index_state.c
    with database.appending() as connection:
        # Read in the transaction that goes on from there: several may be at it.
        of_r4 = sa.select(state.fingerprint, state.done, state.complete).where(state.id == pending.OF_R4)
        row = connection.execute(of_r4.with_for_update()).first()
        if row is not None and row.fingerprint == fingerprint() and row.complete:
            return None
        after = row.done if row is not None and row.fingerprint == fingerprint() else 0
        number, last = _index(connection, base_url, resource.rid > after)
        _set(connection, done=last or after, complete=not number)
    return number or None


def _batch_of_ours(database: Database, base_url: str) -> int | None:
    """Indexes the next resources of those types that a new parameter of ours is of; None when there is none left."""
    resource, state = tables.resource.c, tables.index_state.c
    with database.appending() as connection:
        connection.execute(sa.select(state.id).where(state.id == pending.OF_R4).with_for_update())
        left = pending.unfinished(connection)
        if not left:
            return None
        types = {kind for each, _ in left for kind in pending.types_of(each)}
        after = min(done for _, done in left)
        number, last = _index(connection, base_url, resource.rid > after, resource.type.in_(types))
        mine = state.fingerprint.in_([each for each, _ in left])
        if number:
            connection.execute(sa.update(tables.index_state).where(mine, state.done < last).values(done=last))
        else:
            connection.execute(sa.update(tables.index_state).where(mine).values(complete=True))
    return number or None


def _index(connection: Connection, base_url: str, *which: sa.ColumnElement[bool]) -> tuple[int, int]:
    """Makes the rows of the next such resources anew; gives how many these were, and the number of the last."""
    rid = tables.resource.c.rid
    query = resources.rows().where(*which).order_by(rid).limit(BATCH).with_for_update()
    found = [resources.stored(each) for each in connection.execute(query)]
    for each in found:
        index.remove(connection, each.rid)
    index.write_many(connection, ((each.rid, each.resource) for each in found if not each.deleted), base_url)
    return len(found), found[-1].rid if found else 0


def _set(connection: Connection, *, done: int, complete: bool) -> None:
    connection.execute(sa.delete(tables.index_state).where(tables.index_state.c.id == pending.OF_R4))
    values = {"id": pending.OF_R4, "fingerprint": fingerprint(), "done": done, "complete": complete}
    connection.execute(sa.insert(tables.index_state).values(**values))
