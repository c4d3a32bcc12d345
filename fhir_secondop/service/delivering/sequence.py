"""What goes first, and for how long what was sent may still land."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fhir_secondop.model import Connection, Resource
from fhir_secondop.opinion import alignment
from fhir_secondop.service import addresses, repository
from fhir_secondop.service.context import Context
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.delivering.job import Job
from fhir_secondop.service.tries import FIRST_RETRY_S


def is_outdated(context: Context, job: Job) -> bool:
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


def older_under_way(context: Context, job: Job, connection: Connection) -> float:
    """Seconds for which an earlier version that is being sent to the same EHR may still land; 0 of none.

    Order per case and EHR, whoever of its people the recipient is: the newer one must be the last to arrive. So it is
    with one that is not carried on any more and was never answered. A repository gets the earlier one first, also where
    that has not begun.
    """
    begun = ("in-progress", "accepted") if connection.role == addresses.REPOSITORY else ("in-progress",)
    earlier_ones = (
        other
        for other in job.case.deliveries
        if alignment.thing_of(other) == alignment.thing_of(job.task)
        and (other["status"] in begun or alignment.evidence(other).get("sent") == "unknown")
        and alignment.version_of(other) < alignment.version_of(job.task)
        and orders.connection_of(context, job.case, other) == connection
    )
    return max(
        (
            FIRST_RETRY_S
            if other["status"] == "accepted" and "accepted" in begun
            else settle_wait(context, replace(job, task=other), connection)
            for other in earlier_ones
        ),
        default=0.0,
    )


def same_elsewhere(
    context: Context, job: Job, connection: Connection, deliveries: Iterable[Resource]
) -> list[Resource]:  # fmt: skip
    """The deliveries of the same version to others at the same EHR: one copy there is for all of them."""
    return [
        other
        for other in deliveries
        if other["id"] != job.task["id"]
        and alignment.thing_of(other) == alignment.thing_of(job.task)
        and alignment.version_of(other) == alignment.version_of(job.task)
        and orders.connection_of(context, job.case, other) == connection
    ]


def settle_wait(context: Context, job: Job, connection: Connection) -> float:
    """Seconds until an earlier send that nobody answered can't land any more; 0 when there was none."""
    started = alignment.evidence(job.task).get("send-started")
    if not started:
        return 0.0
    return max(0.0, settle_s(context, connection) - context.settling.since_s(job.task["id"], started))


def settle_s(context: Context, connection: Connection) -> float:
    """Seconds after which what was sent there can't land any more."""
    return max(context.client(connection.name).site.settle_s, connection.timeout_s)
