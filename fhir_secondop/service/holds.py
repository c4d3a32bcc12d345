"""Pause and resume: the case waits for somebody else, its clocks stand still, and it goes on where it was."""

from __future__ import annotations

from typing import Any

from fhir_secondop.errors import Conflict
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import clocks as both
from fhir_secondop.opinion import workflow
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import clocks, gather
from fhir_secondop.service.context import Context, load, put, require_hand
from fhir_secondop.service.review import held_from_of, review_of
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
_UNASSIGNED = ("requested", "received")


def pause(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The case waits, for a reason: a status reason, or an awaiting-… business status. Repeated it changes nothing.

    Before anybody has accepted it may only wait for somebody (awaiting-…): a Task that is merely requested can't be
    held. Raises Conflict naming both states otherwise.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        require_hand(tx, context, case)
        task, reason, text = case.coordination, plain["reason"], plain.get("text", "")
        waits = reason in both.AWAITING
        if both.pause_of(task):
            if both.pause_of(task) == both.pause_of(_held(task, reason, text, context.instant(), task["status"])):
                return task
            raise Conflict(f"The case is on hold already ({both.pause_of(task)}); resume it first.")
        status = task["status"] if waits and task["status"] in _UNASSIGNED else "on-hold"
        if status == "on-hold":
            review = _review(case)
            if review is not None:
                said = "" if waits else reason
                held = workflow.moved(
                    review, "on-hold", context.instant(), reason=said, reason_text=text or _words(reason)
                )
                put(tx, context, case_id, held)
        held = _held(task, reason, text, context.instant(), status)
        put(tx, context, case_id, held)
        clocks.attend(tx, context, case_id)
        return held


def _held(task: Resource, reason: str, text: str, now: str, status: str) -> Resource:
    if reason in both.AWAITING:
        return workflow.moved(task, status, now, business=reason, reason_text=text or _words(reason))
    return workflow.moved(task, status, now, reason=reason, reason_text=text)


def _words(reason: str) -> str:
    return reason.replace("-", " ")


def _review(case: Case) -> Resource | None:
    """The Task of the reviewer who has the case, which moves together with the coordination Task."""
    found = review_of(case, case.coordination.get("owner", {}).get("reference", ""))
    return found if found is not None and found["status"] in ("accepted", "ready", "in-progress") else None


def resume(context: Context, caller: Caller, case_id: str, _: Plain) -> Resource:
    """The case goes on where it was. Raises Conflict unless it is on hold."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        require_hand(tx, context, case)
        task = case.coordination
        if not both.pause_of(task):
            raise Conflict(f"The case is not on hold; it is {task['status']}.")
        return go_on(tx, context, case)


def go_on(tx: Transaction, context: Context, case: Case) -> Resource:
    """A case on hold goes on where it was; the coordination Task."""
    task = case.coordination
    review = review_of(case, task.get("owner", {}).get("reference", ""))
    if review is not None and review["status"] == "on-hold":
        put(tx, context, case.id, _back(tx, review, context.instant()))
    after = _back(tx, task, context.instant())
    put(tx, context, case.id, after)
    # What came of the record meanwhile stood behind the hold.
    gather.settle(tx, context, case.id)
    clocks.attend(tx, context, case.id)
    return resources.read(tx.connection, EVERYTHING, "Task", task["id"]).resource


def _back(tx: Transaction, task: Resource, now: str) -> Resource:
    """The Task in the state, and with the business status, that it had before."""
    versions = resources.history(tx.connection, EVERYTHING, "Task", task["id"])
    held_from = held_from_of(versions)
    status = held_from if task["status"] == "on-hold" else task["status"]
    before = ""
    if workflow.is_coordination(task):
        stood = (workflow.business_status(v.resource) for v in versions)
        before = next((business for business in stood if business not in both.AWAITING), "records-requested")
    return workflow.moved(task, status, now, business=before, held_from=held_from)


def awaits_tests(case: Case) -> bool:
    """Whether the case waits for a test."""
    return workflow.business_status(case.coordination) == "awaiting-tests" and bool(both.pause_of(case.coordination))


def is_held_before_it_began(tx: Transaction, case: Case) -> bool:
    """Whether the case is on hold and its review had not begun: no draft may begin it then."""
    task = case.coordination
    if task["status"] != "on-hold":
        return False
    return held_from_of(resources.history(tx.connection, EVERYTHING, "Task", task["id"])) != "in-progress"
