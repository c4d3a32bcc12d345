"""Sends what is committed: at least once, always with the same id, so that a receiver knows what it has already.

A message is taken before it is sent, and confirmed after: who is killed in between leaves it to the next one.
"""

from __future__ import annotations

import logging

from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Invalid
from fhir_secondop.service.alerts import channels
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.store import alerts
from fhir_secondop.store.alerts import Message

log = logging.getLogger(__name__)
LEASE_MS = 180_000
"""For how long nobody else sends what somebody has taken; a channel's whole conversation ends before that."""
FIRST_RETRY_MS, GIVEN_UP_MS = 30_000, 86_400_000
AT_ONCE = 100


def send_due(context: Context) -> int:
    """Sends what is due, however often it is called; how many arrived. One channel that is down stops no other."""
    with context.database.reading() as connection:
        due = alerts.due(connection, context.now(), AT_ONCE)
    arrived, down = 0, set[str]()
    for message_id, channel in due:
        if server_of(channel) in down:  # it waits for the next turn: each try may take its whole time-out
            continue
        message = _taken(context, message_id)
        if message is None:
            continue
        if _sent(context, message):
            arrived += 1
        else:
            down.add(server_of(channel))
    return arrived


def server_of(channel: str) -> str:
    """Whom a channel is asked of: all e-mail goes to one server."""
    return "email" if channel.startswith("email:") else channel


def _taken(context: Context, message_id: str) -> Message | None:
    with context.database.transaction(SERVICE) as tx:
        now = context.now()
        return alerts.take(tx.connection, message_id, now, now + LEASE_MS)


def _sent(context: Context, message: Message) -> bool:
    try:
        channels.send(context.alerts, message, context.now())
    except (EhrFailure, Invalid) as failure:
        again = None if isinstance(failure, channels.Gone) else _again(message, context.now())
        if again is None:
            log.error("an alert was not told: %s", failure.message)
        with context.database.transaction(SERVICE) as tx:
            alerts.failed(tx.connection, message, failure.message, again)
        return False
    with context.database.transaction(SERVICE) as tx:
        alerts.was_sent(tx.connection, message, context.now())
    return True


def _again(message: Message, now: int) -> int | None:
    """When to try again, with growing pauses; None once a day has passed."""
    if now - message.made >= GIVEN_UP_MS:
        return None
    return now + int(min(alerts.LONGEST_WAIT_MS, FIRST_RETRY_MS * 2 ** min(message.tries - 1, 20)))
