"""The two clocks of a case, since the request and since the record was complete: how long, paused, due, breached. Pure.

docs/clocks.md says in words what is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, workflow
from fhir_secondop.opinion.calendar import DAY_MS, Calendar

HOUR_MS = 3_600_000
AWAITING = ("awaiting-tests", "awaiting-information", "awaiting-coverage")
"""The business statuses in which a case waits for somebody else, and its clocks stand still."""
_ENDED = frozenset({"completed", "rejected", "failed", "cancelled", "entered-in-error"})
_COMPLETE = "records-complete"

Version = tuple[int, Resource]
"""A version of a coordination Task, and when (ms since 1970) it was stored."""


@dataclass(frozen=True, slots=True)
class Target:
    """So many business days, or hours of day and night."""

    amount: int
    business: bool

    @property
    def ms(self) -> int:
        """The amount in milliseconds of its measure; a business day is 86,400,000."""
        return self.amount * (DAY_MS if self.business else HOUR_MS)

    def words(self, ms: int) -> str:
        """So many milliseconds of its measure, rounded down: "3 business days", "1 hour"."""
        count = ms // (DAY_MS if self.business else HOUR_MS)
        unit = "business day" if self.business else "hour"
        return f"{count} {unit}{'' if count == 1 else 's'}"


DAYS = Target(0, True)  # how a clock without a target is measured


@dataclass(frozen=True, slots=True)
class Targets:
    """Of one priority. None: that clock has no target."""

    since_request: Target | None
    since_complete: Target | None


@dataclass(frozen=True, slots=True)
class Policy:
    """What a site counts, and what it has promised, by ServiceRequest.priority."""

    calendar: Calendar
    targets: Mapping[str, Targets]
    remind_after: Target = Target(3, True)  # a provider who has not acknowledged what it holds


@dataclass(frozen=True, slots=True)
class Pause:
    """[low, high) in which nothing counts; `high` None: it goes on."""

    low: int
    high: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Clock:
    """One clock, as it stood at the instant for which it was read. Instants are ms since 1970.

    `elapsed` is in milliseconds of the target's measure, `paused` in plain ones. While a pause goes on, `due` is when
    it would be if the pause ended now.
    """

    started: int
    stopped: int | None
    elapsed: int
    paused: int
    target: Target | None
    due: int | None
    breached: bool

    @property
    def words(self) -> str:
        """How long it has run: "3 business days"."""
        return (self.target or DAYS).words(self.elapsed)


def run(
    started: int, pauses: Iterable[Pause], target: Target | None, calendar: Calendar, now: int,
    stopped: int | None = None,
) -> Clock:  # fmt: skip
    """The clock at `now`. Pauses may overlap and come in any order."""
    ends = max(started, now if stopped is None else stopped)
    held = _merged(pauses, started, ends)
    business = target is None or target.business
    at: Callable[[int], int] = calendar.position if business else (lambda ms: ms)
    back: Callable[[int], int] = calendar.moment if business else (lambda position: position)
    running = list(_between(held, started, ends))
    elapsed = sum(at(high) - at(low) for low, high in running)
    due = None
    if target is not None:
        remaining = target.ms
        for low, high in running:
            if at(high) - at(low) >= remaining:
                due = max(low, back(at(low) + remaining))
                break
            remaining -= at(high) - at(low)
        else:
            due = max(ends, back(at(ends) + remaining))
    paused = sum(high - low for low, high in held)
    return Clock(started, stopped, elapsed, paused, target, due, due is not None and due < ends)


def _merged(pauses: Iterable[Pause], begins: int, ends: int) -> list[tuple[int, int]]:
    """The pauses within [begins, ends), those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted((max(begins, p.low), min(ends, ends if p.high is None else p.high)) for p in pauses):
        if low >= high:
            continue
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def _between(held: Sequence[tuple[int, int]], begins: int, ends: int) -> Iterator[tuple[int, int]]:
    for low, high in held:
        yield begins, low
        begins = high
    yield begins, ends


@dataclass(frozen=True, slots=True)
class Clocks:
    """Both clocks of a case. `record` is None until its record is complete or a reviewer has taken it as it is.

    `pause` is the reason of the pause that goes on, or "".
    """

    request: Clock
    record: Clock | None
    pause: str
    pauses: tuple[Pause, ...]

    @property
    def named(self) -> tuple[tuple[str, Clock], ...]:
        """The clocks that run, each with its name."""
        both = (("request", self.request), ("record", self.record))
        return tuple((name, clock) for name, clock in both if clock is not None)

    @property
    def due(self) -> int | None:
        """Our due date: the earlier of the two."""
        return min((clock.due for _, clock in self.named if clock.due is not None), default=None)

    @property
    def stopped(self) -> int | None:
        """When the report was final or the case ended without one."""
        return self.request.stopped

    def due_day(self, calendar: Calendar) -> date | None:
        """The day on which we are due, at the site."""
        return None if self.due is None else calendar.last_day(self.due)


def of_case(request: Resource, versions: Sequence[Version], policy: Policy, now: int) -> Clocks:
    """The clocks of a case: its ServiceRequest, and every version of its coordination Tasks, oldest first."""
    taken_in = versions[0][0]
    targets = policy.targets.get(request.get("priority", "routine"), policy.targets["routine"])
    pauses = tuple(_pauses(versions))
    stopped = _stopped(versions)
    complete = next((at for at, task in versions if _has_record(task)), None)

    def clock(started: int, target: Target | None) -> Clock:
        return run(started, pauses, target, policy.calendar, now, stopped)

    return Clocks(
        clock(min(taken_in, _asked(request, policy.calendar, taken_in)), targets.since_request),
        None if complete is None else clock(complete, targets.since_complete),
        pauses[-1].reason if pauses and pauses[-1].high is None and stopped is None else "",
        pauses,
    )


def _asked(request: Resource, calendar: Calendar, taken_in: int) -> int:
    said = request.get("authoredOn", "")
    if not said:
        return taken_in
    # A date alone is the sender's day; the nearest that we know is ours.
    return calendar.midnight(date.fromisoformat(said)) if len(said) == 10 else times.interval(said).low


def _has_record(task: Resource) -> bool:
    """Complete, or taken by a reviewer as it is: from then on it is ours to answer."""
    return workflow.business_status(task) == _COMPLETE or task["status"] in ("accepted", "ready", "in-progress")


def _stopped(versions: Sequence[Version]) -> int | None:
    current = [(at, task) for at, task in versions if task["id"] == versions[-1][1]["id"]]
    return next((at for at, task in current if task["status"] in _ENDED), None)


def _pauses(versions: Sequence[Version]) -> Iterator[Pause]:
    low, reason = 0, ""
    for at, task in versions:
        why = pause_of(task)
        if why != reason:
            if reason:
                yield Pause(low, at, reason)
            low, reason = at, why
    if reason:
        yield Pause(low, None, reason)


def pause_of(task: Resource) -> str:
    """Why the clocks stand still in this state of a coordination Task, in words; "" while they run."""
    business = workflow.business_status(task)
    if task["status"] in _ENDED or (task["status"] != "on-hold" and business not in AWAITING):
        return ""
    said = task.get("statusReason", {})
    code = codes.code_of(said, codes.STATUS_REASON) or (business if business in AWAITING else "")
    parts = [code.replace("-", " "), said.get("text", "")]
    return ": ".join(dict.fromkeys(part for part in parts if part)) or "on hold"
