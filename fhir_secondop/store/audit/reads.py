"""The audit of reads and denials: a queue that one thread per process writes in group commits.

What can't be recorded is not served: a full queue makes the next request wait, and a database that takes no rows
makes it fail with Unavailable. Rows are kept and tried again until they are written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop import meters
from fhir_secondop.errors import Unavailable
from fhir_secondop.store import tables
from fhir_secondop.store.audit import refusals, rows
from fhir_secondop.store.audit.rows import Head, Values
from fhir_secondop.store.database import Database

log = logging.getLogger(__name__)
_INSERT = sa.insert(tables.audit)
GATHER_S = 0.03  # rows that come this close together share a commit: with the commit itself, under 50 ms
QUEUE_ROWS = 20_000
LATE_S = 1.0  # when the oldest row has waited this long, answers wait too: what a power failure costs stays small
PATIENCE_S = 10.0  # how long an answer waits before it is refused
AGAIN_S = 0.25
_BATCH = 2_000
REFUSED = "The audit can't be written, so nothing is served; try again, and tell the operator."


class Reads:
    """The queue, and the chain that its thread writes.

    In that thread `counted` gives rows that are due, all with True; `beside` runs now and then, and at the end.
    """

    def __init__(
        self, database: Database, *, strict: bool, now: Callable[[], int], beside: Callable[[bool], None],
        counted: Callable[[bool], list[Values]] = lambda ending: [],
    ) -> None:  # fmt: skip
        self._database = database
        self._strict = strict
        self._now = now
        self._beside = beside
        self._counted = counted
        lock = threading.RLock()
        self._arrived = threading.Condition(lock)  # what the thread waits for: woken once a commit, not once a row
        self._changed = threading.Condition(lock)  # what answers wait for
        self._stopping = threading.Event()
        self._queue: deque[tuple[float, Values]] = deque()
        self._head = rows.new_head()
        self._ended: list[Head] = []
        self._taken = 0  # rows ever taken in
        self._written = 0  # rows ever committed
        self._refused = 0
        self._failing = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def heads(self) -> list[Head]:
        """The heads of what is committed; more than one when a commit was left in doubt."""
        return [head for head in (*self._ended, self._head) if head.n]

    def check(self) -> None:
        """Raises Unavailable while rows can't be written: before anything is read that could not be recorded."""
        with self._changed:
            if self._failing:
                self._refused += 1
                raise Unavailable(REFUSED)

    def put(self, found: Sequence[Values]) -> None:
        """Records rows, in strict mode durably. Raises Unavailable when they can't be; then serve nothing.

        A row that was taken in and not written in time is written later: it may record an answer that was refused.
        """
        if not found:
            return
        ends = time.monotonic() + PATIENCE_S
        with self._changed:
            self._start()
            self._wait(ends, lambda: len(self._queue) < QUEUE_ROWS and not self._failing and not self._is_late())
            if not self._queue:
                self._arrived.notify()
            self._take(found)
            mine = self._taken
            if self._strict:
                self._wait(ends, lambda: self._written >= mine)

    def flush(self) -> None:
        """Returns when everything taken in so far is committed. Raises Unavailable."""
        with self._changed:
            mine = self._taken
            self._wait(time.monotonic() + PATIENCE_S, lambda: self._written >= mine)

    def wake(self) -> None:
        """Starts the thread, unless it is running or has been stopped: there is something to write beside reads."""
        if self._thread is None:
            with self._changed:
                if not self._closing:
                    self._start()

    def close(self) -> None:
        """Writes what is queued, and stops. What can't be written now is lost, and its number is logged."""
        with self._changed:
            self._closing = True
            self._stopping.set()
            self._arrived.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _take(self, found: Sequence[Values]) -> None:
        at = time.monotonic()
        self._queue.extend((at, row) for row in found)
        self._taken += len(found)

    def _start(self) -> None:
        if self._closing:
            raise Unavailable("The service is stopping; try again in a moment.")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
            self._thread.start()

    def _is_late(self) -> bool:
        return bool(self._queue) and time.monotonic() - self._queue[0][0] > LATE_S

    def _wait(self, ends: float, done: Callable[[], bool]) -> None:
        while not done():
            left = ends - time.monotonic()
            if self._failing or left <= 0:
                self._refused += 1
                raise Unavailable(REFUSED)
            self._changed.wait(min(left, LATE_S))

    def _run(self) -> None:
        self._aside(ending=False)
        while True:
            with self._changed:
                if not self._queue and not self._closing:
                    self._arrived.wait(1.0)
                waiting = bool(self._queue)
            if waiting and not self._strict:
                self._stopping.wait(GATHER_S)
            with self._changed:
                closing = self._closing
                self._take(self._counted(closing))
                batch = [row for _, row in islice(self._queue, _BATCH)]
            if batch and not self._commit(batch) and closing:
                log.error("%d audit rows could not be written before the end", len(self._queue))
                break
            if closing and not self._queue:
                break
            self._aside(ending=False)
        self._aside(ending=True)

    def _commit(self, batch: list[Values]) -> bool:
        """Writes the rows that head the queue and takes them out of it; False when the database did not take them."""
        try:
            written = self._append([*batch, *self._refusals()])
        except Exception as error:  # whatever it is: nothing may be served unrecorded
            if not self._failing:
                log.error("the audit can't be written (%s): requests are refused", type(error).__name__)
            with self._changed:
                self._failing = True
                self._changed.notify_all()
            self._stopping.wait(AGAIN_S)
            return False
        meters.audit_rows.labels("reads").inc(len(batch))
        with self._changed:
            self._head = written
            for _ in batch:
                self._queue.popleft()
            self._written += len(batch)
            if self._failing:
                self._failing, self._refused = False, 0
                log.warning("the audit is written again")
            self._changed.notify_all()
        return True

    def _refusals(self) -> list[Values]:
        """A row that says how many requests were refused meanwhile."""
        if not (self._failing and self._refused):
            return []
        return [refusals.row(self._now(), "", 503, self._refused)]

    def _append(self, batch: list[Values]) -> Head:
        with self._database.appending() as connection:
            resolve(connection, batch)
            if self._failing and self._came_through(connection):
                # Going on in this chain would take its numbers twice. What was written twice is recorded twice.
                self._ended.append(self._head)
                self._head = rows.new_head()
            head, made = rows.append(self._head, batch)
            connection.execute(_INSERT, made)
        return head

    def _came_through(self, connection: Connection) -> bool:
        """Whether an earlier try was committed, though its commit was reported as failed."""
        audit = tables.audit.c
        query = sa.select(audit.n).where(audit.chain == self._head.chain, audit.n > self._head.n)
        return connection.execute(query).first() is not None

    def _aside(self, *, ending: bool) -> None:
        try:
            self._beside(ending)
        except Exception as error:  # tried again at the next round
            log.error("no audit anchor could be written (%s)", type(error).__name__)


def resolve(connection: Connection, batch: list[Values]) -> None:
    """Names the case of a resource that was asked for by id, denied or not: here, so that no answer's time tells it."""
    wanted: dict[str, set[str]] = {}
    for row in batch:
        if row["case_id"] is None and row["type"] and row["id"]:
            wanted.setdefault(row["type"], set()).add(row["id"])
    found: dict[tuple[str, str], str | None] = {}
    resource = tables.resource.c
    for kind, ids in wanted.items():
        query = sa.select(resource.id, resource.case_id).where(resource.type == kind, resource.id.in_(sorted(ids)))
        found |= {(kind, row.id): row.case_id for row in connection.execute(query)}
    for row in batch:
        if row["case_id"] is None:
            row["case_id"] = rows.case_of(found.get((row["type"], row["id"])))
