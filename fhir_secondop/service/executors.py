"""That a worker lives, who sees when one does not, and what becomes of its work.

Each worker beats; each watches the others. A count that stands still for longer than the lease, by the watcher's own
monotonic clock and while it could read the database, is a dead or paused worker: it is declared gone, and its
workflows are put back into their queues, where the next worker takes them (`service.takeover`). One that was only
paused can't commit any more: every transaction of a workflow looks whether its worker still lives (`Lease.require`), in
the one order of writers.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from sqlalchemy.engine import Connection

from fhir_secondop.errors import Unavailable
from fhir_secondop.model import Caller
from fhir_secondop.service.context import SERVICE
from fhir_secondop.store import executors
from fhir_secondop.store.database import Database
from fhir_secondop.store.executors import Executor

log = logging.getLogger(__name__)
BEATS_A_LEASE = 5
LOST = os.EX_TEMPFAIL  # how a worker ends whose work was taken over: whoever supervises it starts it anew
_KEEPER = Caller("executors", "Keeper of the workers", frozenset({"system"}))


def started(name: str, version: str, now: int) -> Executor:
    """A new start of the worker of that name. `now` in ms since 1970."""
    host = socket.gethostname()
    unique = uuid.uuid4().hex[:12]
    return Executor(f"{name}:{unique}", name, version, host, os.getpid(), executors.WORKING, 0, now, now)


def ended() -> NoReturn:
    """Ends the process as it is: nothing of it may be written any more, not even that a workflow has failed."""
    log.critical("this worker was declared gone (paused, or without the database for longer than its lease): it ends")
    logging.shutdown()
    os._exit(LOST)


@dataclass(slots=True)
class _Seen:
    """Another one, as it was seen last: for how long its beats have stood still."""

    executor: Executor
    at: float
    still_s: float = 0.0


class Lease:
    """The place of this process among the workers of a database. `lost` is called when others have declared it gone."""

    def __init__(
        self, database: Database, executor: Executor, lease_s: float, lost: Callable[[], NoReturn] = ended
    ) -> None:  # fmt: skip
        self.executor = executor
        self.beat_s = lease_s / BEATS_A_LEASE
        self._database = database
        self._lease_s = lease_s
        self._lost = lost
        self._seen: dict[str, _Seen] = {}

    def join(self) -> None:
        """Enters this worker; from now on what it writes for workflows is fenced."""
        with self._database.transaction(_KEEPER) as tx:
            executors.join(tx.connection, self.executor)
        self._database.fence = self.require

    def require(self, connection: Connection, caller: Caller) -> None:
        """Called in each write transaction: ends the process when the workflow's worker is gone for the others."""
        if caller is SERVICE and not executors.lives(connection, self.executor.id):
            self._lost()

    def drain(self) -> None:
        """Says that this worker takes nothing new."""
        self._become(executors.DRAINING)

    def leave(self, *, clean: bool) -> None:
        """Says that this worker is gone: what it left goes on elsewhere at once.

        Not `clean`: something still runs in this process, and writes nothing any more.
        """
        self._database.fence = None if clean else _refuse
        self._become(executors.GONE)

    def _become(self, state: str) -> None:
        with self._database.transaction(_KEEPER) as tx:
            executors.become(tx.connection, self.executor.id, state)

    def keep(self, now: int) -> None:
        """What is done at each beat: one more, and a look at the others. `now` in ms since 1970."""
        self.beat(now)
        self.watch(time.monotonic())

    def beat(self, now: int) -> None:
        """One more beat; ends the process when the others have declared it gone. `now` in ms since 1970."""
        with self._database.appending() as connection:
            alive = executors.beat(connection, self.executor.id, now)
        if not alive:
            self._lost()

    def watch(self, monotonic_s: float) -> list[Executor]:
        """Looks at the others, and declares those gone that have stood still; answers which it was."""
        with self._database.reading() as connection:
            others = [e for e in executors.living(connection) if e.id != self.executor.id]
        seen, self._seen = self._seen, {}
        for other in others:
            before = seen.get(other.id)
            if before is None or before.executor.beats != other.beats:
                self._seen[other.id] = _Seen(other, monotonic_s)
                continue
            # While the database was away nobody could beat: a longer gap between two looks counts as a short one.
            passed = min(monotonic_s - before.at, 2 * self.beat_s)
            self._seen[other.id] = _Seen(other, monotonic_s, before.still_s + passed)
        return [s.executor for s in self._seen.values() if s.still_s > self._lease_s and self._bury(s.executor)]

    def _bury(self, other: Executor) -> bool:
        with self._database.transaction(_KEEPER) as tx:
            buried = executors.bury(tx.connection, other)
        if buried:
            log.warning("worker %s (%s, process %d) has not beaten for its lease: it is gone", other.name, other.host,
                        other.pid)  # fmt: skip
        return buried


def _refuse(_: Connection, caller: Caller) -> None:
    if caller is SERVICE:
        raise Unavailable("This worker has stopped; another one goes on.")
