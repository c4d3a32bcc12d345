"""When an alert begins, escalates and ends: pure. One event at each edge, and none in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from fhir_secondop.alert_settings import Level
from fhir_secondop.service.alerts.conditions import Condition
from fhir_secondop.store.alerts import Alert

BEGAN, ESCALATED, ENDED = "began", "escalated", "ended"
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Event:
    """An edge of an alert, and the numbers of the levels (1 is the first) that are told of it."""

    name: str
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """An alert as it stands now, and what is told of it. `alert` None: it was over before it counted."""

    before: Alert | None
    alert: Alert | None
    events: tuple[Event, ...] = ()


def steps(
    standing: Iterable[Alert], conditions: Sequence[Condition], levels: Sequence[Level], hold_down_ms: int, now: int,
    new_id: Callable[[], str],
) -> list[Step]:  # fmt: skip
    """What one look makes of the alerts that stand and of what is found now; looked at again at once, nothing more."""
    by_key = {(c.kind, c.subject): c for c in conditions}
    made = []
    for alert in standing:
        condition = by_key.pop((alert.kind, alert.subject), None)
        made.append(
            _stands(alert, condition, levels, hold_down_ms, now) if condition else _gone(alert, hold_down_ms, now)
        )
    for condition in by_key.values():
        new = Alert(new_id(), condition.kind, condition.subject, now)
        made.append(replace(_stands(new, condition, levels, hold_down_ms, now), before=None))
    return made


def _stands(alert: Alert, condition: Condition, levels: Sequence[Level], hold_down_ms: int, now: int) -> Step:
    # What a clock that ran ahead has seen would begin when that is true: it was seen now, at the latest.
    seen, began = min(alert.seen, now), alert.began if alert.began is None else min(alert.began, now)
    after = replace(alert, value=condition.value, bound=condition.bound, gone=None, seen=seen, began=began)
    if after.began is None:
        if now - after.seen < hold_down_ms:
            return Step(alert, after)
        after = replace(after, began=now)
    events = []
    while after.acknowledged is None and after.level < len(levels) and _is_due(levels[after.level], after, now):
        events.append(Event(ESCALATED if after.level else BEGAN, (after.level + 1,)))
        after = replace(after, level=after.level + 1, told=now)
    return Step(alert, after, tuple(events))


def _is_due(level: Level, alert: Alert, now: int) -> bool:
    return alert.began is not None and now - alert.began >= level.after_minutes * _MINUTE_MS


def _gone(alert: Alert, hold_down_ms: int, now: int) -> Step:
    if alert.began is None:
        return Step(alert, None)
    gone = now if alert.gone is None else min(alert.gone, now)
    after = replace(alert, gone=gone)
    if now - gone < hold_down_ms:
        return Step(alert, after)
    told = tuple(range(1, after.level + 1))
    return Step(alert, replace(after, ended=now, told=now if told else after.told),
                (Event(ENDED, told),) if told else ())  # fmt: skip
