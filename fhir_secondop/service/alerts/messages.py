"""What people are told: an EHR's name, counts and ages, and where to look. No case, no patient."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from fhir_secondop.alert_settings import Level
from fhir_secondop.fhir import times
from fhir_secondop.service.alerts.conditions import DEPTH, HELD_LONG, NO_WORKER, OLDEST, STUCK
from fhir_secondop.service.alerts.edges import BEGAN, ENDED, ESCALATED, Event
from fhir_secondop.store.alerts import Alert, Message

Plain = dict[str, Any]
_SPACE = uuid.UUID("0c1cf3a0-6ab2-5b0e-9f59-2f6a1c0f7d11")  # of the ids of our messages
_SAID = {
    OLDEST: "the oldest delivery has waited for {value}; the limit is {bound}",
    DEPTH: "{value} wait to be made; the limit is {bound}",
    HELD_LONG: "something has been on hold for a person for {value}; the limit is {bound}",
    STUCK: "nothing has come of a gathering for {value}; the limit is {bound}",
    NO_WORKER: "no worker has been seen for {value}; the limit is {bound}",
}
_STATE = {BEGAN: "began", ESCALATED: "nobody has acknowledged it", ENDED: "is over"}


def of_event(alert: Alert, event: Event, levels: Sequence[Level], link: str, now: int) -> Iterator[Message]:
    """A message for each receiver of these levels, once for each; the same again for the same event.

    A level that was taken out of the settings meanwhile is told nothing more.
    """
    numbers = [number for number in event.levels if number <= len(levels)]
    channels: dict[str, int] = {}
    for number in numbers:
        channels |= dict.fromkeys(channels_of(levels[number - 1]), number)
    for channel, number in channels.items():
        body = _body(alert, event, number, link, now)
        of_this = number if event.name != ENDED else 0
        key = uuid.uuid5(_SPACE, "\n".join((alert.id, event.name, str(of_this), channel)))
        yield Message(f"msg_{key.hex}", alert.id, channel, body, made=now, next=now)


def channels_of(level: Level) -> list[str]:
    """By which ways a level's people are told."""
    return [*(f"email:{address}" for address in level.email), *(f"webhook:{name}" for name in level.webhooks)]


def _body(alert: Alert, event: Event, level: int, link: str, now: int) -> Plain:
    ehr = alert.subject or "all EHRs"
    said = sentence(alert)
    began = times.instant(alert.began or alert.seen)
    text = f"{ehr}: {said}."
    if event.name == ENDED:
        text = f"{ehr}: this is over. It had been: {said}. It began at {began} and ended at {times.instant(now)}."
    elif event.name == ESCALATED:
        text = f"{text} It began at {began}, and nobody has acknowledged it."
    return {
        "type": f"alert.{event.name}",
        "timestamp": times.instant(now),
        "data": {
            "alert": alert.id, "kind": alert.kind, "ehr": alert.subject, "level": level, "began": began,
            "ended": times.instant(now) if event.name == ENDED else None, "value": alert.value, "limit": alert.bound,
            "unit": "deliveries" if alert.kind == DEPTH else "minutes",
            "subject": f"{ehr}: {alert.kind.replace('-', ' ')} {_STATE[event.name]}", "text": text, "link": link,
        },
    }  # fmt: skip


def sentence(alert: Alert) -> str:
    """What is beyond its bound, and by how much."""
    measure = _deliveries if alert.kind == DEPTH else _minutes
    return _SAID[alert.kind].format(value=measure(alert.value), bound=measure(alert.bound))


def _deliveries(count: int) -> str:
    return f"{count} {'delivery' if count == 1 else 'deliveries'}"


def _minutes(count: int) -> str:
    """ "90 minutes", "5 hours", "3 days": rounded down where it is much."""
    for size, unit in ((1_440, "day"), (60, "hour"), (1, "minute")):
        if count >= 2 * size or size == 1:
            return f"{count // size} {unit}{'' if count // size == 1 else 's'}"
    raise AssertionError(count)


def test(channel: str, link: str, now: int) -> Message:
    """By which an operator tries a channel."""
    text = "This is a test of the alerts of the second opinion service. Nothing is wrong."
    data = {"subject": "A test of the alerts", "text": text, "link": link}
    body = {"type": "alert.test", "timestamp": times.instant(now), "data": data}
    return Message(f"msg_{uuid.uuid4().hex}", "", channel, body, made=now)
