"""What is not done yet, per EHR, over all cases however old: counts and instants, nothing of any patient."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.service import ledger, queues
from fhir_secondop.service.context import Context
from fhir_secondop.store import ledger as rows
from fhir_secondop.store.ledger import Entry

LINK = "by link"
"""Stands for an EHR where a delivery goes to none: in words, for an alert says it, and no connection has this name."""
GATHERING, DELIVERING, HELD = "gathering", "delivering", "held"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that is open: what it is, at which EHR, and since when (ms since 1970).

    A delivery under way waits since it was ordered, what is held since it was put aside for a person, a gathering
    since anything last came of it. `task` is GATHERING or DELIVERING, also of what is held; `begun`: something may have
    been sent; `ordered` is when the Task was made.
    """

    what: str
    connection: str
    since: int
    task: str = DELIVERING
    begun: bool = False
    ordered: int = 0


def of_all(connection: SqlConnection, context: Context) -> list[Waiting]:
    """Every delivery and gathering that is open, as the ledger has them; no case is read for it."""
    names = {place: one.name for one in context.connections.values() for place in queues.places(one)}
    return [_of(entry, names) for entry in rows.every(connection, ledger.OPEN)]


def _of(entry: Entry, names: dict[str, str]) -> Waiting:
    gathering = entry.kind == ledger.GATHER
    # What was gathered from a connection that is configured no more still has its name.
    name = names.get(entry.place) or (entry.place if gathering else LINK)
    task = GATHERING if gathering else DELIVERING
    if entry.state == "on-hold":
        return Waiting(HELD, name, entry.changed, task, ordered=entry.authored)
    since = entry.changed if gathering else entry.authored
    return Waiting(task, name, since, task, entry.state in ("sending", "unknown"), entry.authored)
