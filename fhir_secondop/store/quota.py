"""How much each EHR was asked, counted over all threads, processes and machines that share the database."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fhir_secondop.model import Caller
from fhir_secondop.store import tables
from fhir_secondop.store.database import Database, Transaction

_COUNTER = Caller("limits", "Limits of EHRs", frozenset({"system"}))
_DAY_MS = 86_400_000
BURST_MS = 2_000
_APART_MS = 60_000  # by which the clocks of machines may differ
_LIMIT = tables.ehr_limit.c


@dataclass(frozen=True, slots=True)
class Counted:
    """The limits of all workers. `now` gives ms since 1970."""

    database: Database
    now: Callable[[], int]

    def slot(self, name: str, rate_per_s: float, longest_s: float) -> float:
        """Books the next request to an EHR; the seconds until it may go out. Books nothing beyond `longest_s`."""
        now = self.now()
        with self.database.transaction(_COUNTER) as tx:
            row = _row(tx, name)
            # What was not used is saved up for a little while: a token bucket.
            at: int = max(now - BURST_MS, row.next_ms)
            # Further ahead than anything is booked: by a clock that ran ahead, of which nothing may be saved up.
            if at - now > 1000 * longest_s + math.ceil(1000 / rate_per_s) + _APART_MS:
                at = now
            if at - now > 1000 * longest_s:
                return (at - now) / 1000
            following = at + math.ceil(1000 / rate_per_s)
            tx.connection.execute(sa.update(tables.ehr_limit).where(_LIMIT.name == name).values(next_ms=following))
        return max(0, at - now) / 1000

    def document(self, name: str, per_day: int) -> bool:
        """Counts one document of today (by UTC); False when the day's budget is used up."""
        day = self.now() // _DAY_MS
        with self.database.transaction(_COUNTER) as tx:
            row = _row(tx, name)
            used = row.documents if row.day == day else 0
            if used >= per_day:
                return False
            tx.connection.execute(
                sa.update(tables.ehr_limit).where(_LIMIT.name == name).values(day=day, documents=used + 1)
            )
        return True


def _row(tx: Transaction, name: str) -> Any:
    query = sa.select(_LIMIT.next_ms, _LIMIT.day, _LIMIT.documents).where(_LIMIT.name == name)
    row = tx.connection.execute(query).one_or_none()
    if row is None:
        tx.connection.execute(sa.insert(tables.ehr_limit).values(name=name, next_ms=0, day=0, documents=0))
        row = tx.connection.execute(query).one()
    return row
