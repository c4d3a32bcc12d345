"""A chart is watched from the first copy that was verified there: a Task for each case and connection, and a workflow
for each look.
"""

from __future__ import annotations

from fhir_secondop.model import EVERYTHING, Connection, Resource
from fhir_secondop.opinion import checks, watches, workflow
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.service.context import Context, put
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

WORKFLOW = "look-at-chart"
_HOUR_S = 3600.0


def begin(tx: Transaction, context: Context, case: Case, connection: Connection) -> None:
    """Watches the chart behind a connection from now on, unless it is watched already, or never to be."""
    if hours(context, connection) <= 0:
        return
    number = 1
    while True:
        task_id = derived_id(case.id, workflow.WATCH, connection.name, number)
        before = resources.find(tx.connection, EVERYTHING, "Task", task_id)
        if before is None:
            break
        if before.resource["status"] == "in-progress":
            return
        number += 1
    watch = watches.task(case, task_id, connection.name, context.instant())
    put(tx, context, case.id, watch)
    enqueue(tx, context, watch, _HOUR_S * hours(context, connection))


def hours(context: Context, connection: Connection) -> int:
    """The hours between two looks at a chart there, 0 for never; where only messages go there is none to look at."""
    if not connection.base:
        return 0
    return context.drift_hours if connection.drift_hours is None else connection.drift_hours


def name_of(watch: Resource) -> str:
    """The connection whose chart it watches."""
    return checks.said(watch, "connection")


def enqueue(tx: Transaction, context: Context, watch: Resource, delay_s: float) -> None:
    """The workflow of the next look; one that is there already stays the only one."""
    number = watches.number_of(watch)
    key = f"{WORKFLOW}-{watch['id']}-{number}"
    context.enqueue(tx, WORKFLOW, key, name_of(watch), watch["id"], number, delay_s=delay_s)


def due_in(context: Context, watch: Resource) -> float:
    """Seconds until the next look may happen, counted from the last version of the Task; 0 when it is due."""
    connection = context.connections.get(name_of(watch))
    wait = hours(context, connection) if connection else 0
    return max(0.0, watches.since(watch) / 1000 + _HOUR_S * wait - context.now() / 1000)
