"""What is beyond its bound now: pure, from what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from fhir_secondop.alert_settings import Alerts, Bounds
from fhir_secondop.service.waiting import DELIVERING, GATHERING, HELD, Waiting

_MINUTE_MS = 60_000
OLDEST, DEPTH, HELD_LONG, STUCK, NO_WORKER = KINDS = (
    "oldest-undelivered", "queue-depth", "held", "gathering", "no-worker",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """Something beyond its bound: `value` and `bound` in minutes, or deliveries. `subject` "" is all EHRs together."""

    kind: str
    subject: str
    value: int
    bound: int


def found(waiting: Sequence[Waiting], worker_seen: int | None, settings: Alerts, now: int) -> list[Condition]:
    """Each EHR's conditions, then those of all together.

    `worker_seen` is when a worker was seen last (ms since 1970), None where none ever was: then what has waited longest
    says for how long, at least, nobody has worked.
    """
    oldest = min((one.since for one in waiting), default=now)
    idle = (now - (oldest if worker_seen is None else worker_seen)) // _MINUTE_MS
    bound = settings.no_worker_minutes
    unattended = [Condition(NO_WORKER, "", idle, bound)] if bound and idle > bound else []
    names = sorted({one.connection for one in waiting})
    return unattended + [
        condition
        for name in (*names, "")
        for condition in _of(name, [w for w in waiting if name in ("", w.connection)], settings.bounds(name), now)
    ]


def _of(subject: str, waiting: Sequence[Waiting], bounds: Bounds, now: int) -> Iterator[Condition]:
    measured: tuple[tuple[str, int, Callable[[], int]], ...] = (
        (OLDEST, bounds.oldest_undelivered_minutes, lambda: _age(waiting, DELIVERING, now)),
        (DEPTH, bounds.queue_depth, lambda: sum(1 for w in waiting if w.what == DELIVERING)),
        (HELD_LONG, bounds.held_minutes, lambda: _age(waiting, HELD, now)),
        (STUCK, bounds.gathering_minutes, lambda: _age(waiting, GATHERING, now)),
    )
    for kind, bound, measure in measured:
        value = measure() if bound else 0
        if bound and value > bound:
            yield Condition(kind, subject, value, bound)


def _age(waiting: Iterable[Waiting], what: str, now: int) -> int:
    """Minutes for which the oldest of them has waited."""
    return max(((now - w.since) // _MINUTE_MS for w in waiting if w.what == what), default=0)
