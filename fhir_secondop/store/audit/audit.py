"""The audit of one process: its two chains, their anchors, and the thread that writes them."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence

from fhir_secondop.store.audit.anchors import Anchors
from fhir_secondop.store.audit.batch import Batch
from fhir_secondop.store.audit.reads import Reads
from fhir_secondop.store.audit.refusals import Refusals
from fhir_secondop.store.audit.rows import Values
from fhir_secondop.store.audit.writes import Writes
from fhir_secondop.store.database import Database


class Audit:
    """What `Database.audit` is. `strict`: an answer waits until its rows are durable."""

    def __init__(self, database: Database, *, strict: bool, now: Callable[[], int]) -> None:
        self._refusals = Refusals(now)
        self._reads = Reads(
            database, strict=strict, now=now, beside=lambda ending: self._anchors.due(ending),
            counted=self._refusals.due,
        )  # fmt: skip
        self._writes = Writes(now, self._reads.wake)
        self._anchors = Anchors(database, now, lambda: [*self._reads.heads(), *self._writes.heads()])
        self.now = now
        # Whatever way the process ends, short of being killed: what is queued is written.
        atexit.register(self.close)

    def batch(self) -> Batch:
        """What one database transaction records, whoever shares it."""
        return self._writes.batch()

    def check(self) -> None:
        """Raises Unavailable while rows can't be written."""
        self._reads.check()

    def put(self, rows: Sequence[Values]) -> None:
        """Records requests. Raises Unavailable when they can't be recorded: then serve nothing."""
        self._reads.put(rows)

    def refused(self, caller: str, status: int) -> None:
        """Counts a request that was refused before anything was done for it; written within a minute or so."""
        self._refusals.count(caller, status)
        self._reads.wake()

    def flush(self) -> None:
        """Returns when everything recorded so far is durable. Raises Unavailable."""
        self._reads.flush()

    def close(self) -> None:
        """Writes what is queued and the last anchor, and stops."""
        atexit.unregister(self.close)
        self._reads.close()
