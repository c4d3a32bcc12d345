"""Delivers: one Task per recipient and version is the ledger, a workflow only carries it on.

The order that makes it safe: what is about to happen is committed before it happens ("sending"), the EHR is always
searched before anything is sent, and nothing is believed that was not read back. A worker that was killed anywhere
leaves a Task from which the next one knows what may have landed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fhir_secondop import meters
from fhir_secondop.ehr import ladder, push
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.ehr.ladder import Chosen
from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Conflict
from fhir_secondop.model import Connection, Receipt
from fhir_secondop.opinion import alignment, codes
from fhir_secondop.service import (
    addresses,
    circuits,
    deliverables,
    ledger,
    messaging,
    sealing,
)
from fhir_secondop.service.breaker import Wait
from fhir_secondop.service.context import Context
from fhir_secondop.service.delivering import moves, orders, sequence
from fhir_secondop.service.delivering.job import Job, denial, job_of, target_of
from fhir_secondop.service.delivering.sending import Sending, Waits, Withheld, begin_sending
from fhir_secondop.service.tries import MAX_ATTEMPTS, backoff

MAX_RACES = 4


def attempt(context: Context, task_id: str, number: int) -> str:
    """One attempt; answers what came of it. What may be tried again is enqueued again, with growing pauses."""
    job = job_of(context, task_id, number)
    if job is None:
        return "settled before"
    said = _attempted(context, job)
    # "again in 4 s: capacity": the time and the reason stand elsewhere.
    outcome = said.partition(" in ")[0]
    meters.delivery_attempts.labels(job.connection.name if job.connection else ledger.LINK, outcome).inc()
    return said


def _attempted(context: Context, job: Job) -> str:
    denied = denial(context, job, job.case)
    if denied:
        return moves.withhold(context, job, denied)
    if job.connection is None:
        if codes.has(job.task["code"], codes.TASK, "deliver-report"):
            try:
                sealing.require(context, job.case, alignment.version_of(job.task))
            except Conflict as error:
                return moves.hold(context, job, error.message, kind="to-check")
        return moves.issue_link(context, job, "no EHR connection to this organization")
    return _ask(context, job, job.connection)


def _ask(context: Context, job: Job, connection: Connection) -> str:
    """The attempt at an EHR, when that is asked now at all."""
    wait = circuits.enter(context, connection.name, job.key)
    if wait is not None:
        return moves.put_off(context, job, wait)
    client = context.client(connection.name)
    before = client.answers
    try:
        said = _deliver(context, job, connection)
    except Withheld as denied:
        circuits.over(context, connection.name, job.key, client.answers != before)
        return moves.withhold(context, job, str(denied))
    except EhrFailure as failure:
        wait = circuits.failed(context, connection.name, job.key, failure, client.answers != before)
        return _failed(context, job, failure, wait)
    except Conflict as error:
        circuits.over(context, connection.name, job.key, client.answers != before)
        return moves.hold(context, job, error.message, kind="to-check")
    circuits.over(context, connection.name, job.key, client.answers != before)
    return said


def _deliver(context: Context, job: Job, connection: Connection) -> str:
    addresses.require(context, connection)
    waits_s = sequence.older_under_way(context, job, connection)
    if waits_s > 0:
        return moves.again(context, job, "", "an earlier version is still being sent", job.try_.waited, delay_s=waits_s)
    target = target_of(context, job.case, connection)
    document = deliverables.deliverable(context, job.case, job.task, job.person)
    owner = partial(orders.connection_of, context, job.case)
    target = replace(target, carried=messaging.carried(job.case, job.task, document.version_id, owner))
    refused: list[tuple[int, str]] = []
    while True:
        chosen = ladder.choose(target, document, refused)
        if chosen.rung is None:
            return moves.issue_link(context, job, chosen.why)
        receipt = _look(context, job, chosen, target, document, connection)
        if receipt is not None and sequence.is_outdated(context, job):
            receipt = _settled_before(receipt)
        if receipt is None:
            if sequence.is_outdated(context, job):
                why = "A newer version exists; this one is not there and is not sent any more."
                return moves.hold(context, job, why, "superseded-by-event")
            wait = sequence.settle_wait(context, job, connection)
            if wait > 0:
                why = "what was sent before may still land"
                return moves.again(context, job, "unknown", why, job.try_.waited, delay_s=wait)
            decided = messaging.decide(job.case, job.task, connection, owner)
            match decided:
                case Receipt():
                    return moves.settle(context, job, chosen, decided)
                case messaging.Wait():
                    why = "the same message is on its way there"
                    return moves.again(context, job, "", why, job.try_.waited, delay_s=backoff(1 + job.try_.waits))
                case str():
                    return moves.hold(context, job, decided, kind="to-check")
            if chosen.number == messaging.RUNG:
                addresses.require_messages(context, connection)
            unanswered = messaging.unanswered(job.task)
            promised = _promised_place(context, job, connection) if chosen.rung.reads_back else ""
            if promised:
                # Sent again it might stand there twice, where the first is only not shown to us.
                job = moves.missed(job, promised)
                why = f"The EHR said that it stored it ({promised}), and it is not there."
                return moves.hold(context, job, why, kind="to-check")
            begin = partial(begin_sending, context, chosen, connection, document.version_id)
            try:
                sending = Sending(context, begin(job), connection, begin)
            except Waits as other:
                return moves.again(context, job, "", str(other), job.try_.waited, delay_s=backoff(1 + job.try_.waits))
            try:
                with target.client.announced(sending):
                    receipt = push.send(target, chosen.rung, document)
                job = sending.job
            except (Waits, Withheld) as stopped:
                job, business = sending.job, "unknown"
                if not sending.wrote and (chosen.rung.reads_back or not unanswered):
                    job, business = moves.not_sent(context, job), ""
                if isinstance(stopped, Withheld):
                    return moves.withhold(context, job, str(stopped))
                return moves.again(context, job, business, str(stopped), job.try_.waited, delay_s=backoff(1))
            except EhrFailure as failure:
                job = sending.job
                if not chosen.rung.reads_back:
                    if unanswered:
                        raise  # what it says of this one says nothing of the one that nobody answered
                    if failure.kind != "unknown":
                        job = moves.not_sent(context, job)
                # "It is there already" is a reason to look, and none to send it another way.
                receipt = push.look(target, chosen.rung, document) if failure.kind == "duplicate" else None
                if receipt is not None:
                    return moves.settle(context, job, chosen, receipt)
                if isinstance(failure, Refused):
                    # No answer of the EHR's: we don't connect there, whatever the rung.
                    moves.not_sent(context, job)
                    raise
                if failure.kind not in ("validation", "scope", "policy"):
                    if "send-started" in alignment.evidence(job.task):
                        moves.still_landing(context, job)
                    raise
                if document.signed and failure.kind == "validation" and chosen.rung.reads_back:
                    # Perhaps it takes one attachment alone: the form that people read goes without the signed bytes.
                    document = replace(document, signed=b"", signature="")
                    job = moves.not_sent(context, job)
                    continue
                # The EHR said no to this way of doing it, which is an answer: the next rung may do.
                refused.append((chosen.rung.number, f"refused ({failure.kind}: {failure.why})"))
                job = moves.not_sent(context, job)
                continue
            if receipt.copy == "unverifiable" and receipt.evidence["why"] in _NOT_THERE:
                return moves.promised(context, job, receipt, connection)
        return moves.settle(context, job, chosen, receipt)


def _settled_before(receipt: Receipt) -> Receipt:
    """What was found of a version that a newer one has superseded since: that is no difference of its copy."""
    if receipt.copy != "mismatch" or receipt.evidence.get("why") != "its status is superseded":
        return receipt
    evidence = {**receipt.evidence, "why": "", "how": "found there, superseded by a newer version"}
    return replace(receipt, copy="verified", evidence=evidence)


def _look(
    context: Context, job: Job, chosen: Chosen, target: Target, document: Deliverable, connection: Connection
) -> Receipt | None:
    """A copy that is there already, on the rung chosen now or on one that an attempt, also for a colleague of the
    recipient's there, had begun with."""
    told = _told(context, job, connection)
    begun = {said.get("rung", "") for said in told} - {""}
    earlier = [rung for rung in ladder.RUNGS if str(rung.number) in begun and rung is not chosen.rung]
    for rung in ([chosen.rung] if chosen.rung else []) + earlier:
        receipt = push.look(target, rung, document, begun=bool(begun))
        if receipt is not None:
            return receipt
    # A search may be behind what is read at its place.
    for said in told:
        for rung in ladder.RUNGS:
            if rung.reads_back and str(rung.number) == said.get("rung") and "/" in said.get("location", ""):
                receipt = push.at(target, rung, document, said["location"])
                if receipt.copy != "unverifiable":
                    return receipt
    return None


def _told(context: Context, job: Job, connection: Connection) -> list[dict[str, str]]:
    """What is known of this delivery, and of those of the same version to others there."""
    with_colleagues = (job.task, *sequence.same_elsewhere(context, job, connection, job.case.deliveries))
    return [alignment.evidence(task) for task in with_colleagues]


def _promised_place(context: Context, job: Job, connection: Connection) -> str:
    """Where the EHR said that it stored this, for the recipient or a colleague there; "" if nowhere.

    Of a colleague's copy that was read, and is gone, a person is told once: that delivery is done, and nobody can have
    it tried again.
    """
    missed = alignment.evidence(job.task).get("missed", "").split(", ")
    for task in (job.task, *sequence.same_elsewhere(context, job, connection, job.case.deliveries)):
        place = alignment.evidence(task).get("location", "")
        if place and not (task["status"] == "completed" and place in missed):
            return place
    return ""


_NOT_THERE = ("not-found", "no location was given")


def give_up(context: Context, task_id: str, why: str, number: int = 0) -> None:
    """Puts a delivery that failed on our side on hold, unless it has settled meanwhile.

    `number` is of the try that failed; where nobody knows which it was (0) no attempt is named.
    """
    job = job_of(context, task_id, number)
    if job is not None:
        moves.hold(context, job, why, kind="our-fault")


def _failed(context: Context, job: Job, failure: EhrFailure, wait: Wait | None) -> str:
    """What an EHR's failure means: wait for the EHR, try again later, or leave it to a person."""
    # The Task on disk says whether we had begun to send.
    current = job_of(context, job.task["id"], job.try_.number)
    if current is None:
        return "settled before"
    if wait is not None:
        return moves.put_off(context, current, wait)
    attempt_ = current.try_.attempt
    # Somebody else was writing, or the version that we had read is no longer the newest: nothing was stored.
    raced = failure.kind == "conflict" and attempt_ <= MAX_RACES
    if not failure.retryable and not raced:
        more = f" The EHR names {failure.element}." if failure.element else ""
        said = f"{failure.kind}: {failure.message}{more}"
        return moves.hold(context, current, said, element=failure.element, kind=failure.kind)
    if attempt_ >= MAX_ATTEMPTS:
        said = f"Given up after {attempt_} attempts; last: {failure.message}"
        return moves.hold(context, current, said, kind=failure.kind)
    delay_s = max(failure.retry_after_s, backoff(attempt_))
    sent_before = "send-started" in alignment.evidence(current.task)
    business = "unknown" if sent_before else ""
    return moves.again(context, current, business, failure.kind, current.try_.next, delay_s=delay_s)
