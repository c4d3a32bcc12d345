"""Group commit: who comes while another writes shares its transaction, and its fsync.

Writers of a process are one after another anyway (on PostgreSQL by the clock's row, which is held to the end). One who
is done and sees others wait leaves the transaction open for the next; the last one commits, and nobody's `with` is left
before that commit is durable. What fails is undone alone, to its savepoint; when the commit fails, it fails for all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Unavailable
from fhir_secondop.store.audit.batch import Batch
from fhir_secondop.store.prepared import Prepared

_SAVE, _RELEASE, _UNDO = (
    Prepared(sa.text(said)) for said in ("SAVEPOINT writer", "RELEASE writer", "ROLLBACK TO writer")
)
MOST = 32  # writers who share a commit
_NONE, _OPEN, _FAILED = 0, 2, 3  # how a transaction is, in libpq's numbers
LONGEST_S = 0.05  # after which nobody more is let in: the first one waits


class Shared:
    """A write transaction, and what ends with it."""

    def __init__(self, held: ExitStack, connection: Connection, batch: Batch | None) -> None:
        self.connection = connection
        self.batch = batch
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.members = 0
        self._held = held
        self._began = time.monotonic()
        self._transaction = connection.begin()
        self._driver: Any = connection.connection.driver_connection
        self._is_sqlite = connection.dialect.name == "sqlite"

    @property
    def is_full(self) -> bool:
        """Whether nobody more is let in."""
        return self.members >= MOST or time.monotonic() - self._began > LONGEST_S

    def enter(self) -> None:
        """One more writer; the first one needs no savepoint, its undoing is the end of all."""
        self.members += 1
        if self.members > 1:
            _SAVE.run(self.connection)

    def leave(self) -> None:
        """The writer is done."""
        try:
            if self.members > 1:
                _RELEASE.run(self.connection)
        except BaseException as error:  # its audit rows are in the chain already: without them there is none
            self.error = error

    def undo(self) -> None:
        """Undoes what the writer has written."""
        if self.members > 1 and self._status() in (_OPEN, _FAILED):
            _UNDO.run(self.connection)
            _RELEASE.run(self.connection)

    def look(self) -> None:
        """Sees whether there still is a transaction: of a full disk, say, SQLite undoes all of it, others' parts too;
        and PostgreSQL commits nothing of one in which something failed.

        What came after that would be one of its own, and its commit taken for that of all.
        """
        if self.error is None and self._status() != _OPEN:
            self.error = Unavailable("The database gave the transaction up; nothing was stored. Try again.")

    def _status(self) -> int:
        if self._is_sqlite:
            return _OPEN if self._driver.in_transaction else _NONE
        return int(self._driver.info.transaction_status)

    def end(self, *, keeps: bool) -> None:
        """Commits, or with keeps=False undoes all; from then on `error` says whether it went well."""
        try:
            if keeps:
                self._transaction.commit()
            else:
                self._transaction.rollback()
        except BaseException as error:
            self.error = self.error or error
        finally:
            if self.error is not None:
                self.connection.invalidate()  # what state it is in nobody knows
            if self.batch is not None:
                self.batch.ended(committed=keeps and self.error is None)
            try:
                self._held.close()
            finally:
                self.done.set()


class Commits:
    """The writers of one process. `begin` opens a write transaction, with what is held as long as it lasts."""

    def __init__(self, begin: Callable[[ExitStack], tuple[Connection, Batch | None]]) -> None:
        self._begin = begin
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._open: Shared | None = None

    @contextmanager
    def writing(self) -> Iterator[Shared]:
        """A part of a write transaction: durable on leaving, or nothing of it."""
        failure: BaseException | None = None
        with self._my_turn():
            shared = self._open or self._opened()
            self._open = shared
            try:
                shared.enter()
                yield shared
            except BaseException as error:
                failure = error
            if failure is None:
                shared.leave()
            is_last = self._go_on(shared, failed=failure is not None)
        shared.done.wait()
        if failure is not None:
            raise failure
        if shared.error is not None and is_last:
            raise shared.error
        if shared.error is not None:
            raise Unavailable("The commit was not confirmed; look whether it is there, or try again.") from shared.error

    def _opened(self) -> Shared:
        with ExitStack() as stack:
            connection, batch = self._begin(stack)
            return Shared(stack.pop_all(), connection, batch)

    def _go_on(self, shared: Shared, *, failed: bool) -> bool:
        """Leaves the transaction to the next writer, or ends it; whether it ended it."""
        if failed:
            try:
                shared.undo()
            except BaseException as error:
                shared.error = error
        alone = failed and shared.members == 1
        if not alone:
            shared.look()
        if not (alone or shared.error is not None or shared.is_full or not self._waiting):
            return False
        self._open = None
        shared.end(keeps=not alone and shared.error is None)
        return True

    def _my_turn(self) -> AbstractContextManager[None]:
        with self._counting:
            self._waiting += 1
        try:
            self._turn.acquire()
        finally:
            with self._counting:
                self._waiting -= 1
        return _released(self._turn)


@contextmanager
def _released(lock: threading.Lock) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()
