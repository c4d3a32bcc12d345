"""The audit of writes: rows in the transaction that they record, in a chain of this process's own.

Nothing is locked between processes. Within one, a lock is held from the hash to the end of the commit, so a
transaction that rolls back takes no number and leaves no hole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

    @contextmanager
    def recording(self, tx: Transaction) -> Iterator[None]:
        """Entered as the last thing of a transaction, left after its commit."""
        access = origin.current()
        found = recorded(tx, access, self._now())
        if not found:
            yield
            return
        with self._lock:
            head, made = rows.append(self._head, found)
            _INSERT.many(tx.connection, made)
            try:
                yield
            except BaseException:
                # Whether the commit came through is not known: going on in this chain could take a number twice.
                self._ended.append(self._head)
                self._head = rows.new_head()
                raise
            self._head = head
        if access is not None:
            access.written += len(made)
            access.cases_written |= {row["case_id"] for row in made}
        self._wake()


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
