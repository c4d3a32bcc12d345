"""The events of each case: numbered without holes, as rows of the transaction that they tell of.

A sequence of the database keeps a number that a rolled back transaction has drawn; a counter's row goes back with it.
Writers are one after another, and this is the last that each of them does: the order of the numbers is that of commits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.model import EVERYTHING, Resource, Visibility
from fhir_secondop.store import resources, tables
from fhir_secondop.store.audit.rows import case_of
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.prepared import Prepared, inserting
from fhir_secondop.store.resources import SOURCE, UPLOAD, Stored

Tells = Callable[[str, Resource | None, Resource], Iterable[str]]
"""(case, version before or None, version) → the kinds of events that this version tells of."""


Told = tuple[int, str, str, str, int]
"""An event but for its number: at, kind, type, id, version."""


class Event(NamedTuple):
    """One event, and the version that says so. `at` is in ms since 1970; `seen` says whether its reader sees that."""

    n: int
    at: int
    kind: str
    type: str
    id: str
    version: int
    seen: bool


_EVENT = tables.case_event.c
_COUNT = Prepared(
    sa.text(
        "INSERT INTO case_counter (case_id, last) VALUES (:case_id, :more)"
        " ON CONFLICT (case_id) DO UPDATE SET last = case_counter.last + excluded.last RETURNING last"
    )
)
_INSERT = inserting(tables.case_event)


@dataclass(frozen=True, slots=True)
class Numbering:
    """Writes the events of a transaction, by what `tells` says of each type; of other types nothing is looked at."""

    tells: Mapping[str, Tells]

    def write(self, tx: Transaction) -> None:
        """The rows of what was written in this transaction, as the last thing that it does."""
        found: dict[str, list[Told]] = {}
        for change in tx.changes:
            if change.written is None or (case_id := case_of(change.case_id)) is None or change.type not in self.tells:
                continue
            found.setdefault(case_id, []).extend(self._of(case_id, change.before, change.written, change.resource))
        for case_id, events in found.items():
            if events:
                self._append(tx, case_id, events, is_new=_opened(tx, case_id))

    def begin(self, tx: Transaction, case_id: str) -> None:
        """Numbers the past of a case that was there before events were; of any other it changes nothing."""
        if not last_of(tx.connection, [case_id]):
            self._append(tx, case_id, [], is_new=False)

    def _append(self, tx: Transaction, case_id: str, events: list[Told], *, is_new: bool) -> None:
        counted = _COUNT.first(tx.connection, case_id=case_id, more=len(events))
        assert counted is not None
        last: int = counted[0]
        if last == len(events) and not is_new:
            # Nothing of it was numbered: all that is stored, which has what was written just now.
            events = list(self.told(tx.connection, case_id))
            last = len(events)
            tx.connection.execute(
                sa.update(tables.case_counter).where(tables.case_counter.c.case_id == case_id).values(last=last)
            )
        first = last - len(events) + 1
        _INSERT.in_order(tx.connection, [(case_id, n, *event) for n, event in enumerate(events, first)])

    def told(self, connection: Connection, case_id: str) -> Iterator[Told]:
        """What every version that is stored of a case tells, in the order in which they were written."""
        before: dict[int, Stored] = {}
        for stored in resources.versions_of_case(connection, case_id, tuple(self.tells)):
            if not stored.deleted:
                yield from self._of(case_id, before.get(stored.rid), stored, stored.resource)
            before[stored.rid] = stored

    def _of(self, case_id: str, before: Stored | None, stored: Stored, resource: Resource | None) -> Iterator[Told]:
        if stored.owner.startswith((SOURCE, UPLOAD)):
            return
        there = before.resource if before is not None and not before.deleted else None
        for kind in self.tells[stored.type](case_id, there, resource or stored.resource):
            yield stored.updated, kind, stored.type, stored.id, stored.version


def _opened(tx: Transaction, case_id: str) -> bool:
    """Whether the case is one of this transaction's own: it has no past."""
    return any((c.interaction, c.type, c.id) == ("create", "ServiceRequest", case_id) for c in tx.changes)


def last_of(connection: Connection, case_ids: Collection[str]) -> dict[str, int]:
    """The number of the last event of each of these cases; one that has no numbers yet is not in it."""
    counter = tables.case_counter.c
    found = connection.execute(sa.select(counter.case_id, counter.last).where(counter.case_id.in_(list(case_ids))))
    return {row.case_id: row.last for row in found}


def after(
    connection: Connection, case_id: str, number: int, count: int, *, visibility: Visibility = EVERYTHING
) -> list[Event]:
    """The events of a case that follow that number, at most so many."""
    resource = tables.resource.c
    cited = sa.and_(resource.type == _EVENT.type, resource.id == _EVENT.id, resources.visible(visibility))
    query = (
        sa.select(_EVENT.n, _EVENT.at, _EVENT.kind, _EVENT.type, _EVENT.id, _EVENT.version, resource.rid.is_not(None))
        .select_from(tables.case_event.outerjoin(tables.resource, cited))
        .where(_EVENT.case_id == case_id, _EVENT.n > number)
        .order_by(_EVENT.n)
        .limit(count)
    )
    return [Event(*row) for row in connection.execute(query)]
