"""Workflows that have ended are forgotten after a while: the Tasks are the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import sqlalchemy as sa

from fhir_secondop.fhir import times
from fhir_secondop.service import watches
from fhir_secondop.service.context import Context
from fhir_secondop.store import tables

if TYPE_CHECKING:
    from dbos import DBOSClient, WorkflowStatus

EVERY_S = 3600.0
AT_ONCE = 200
_DAY_MS = 86_400_000
# What ended in an error begins anew (takeover), and is deleted there.
_ENDED = ["SUCCESS", "CANCELLED"]
_CLOSED = frozenset({"completed", "failed", "cancelled", "rejected", "entered-in-error"})


def forget(context: Context, client: DBOSClient, days: int) -> int:
    """Deletes what ended before so many days, but nothing that is about an open Task; how many. 0 days: nothing ever.

    What is deleted can't be told from what never was: a key that is enqueued again would run again. So the ones of a
    Task stay until it is closed, and of a closed one nothing is enqueued.
    """
    if not days:
        return 0
    before = times.instant(context.now() - days * _DAY_MS)
    count = kept = 0
    while True:
        # Oldest first; those that stay are passed over.
        found = client.list_workflows(
            status=_ENDED, completed_before=before, load_output=False, limit=AT_ONCE, offset=kept
        )
        open_tasks = _open(context, (_about(each) for each in found))
        over = [w.workflow_id for w in found if w.name == watches.WORKFLOW or _about(w) not in open_tasks]
        if over:
            client.delete_workflows(over)
        count, kept = count + len(over), kept + len(found) - len(over)
        if len(found) < AT_ONCE:
            return count


def _about(workflow: WorkflowStatus) -> str:
    """The id that is its first argument: of a Task, a case, a proposal."""
    return str(workflow.input["args"][0]) if workflow.input is not None and workflow.input["args"] else ""


def _open(context: Context, ids: Iterable[str]) -> set[str]:
    """Which of these are Tasks that are not closed."""
    resource, status = tables.resource.c, tables.token.alias()
    query = (
        sa.select(resource.id, status.c.code)
        .select_from(tables.resource.join(status, status.c.rid == resource.rid))
        .where(
            resource.type == "Task", resource.id.in_(sorted(set(ids))), resource.deleted.is_(False),
            status.c.param == "status",
        )
    )  # fmt: skip
    with context.database.reading() as connection:
        return {task for task, code in connection.execute(query) if code not in _CLOSED}
