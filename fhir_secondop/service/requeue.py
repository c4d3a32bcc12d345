"""The jobs made anew from the Tasks: the Tasks are the ledger, a job only carries one on."""

from __future__ import annotations

import sqlalchemy as sa

from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion import codes, eligibility, proposals, workflow
from fhir_secondop.service import candidates, clocks, coverage, delivery, gather, proposing, urgent
from fhir_secondop.service.context import SERVICE, Context, load
from fhir_secondop.store import resources, tables

_CARRIED = ("requested", "accepted", "in-progress")
# A case on hold has clocks; what else is on hold waits for a person.
_OPEN = (*_CARRIED, "received", "ready", "on-hold")


def requeue(context: Context) -> int:
    """Enqueues the workflow of every open Task that one carries or ends, of every open proposal, and the look at the
    clocks of every open case.

    Answers how many there were.

    A workflow that is there already is left as it is, so this may run at every start.
    """
    with context.database.transaction(SERVICE) as tx:
        status = tables.token.alias()
        open_tasks = resources.rows().where(
            tables.resource.c.type == "Task",
            tables.resource.c.case_id.is_not(None),
            tables.resource.c.deleted.is_(False),
            tables.resource.c.rid.in_(
                sa.select(status.c.rid).where(
                    status.c.type == "Task", status.c.param == "status", status.c.code.in_(_OPEN)
                )
            ),
        )
        count = 0
        for row in tx.connection.execute(open_tasks).all():
            stored = resources.stored(row)
            task = stored.resource
            if workflow.is_coordination(task):
                clocks.attend(tx, context, stored.case_id or "")
            elif task["status"] not in _CARRIED:
                continue
            elif codes.has(task["code"], codes.TASK, "gather-records"):
                gather.enqueue(tx, context, task)
            elif workflow.is_delivery(task):
                delivery.enqueue(tx, context, load(tx.connection, EVERYTHING, stored.case_id or ""), task)
            elif codes.has(task["code"], codes.TASK, eligibility.CODE):
                coverage.enqueue(tx, context, task)
            elif workflow.is_urgent(task):
                urgent.enqueue(tx, context, task)
            elif workflow.is_review(task) and task["status"] == "requested":
                candidates.enqueue(tx, context, task)
            else:
                continue
            count += 1
        for row in tx.connection.execute(_open_proposals()).all():
            proposing.enqueue(tx, context, resources.stored(row).resource)
            count += 1
        return count


def _open_proposals() -> sa.Select[tuple[object, ...]]:
    """Those of ours; a proposal of the pulled record is nobody's to age."""
    mine, status = tables.token.alias(), tables.token.alias()
    named = sa.select(mine.c.rid).where(
        mine.c.type == "ServiceRequest", mine.c.param == "identifier", mine.c.system == proposals.SYSTEM
    )
    active = sa.select(status.c.rid).where(
        status.c.type == "ServiceRequest", status.c.param == "status", status.c.code == "active"
    )
    rid = tables.resource.c.rid
    return resources.rows().where(
        rid.in_(named), rid.in_(active), tables.resource.c.case_id.is_not(None), sa.not_(resources.IN_RECORD)
    )
