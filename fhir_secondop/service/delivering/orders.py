"""What is to be delivered: a Task for each recipient and version, and the workflow that carries it on."""

from __future__ import annotations

from fhir_secondop.errors import Conflict
from fhir_secondop.model import Connection, Resource
from fhir_secondop.opinion import alignment, codes, workflow
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.service import ledger, repository
from fhir_secondop.service.context import Context, put
from fhir_secondop.service.tries import Try
from fhir_secondop.store.database import Transaction

WORKFLOW = "deliver"


def plan(tx: Transaction, context: Context, case: Case, kind: str, version: int, focus: str) -> None:
    """A delivery Task and a workflow for everybody who must have this version, in the same transaction.

    `kind` is "report", "plan" or "proposal"; `focus` the versioned reference. An amendment also goes to every
    place that has, or may have, any version; older deliveries that have not begun are cancelled.
    """
    now = context.instant()
    code = f"deliver-{kind}"
    people = {member.person.reference: member.person for member in case.audience}
    thing = alignment.thing_of({"code": codes.concept(codes.TASK, code), "focus": {"reference": focus}})
    for task in case.tasks_of(code):
        if alignment.thing_of(task) != thing:
            continue
        recipient = case.directory.person(task["owner"].get("reference", ""))
        if recipient is not None and alignment.held(task).sent in ("accepted", "unknown"):
            people.setdefault(recipient.reference, recipient)
        # A repository keeps every version: what has not begun there still goes, before the new one.
        if task["status"] == "accepted" and repository.of_task(context, task) is None:
            put(tx, context, case.id, workflow.moved(task, "cancelled", now, reason="superseded-by-event"))
    owners = {person.key: {"reference": person.reference, "display": person.name} for person in people.values()}
    owners |= {connection.name: repository.owner(connection) for connection in repository.all_of(context)}
    for key, owner in owners.items():
        task_id = derived_id(case.id, *filter(None, thing), version, key)
        task = task_of(case, task_id, codes.concept(codes.TASK, code), version, focus, owner, now)
        put(tx, context, case.id, task)
        enqueue(tx, context, case, task)


def task_of(
    case: Case, task_id: str, code: Resource, version: int, focus: str, owner: Resource, now: str
) -> Resource:  # fmt: skip
    """A delivery Task that has not begun."""
    return compose(
        "Task",
        meta=profile("delivery-task"),
        id=task_id,
        identifier=[{"system": f"{codes.CANONICAL}/delivery", "value": task_id}],
        partOf=[{"reference": reference(case.coordination)}],
        status="accepted",
        businessStatus=codes.concept(codes.DELIVERY_STATUS, "planned"),
        intent="order",
        code=code,
        focus={"reference": focus},
        for_={"reference": reference(case.patient)},
        authoredOn=now,
        lastModified=now,
        requester=PLATFORM,
        owner=owner,
        input=[{"type": codes.concept(codes.EVIDENCE, "version"), "valuePositiveInt": version}],
    )


def enqueue_try(
    tx: Transaction, context: Context, task_id: str, connection: Connection | None, try_: Try, delay_s: float = 0
) -> None:
    """The workflow of a try, in `delay_s` seconds; one that is there already stays the only one."""
    partition = connection.name if connection else ledger.LINK
    number = try_.number
    context.enqueue(tx, WORKFLOW, f"deliver-{task_id}-{number}", partition, task_id, number, delay_s=delay_s)


def enqueue(tx: Transaction, context: Context, case: Case, task: Resource) -> None:
    """The first workflow of a delivery Task; one that is there already stays the only one."""
    enqueue_try(tx, context, task["id"], connection_of(context, case, task), Try())


def connection_of(context: Context, case: Case, task: Resource) -> Connection | None:
    """The connection that a delivery Task goes to; None where it goes by link."""
    kept = repository.of_task(context, task)
    if kept is not None:
        return kept
    person = case.directory.person(task["owner"].get("reference", ""))
    return context.connection_of(person.organization) if person else None


def replay(tx: Transaction, context: Context, case: Case, task: Resource, by: str) -> Resource:
    """Moves a held delivery back to where it came from and enqueues it; `by` says who and what changed."""
    if task["status"] != "on-hold":
        raise Conflict(f"Only a delivery on hold is replayed; this one is {task['status']}.")
    begun = "send-started" in alignment.evidence(task)
    number = 1 + int(alignment.evidence(task).get("replays", "0"))
    said = {"replays": str(number), "replayed-by": by, "failing-element": "", "location": ""}
    task = alignment.with_evidence(task, said)
    after = workflow.moved(task, "in-progress" if begun else "accepted", context.instant(),
                           business="unknown" if begun else "planned")  # fmt: skip
    put(tx, context, case.id, after)
    enqueue_try(tx, context, task["id"], connection_of(context, case, task), Try(replay=number))
    return after
