"""The jobs made anew from the Tasks: the Tasks are the ledger, a job only carries one on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa

from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.opinion import codes, eligibility, proposals, workflow
from fhir_secondop.service import candidates, clocks, coverage, gather, proposing, urgent, watches
from fhir_secondop.service.context import SERVICE, Context, load
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.running import is_outage
from fhir_secondop.store import batches, resources, tables
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.resources import Stored

log = logging.getLogger(__name__)
AT_ONCE = 100  # Tasks in a transaction: others write in between
_CARRIED = ("requested", "accepted", "in-progress")
# A case on hold has clocks; what else is on hold waits for a person.
_OPEN = (*_CARRIED, "received", "ready", "on-hold")


class Live(Protocol):
    """Names → the workflows of those names that wait or run: (name, what it is about: the id of a Task, case …).

    Some may be missing, but where it is asked about these Tasks.
    """

    def __call__(self, names: tuple[str, ...], about: Collection[str] = ()) -> set[tuple[str, str]]: ...


def requeue(context: Context, live: Live | None = None) -> int:
    """Enqueues the workflow of every open Task that one carries or ends, of every open proposal, and the look at the
    clocks of every open case, but those that are `live`.

    Answers how many it looked at. A workflow that is there already is left as it is, so this may run at every start.
    """
    if live is not None:
        carry_on(context, live)
    count, running = 0, live(_ALL) if live is not None else set()
    for batch in _batches(context, _open_tasks(_OPEN)):
        count += _for_each(context, batch, lambda stored, tx: _task_again(tx, context, stored, running))
    for batch in _batches(context, _open_proposals()):
        count += _for_each(context, batch, lambda stored, tx: _proposal_again(tx, context, stored, running))
    return count


def _for_each(context: Context, batch: Sequence[Stored], act: Callable[[Stored, Transaction], bool]) -> int:
    """Does that for all in one transaction; where it fails, for each in its own, so that one stops no other."""
    try:
        with context.database.transaction(SERVICE) as tx:
            return sum(act(stored, tx) for stored in batch)
    except Exception as error:
        if is_outage(error):
            raise
    return sum(_alone(context, stored.id, partial(act, stored)) for stored in batch)


def _alone(context: Context, resource_id: str, act: Callable[[Transaction], bool]) -> bool:
    try:
        with context.database.transaction(SERVICE) as tx:
            return act(tx)
    except Exception as error:
        if is_outage(error):
            raise
        # The type only: a message may quote what it handled.
        log.error("%s is not carried on: %s", resource_id, type(error).__name__)
        return False


def carry_on(context: Context, live: Live) -> int:
    """Enqueues anew what a workflow should carry and none does, whatever became of it; how many Tasks that were.

    A Task and its workflow are written in one transaction, so none is found but where workflows were taken away: in a
    database that was restored, say. DBOS may know steps of one that is gone, and would not do them again: they are
    done under a new key.
    """
    # The Tasks first: one that was opened since has its workflow.
    carried = {
        (name, stored.id)
        for batch in _batches(context, _open_tasks(_CARRIED))
        for stored in batch
        if (name := _workflow_of(stored.resource)) in _KEPT
    }
    lost = carried - live(_KEPT) if carried else set()
    if lost:
        lost -= live(_KEPT, {task_id for _, task_id in lost})
    anew = _under_new_keys(context)

    def again(task_id: str, tx: Transaction) -> bool:
        # Read again: it may have ended meanwhile.
        stored = resources.read(tx.connection, EVERYTHING, "Task", task_id)
        return stored.resource["status"] in _CARRIED and _task_again(tx, anew, stored, set())

    count = sum(_alone(context, task_id, partial(again, task_id)) for _, task_id in sorted(lost))
    if count:
        log.warning("%d Tasks that no workflow carried on are carried on again", count)
    return count


# Those whose Task stays open until the workflow ends it.
_KEPT = (gather.WORKFLOW, orders.WORKFLOW, coverage.WORKFLOW, watches.WORKFLOW)
_ALL = (*_KEPT, clocks.WORKFLOW, urgent.WORKFLOW, candidates.WORKFLOW, proposing.WORKFLOW)


def _under_new_keys(context: Context) -> Context:
    """A context whose workflows have keys of their own: under the old ones stands that they have ended."""

    def enqueue(
        tx: Transaction, workflow: str, key: str, partition: str, *args: str | int, delay_s: float = 0
    ) -> None:  # fmt: skip
        context.enqueue(tx, workflow, f"{key}@{context.now()}", partition, *args, delay_s=delay_s)

    return replace(context, enqueue=enqueue)


def _workflow_of(task: Resource) -> str:
    """The workflow that carries or ends this Task, or looks at the clocks of its case; "" of none."""
    if workflow.is_coordination(task):
        return clocks.WORKFLOW
    if task["status"] not in _CARRIED:
        return ""
    if codes.has(task["code"], codes.TASK, "gather-records"):
        return gather.WORKFLOW
    if workflow.is_delivery(task):
        return orders.WORKFLOW
    if codes.has(task["code"], codes.TASK, eligibility.CODE):
        return coverage.WORKFLOW
    if workflow.is_watch(task):
        return watches.WORKFLOW
    if workflow.is_urgent(task):
        return urgent.WORKFLOW
    return candidates.WORKFLOW if workflow.is_review(task) and task["status"] == "requested" else ""


def _task_again(tx: Transaction, context: Context, stored: Stored, running: set[tuple[str, str]]) -> bool:
    """Enqueues the workflow of a Task unless it runs; whether it has one."""
    task, case_id = stored.resource, stored.case_id or ""
    name = _workflow_of(task)
    if (name, case_id if name == clocks.WORKFLOW else stored.id) in running:
        return True
    if name == clocks.WORKFLOW:
        clocks.attend(tx, context, case_id)
    elif name == gather.WORKFLOW:
        gather.enqueue(tx, context, task)
    elif name == orders.WORKFLOW:
        orders.enqueue(tx, context, load(tx.connection, EVERYTHING, case_id), task)
    elif name == coverage.WORKFLOW:
        coverage.enqueue(tx, context, task)
    elif name == watches.WORKFLOW:
        watches.enqueue(tx, context, task, watches.due_in(context, task))
    elif name == urgent.WORKFLOW:
        urgent.enqueue(tx, context, task)
    elif name == candidates.WORKFLOW:
        candidates.enqueue(tx, context, task)
    return bool(name)


def _proposal_again(tx: Transaction, context: Context, stored: Stored, running: set[tuple[str, str]]) -> bool:
    if (proposing.WORKFLOW, stored.id) not in running:
        proposing.enqueue(tx, context, stored.resource)
    return True


def _batches(context: Context, wanted: sa.Select[Any]) -> Iterator[list[Stored]]:
    """The resources of cases among these rids, a batch at a time, in the order of creation."""
    resource = tables.resource.c
    ours = sa.and_(resource.case_id.is_not(None), resource.deleted.is_(False), sa.not_(resources.IN_RECORD))
    for rids in batches.of_rows(context.database, wanted, AT_ONCE):
        with context.database.reading() as connection:
            found = connection.execute(resources.rows().where(resource.rid.in_(rids), ours).order_by(resource.rid))
            yield [resources.stored(row) for row in found]


def _open_tasks(states: tuple[str, ...]) -> sa.Select[Any]:
    status = tables.token.c
    return sa.select(status.rid).where(status.type == "Task", status.param == "status", status.code.in_(states))


def _open_proposals() -> sa.Select[Any]:
    """Those of ours; a proposal of the pulled record is nobody's to age."""
    mine, status = tables.token.alias(), tables.token.alias()
    return sa.select(mine.c.rid).where(
        mine.c.type == "ServiceRequest", mine.c.param == "identifier", mine.c.system == proposals.SYSTEM,
        sa.exists().where(status.c.rid == mine.c.rid, status.c.param == "status", status.c.code == "active"),
    )  # fmt: skip
