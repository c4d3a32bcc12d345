"""Raises an urgent contact, escalates it by the clock, and closes it with the conversation that was recorded."""

from __future__ import annotations

from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import urgent
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import audience, blinding, drafts
from fhir_secondop.service.context import (
    SERVICE,
    Context,
    load,
    put,
    put_all,
    require_hand,
    urgent_zone,
    who,
)
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
WORKFLOW = "escalate"
_MINUTE_MS = 60_000
_AGAIN_S = 60.0


def raise_(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The reviewer has somebody called now, signed or not; said again while it is open, it is the same contact."""
    with context.database.transaction(caller) as tx:
        reviewer = drafts.as_reviewer(load(tx.connection, context.visibility(caller), case_id), caller)
        # Who reads blind does not see everybody of the case; they can be called all the same.
        case = load(tx.connection, EVERYTHING, case_id)
        to, deputy = urgent.chosen(case, plain.get("to", ""), plain.get("deputy", ""))
        made = urgent.task(case, plain["finding"], to, deputy, reviewer, context.instant())
        for known in urgent.of_case(case):
            same = all(known.get(name) == made.get(name) for name in ("description", "owner", "input"))
            if same and urgent.is_open(known):
                return known
        request = resources.read(tx.connection, EVERYTHING, "ServiceRequest", case_id)
        audience.admit_clinicians(tx, case, request.owner, urgent_zone(case_id))
        _put(tx, context, case, [made])
        enqueue(tx, context, made)
        return made


def _put(tx: Transaction, context: Context, case: Case, made: list[Resource]) -> None:
    """Where the patient does not read it, nor who reads blind what was said."""
    put_all(tx, context, urgent_zone(case.id), made)
    blinding.mark_again(tx, case)


def enqueue(tx: Transaction, context: Context, contact: Resource) -> None:
    """A workflow for each step that is still to come: one that fails takes no other with it."""
    for step in range(urgent.step_of(contact) + 1, len(urgent.STEPS)):
        _enqueue(tx, context, contact, step, 1)


def _enqueue(tx: Transaction, context: Context, contact: Resource, step: int, number: int) -> None:
    key = f"{WORKFLOW}-{contact['id']}-{step}-{number}"
    wait = max(0.0, (_due(context, contact, step) - context.now()) / 1000)
    context.enqueue(tx, WORKFLOW, key, WORKFLOW, contact["id"], step, number, delay_s=wait)


def _due(context: Context, contact: Resource, step: int) -> int:
    return times.interval(contact["authoredOn"]).low + context.urgent_minutes[step - 1] * _MINUTE_MS


def escalate(context: Context, task_id: str, step: int, number: int) -> str:
    """Nobody was reached in time: the Task says who is to be called next. Again it changes nothing.

    After a long stop each step that was missed has its version, too: in order, and once.
    """
    with context.database.transaction(SERVICE) as tx:
        stored = resources.read(tx.connection, EVERYTHING, "Task", task_id)
        contact = stored.resource
        if not urgent.is_open(contact) or urgent.step_of(contact) >= step or stored.case_id is None:
            return "ended"
        if _due(context, contact, step) > context.now():  # another machine's clock is ahead of ours
            _enqueue(tx, context, contact, step, number + 1)
            return "later"
        for reached in range(urgent.step_of(contact) + 1, step + 1):
            contact = urgent.escalated(contact, reached, context.instant())
            put(tx, context, stored.case_id, contact)
        return urgent.STEPS[step]


def again(context: Context, task_id: str, step: int, number: int) -> str:
    """A step that failed on our side, though it was tried several times, comes again in a minute."""
    with context.database.transaction(SERVICE) as tx:
        key = f"{WORKFLOW}-{task_id}-{step}-{number + 1}"
        context.enqueue(tx, WORKFLOW, key, WORKFLOW, task_id, step, number + 1, delay_s=_AGAIN_S)
        return "later"


def record_call(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Records who spoke with whom, when, and what was read back: the only way in which an urgent contact ends."""
    with context.database.transaction(caller) as tx:
        seen = load(tx.connection, context.visibility(caller), case_id)
        case = load(tx.connection, EVERYTHING, case_id)
        theirs = [t for t in urgent.of_case(case) if _is_called(case, t, caller)]
        if not theirs:
            require_hand(tx, context, seen)
        contact = _meant(theirs or urgent.of_case(case), plain.get("task", ""))
        now = context.instant()
        said = urgent.conversation(
            case, contact, spoke=plain.get("by", caller.name), spoken_to=plain["with"],
            at=_checked_time(context, contact, plain.get("at", now)), read_back=plain["readBack"],
        )  # fmt: skip
        closed = urgent.closed(contact, said, now)
        recorded = provenance(
            derived_id(case_id, "provenance", contact["id"], "conversation"),
            [f"{reference(said)}/_history/1", reference(contact)], now, activity="CREATE", author=who(caller),
            reason="an urgent conversation was recorded", auth_time=caller.auth_time,
        )  # fmt: skip
        _put(tx, context, case, [said, closed, recorded])
        return closed


def may_record(case: Case, caller: Caller) -> bool:
    """Whether the caller is the owner or the deputy of an urgent contact that is open."""
    return any(urgent.is_open(t) and _is_called(case, t, caller) for t in urgent.of_case(case))


def _is_called(case: Case, contact: Resource, caller: Caller) -> bool:
    cited = (contact["owner"].get("reference", ""), urgent.deputy_of(contact).get("reference", ""))
    people = (case.directory.person(ref) for ref in cited)
    return any(person is not None and rights.acts_as(caller, person.identifiers) for person in people)


def _meant(contacts: list[Resource], task_id: str) -> Resource:
    """The open contact that is closed: the one named, or the only one. Raises Conflict, Invalid."""
    named = [t for t in contacts if task_id in ("", t["id"])]
    if task_id and not named:
        raise Invalid("The case has no such urgent contact for you; the case's page lists them.", path="task")
    found = [t for t in named if urgent.is_open(t)]
    if not found:
        raise Conflict("No urgent contact is open: it is completed, or none was raised.")
    if len(found) > 1:
        raise Invalid(f"{len(found)} urgent contacts are open; name the one that was spoken about.", path="task")
    return found[0]


def _checked_time(context: Context, contact: Resource, at: str) -> str:
    raised = times.interval(contact["authoredOn"])
    if len(at) == len("2026-11-23T09:30"):
        at = context.clocks.calendar.instant(at, "at")
        begins = times.interval(at).low
        # It names a minute: of the one in which it was raised, what is left of it.
        at = contact["authoredOn"] if begins <= raised.low < begins + _MINUTE_MS else at
    spoken = times.interval(at)
    if spoken.low > context.now():
        raise Invalid("The conversation would be in the future.", path="at")
    if spoken.high <= raised.low:
        raise Invalid("An earlier conversation does not count: this is before it was raised.", path="at")
    return at
