"""Whether each EHR is asked now, as all workers on this database know it: a row per connection that ever failed, or
that somebody paused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.prepared import Prepared


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of one EHR; instants in ms since 1970, 0 where there is none.

    `failures` are attempts in a row in which it gave no answer. With `trips` above 0 the circuit is open: so often in
    a row it was found silent. Nothing is asked before `until`; then by `probe` alone, whose turn ends at
    `probe_until`. `why` is the kind of the failure.
    """

    name: str
    failures: int = 0
    trips: int = 0
    opened: int = 0
    until: int = 0
    why: str = ""
    probe: str = ""
    probe_until: int = 0
    paused: int = 0
    paused_by: str = ""
    paused_why: str = ""


_TABLE = tables.circuit
_COLUMNS = [_TABLE.c[field.name] for field in fields(Circuit)]
_READ = Prepared(sa.select(*_COLUMNS).where(_TABLE.c.name == sa.bindparam("of")))


def read(connection: Connection, name: str) -> Circuit:
    """What is known of that EHR; closed where nothing is."""
    row = _READ.first(connection, of=name)
    return Circuit(name) if row is None else Circuit(*row)


def read_all(connection: Connection) -> dict[str, Circuit]:
    """What is known of every EHR that has a row."""
    return {row.name: Circuit(*row) for row in connection.execute(sa.select(*_COLUMNS))}


def write(tx: Transaction, circuit: Circuit) -> None:
    """Puts it in the place of what was known."""
    tx.connection.execute(sa.delete(_TABLE).where(_TABLE.c.name == circuit.name))
    tx.connection.execute(sa.insert(_TABLE).values(**asdict(circuit)))
