"""Asks the patient's payer whether the opinion is covered: a Task and a workflow for each Coverage.

Time-out, refusal, garbage, no Coverage: each is "unknown" with its reason, never a guess.
"""

from __future__ import annotations

from typing import Any

from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.errors import Conflict
from fhir_secondop.fhir import validate
from fhir_secondop.model import EVERYTHING, Caller, Connection, Resource
from fhir_secondop.opinion import codes, coverage, eligibility, workflow
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.people import identifiers
from fhir_secondop.service import gather, sensitivity
from fhir_secondop.service.context import SERVICE, Context, case_of_task, load, put, require_hand
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
WORKFLOW = "check-coverage"
SUBMIT = "CoverageEligibilityRequest/$submit"
_AWAITING = "awaiting-coverage"


def check(context: Context, caller: Caller, case_id: str, _: Plain) -> Plain:
    """Asks every payer of the patient, or says why there is nobody to ask; the Tasks to watch.

    A payer that is being asked already is not asked twice. Raises Conflict when the case has ended.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        require_hand(tx, context, case)
        if case.coordination["status"] in ("completed", "rejected", "failed", "cancelled"):
            raise Conflict(f"The case is {case.coordination['status']}; its coverage is not asked for any more.")
        under_way = [t for t in eligibility.of_case(case) if t["status"] in eligibility.OPEN]
        if under_way:
            return _tasks(under_way)
        known = coverage.of_case(load(tx.connection, EVERYTHING, case_id, gathered=True), context.now())
        number = len(eligibility.of_case(case))
        made = [_started(tx, context, case, one, number + n) for n, one in enumerate(known, 1)]
        if not known:
            nobody = eligibility.task(case, None, None, "", number + 1, context.instant())
            made = [_unknown(tx, context, case, nobody, "no coverage of the patient is known")]
        if any(t["status"] in eligibility.OPEN for t in made) and case.coordination["status"] in (
            "requested",
            "accepted",
        ):
            _say(tx, context, case, _AWAITING)
        return _tasks(made)


def _tasks(tasks: list[Resource]) -> Plain:
    return {"tasks": [{"resource": reference(t), "status": t["status"]} for t in tasks]}


def _started(tx: Transaction, context: Context, case: Case, policy: Resource, number: int) -> Resource:
    whole = Case(case.id, [*case.resources, policy])
    payer = eligibility.insurer(whole, policy)
    connection = _connection(context, payer) if payer is not None else None
    now = context.instant()
    if payer is None or connection is None:
        task = eligibility.task(case, payer, None, "", number, now)
        why = (
            "no connection to this payer is configured" if payer is not None else "who pays is no organization we know"
        )
        return _unknown(tx, context, case, task, why)
    asked = eligibility.request(case, policy, payer, number, now)
    task = eligibility.task(case, payer, asked, connection.name, number, now)
    put(tx, context, case.id, asked)
    put(tx, context, case.id, task)
    enqueue(tx, context, task)
    return task


def _connection(context: Context, payer: Resource) -> Connection | None:
    names = identifiers(payer)
    return next((c for c in context.connections.values() if c.role == "payer" and c.organization in names), None)


def _unknown(tx: Transaction, context: Context, case: Case, task: Resource, why: str) -> Resource:
    """A Task that could not be begun: who was to be asked, when, and why not."""
    ended = workflow.moved(task, "rejected", context.instant(), reason_text=why)
    put(tx, context, case.id, ended)
    return ended


def enqueue(tx: Transaction, context: Context, task: Resource) -> None:
    """The workflow of such a Task; one that is there already stays the only one."""
    name = gather.connection_name(task)
    context.enqueue(tx, WORKFLOW, f"{WORKFLOW}-{task['id']}", name, task["id"])


def ask(context: Context, task_id: str) -> str:
    """Asks the payer and keeps the answer. Raises EhrFailure when trying again may help.

    Consent is asked first; whom a consent keeps the payer from is not told to it.
    """
    with context.database.transaction(SERVICE) as tx:
        case, task = _loaded(tx, task_id)
        if task["status"] not in eligibility.OPEN:
            return "ended"
        if case.coordination["status"] in ("completed", "rejected", "failed", "cancelled"):
            return _end(tx, context, case, task, "the case has ended meanwhile")
        decision = sensitivity.may_tell_payer(context, case, frozenset({task["owner"]["reference"]}))
        if not decision.permitted:
            return _end(tx, context, case, task, f"not asked: {decision.because}", "consent-withheld")
        name = gather.connection_name(task)
        if name not in context.connections:
            return _end(tx, context, case, task, "the connection to this payer is not configured any more")
        for step in ("accepted", "in-progress"):
            if (task["status"], step) in (("requested", "accepted"), ("accepted", "in-progress")):
                task = workflow.moved(task, step, context.instant())
                put(tx, context, case.id, task)
    asked = eligibility.cited(case, task, "input", "eligibility-request")
    if asked is None:
        return fail(context, task_id, "what was to be asked is not there")
    client = context.client(name)
    try:
        answer = client.post(SUBMIT, eligibility.sent(case, asked, context.base_url))
        found = _kept(client.base, asked, answer)
    except eligibility.NotOurs as fault:
        return fail(context, task_id, f"the payer's answer is not taken: {fault}")
    except EhrFailure as failure:
        if failure.retryable:
            raise
        refused = failure.message if isinstance(failure, Refused) else f"the payer refused: {failure.kind}"
        return fail(context, task_id, refused)
    with context.database.transaction(SERVICE) as tx:
        case, task = _loaded(tx, task_id)
        if task["status"] not in eligibility.OPEN:
            return "ended"
        put(tx, context, case.id, found)
        kind = codes.concept(codes.EVIDENCE, "eligibility-response")
        output = [{"type": kind, "valueReference": {"reference": reference(found)}}]
        put(tx, context, case.id, workflow.moved({**task, "output": output}, "completed", context.instant()))
        _answered(tx, context, case.id)
    return "answered"


def _kept(base: str, asked: Resource, answer: Resource) -> Resource:
    if any(issue.severity in ("error", "fatal") for issue in validate.validate(answer)):
        raise eligibility.NotOurs("it is no valid FHIR R4")
    answer_id = derived_id(asked["id"], "response")
    source = f"{base}/CoverageEligibilityResponse/{answer['id']}" if "id" in answer else f"{base}/{SUBMIT}"
    return eligibility.kept(asked, answer, answer_id, source)


def fail(context: Context, task_id: str, why: str) -> str:
    """Ends a Task that nobody answered."""
    with context.database.transaction(SERVICE) as tx:
        case, task = _loaded(tx, task_id)
        return _end(tx, context, case, task, why) if task["status"] in eligibility.OPEN else "ended"


def _end(tx: Transaction, context: Context, case: Case, task: Resource, why: str, reason: str = "") -> str:
    now = context.instant()
    begun = workflow.moved(task, "accepted", now) if task["status"] == "requested" else task
    put(tx, context, case.id, workflow.moved(begun, "failed", now, reason=reason, reason_text=why))
    _answered(tx, context, case.id)
    return "unknown"


def _loaded(tx: Transaction, task_id: str) -> tuple[Case, Resource]:
    case_id, stored = case_of_task(tx.connection, EVERYTHING, task_id)
    # With the record: the Coverage may have been gathered.
    return load(tx.connection, EVERYTHING, case_id, gathered=True), stored.resource


def _answered(tx: Transaction, context: Context, case_id: str) -> None:
    """When no payer is being asked any more, the case says again what it said before."""
    case = load(tx.connection, EVERYTHING, case_id)
    coordination = case.coordination
    if any(t["status"] in eligibility.OPEN for t in eligibility.of_case(case)):
        return
    if workflow.business_status(coordination) != _AWAITING:
        return
    versions = resources.history(tx.connection, EVERYTHING, "Task", coordination["id"])
    said = (workflow.business_status(v.resource) for v in versions)
    _say(tx, context, case, next((status for status in said if status != _AWAITING), "records-requested"))
    if case.tasks_of("gather-records"):
        gather.settle(tx, context, case_id)  # the record may have come meanwhile


def _say(tx: Transaction, context: Context, case: Case, business: str) -> None:
    status = codes.concept(codes.BUSINESS_STATUS, business)
    put(tx, context, case.id, {**case.coordination, "businessStatus": status, "lastModified": context.instant()})
