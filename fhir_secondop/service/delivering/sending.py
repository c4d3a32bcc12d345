"""That something is about to be sent is committed before, and looked at again right before each request goes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fhir_secondop.ehr.ladder import Chosen
from fhir_secondop.model import EVERYTHING, Connection
from fhir_secondop.opinion import alignment
from fhir_secondop.service import messaging
from fhir_secondop.service.context import Context, load
from fhir_secondop.service.delivering import moves, sequence
from fhir_secondop.service.delivering.job import Job, denial
from fhir_secondop.store.database import Transaction

OURS = 0.1  # of the time that an EHR may take to store something: what may pass before our request goes out


class Waits(Exception):
    """Another delivery goes first; why."""


class Withheld(Exception):
    """The consent was taken back since the case was read."""


def begin_sending(context: Context, chosen: Chosen, connection: Connection, version_id: str, job: Job) -> Job:
    """Commits that we are about to send, before we do. Raises Waits while somebody else's goes first.

    Two people of one EHR have a delivery each. Their workers may both have found nothing there: the second must look
    again, also when the first has ended since. And a newer version may have been signed since the case was read: this
    one would be the last to arrive.
    """
    now = context.instant()
    said = {
        "sent": "unknown", "send-started": now, "rung": str(chosen.number), "rung-why": chosen.why,
        **moves.counted(job),
    }  # fmt: skip
    if chosen.number == messaging.RUNG:
        said |= {"version-id": version_id, "sent-after-replays": alignment.evidence(job.task).get("replays", "")}
    task = alignment.with_evidence(job.task, said)
    seen = {other["id"]: other["meta"]["versionId"] for other in job.case.deliveries}

    def alone(tx: Transaction) -> None:
        now_there = load(tx.connection, EVERYTHING, job.case.id)
        denied = denial(context, job, now_there)
        if denied:
            raise Withheld(denied)
        for other in sequence.same_elsewhere(context, job, connection, now_there.deliveries):
            # Whatever came of it: as long as nobody has read it there, it may still land.
            unread = alignment.evidence(other).get("copy") != "verified"
            landing = unread and sequence.settle_wait(context, replace(job, task=other), connection)
            if landing or other["meta"]["versionId"] != seen.get(other["id"]):
                raise Waits("it is being sent there to somebody else")
        if sequence.is_outdated(context, replace(job, case=now_there)):
            raise Waits("a newer version was signed meanwhile")

    moved = moves.moved(context, job, task, "in-progress", "sending", also=alone)
    context.settling.since_s(task["id"], now)
    return moved


class Sending:
    """A delivery that is being sent; called right before each request that writes goes out.

    Others wait for `sequence.settle_s` from when the Task says that it was sent. Until a request goes out time may
    pass: it waits for its turn at the EHR, looks for older copies, or its worker is paused. After more than a small
    part of that time it is committed anew, with everything that is looked at then: nobody else has the Task, consent
    is given, and no other version goes first.
    """

    def __init__(self, context: Context, job: Job, connection: Connection, again: Callable[[Job], Job]) -> None:
        self.job, self.wrote = job, False
        self._context, self._again = context, again
        self._most_s = OURS * sequence.settle_s(context, connection)

    def __call__(self) -> None:
        task = self.job.task
        if self._context.settling.since_s(task["id"], alignment.evidence(task)["send-started"]) > self._most_s:
            self.job = self._again(self.job)
        self.wrote = True
