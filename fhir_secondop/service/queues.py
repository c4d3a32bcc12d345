"""What waits for each EHR, over all cases: counts and ages, nothing of any patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fhir_secondop.access import rights
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Caller
from fhir_secondop.opinion import alignment
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import breaker, delivery, gather, worklist
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.store import circuits
from fhir_secondop.store.circuits import Circuit

_TYPES = ("ServiceRequest", "Task", "Practitioner", "PractitionerRole", "Organization")
_Mark = tuple[str, str, str]  # connection, state, instant


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


def of_connections(context: Context, caller: Caller, newest_cases: int = 1000) -> list[Queue]:
    """The queue of each configured connection, from the Tasks of the newest cases.

    Raises Forbidden unless the caller is operator or coordinator. Counts only: no content of a case leaves here.
    """
    rights.require_role(caller, "operator")
    with context.database.reading() as connection:
        # The service itself counts: who runs the connections sees no case.
        ids, _ = worklist.case_ids(connection, context, SERVICE, newest_cases)
        marks = [mark for case in worklist.cases(connection, EVERYTHING, ids, _TYPES) for mark in _marks(context, case)]
        known = circuits.read_all(connection)
    return [
        _told(_queue(name, [mark for mark in marks if mark[0] == name]), known.get(name, Circuit(name)), context.now())
        for name in context.connections
    ]


def of_connection(context: Context, caller: Caller, name: str) -> Queue:
    """The queue of that connection, which must be configured. Raises as `of_connections` does."""
    return next(queue for queue in of_connections(context, caller) if queue.name == name)


def _told(queue: Queue, circuit: Circuit, now: int) -> Queue:
    """The queue, and whether its EHR is asked now."""
    found = breaker.state(circuit, now)
    since = circuit.paused or circuit.opened
    return replace(
        queue, state=found, since=times.instant(since) if since else "",
        why=circuit.paused_why or circuit.why, by=circuit.paused_by,
        until=times.instant(circuit.until) if circuit.until > now else "",
    )  # fmt: skip


def _marks(context: Context, case: Case) -> Iterator[_Mark]:
    for task in case.tasks_of("gather-records"):
        yield gather.connection_name(task), _state(task["status"], "gathering"), str(task["lastModified"])
    for task in case.deliveries:
        connection = delivery.connection_of(context, case, task)
        state = _state(task["status"], "delivering")
        if connection is None or (state == "done" and alignment.held(task).rung == "10"):
            continue
        read_at = alignment.evidence(task).get("read-at")
        yield connection.name, state, str(read_at or task["lastModified"]) if state == "done" else task["authoredOn"]
        if state in ("delivering", "held"):
            yield connection.name, "undelivered", task["authoredOn"]


def _state(status: str, under_way: str) -> str:
    return {"on-hold": "held", "completed": "done", "failed": "over", "cancelled": "over", "rejected": "over"}.get(
        status, under_way
    )


def _queue(name: str, marks: list[_Mark]) -> Queue:
    counts = Counter(state for _, state, _ in marks)
    done = [at for _, state, at in marks if state == "done"]
    waiting = [at for _, state, at in marks if state == "undelivered"]
    return Queue(
        name, counts["gathering"], counts["delivering"], counts["held"],
        max(done, key=_moment, default=""), min(waiting, key=_moment, default=""),
    )  # fmt: skip


def _moment(instant: str) -> int:
    return times.interval(instant).low
