"""An alert as plain JSON, for the command line and the pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fhir_secondop.fhir import times
from fhir_secondop.service.alerts.messages import sentence
from fhir_secondop.store.alerts import Alert, Message

Plain = dict[str, Any]


def of_alert(alert: Alert, told: Iterable[Message]) -> Plain:
    """The alert with what was told of it; instants are FHIR's, "" where there is none. `ehr` "" is all of them."""
    return {
        "id": alert.id,
        "kind": alert.kind,
        "ehr": alert.subject,
        "text": sentence(alert),
        "value": alert.value,
        "limit": alert.bound,
        "began": _instant(alert.began),
        "ended": _instant(alert.ended),
        "level": alert.level,
        "acknowledged": _instant(alert.acknowledged),
        "acknowledgedBy": alert.acknowledged_by,
        "messages": [_message(message) for message in told],
    }


def _message(message: Message) -> Plain:
    return {
        "id": message.id, "channel": message.channel, "event": message.body["type"].partition(".")[2],
        "state": message.state, "tries": message.tries, "sent": _instant(message.sent), "why": message.why,
    }  # fmt: skip


def _instant(ms: int | None) -> str:
    return times.instant(ms) if ms else ""
