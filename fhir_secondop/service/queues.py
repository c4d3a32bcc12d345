"""What waits for each EHR, over all cases: counts and ages, nothing of any patient."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.access import rights
from fhir_secondop.fhir import times
from fhir_secondop.model import Caller, Connection
from fhir_secondop.service import breaker, ledger
from fhir_secondop.service.context import Context
from fhir_secondop.store import circuits
from fhir_secondop.store import ledger as rows
from fhir_secondop.store.circuits import Circuit
from fhir_secondop.store.ledger import Count


@dataclass(frozen=True, slots=True)
class Queue:
    """One EHR. `gathering` and `delivering` are under way or waiting, `held` need a person; the instants are FHIR's.

    `last_success` is the last answer that was stored or copy that was read back, `oldest` the oldest delivery that is
    not there yet; "" where there is none. `state` is of `breaker.state`; `since` and `why` say more of it, `by` who has
    paused it, `until` when it is asked again.
    """

    name: str
    gathering: int = 0
    delivering: int = 0
    held: int = 0
    last_success: str = ""
    oldest: str = ""
    state: str = "closed"
    since: str = ""
    why: str = ""
    by: str = ""
    until: str = ""


def of_connections(context: Context, caller: Caller) -> list[Queue]:
    """The queue of each configured connection, over all cases.

    Raises Forbidden unless the caller is operator or coordinator. Counts only: no content of a case leaves here.
    """
    rights.require_role(caller, "operator")
    with context.database.reading() as connection:
        counted = rows.counts(connection, ledger.OPEN)
        known = circuits.read_all(connection)
        return [
            _told(_queue(connection, one, counted), known.get(one.name, Circuit(one.name)), context.now())
            for one in context.connections.values()
        ]


def places(connection: Connection) -> tuple[str, ...]:
    """Under which places a connection's Tasks stand in the ledger."""
    return tuple(filter(None, (connection.name, connection.organization if connection.role == "ehr" else "")))


def _queue(reading: SqlConnection, connection: Connection, counted: list[Count]) -> Queue:
    where = places(connection)
    mine = [one for one in counted if one.place in where]
    going = [one for one in mine if one.kind != ledger.GATHER]
    oldest = min((one.oldest for one in going), default=0)
    done = rows.last_done(reading, where, "done")
    return Queue(
        connection.name,
        gathering=sum(c.number for c in mine if c.kind == ledger.GATHER and c.state != "on-hold"),
        delivering=sum(c.number for c in going if c.state != "on-hold"),
        held=sum(c.number for c in mine if c.state == "on-hold"),
        last_success=times.instant(done) if done else "",
        oldest=times.instant(oldest) if oldest else "",
    )


def of_connection(context: Context, caller: Caller, name: str) -> Queue:
    """The queue of that connection, which must be configured. Raises as `of_connections` does."""
    return next(queue for queue in of_connections(context, caller) if queue.name == name)


def _told(queue: Queue, circuit: Circuit, now: int) -> Queue:
    """The queue, and whether its EHR is asked now."""
    found = breaker.state(circuit, now)
    since, until = circuit.paused or circuit.opened, breaker.until(circuit, now)
    return replace(
        queue, state=found, since=times.instant(since) if since else "",
        why=circuit.paused_why or circuit.why, by=circuit.paused_by,
        until=times.instant(until) if until > now else "",
    )  # fmt: skip
