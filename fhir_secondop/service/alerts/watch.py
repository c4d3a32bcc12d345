"""Looks at what waits, keeps what stands, and has people told: the round of the alerts."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, NotFound
from fhir_secondop.model import Caller
from fhir_secondop.service import waiting
from fhir_secondop.service.alerts import conditions, edges, messages, sending
from fhir_secondop.service.alerts.conditions import Condition
from fhir_secondop.service.alerts.edges import Step
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.store import alerts, executors
from fhir_secondop.store.alerts import Alert
from fhir_secondop.store.database import Transaction

EVERY_S = 30
KEPT_MS = 90 * 86_400_000
"""For how long an alert that is over is listed."""
LISTED = 50


def act(context: Context) -> None:
    """One turn: what began or ended is committed with what is to be told, then everything that is due is sent.

    Anybody may call it, as often as one likes; nothing is told twice for that.
    """
    look(context)
    sending.send_due(context)


def look(context: Context) -> None:
    """Brings the alerts up to what waits now; sends nothing."""
    with context.database.reading() as connection:
        worker_seen = executors.last_seen(connection, context.now())
        found = conditions.found(waiting.of_all(connection, context), worker_seen, context.alerts, context.now())
        if all(step.alert == step.before for step in _steps(connection, context, found)):
            return  # nothing has changed: nobody need wait for us
    with context.database.transaction(SERVICE) as tx:
        now = context.now()
        for step in _steps(tx.connection, context, found):
            _keep(tx, context, step, now)
        alerts.forget_before(tx.connection, now - KEPT_MS)


def _steps(connection: SqlConnection, context: Context, found: Sequence[Condition]) -> list[Step]:
    settings = context.alerts
    return edges.steps(
        alerts.standing(connection), found, settings.levels, settings.hold_down_s * 1000, context.now(),
        lambda: str(uuid.uuid4()),
    )  # fmt: skip


def _keep(tx: Transaction, context: Context, step: Step, now: int) -> None:
    if step.alert is None:
        if step.before is not None:
            alerts.forget(tx.connection, step.before.id)
        return
    if step.alert != step.before:
        alerts.keep(tx.connection, step.alert)
    for event in step.events:
        link = link_of(context)
        alerts.put(tx.connection, messages.of_event(step.alert, event, context.alerts.levels, link, now))


def link_of(context: Context) -> str:
    """The page on which an operator sees more."""
    return f"{context.public_url}/connections"


def listed(context: Context, caller: Caller) -> list[tuple[Alert, list[alerts.Message]]]:
    """What stands, then what is over, each with what was told of it. Raises Forbidden unless the caller operates."""
    rights.require_role(caller, "operator")
    with context.database.reading() as connection:
        found = alerts.newest(connection, LISTED)
        told = alerts.messages_of(connection, [alert.id for alert in found])
    return [(alert, told.get(alert.id, [])) for alert in found]


def acknowledge(context: Context, caller: Caller, alert_id: str) -> Alert:
    """Somebody takes care of it: nobody further is told, but that it is over. Again it changes nothing.

    Raises Forbidden unless the caller operates, NotFound, and Conflict where it is over already.
    """
    rights.require_role(caller, "operator")
    with context.database.transaction(caller) as tx:
        alert = alerts.find(tx.connection, alert_id)
        if alert is None:
            raise NotFound("There is no such alert; the list names them.")
        if alert.acknowledged is not None:
            return alert
        if alert.ended:
            raise Conflict("The alert is over.")
        after = replace(alert, acknowledged=context.now(), acknowledged_by=caller.name)
        alerts.keep(tx.connection, after)
        return after
