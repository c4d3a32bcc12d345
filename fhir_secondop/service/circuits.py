"""An EHR that does not answer is left alone, by all workers; and one that an operator paused.

What waits is not counted as an attempt: nothing is given up because an EHR was down over a weekend. Whether the EHR
answers at all is what counts here; what it does with one report is that report's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fhir_secondop.access import rights
from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.errors import Conflict, Invalid, NotFound
from fhir_secondop.fhir import times
from fhir_secondop.model import Caller, Connection
from fhir_secondop.service.breaker import Wait, answered, probing, released, rested, silent, wait
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.store import circuits as rows
from fhir_secondop.store.circuits import Circuit

# Not "unknown": what may have arrived is that delivery's affair, and after some tries a person's.
_OUTAGES = frozenset({"unreachable", "capacity"})
MOST_REASON = 200


def enter(context: Context, name: str, key: str) -> Wait | None:
    """Before anything is asked for `key`: None, or what it must wait for."""
    with context.database.reading() as connection:
        known = rows.read(connection, name)
    now = context.now()
    found = wait(known, key, now, context.circuit)
    if found is not None or not known.trips:
        return found
    with context.database.transaction(SERVICE) as tx:  # one of all workers becomes the probe
        known = rows.read(tx.connection, name)
        found = wait(known, key, now, context.circuit)
        if found is None:
            rows.write(tx, probing(known, key, now))
    return found


def standing(context: Context, name: str, key: str) -> Wait | None:
    """What `key` must wait for, or None, without asking anything."""
    with context.database.reading() as connection:
        return wait(rows.read(connection, name), key, context.now(), context.circuit)


def over(context: Context, name: str, key: str, was_there: bool) -> None:
    """`key` has ended without a failure of the EHR; `was_there` says whether that had to answer anything for it."""
    _change(context, name, answered if was_there else lambda known: released(known, key))


def failed(context: Context, name: str, key: str, failure: EhrFailure, was_there: bool) -> Wait | None:
    """The EHR failed `key`; `was_there` says whether it had answered anything meanwhile.

    What this attempt must wait for, since it is the EHR's failure and no attempt of its own; else None.
    """
    now, policy = context.now(), context.circuit

    def change(known: Circuit) -> Circuit:
        after = answered(known) if was_there else known
        # Without a status it is our own limit, which books its slots itself.
        if failure.kind == "capacity" and failure.status and failure.retry_after_s > 0:
            after = silent(after, key, failure.kind, now, policy) if after.trips else after
            return rested(after, failure.retry_after_s, now)
        if was_there or (failure.kind == "capacity" and not failure.status):
            return released(after, key)
        if failure.kind in _OUTAGES:
            return silent(after, key, failure.kind, now, policy)
        return released(after, key)

    after = _change(context, name, change)
    return None if was_there or isinstance(failure, Refused) else wait(after, key, now, policy)


def _change(context: Context, name: str, change: Callable[[Circuit], Circuit]) -> Circuit:
    """What is known of the EHR after the change; nothing is written where nothing changes."""
    with context.database.reading() as connection:
        known = rows.read(connection, name)
    if change(known) == known:
        return known
    with context.database.transaction(SERVICE) as tx:
        known = rows.read(tx.connection, name)
        after = change(known)
        if after != known:
            rows.write(tx, after)
    return after


# ---- paused by a person -------------------------------------------------------------------------------------------


def pause(context: Context, caller: Caller, name: str, reason: str) -> Circuit:
    """Nothing is sent to that EHR, nor pulled from it, until `resume`; what is on the way finishes.

    Paused again only the reason changes. Raises Forbidden unless the caller is operator, or coordinator with the
    scope ServiceRequest.u; NotFound.
    """
    _ehr(context, caller, name)
    if not reason.strip() or len(reason) > MOST_REASON:
        raise Invalid(f"Say why, in at most {MOST_REASON} characters.", path="reason")
    with context.database.transaction(caller) as tx:
        known = rows.read(tx.connection, name)
        after = replace(known, paused=known.paused or context.now(), paused_by=caller.name, paused_why=reason.strip())
        if after != known:
            rows.write(tx, after)
    return after


def resume(context: Context, caller: Caller, name: str) -> Circuit:
    """What waits goes on, within five minutes. An open circuit is tried at once; of one that is closed and not paused
    nothing changes. Raises as `pause` does.
    """
    _ehr(context, caller, name)
    with context.database.transaction(caller) as tx:
        known = rows.read(tx.connection, name)
        after = replace(known, paused=0, paused_by="", paused_why="", until=context.now() if known.trips else 0)
        if after != known:
            rows.write(tx, after)
    return after


def require_asked(context: Context, connection: Connection) -> None:
    """For what a person asks an EHR through us. Raises Conflict while it is paused."""
    with context.database.reading() as reading:
        known = rows.read(reading, connection.name)
    if known.paused:
        raise Conflict(f"An operator has paused {connection.name} (since {times.instant(known.paused)}).")


def _ehr(context: Context, caller: Caller, name: str) -> None:
    rights.require_operating(caller)
    found = context.connections.get(name)
    if found is None:
        raise NotFound(f"There is no connection {name}.")
    if found.role == "payer":
        raise Conflict(f"{name} is a payer's; only what goes to and comes from EHRs is paused.")
