"""What becomes of a delivery: each move of its Task, committed by the worker that has it, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fhir_secondop.ehr import ladder
from fhir_secondop.ehr.ladder import Chosen
from fhir_secondop.errors import Conflict
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Connection, Receipt, Resource
from fhir_secondop.opinion import alignment, codes, workflow
from fhir_secondop.opinion.case import derived_id
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import deliverables, ledger, messaging, watches
from fhir_secondop.service.breaker import Wait
from fhir_secondop.service.context import SERVICE, Context, checked, put
from fhir_secondop.service.delivering import orders, sequence
from fhir_secondop.service.delivering.job import Job
from fhir_secondop.service.tries import FIRST_RETRY_S, Try
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction


def moved(
    context: Context, job: Job, task: Resource, status: str, business: str, reason_text: str = "", reason: str = "",
    also: Callable[[Transaction], None] = lambda tx: None,
) -> Job:  # fmt: skip
    """Commits a move of the Task; `also` writes more in the same transaction."""
    after = checked(
        workflow.moved(task, status, context.instant(), business=business, reason=reason, reason_text=reason_text)
    )
    with context.database.transaction(SERVICE) as tx:
        _fence(tx, job)
        stored = put(tx, context, job.case.id, after)
        also(tx)
    return replace(job, task=stored.resource)


def _fence(tx: Transaction, job: Job) -> None:
    """A worker that lost its Task to another can't commit: the Task must still be the version it read.

    Acknowledgements are the exception that may come in between; they are merged, never overwritten.
    """
    current = resources.read(tx.connection, EVERYTHING, "Task", job.task["id"])
    if str(current.version) != job.task["meta"]["versionId"]:
        raise Conflict("The delivery Task changed meanwhile; it is looked at again.")


def settle(context: Context, job: Job, chosen: Chosen, receipt: Receipt) -> str:
    said = {
        "sent": receipt.sent,
        "copy": receipt.copy,
        "rung": str(receipt.rung),
        "rung-why": chosen.why,
        "address": _address(job.connection, receipt.rung) if job.connection else "",
        "location": receipt.location,
        "dropped": ", ".join(receipt.dropped),
        "duplicates": "",
        "read-at": context.instant(),
        "last-failure": "",
        **counted(job),
        **receipt.evidence,
    }
    task = alignment.with_evidence(job.task, said)
    several = said["duplicates"]
    if receipt.copy == "mismatch" or several:
        held = task if task["status"] == "in-progress" else workflow.moved(task, "in-progress", context.instant())
        why = [f"The copy differs: {said.get('why', '')}."] if receipt.copy == "mismatch" else []
        why += [f"It is there more than once ({several}): the others must be taken out there."] if several else []
        moved(context, job, held, "on-hold", "mismatch", reason_text=" ".join(why))
        return "mismatch"
    if task["status"] == "accepted":  # found there: an earlier worker had sent it
        task = workflow.moved(task, "in-progress", context.instant())
    after = checked(workflow.moved(task, "completed", context.instant(), business=receipt.copy))
    # The fence lets no other version in between.
    written = f"Task/{task['id']}/_history/{int(job.task['meta']['versionId']) + 1}"
    sent = checked(
        provenance(
            derived_id(job.case.id, "provenance", "transmit", job.task["id"]), [written], context.instant(),
            activity="APPEND", sources=[job.task["focus"]["reference"]], reason=f"delivered on rung {chosen.number}",
        )
    )  # fmt: skip
    with context.database.transaction(SERVICE) as tx:
        _fence(tx, job)
        put(tx, context, job.case.id, after)
        put(tx, context, job.case.id, sent)
        if receipt.copy == "verified" and job.connection is not None:
            watches.begin(tx, context, job.case, job.connection)
    return receipt.copy


def _address(connection: Connection, rung: int) -> str:
    return (connection.hl7 or connection.hl7_folder) if rung == messaging.RUNG else connection.base


def issue_link(context: Context, job: Job, why: str) -> str:
    """Rung 10: a link with a cover sheet. Nobody can say that it arrived; only the acknowledgement will."""
    said = {"sent": "unknown", "copy": "unverifiable", "rung": str(ladder.LINK), "rung-why": why,
            "issued-at": context.instant(), **counted(job)}  # fmt: skip
    task = alignment.with_evidence(job.task, said)
    if task["status"] == "accepted":
        task = workflow.moved(task, "in-progress", context.instant())
    moved(context, job, task, "completed", "unverifiable")
    return ledger.LINK


def withhold(context: Context, job: Job, because: str) -> str:
    """Not sent, for want of consent. Who may hold an older version is told, without content, not to rely on it."""
    code, version = job.task["code"], alignment.version_of(job.task)
    # What was begun before may have landed: that it was not sent would be no truth.
    begun = alignment.evidence(job.task).get("sent") == "unknown"
    held = max(
        (
            alignment.version_of(other)
            for other in job.case.deliveries
            if alignment.thing_of(other) == alignment.thing_of(job.task) and other["owner"] == job.task["owner"]
            and alignment.version_of(other) < version
            and alignment.held(other).sent in ("accepted", "unknown")
        ),
        default=0,
    )  # fmt: skip
    told = held if codes.has(code, codes.TASK, "deliver-report") else 0

    def also(tx: Transaction) -> None:
        if told:
            _plan_notice(tx, context, job, told)

    said = f"Not sent{' again' if begun else ''}: {because}."
    return hold(context, job, said, "consent-withheld", also=also)


def _plan_notice(tx: Transaction, context: Context, job: Job, held: int) -> None:
    """The delivery of a notice instead of what is withheld; made again it is the same."""
    version = alignment.version_of(job.task)
    task_id = derived_id(job.case.id, deliverables.NOTICE, version, job.person.key)
    if resources.find(tx.connection, EVERYTHING, "Task", task_id) is not None:
        return
    code = codes.concept(codes.TASK, deliverables.NOTICE)
    focus, owner = job.task["focus"]["reference"], job.task["owner"]
    task = orders.task_of(job.case, task_id, code, version, focus, owner, context.instant())
    put(tx, context, job.case.id, alignment.with_evidence(task, {"held-version": str(held)}))
    orders.enqueue(tx, context, job.case, task)


def hold(
    context: Context, job: Job, why: str, reason: str = "", element: str = "", kind: str = "",
    also: Callable[[Transaction], None] = lambda tx: None,
) -> str:  # fmt: skip
    """Puts the Task aside for a person: `$replay` moves it back. `element` is what the EHR would not take, `kind` the
    kind of its failure, "to-check" or "our-fault".
    """
    business = "unknown" if alignment.evidence(job.task).get("sent") == "unknown" else "failed"
    task = alignment.with_evidence(job.task, {"failing-element": element, "last-failure": kind, **counted(job)})
    moved(context, job, task, "on-hold", business, reason_text=why, reason=reason, also=also)
    return "on-hold"


def again(context: Context, job: Job, business: str, why: str, try_: Try, *, delay_s: float) -> str:
    """Enqueues the next try in the transaction that says why: a kind of failure, or in words what it waits for."""
    failure = "waits" if try_.attempt == job.try_.attempt else why
    task = alignment.with_evidence(job.task, {"last-failure": failure, **counted(job)})
    next_try = times.instant(context.now() + int(delay_s * 1000))
    task["statusReason"] = {"text": f"The EHR did not do it yet ({why}); next try at {next_try}."}
    if business:
        task["businessStatus"] = codes.concept(codes.DELIVERY_STATUS, business)
    with context.database.transaction(SERVICE) as tx:
        _fence(tx, job)
        put(tx, context, job.case.id, {**task, "lastModified": context.instant()})
        orders.enqueue_try(tx, context, job.task["id"], job.connection, try_, delay_s)
    return f"again in {delay_s:.0f} s: {why}"


def put_off(context: Context, job: Job, wait: Wait) -> str:
    """Nothing is asked there now: the same attempt comes again. The Task says why, once."""
    task = {**job.task, "statusReason": {"text": wait.why}, "lastModified": context.instant()}
    with context.database.transaction(SERVICE) as tx:
        _fence(tx, job)
        if job.task.get("statusReason") != task["statusReason"]:
            put(tx, context, job.case.id, alignment.with_evidence(task, {"last-failure": "waits"}))
        orders.enqueue_try(tx, context, job.task["id"], job.connection, job.try_.waited, wait.seconds)
    return f"waits {wait.seconds:.0f} s: {wait.why}"


def counted(job: Job) -> dict[str, str]:
    return {"attempt": str(job.try_.attempt)} if job.try_.attempt else {}


def not_sent(context: Context, job: Job) -> Job:
    """Commits that nothing was stored there: the EHR refused, or nothing was sent."""
    outputs = [
        o for o in job.task.get("output", []) if codes.code_of(o["type"], codes.EVIDENCE) not in ("send-started",)
    ]
    task = {**job.task, "output": outputs}
    return moved(context, job, alignment.with_evidence(task, {"sent": "no"}), "in-progress", "planned")


def still_landing(context: Context, job: Job) -> None:
    """Commits that what was sent may land from now on: of several requests the last went out long after the first."""
    moved(
        context, job, alignment.with_evidence(job.task, {"send-started": context.instant()}), "in-progress", "unknown"
    )


def promised(context: Context, job: Job, receipt: Receipt, connection: Connection) -> str:
    """The EHR took it and does not show it: it is looked for until it can't land any more, and not sent again."""
    place = receipt.location or "it did not say where"
    said = {"location": place, "send-started": context.instant()}  # of several requests the last went out just now
    job = replace(job, task=alignment.with_evidence(job.task, said))
    wait = sequence.settle_wait(context, job, connection) or FIRST_RETRY_S
    return again(context, job, "unknown", "what it took is not to be found there yet", job.try_.waited, delay_s=wait)


def missed(job: Job, place: str) -> Job:
    """The job, its Task saying that this is not there: whoever has it tried again was told so."""
    before = alignment.evidence(job.task).get("missed", "").split(", ")
    places = ", ".join(dict.fromkeys(filter(None, (*before, place))))
    return replace(job, task=alignment.with_evidence(job.task, {"missed": places}))
