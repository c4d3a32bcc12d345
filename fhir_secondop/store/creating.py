"""New resources in numbers: stored by a statement per table, however many there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from fhir_secondop.fhir.codec import Body
from fhir_secondop.model import Resource
from fhir_secondop.store import index, tables
from fhir_secondop.store.database import Change, Transaction
from fhir_secondop.store.prepared import Prepared, inserting
from fhir_secondop.store.resources import INSERT_VERSION, Stored, client_meta


@dataclass(frozen=True, slots=True)
class New:
    """A resource to be created, under its id."""

    id: str
    body: Body
    resource: Resource


def create_many(tx: Transaction, new: Sequence[New], *, base_url: str, case_id: str, owner: str) -> None:
    """Stores new resources of a case in few statements: a gathered record has thousands.

    Nobody looks at each before the commit (`Transaction.changes` stays as it is, `bulk` counts them); an id that is
    taken is an error of the database's.
    """
    if not new:
        return
    made = Creating(tx, base_url, len(new), owner)
    for each in new:
        made.put(each.id, each.body, each.resource, case_id)
    made.flush()
    tx.bulk.update((each.resource["resourceType"], case_id) for each in new)


# Within the turn to write nobody else draws numbers.
_LAST = Prepared(sa.select(sa.func.coalesce(sa.func.max(tables.resource.c.rid), 0)))
_DRAWN = Prepared(
    sa.text("SELECT nextval(pg_get_serial_sequence('resource', 'rid')) FROM generate_series(1, CAST(:most AS integer))")
)
_INSERT_NUMBERED = inserting(tables.resource)


class Creating:
    """New resources under ids that nothing has, stored by a statement per table: with `flush`, before which nothing in
    the database knows of them.
    """

    def __init__(self, tx: Transaction, base_url: str, most: int, owner: str = "") -> None:
        """At most so many will come."""
        self._tx = tx
        self._base_url = base_url
        self._most = most
        self._owner = owner or tx.caller.id
        self._numbers: Iterator[int] = iter(())
        self._made: list[tuple[Stored, Resource]] = []

    def add(self, resource_id: str, body: Body, resource: Resource, case_id: str | None) -> Stored:
        """One more, that is a change of the transaction."""
        result, written = self.put(resource_id, body, resource, case_id)
        self._tx.changes.append(Change("create", result.type, resource_id, 1, case_id, written, result))
        return result

    def put(self, resource_id: str, body: Body, resource: Resource, case_id: str | None) -> tuple[Stored, Resource]:
        """One more, that nobody looks at before the commit; as it will be stored, and its members."""
        if not self._made:
            self._numbers = self._drawn()
        made = Stored(
            next(self._numbers), resource["resourceType"], resource_id, self._owner, case_id, 1, self._tx.tick(), False,
            body.text, body.cut, client_meta(resource),
        )  # fmt: skip
        written = {**resource, "id": resource_id}
        self._made.append((made, written))
        self._most -= 1
        return made, written

    def flush(self) -> None:
        """Stores what has come since the last time."""
        if not self._made:
            return
        connection, by = self._tx.connection, self._tx.caller.id
        of = [each for each, _ in self._made]
        _INSERT_NUMBERED.in_order(
            connection, [(s.rid, s.type, s.id, 1, s.updated, False, s.owner, s.case_id) for s in of]
        )
        INSERT_VERSION.in_order(
            connection, [(s.rid, 1, s.updated, False, s.body.text, s.body.cut, s.client_meta, by) for s in of]
        )
        index.write_many(connection, [(each.rid, written) for each, written in self._made], self._base_url)
        self._made = []

    def _drawn(self) -> Iterator[int]:
        connection = self._tx.connection
        if connection.dialect.name == "postgresql":
            return iter(sorted(number for (number,) in _DRAWN.all(connection, most=self._most)))
        return itertools.count(_LAST.all(connection)[0][0] + 1)
