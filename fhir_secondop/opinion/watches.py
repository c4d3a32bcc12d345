"""How long a chart is looked at, what a look brings about, and the Task that keeps that. Pure.

A look covers places in the chart: only of what it covered may it say that something is there no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import alignment, checks, codes, workflow
from fhir_secondop.opinion.case import PLATFORM, Case, profile, reference
from fhir_secondop.opinion.checks import Finding
from fhir_secondop.opinion.compose import compose

_DAY_MS = 86_400_000
_GIVEN_UP = ("rejected", "failed", "cancelled")
_ACTS = ("read-at", "ack-at", "decision-at")


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a chart saw. `covered` are the places that it saw, and the types ("MedicationRequest/*") of which
    it saw all; `why` it saw no more, in words.

    `current` are what stands there now as the newest of its kind (versioned references).
    """

    findings: tuple[Finding, ...] = ()
    covered: frozenset[str] = frozenset()
    current: frozenset[str] = frozenset()
    why: str = ""

    def covers(self, where: str) -> bool:
        """Whether it saw that place."""
        return where in self.covered or f"{where.partition('/')[0]}/*" in self.covered


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from a look: items to open and to close, and what the next look must see again to count."""

    items: tuple[Resource, ...]
    suspected: tuple[str, ...]


def task(case: Case, task_id: str, name: str, now: str) -> Resource:
    """The Task by which the chart behind a connection is looked at, before the first look."""
    return compose(
        "Task",
        meta=profile("case-task"),
        id=task_id,
        partOf=[{"reference": reference(case.coordination)}],
        status="in-progress",
        intent="order",
        code=codes.concept(codes.TASK, workflow.WATCH, "Watch a chart"),
        focus={"reference": reference(case.request)},
        for_={"reference": reference(case.patient)},
        authoredOn=now,
        lastModified=now,
        requester=PLATFORM,
        owner=PLATFORM,
        input=[{"type": codes.concept(codes.EVIDENCE, "connection"), "valueString": name}],
    )


def number_of(watch: Resource) -> int:
    """The number of its next look."""
    return int(alignment.evidence(watch).get("look", "1"))


def suspected_by(watch: Resource) -> frozenset[str]:
    """What the looks so far have seen once and not for certain, by key."""
    return frozenset(alignment.evidence(watch).get("suspected", "").split("\n")) - {""}


def since(watch: Resource) -> int:
    """When the chart was last asked for something, else when the watch began (ms)."""
    return times.interval(watch["lastModified"]).low


def looked(watch: Resource, look: Look, suspected: Iterable[str], now: str) -> Resource:
    """The Task after a look."""
    after = alignment.with_evidence({**watch, "lastModified": now}, {"suspected": "\n".join(suspected)})
    return put_off(alignment.with_evidence(after, {"looked-at": now}), look.why)


def failed(watch: Resource, why: str, now: str) -> Resource:
    """The Task after a look that saw nothing: what was suspected is neither there nor gone."""
    return put_off({**watch, "lastModified": now}, why)


def put_off(watch: Resource, why: str) -> Resource:
    """The Task whose next look has another number."""
    return alignment.with_evidence(watch, {"look": str(number_of(watch) + 1), "last-failure": why})


def ended(watch: Resource, why: str, now: str) -> Resource:
    """The Task when nobody looks any more; a later delivery begins anew."""
    return workflow.moved(alignment.with_evidence(watch, {"ended-why": why}), "completed", now)


def over(case: Case, days: int, now: int) -> str:
    """Why the chart is not looked at any more; "" as long as it is.

    It ends when the case is called off, or that many days after the last thing that was delivered, acknowledged or
    decided.
    """
    if case.coordination["status"] in _GIVEN_UP:
        return "the case was called off"
    acts = [said[name] for t in case.deliveries for name in _ACTS if name in (said := alignment.evidence(t))]
    acts += [p["created"] for p in case.of_type("CarePlan") if "created" in p]
    last = max((times.interval(at).low for at in acts), default=0)
    return f"nothing has happened for {days} days" if now > last + days * _DAY_MS else ""


def outcome(case: Case, watch: Resource, name: str, look: Look, now: str) -> Outcome:
    """What a look brings about. Worked out again from the same case it is the same."""
    before = suspected_by(watch)
    counted = [f for f in look.findings if f.certain or f.key in before]
    opened = [made for f in counted if (made := checks.item(case, name, f, now)) is not None]
    seen = {f.key for f in look.findings}
    closed = [
        checks.resolved(item, why, now)
        for item in checks.of_case(case)
        if checks.said(item, "connection") == name and checks.stands(item) and (why := _resolved_by(item, look, seen))
    ]
    again = {f.key for f in look.findings if not f.certain}
    # What could not be seen this time is neither there nor gone: it stays suspected.
    again |= {key for key in before if not look.covers(key.split(" ")[1])}
    return Outcome((*opened, *closed), tuple(sorted(again)))


def _resolved_by(item: Resource, look: Look, seen: set[str]) -> str:
    """Why an item stands no more after a look; "" where it does."""
    focus = item["focus"]["reference"]
    if any(_thing(one) == _thing(focus) and one != focus for one in look.current):
        return "a newer version stands there"
    gone = look.covers(checks.said(item, "where")) and checks.said(item, "mark") not in seen
    return "a later look did not find it any more" if gone else ""


def _thing(focus: str) -> str:
    """What a versioned reference is a version of: of report and plan there is one each, of proposals several."""
    kind, _, rest = focus.partition("/")
    return f"{kind}/{rest.partition('/')[0]}" if kind == "ServiceRequest" else kind


def told(case: Case) -> list[dict[str, str]]:
    """The charts that are or were watched, for JSON and pages: when each was seen last, and what was not seen then."""
    return [
        {"at": checks.said(t, "connection"), "since": t["authoredOn"], "seen": checks.said(t, "looked-at"),
         "why": checks.said(t, "last-failure"), "ended": checks.said(t, "ended-why")}
        for t in case.of_type("Task") if workflow.is_watch(t)
    ]  # fmt: skip
