"""Whose turn it is: what is done regularly is done by one of all workers each time."""

from __future__ import annotations

import sqlalchemy as sa

from fhir_secondop.store import tables
from fhir_secondop.store.database import Database

_DUE = tables.round_.c.due
_KNOWN = sa.text("INSERT INTO round (name, due) VALUES (:name, 0) ON CONFLICT (name) DO NOTHING")


def taken(database: Database, name: str, every_ms: int, now: int) -> bool:
    """Whether the caller has this turn of `name`; the next one is due `every_ms` after `now` (ms since 1970).

    A clock that was wrong can't stop the others: a turn that is due later than twice `every_ms` from now is due now.
    Not once: by a clock that is a little behind the one that took it, every turn would be.
    """
    mine = tables.round_.c.name == name
    ready = sa.or_(now >= _DUE, now + 2 * every_ms < _DUE)
    with database.reading() as connection:
        found = connection.execute(sa.select(ready).where(mine)).scalar_one_or_none()
    if found is not None and not found:
        return False  # without a write, which is the common case
    with database.appending() as connection:
        connection.execute(_KNOWN, {"name": name})
        return connection.execute(sa.update(tables.round_).where(mine, ready).values(due=now + every_ms)).rowcount == 1
