"""Delivers: one Task per recipient and version is the ledger, a workflow only carries it on.

The order that makes it safe: what is about to happen is committed before it happens ("sending"), the EHR is always
searched before anything is sent, and nothing is believed that was not read back. A worker that was killed anywhere
leaves a Task from which the next one knows what may have landed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from fhir_secondop import meters
from fhir_secondop.ehr import ladder, push
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.ehr.ladder import Chosen
from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Conflict
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Connection, Receipt, Resource
from fhir_secondop.opinion import alignment, codes, workflow
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import Person
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import (
    addresses,
    circuits,
    deliverables,
    ledger,
    messaging,
    patients,
    repository,
    sealing,
    sensitivity,
    watches,
)
from fhir_secondop.service.breaker import Wait
from fhir_secondop.service.context import SERVICE, Context, case_of_task, checked, load, put
from fhir_secondop.service.tries import Try
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

WORKFLOW = "deliver"
MAX_ATTEMPTS = 12
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 900.0
MAX_RACES = 4
OURS = 0.1  # of the time that an EHR may take to store something: what may pass before our request goes out
_SETTLED = ("completed", "failed", "cancelled", "on-hold", "entered-in-error")


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
        task = _task(case, task_id, codes.concept(codes.TASK, code), version, focus, owner, now)
        put(tx, context, case.id, task)
        enqueue(tx, context, case, task)


def _task(
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


def _enqueue(
    tx: Transaction, context: Context, task_id: str, connection: Connection | None, try_: Try, delay_s: float = 0
) -> None:
    partition = connection.name if connection else ledger.LINK
    number = try_.number
    context.enqueue(tx, WORKFLOW, f"deliver-{task_id}-{number}", partition, task_id, number, delay_s=delay_s)


def enqueue(tx: Transaction, context: Context, case: Case, task: Resource) -> None:
    """The first workflow of a delivery Task; one that is there already stays the only one."""
    _enqueue(tx, context, task["id"], connection_of(context, case, task), Try())


def connection_of(context: Context, case: Case, task: Resource) -> Connection | None:
    """The connection that a delivery Task goes to; None where it goes by link."""
    kept = repository.of_task(context, task)
    if kept is not None:
        return kept
    person = case.directory.person(task["owner"].get("reference", ""))
    return context.connection_of(person.organization) if person else None


@dataclass(frozen=True, slots=True)
class _Job:
    """A delivery Task with what its workflow needs around it."""

    case: Case
    task: Resource
    person: Person
    connection: Connection | None
    try_: Try

    @property
    def key(self) -> str:
        """Under which name it asks an EHR that is asked by one alone."""
        return f"{WORKFLOW}-{self.task['id']}"


def attempt(context: Context, task_id: str, number: int) -> str:
    """One attempt; answers what came of it. What may be tried again is enqueued again, with growing pauses."""
    job = _job(context, task_id, number)
    if job is None:
        return "settled before"
    said = _attempted(context, job)
    # "again in 4 s: capacity": the time and the reason stand elsewhere.
    outcome = said.partition(" in ")[0]
    meters.delivery_attempts.labels(job.connection.name if job.connection else ledger.LINK, outcome).inc()
    return said


def _attempted(context: Context, job: _Job) -> str:
    denied = _denied(context, job, job.case)
    if denied:
        return _withhold(context, job, denied)
    if job.connection is None:
        if codes.has(job.task["code"], codes.TASK, "deliver-report"):
            try:
                sealing.require(context, job.case, alignment.version_of(job.task))
            except Conflict as error:
                return _hold(context, job, error.message, kind="to-check")
        return _issue_link(context, job, "no EHR connection to this organization")
    return _ask(context, job, job.connection)


def _ask(context: Context, job: _Job, connection: Connection) -> str:
    """The attempt at an EHR, when that is asked now at all."""
    wait = circuits.enter(context, connection.name, job.key)
    if wait is not None:
        return _wait(context, job, wait)
    client = context.client(connection.name)
    before = client.answers
    try:
        said = _deliver(context, job, connection)
    except _Withheld as denied:
        circuits.over(context, connection.name, job.key, client.answers != before)
        return _withhold(context, job, str(denied))
    except EhrFailure as failure:
        wait = circuits.failed(context, connection.name, job.key, failure, client.answers != before)
        return _failed(context, job, failure, wait)
    except Conflict as error:
        circuits.over(context, connection.name, job.key, client.answers != before)
        return _hold(context, job, error.message, kind="to-check")
    circuits.over(context, connection.name, job.key, client.answers != before)
    return said


def _denied(context: Context, job: _Job, case: Case) -> str:
    """Why it must not be sent, by the consents of the case as it was read; "" when it may be.

    A notice has no content that a consent could be about.
    """
    if codes.has(job.task["code"], codes.TASK, deliverables.NOTICE):
        return ""
    decision = sensitivity.may_send(context, case, actors(job.person))
    return "" if decision.permitted else decision.because


def actors(person: Person) -> frozenset[str]:
    """The references under which a consent may name a recipient."""
    return frozenset({person.reference, person.practitioner, person.organization_ref})


def _job(context: Context, task_id: str, number: int) -> _Job | None:
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
    task = stored.resource
    if task["status"] in _SETTLED:
        return None
    connection_ = connection_of(context, case, task)
    person = case.directory.person(task["owner"].get("reference", ""))
    if person is None and connection_ is not None:
        person = repository.person(connection_)
    if person is None:
        raise Conflict(f"Task/{task_id} has an owner that the case does not know.")
    return _Job(case, task, person, connection_, Try.of(number))


def target_of(context: Context, case: Case, connection: Connection) -> Target:
    """The patient at that EHR, matched anew. Raises Conflict when it is not certain who that is."""
    if connection.role == addresses.REPOSITORY:
        return repository.target(context, case, connection)
    if not connection.base:
        return messaging.target(context, case, connection)
    client = context.client(connection.name)
    match = patients.find(context, case, connection)
    if not match.id:
        if match.candidates:
            with context.database.transaction(SERVICE) as tx:
                patients.quarantine_candidates(tx, context, case, connection.name, match)
        raise Conflict(f"The patient was not matched there: {match.because}.")
    target = Target(client, f"Patient/{match.id}")
    push.check_patient(target)
    return target


def _deliver(context: Context, job: _Job, connection: Connection) -> str:
    addresses.require(context, connection)
    waits_s = _older_under_way(context, job, connection)
    if waits_s > 0:
        return _again(context, job, "", "an earlier version is still being sent", job.try_.waited, delay_s=waits_s)
    target = target_of(context, job.case, connection)
    document = deliverables.deliverable(context, job.case, job.task, job.person)
    owner = partial(connection_of, context, job.case)
    target = replace(target, carried=messaging.carried(job.case, job.task, document.version_id, owner))
    refused: list[tuple[int, str]] = []
    while True:
        chosen = ladder.choose(target, document, refused)
        if chosen.rung is None:
            return _issue_link(context, job, chosen.why)
        receipt = _look(context, job, chosen, target, document, connection)
        if receipt is not None and _is_outdated(context, job):
            receipt = _settled_before(receipt)
        if receipt is None:
            if _is_outdated(context, job):
                why = "A newer version exists; this one is not there and is not sent any more."
                return _hold(context, job, why, "superseded-by-event")
            wait = _settle_wait(context, job, connection)
            if wait > 0:
                why = "what was sent before may still land"
                return _again(context, job, "unknown", why, job.try_.waited, delay_s=wait)
            decided = messaging.decide(job.case, job.task, connection, owner)
            match decided:
                case Receipt():
                    return _settle(context, job, chosen, decided)
                case messaging.Wait():
                    why = "the same message is on its way there"
                    return _again(context, job, "", why, job.try_.waited, delay_s=_backoff(1 + job.try_.waits))
                case str():
                    return _hold(context, job, decided, kind="to-check")
            if chosen.number == messaging.RUNG:
                addresses.require_messages(context, connection)
            unanswered = messaging.unanswered(job.task)
            promised = _promised_place(context, job, connection) if chosen.rung.reads_back else ""
            if promised:
                # Sent again it might stand there twice, where the first is only not shown to us.
                job = _missed(job, promised)
                why = f"The EHR said that it stored it ({promised}), and it is not there."
                return _hold(context, job, why, kind="to-check")
            begin = partial(_begun, context, chosen, connection, document.version_id)
            try:
                sending = _Sending(context, begin(job), connection, begin)
            except _Waits as other:
                return _again(context, job, "", str(other), job.try_.waited, delay_s=_backoff(1 + job.try_.waits))
            try:
                with target.client.announced(sending):
                    receipt = push.send(target, chosen.rung, document)
                job = sending.job
            except (_Waits, _Withheld) as stopped:
                job, business = sending.job, "unknown"
                if not sending.wrote and (chosen.rung.reads_back or not unanswered):
                    job, business = _not_sent(context, job), ""
                if isinstance(stopped, _Withheld):
                    return _withhold(context, job, str(stopped))
                return _again(context, job, business, str(stopped), job.try_.waited, delay_s=_backoff(1))
            except EhrFailure as failure:
                job = sending.job
                if not chosen.rung.reads_back:
                    if unanswered:
                        raise  # what it says of this one says nothing of the one that nobody answered
                    if failure.kind != "unknown":
                        job = _not_sent(context, job)
                # "It is there already" is a reason to look, and none to send it another way.
                receipt = push.look(target, chosen.rung, document) if failure.kind == "duplicate" else None
                if receipt is not None:
                    return _settle(context, job, chosen, receipt)
                if isinstance(failure, Refused):
                    # No answer of the EHR's: we don't connect there, whatever the rung.
                    _not_sent(context, job)
                    raise
                if failure.kind not in ("validation", "scope", "policy"):
                    if "send-started" in alignment.evidence(job.task):
                        _still_landing(context, job)
                    raise
                if document.signed and failure.kind == "validation" and chosen.rung.reads_back:
                    # Perhaps it takes one attachment alone: the form that people read goes without the signed bytes.
                    document = replace(document, signed=b"", signature="")
                    job = _not_sent(context, job)
                    continue
                # The EHR said no to this way of doing it, which is an answer: the next rung may do.
                refused.append((chosen.rung.number, f"refused ({failure.kind}: {failure.why})"))
                job = _not_sent(context, job)
                continue
            if receipt.copy == "unverifiable" and receipt.evidence["why"] in _NOT_THERE:
                return _promised(context, job, receipt, connection)
        return _settle(context, job, chosen, receipt)


def _is_outdated(context: Context, job: _Job) -> bool:
    """Whether the same recipient has a delivery of a newer version: what was not sent yet stays unsent.

    A repository gets every version, as long as the newer one is not there yet: it must be the last to arrive.
    """
    version, thing = alignment.version_of(job.task), alignment.thing_of(job.task)
    keeps_all = repository.of_task(context, job.task) is not None
    return any(
        alignment.thing_of(other) == thing
        and other["owner"] == job.task["owner"]
        and alignment.version_of(other) > version
        and (not keeps_all or other["status"] == "completed")
        for other in job.case.deliveries
    )


def _settled_before(receipt: Receipt) -> Receipt:
    """What was found of a version that a newer one has superseded since: that is no difference of its copy."""
    if receipt.copy != "mismatch" or receipt.evidence.get("why") != "its status is superseded":
        return receipt
    evidence = {**receipt.evidence, "why": "", "how": "found there, superseded by a newer version"}
    return replace(receipt, copy="verified", evidence=evidence)


def _older_under_way(context: Context, job: _Job, connection: Connection) -> float:
    """Seconds for which an earlier version that is being sent to the same EHR may still land; 0 of none.

    Order per case and EHR, whoever of its people the recipient is: the newer one must be the last to arrive. A
    repository gets the earlier one first, also where that has not begun.
    """
    begun = ("in-progress", "accepted") if connection.role == addresses.REPOSITORY else ("in-progress",)
    earlier_ones = (
        other
        for other in job.case.deliveries
        if alignment.thing_of(other) == alignment.thing_of(job.task)
        and other["status"] in begun
        and alignment.version_of(other) < alignment.version_of(job.task)
        and connection_of(context, job.case, other) == connection
    )
    return max(
        (
            FIRST_RETRY_S
            if other["status"] == "accepted"
            else _settle_wait(context, replace(job, task=other), connection)
            for other in earlier_ones
        ),
        default=0.0,
    )


def _look(
    context: Context, job: _Job, chosen: Chosen, target: Target, document: Deliverable, connection: Connection
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


def _told(context: Context, job: _Job, connection: Connection) -> list[dict[str, str]]:
    """What is known of this delivery, and of those of the same version to others there."""
    with_colleagues = (job.task, *_same_elsewhere(context, job, connection, job.case.deliveries))
    return [alignment.evidence(task) for task in with_colleagues]


def _promised_place(context: Context, job: _Job, connection: Connection) -> str:
    """Where the EHR said that it stored this, for the recipient or a colleague there; "" if nowhere.

    Of a colleague's copy that was read, and is gone, a person is told once: that delivery is done, and nobody can have
    it tried again.
    """
    missed = alignment.evidence(job.task).get("missed", "").split(", ")
    for task in (job.task, *_same_elsewhere(context, job, connection, job.case.deliveries)):
        place = alignment.evidence(task).get("location", "")
        if place and not (task["status"] == "completed" and place in missed):
            return place
    return ""


def _missed(job: _Job, place: str) -> _Job:
    """The job, its Task saying that this is not there: whoever has it tried again was told so."""
    before = alignment.evidence(job.task).get("missed", "").split(", ")
    places = ", ".join(dict.fromkeys(filter(None, (*before, place))))
    return replace(job, task=alignment.with_evidence(job.task, {"missed": places}))


def _same_elsewhere(
    context: Context, job: _Job, connection: Connection, deliveries: Iterable[Resource]
) -> list[Resource]:  # fmt: skip
    """The deliveries of the same version to others at the same EHR: one copy there is for all of them."""
    return [
        other
        for other in deliveries
        if other["id"] != job.task["id"]
        and alignment.thing_of(other) == alignment.thing_of(job.task)
        and alignment.version_of(other) == alignment.version_of(job.task)
        and connection_of(context, job.case, other) == connection
    ]


def _settle_wait(context: Context, job: _Job, connection: Connection) -> float:
    """Seconds until an earlier send that nobody answered can't land any more; 0 when there was none."""
    started = alignment.evidence(job.task).get("send-started")
    if not started:
        return 0.0
    return max(0.0, _settle_s(context, connection) - context.settling.since_s(job.task["id"], started))


def _settle_s(context: Context, connection: Connection) -> float:
    """Seconds after which what was sent there can't land any more."""
    return max(context.client(connection.name).site.settle_s, connection.timeout_s)


class _Waits(Exception):
    """Another delivery goes first; why."""


class _Withheld(Exception):
    """The consent was taken back since the case was read."""


def _begun(context: Context, chosen: Chosen, connection: Connection, version_id: str, job: _Job) -> _Job:
    """Commits that we are about to send, before we do. Raises _Waits while somebody else's goes first.

    Two people of one EHR have a delivery each. Their workers may both have found nothing there: the second must look
    again, also when the first has ended since. And a newer version may have been signed since the case was read: this
    one would be the last to arrive.
    """
    now = context.instant()
    said = {"sent": "unknown", "send-started": now, "rung": str(chosen.number), "rung-why": chosen.why, **_counted(job)}
    if chosen.number == messaging.RUNG:
        said |= {"version-id": version_id, "sent-after-replays": alignment.evidence(job.task).get("replays", "")}
    task = alignment.with_evidence(job.task, said)
    seen = {other["id"]: other["meta"]["versionId"] for other in job.case.deliveries}

    def alone(tx: Transaction) -> None:
        now_there = load(tx.connection, EVERYTHING, job.case.id)
        denied = _denied(context, job, now_there)
        if denied:
            raise _Withheld(denied)
        for other in _same_elsewhere(context, job, connection, now_there.deliveries):
            # Whatever came of it: as long as nobody has read it there, it may still land.
            unread = alignment.evidence(other).get("copy") != "verified"
            landing = unread and _settle_wait(context, replace(job, task=other), connection)
            if landing or other["meta"]["versionId"] != seen.get(other["id"]):
                raise _Waits("it is being sent there to somebody else")
        if _is_outdated(context, replace(job, case=now_there)):
            raise _Waits("a newer version was signed meanwhile")

    moved = _moved(context, job, task, "in-progress", "sending", also=alone)
    context.settling.since_s(task["id"], now)
    return moved


class _Sending:
    """A delivery that is being sent; called right before each request that writes goes out.

    Others wait for `_settle_s` from when the Task says that it was sent. Until a request goes out time may pass: it
    waits for its turn at the EHR, looks for older copies, or its worker is paused. After more than a small part of that
    time it is committed anew, with everything that is looked at then: nobody else has the Task, consent is given, and
    no other version goes first.
    """

    def __init__(self, context: Context, job: _Job, connection: Connection, again: Callable[[_Job], _Job]) -> None:
        self.job, self.wrote = job, False
        self._context, self._again = context, again
        self._most_s = OURS * _settle_s(context, connection)

    def __call__(self) -> None:
        task = self.job.task
        if self._context.settling.since_s(task["id"], alignment.evidence(task)["send-started"]) > self._most_s:
            self.job = self._again(self.job)
        self.wrote = True


def _still_landing(context: Context, job: _Job) -> None:
    """Commits that what was sent may land from now on: of several requests the last went out long after the first."""
    _moved(
        context, job, alignment.with_evidence(job.task, {"send-started": context.instant()}), "in-progress", "unknown"
    )


_NOT_THERE = ("not-found", "no location was given")


def _promised(context: Context, job: _Job, receipt: Receipt, connection: Connection) -> str:
    """The EHR took it and does not show it: it is looked for until it can't land any more, and not sent again."""
    place = receipt.location or "it did not say where"
    said = {"location": place, "send-started": context.instant()}  # of several requests the last went out just now
    job = replace(job, task=alignment.with_evidence(job.task, said))
    wait = _settle_wait(context, job, connection) or FIRST_RETRY_S
    return _again(context, job, "unknown", "what it took is not to be found there yet", job.try_.waited, delay_s=wait)


def _not_sent(context: Context, job: _Job) -> _Job:
    """Commits that nothing was stored there: the EHR refused, or nothing was sent."""
    outputs = [
        o for o in job.task.get("output", []) if codes.code_of(o["type"], codes.EVIDENCE) not in ("send-started",)
    ]
    task = {**job.task, "output": outputs}
    return _moved(context, job, alignment.with_evidence(task, {"sent": "no"}), "in-progress", "planned")


def _moved(
    context: Context, job: _Job, task: Resource, status: str, business: str, reason_text: str = "", reason: str = "",
    also: Callable[[Transaction], None] = lambda tx: None,
) -> _Job:  # fmt: skip
    """Commits a move of the Task; `also` writes more in the same transaction."""
    after = checked(
        workflow.moved(task, status, context.instant(), business=business, reason=reason, reason_text=reason_text)
    )
    with context.database.transaction(SERVICE) as tx:
        _fence(tx, job)
        stored = put(tx, context, job.case.id, after)
        also(tx)
    return replace(job, task=stored.resource)


def _fence(tx: Transaction, job: _Job) -> None:
    """A worker that lost its Task to another can't commit: the Task must still be the version it read.

    Acknowledgements are the exception that may come in between; they are merged, never overwritten.
    """
    current = resources.read(tx.connection, EVERYTHING, "Task", job.task["id"])
    if str(current.version) != job.task["meta"]["versionId"]:
        raise Conflict("The delivery Task changed meanwhile; it is looked at again.")


def _settle(context: Context, job: _Job, chosen: Chosen, receipt: Receipt) -> str:
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
        **_counted(job),
        **receipt.evidence,
    }
    task = alignment.with_evidence(job.task, said)
    several = said["duplicates"]
    if receipt.copy == "mismatch" or several:
        held = task if task["status"] == "in-progress" else workflow.moved(task, "in-progress", context.instant())
        why = [f"The copy differs: {said.get('why', '')}."] if receipt.copy == "mismatch" else []
        why += [f"It is there more than once ({several}): the others must be taken out there."] if several else []
        _moved(context, job, held, "on-hold", "mismatch", reason_text=" ".join(why))
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


def _issue_link(context: Context, job: _Job, why: str) -> str:
    """Rung 10: a link with a cover sheet. Nobody can say that it arrived; only the acknowledgement will."""
    said = {"sent": "unknown", "copy": "unverifiable", "rung": str(ladder.LINK), "rung-why": why,
            "issued-at": context.instant(), **_counted(job)}  # fmt: skip
    task = alignment.with_evidence(job.task, said)
    if task["status"] == "accepted":
        task = workflow.moved(task, "in-progress", context.instant())
    _moved(context, job, task, "completed", "unverifiable")
    return ledger.LINK


def _withhold(context: Context, job: _Job, because: str) -> str:
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
    return _hold(context, job, said, "consent-withheld", also=also)


def _plan_notice(tx: Transaction, context: Context, job: _Job, held: int) -> None:
    """The delivery of a notice instead of what is withheld; made again it is the same."""
    version = alignment.version_of(job.task)
    task_id = derived_id(job.case.id, deliverables.NOTICE, version, job.person.key)
    if resources.find(tx.connection, EVERYTHING, "Task", task_id) is not None:
        return
    code = codes.concept(codes.TASK, deliverables.NOTICE)
    task = _task(job.case, task_id, code, version, job.task["focus"]["reference"], job.task["owner"], context.instant())
    put(tx, context, job.case.id, alignment.with_evidence(task, {"held-version": str(held)}))
    enqueue(tx, context, job.case, task)


def _hold(
    context: Context, job: _Job, why: str, reason: str = "", element: str = "", kind: str = "",
    also: Callable[[Transaction], None] = lambda tx: None,
) -> str:  # fmt: skip
    """Puts the Task aside for a person: `$replay` moves it back. `element` is what the EHR would not take, `kind` the
    kind of its failure, "to-check" or "our-fault".
    """
    business = "unknown" if alignment.evidence(job.task).get("sent") == "unknown" else "failed"
    task = alignment.with_evidence(job.task, {"failing-element": element, "last-failure": kind, **_counted(job)})
    _moved(context, job, task, "on-hold", business, reason_text=why, reason=reason, also=also)
    return "on-hold"


def give_up(context: Context, task_id: str, why: str, number: int = 0) -> None:
    """Puts a delivery that failed on our side on hold, unless it has settled meanwhile.

    `number` is of the try that failed; where nobody knows which it was (0) no attempt is named.
    """
    job = _job(context, task_id, number)
    if job is not None:
        _hold(context, job, why, kind="our-fault")


def _failed(context: Context, job: _Job, failure: EhrFailure, wait: Wait | None) -> str:
    """What an EHR's failure means: wait for the EHR, try again later, or leave it to a person."""
    # The Task on disk says whether we had begun to send.
    current = _job(context, job.task["id"], job.try_.number)
    if current is None:
        return "settled before"
    if wait is not None:
        return _wait(context, current, wait)
    attempt_ = current.try_.attempt
    # Somebody else was writing, or the version that we had read is no longer the newest: nothing was stored.
    raced = failure.kind == "conflict" and attempt_ <= MAX_RACES
    if not failure.retryable and not raced:
        more = f" The EHR names {failure.element}." if failure.element else ""
        said = f"{failure.kind}: {failure.message}{more}"
        return _hold(context, current, said, element=failure.element, kind=failure.kind)
    if attempt_ >= MAX_ATTEMPTS:
        said = f"Given up after {attempt_} attempts; last: {failure.message}"
        return _hold(context, current, said, kind=failure.kind)
    delay_s = max(failure.retry_after_s, _backoff(attempt_))
    sent_before = "send-started" in alignment.evidence(current.task)
    business = "unknown" if sent_before else ""
    return _again(context, current, business, failure.kind, current.try_.next, delay_s=delay_s)


def _backoff(attempt: int) -> float:
    """Seconds until the next attempt."""
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt - 1, MAX_ATTEMPTS))


def _again(context: Context, job: _Job, business: str, why: str, try_: Try, *, delay_s: float) -> str:
    """Enqueues the next try in the transaction that says why: a kind of failure, or in words what it waits for."""
    failure = "waits" if try_.attempt == job.try_.attempt else why
    task = alignment.with_evidence(job.task, {"last-failure": failure, **_counted(job)})
    next_try = times.instant(context.now() + int(delay_s * 1000))
    task["statusReason"] = {"text": f"The EHR did not do it yet ({why}); next try at {next_try}."}
    if business:
        task["businessStatus"] = codes.concept(codes.DELIVERY_STATUS, business)
    with context.database.transaction(SERVICE) as tx:
        _fence(tx, job)
        put(tx, context, job.case.id, {**task, "lastModified": context.instant()})
        _enqueue(tx, context, job.task["id"], job.connection, try_, delay_s)
    return f"again in {delay_s:.0f} s: {why}"


def _wait(context: Context, job: _Job, wait: Wait) -> str:
    """Nothing is asked there now: the same attempt comes again. The Task says why, once."""
    task = {**job.task, "statusReason": {"text": wait.why}, "lastModified": context.instant()}
    with context.database.transaction(SERVICE) as tx:
        _fence(tx, job)
        if job.task.get("statusReason") != task["statusReason"]:
            put(tx, context, job.case.id, alignment.with_evidence(task, {"last-failure": "waits"}))
        _enqueue(tx, context, job.task["id"], job.connection, job.try_.waited, wait.seconds)
    return f"waits {wait.seconds:.0f} s: {wait.why}"


def _counted(job: _Job) -> dict[str, str]:
    return {"attempt": str(job.try_.attempt)} if job.try_.attempt else {}


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
    _enqueue(tx, context, task["id"], connection_of(context, case, task), Try(replay=number))
    return after
