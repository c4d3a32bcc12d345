"""The audit of writes: rows in the transaction that they record, in a chain of this process's own.

Nothing is locked between processes. Within one, a lock is held from the hash to the end of the commit, so a
transaction that rolls back takes no number and leaves no hole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from fhir_secondop import meters
from fhir_secondop.store import tables
from fhir_secondop.store.audit import origin, rows
from fhir_secondop.store.audit.rows import Access, Head, Values
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.prepared import inserting

_INSERT = inserting(tables.audit)
_ACTION = {"create": "C", "update": "U", "delete": "D"}


class Writes:
    """The chain of this process's writes. `now` gives ms since 1970; `wake` is called after each commit."""

    def __init__(self, now: Callable[[], int], wake: Callable[[], None]) -> None:
        self._now = now
        self._wake = wake
        self._lock = threading.Lock()
        self._head = rows.new_head()
        self._ended: list[Head] = []

    def heads(self) -> list[Head]:
        """The heads of what is committed; more than one when a commit was left in doubt."""
        with self._lock:
            return [head for head in (*self._ended, self._head) if head.n]

    def batch(self) -> Recording:
        """The rows of one database transaction."""
        return Recording(self, self._lock)

    def went_on(self, head: Head) -> None:
        """Called with the lock, when rows are committed."""
        self._head = head
        self._wake()

    def in_doubt(self) -> None:
        """Called with the lock. Whether the commit came through is not known: going on could take a number twice."""
        self._ended.append(self._head)
        self._head = rows.new_head()

    def now(self) -> int:
        """ms since 1970."""
        return self._now()

    def head(self) -> Head:
        """Called with the lock: where the chain goes on."""
        return self._head


class Recording:
    """The rows of what shares one database transaction. From the first one to the end the chain is its own."""

    def __init__(self, writes: Writes, lock: threading.Lock) -> None:
        self._writes = writes
        self._lock = lock
        self._head: Head | None = None
        self._of: list[tuple[Access | None, list[Values]]] = []

    def add(self, transaction: Transaction) -> None:
        """Records what somebody wrote, as the last thing that it does in the transaction."""
        access = origin.current()
        found = recorded(transaction, access, self._writes.now())
        if not found:
            return
        if self._head is None:
            self._lock.acquire()
            self._head = self._writes.head()
        head, made = rows.append(self._head, found)
        _INSERT.many(transaction.connection, made)
        self._head = head
        self._of.append((access, made))

    def ended(self, *, committed: bool) -> None:
        """The transaction is over; called once, by whoever ends it."""
        if self._head is None:
            return
        try:
            if not committed:
                self._writes.in_doubt()
                return
            for access, made in self._of:
                meters.audit_rows.labels("writes").inc(len(made))
                if access is not None:
                    access.written += len(made)
                    access.cases_written |= {row["case_id"] for row in made}
            self._writes.went_on(self._head)
        finally:
            self._lock.release()


def recorded(tx: Transaction, access: Access | None, at: int) -> list[Values]:
    """The rows of what a transaction has written: one per resource, one per type of what came in bulk, and one for each
    party that was let in to a case or lost it.
    """
    where = access or Access()
    caller = tx.caller
    # A link's holder acts through the service's own caller.
    behalf = caller.on_behalf_of or (where.caller if where.caller != caller.id else "")
    common = {
        "at": at, "kind": "write", "caller": caller.id, "behalf": behalf, "purpose": where.purpose,
        "method": where.method, "route": where.route, "params": "", "status": None, "request": where.request,
        **dict.fromkeys(rows.LATER),
    }  # fmt: skip
    operation = where.operation if where.operation.startswith("$") else ""
    single = [
        {**common, "action": _ACTION[c.interaction], "operation": operation or c.interaction, "type": c.type,
         "id": c.id, "version": c.version, "case_id": rows.case_of(c.case_id), "number": 1}
        for c in tx.changes
    ]  # fmt: skip
    bulk = [
        {**common, "action": "C", "operation": operation or "create", "type": kind, "id": "", "version": None,
         "case_id": rows.case_of(case_id), "number": number}
        for (kind, case_id), number in sorted(tx.bulk.items())
    ]  # fmt: skip
    admitted = [
        {**common, "kind": "audience", "action": _ACTION[a.interaction], "operation": operation or "audience",
         "type": "ServiceRequest", "id": rows.case_of(a.case_id), "version": None, "case_id": rows.case_of(a.case_id),
         "number": 1, "party": a.party, "part": a.part, "until": a.until}
        for a in tx.admissions
    ]  # fmt: skip
    return single + bulk + admitted
