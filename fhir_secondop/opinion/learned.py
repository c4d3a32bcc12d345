"""What was learned from the cases whose report is signed: counts by specialty and reason, small ones withheld. Pure.

docs/learned.md defines each measure in words.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import alignment, clocks, codes, workflow
from fhir_secondop.opinion.calendar import DAY_MS, Calendar
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.opinion.clocks import Clock, Clocks, Version
from fhir_secondop.opinion.suppression import ALL, LEAST, groups_withheld, protect

MEASURES: Mapping[str, tuple[str, ...]] = {
    "concordance": ("full", "partial", "discordant", "indeterminate", "not-assessed"),
    "since-request": ("in-time", "late", "no-target"),
    "since-complete": ("in-time", "late", "no-target"),
    "record-at-acceptance": ("complete", "incomplete"),
    "unread": ("read", "unread", "too-early", "nobody-asked"),
    "loop": ("aligned", "informed", "open"),
}
"""Each measure puts each case into exactly one of its categories."""
BREAKDOWNS = ("specialty", "reason")
CLOCKS = ("since-request", "since-complete")
UNREAD_AFTER_MS = 3 * DAY_MS
_NOT_SAID = "not stated"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case: its group in each breakdown, its category in each measure, whole business days on each clock."""

    groups: tuple[str, ...]
    categories: Mapping[str, str]
    days: Mapping[str, int]


def of_case(case: Case, both: Clocks, versions: Sequence[Version], calendar: Calendar, now: int) -> Outcome | None:
    """The outcome of a case; None where no report stands: none is signed yet, or it was retracted."""
    board = alignment.board(case)
    if board is None or case.report is None or case.report["status"] == "entered-in-error":
        return None
    return Outcome(
        (_specialty(case), _reason(case)),
        {
            "concordance": _concordance(case),
            "since-request": _in_time(both.request),
            "since-complete": _in_time(both.record),
            "record-at-acceptance": _at_acceptance(versions),
            "unread": _unread(case, now),
            "loop": "aligned" if board.aligned else "informed" if board.informed else "open",
        },
        {name: _days(both, clock, calendar) for name, clock in zip(CLOCKS, (both.request, both.record), strict=True)
         if clock is not None},
    )  # fmt: skip


def _specialty(case: Case) -> str:
    role = case.directory.resource(case.coordination.get("owner", {}).get("reference", "")) or {}
    for concept in role.get("specialty", []):
        coded: Resource = next(iter(concept.get("coding", [])), {})
        name = coded.get("display") or concept.get("text") or coded.get("code", "")
        if name:
            return str(name)[:80]
    return _NOT_SAID


def _reason(case: Case) -> str:
    """The first coded reason: a case counts once."""
    found = (codes.code_of(reason, codes.REASON) for reason in case.request.get("reasonCode", []))
    return next((code.replace("-", " ") for code in found if code), _NOT_SAID)


def _concordance(case: Case) -> str:
    overall = case.find("Observation", derived_id(case.id, "overall"))
    if overall is None or overall["status"] == "entered-in-error":
        return "not-assessed"
    return codes.code_of(overall.get("valueCodeableConcept"), codes.OVERALL_CONCORDANCE) or "not-assessed"


def _in_time(clock: Clock | None) -> str:
    if clock is None or clock.target is None:
        return "no-target"
    return "late" if clock.breached else "in-time"


def _days(both: Clocks, clock: Clock, calendar: Calendar) -> int:
    """Whole business days, pauses taken out, whatever the unit of the target is."""
    ends = clock.stopped if clock.stopped is not None else clock.started
    return clocks.run(clock.started, both.pauses, None, calendar, ends, ends).elapsed // DAY_MS


def _at_acceptance(versions: Sequence[Version]) -> str:
    """What was last said of the record when the reviewer who wrote the report accepted."""
    current, said = versions[-1][1]["id"], ""
    for _, task in versions:
        business = workflow.business_status(task)
        said = business if business.startswith("records-") else said
        if task["id"] == current and task["status"] == "accepted":
            break
    return "complete" if said == "records-complete" else "incomplete"


def _unread(case: Case, now: int) -> str:
    """Whether everybody who must acknowledge the first version had done so three days after it was signed."""
    firsts = [t for t in case.tasks_of("deliver-report") if alignment.version_of(t) == 1]
    asked = {m.person.reference for m in case.audience if {"requester", "pcp", "decision-owner"} & set(m.roles)}
    mine = [t for t in firsts if t["owner"].get("reference") in asked]
    if not mine:
        return "nobody-asked"
    ends = [times.interval(t["authoredOn"]).low + UNREAD_AFTER_MS for t in mine]
    acknowledged = [alignment.evidence(t).get("ack-at", "") for t in mine]
    if all(at and times.interval(at).low <= end for at, end in zip(acknowledged, ends, strict=True)):
        return "read"
    return "too-early" if now < max(ends) else "unread"


@dataclass(frozen=True, slots=True)
class Group:
    """The cases of one specialty or reason, or all. A number that may not be shown is "small" or "withheld".

    `days` are median and 90th percentile on each clock, where enough cases have it.
    """

    breakdown: str
    name: str
    size: int | str
    counts: Mapping[str, Mapping[str, int | str]]
    days: Mapping[str, tuple[int, int]]


def aggregate(outcomes: Sequence[Outcome]) -> tuple[Group, ...]:
    """All cases first, then each specialty and each reason; every number that may be shown, and no other."""
    names = [sorted({o.groups[place] for o in outcomes}) for place in range(len(BREAKDOWNS))]
    sizes = [Counter(o.groups[place] for o in outcomes) for place in range(len(BREAKDOWNS))]
    away = {(place, name) for place, size in enumerate(sizes) for name in groups_withheld(size)}
    said = {measure: _protected(outcomes, names, measure, away) for measure in MEASURES}

    def group(place: int, name: str) -> Group:
        members = [o for o in outcomes if name == ALL or o.groups[place] == name]
        size: int | str = len(members)
        if name == ALL:
            size = size if len(members) >= LEAST else "small"
        elif (place, name) in away:
            size = "withheld" if any(sizes[p][n] >= LEAST for p, n in away if p == place) else "small"
        counts = {measure: {c: said[measure](place, name, c) for c in cs} for measure, cs in MEASURES.items()}
        return Group(BREAKDOWNS[place] if name else "all", name, size, counts, _quantiles(members, size))

    return (group(0, ALL), *(group(place, name) for place, found in enumerate(names) for name in found))


def _protected(
    outcomes: Sequence[Outcome], names: Sequence[Sequence[str]], measure: str, away: set[tuple[int, str]]
) -> Callable[[int, str, str], int | str]:  # fmt: skip
    tables = [
        {name: Counter(o.categories[measure] for o in outcomes if o.groups[place] == name) for name in found}
        for place, found in enumerate(names)
    ]
    return protect(tables, MEASURES[measure], away).of


def _quantiles(members: Sequence[Outcome], size: int | str) -> dict[str, tuple[int, int]]:
    found = {}
    for clock in CLOCKS:
        days = sorted(o.days[clock] for o in members if clock in o.days)
        if isinstance(size, int) and len(days) >= LEAST:
            found[clock] = (median_low(days), days[-(-len(days) * 9 // 10) - 1])
    return found


def rows(groups: Sequence[Group]) -> Iterator[tuple[str, str, str, str, int | str]]:
    """(breakdown, group, measure, category, number or why there is none): for files and other programs."""
    for group in groups:
        yield group.breakdown, group.name, "cases", "", group.size
        for measure, counts in group.counts.items():
            for category, number in counts.items():
                yield group.breakdown, group.name, measure, category, number
        for clock in CLOCKS:
            median, ninth = group.days.get(clock, ("withheld", "withheld"))
            yield group.breakdown, group.name, f"business-days-{clock}", "median", median
            yield group.breakdown, group.name, f"business-days-{clock}", "90th-percentile", ninth


def shown(number: int | str) -> str:
    """A number as people and files read it: "25", "<11", "withheld"."""
    return f"<{LEAST}" if number == "small" else str(number)


def as_csv(groups: Sequence[Group]) -> str:
    """The rows as CSV with a header. A name that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["breakdown", "group", "measure", "category", "number"])
    for breakdown, name, measure, category, number in rows(groups):
        safe = f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") and name else name
        writer.writerow([breakdown, safe, measure, category, shown(number)])
    return out.getvalue()
