"""What a plan of record says in codes, and what of a chart contradicts it: equal codes alone, nothing read from words.

A plan's activity with a code is something to be done, or (`doNotPerform`) not to be. A chart contradicts where what is
not to be done is ordered or under way, and where what is to be done was called off and nothing took its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.sourced import Code, concept_of

TYPES: Mapping[str, tuple[str, ...]] = {
    "MedicationRequest": ("MedicationRequest",),
    "ServiceRequest": ("ServiceRequest", "Procedure"),
}
"""What an activity may be (CarePlan.activity.detail.kind), each with the types of a chart that are about such."""

_UNDER_WAY = {
    "MedicationRequest": frozenset({"active"}), "ServiceRequest": frozenset({"active"}),
    "Procedure": frozenset({"preparation", "in-progress"}),
}  # fmt: skip
_STANDS = {
    "MedicationRequest": frozenset({"active", "on-hold", "draft", "completed"}),
    "ServiceRequest": frozenset({"active", "on-hold", "draft", "completed"}),
    "Procedure": frozenset({"preparation", "in-progress", "on-hold", "completed"}),
}  # fmt: skip
_CALLED_OFF = {
    "MedicationRequest": frozenset({"stopped", "cancelled"}), "ServiceRequest": frozenset({"revoked"}),
    "Procedure": frozenset({"not-done", "stopped"}),
}  # fmt: skip
# What is only thought of orders nothing.
_NO_ORDER = frozenset({"proposal", "plan", "option", "directive"})


@dataclass(frozen=True, slots=True)
class Planned:
    """One coded activity of a plan. `avoid`: it is not to be done."""

    kind: str
    code: Code
    avoid: bool
    says: str


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A line of a chart against an activity. `since` is whether it was written after the plan was set."""

    line: Resource
    planned: Planned
    since: bool


def activity(plain: Mapping[str, Any]) -> Resource:
    """The activity of a coded item: {text, kind, system, code, avoid}. Every reader of its words sees a "Not:"."""
    avoid = bool(plain.get("avoid"))
    return {
        "detail": {
            "kind": plain["kind"],
            "code": codes.concept(plain["system"], plain["code"], text=plain["text"]),
            "status": "not-started",
            **({"doNotPerform": True} if avoid else {}),
            "description": f"Not: {plain['text']}" if avoid else plain["text"],
        }
    }


def of_plan(plan: Resource) -> list[Planned]:
    """The coded activities of a plan of record."""
    return [
        Planned(detail["kind"], (coding["system"], coding["code"]), bool(detail.get("doNotPerform")),
                detail["description"])
        for detail in (a.get("detail", {}) for a in plan.get("activity", []))
        if detail.get("kind") in TYPES
        for coding in detail.get("code", {}).get("coding", [])
    ]  # fmt: skip


def contradictions(
    plan: Resource, chart: Sequence[Resource], medications: Mapping[str, Resource]
) -> Iterator[Contradiction]:
    """What of the chart contradicts the plan. `chart` must be all that it has of the types of the plan's activities.

    `medications` are what its lines cite, by reference.
    """
    for planned in of_plan(plan):
        lines = [r for r in chart if r["resourceType"] in TYPES[planned.kind]
                 and planned.code in _codes(r, medications)]  # fmt: skip
        yield from _avoided(plan, planned, lines) if planned.avoid else _called_off(plan, planned, lines)


def _codes(line: Resource, medications: Mapping[str, Resource]) -> set[Code]:
    coded = concept_of(line, medications).get("coding", [])
    return {(c["system"], c["code"]) for c in coded if c.get("system") and c.get("code")}


def _avoided(plan: Resource, planned: Planned, lines: Iterable[Resource]) -> Iterator[Contradiction]:
    for line in lines:
        under_way = _is(line, _UNDER_WAY) and line.get("intent") not in _NO_ORDER and not line.get("doNotPerform")
        done_since = line["resourceType"] == "Procedure" and line.get("status") == "completed" and _done(line, plan)
        if under_way or done_since:
            yield Contradiction(line, planned, _written_since(line, plan))


def _called_off(plan: Resource, planned: Planned, lines: Sequence[Resource]) -> Iterator[Contradiction]:
    if any(_is(line, _STANDS) and not line.get("doNotPerform") for line in lines):
        return  # another order took its place
    for line in lines:
        forbidden = line.get("doNotPerform") and _is(line, _UNDER_WAY)
        if (_is(line, _CALLED_OFF) or forbidden) and _written_since(line, plan):
            yield Contradiction(line, planned, True)


def _is(line: Resource, states: Mapping[str, frozenset[str]]) -> bool:
    return line.get("status") in states[line["resourceType"]]


def _written_since(line: Resource, plan: Resource) -> bool:
    """As far as it says: what has no such date was not."""
    said = line.get("meta", {}).get("lastUpdated") or line.get("authoredOn")
    return _after(said, plan)


def _done(line: Resource, plan: Resource) -> bool:
    return _after(line.get("performedDateTime") or line.get("performedPeriod", {}).get("start"), plan)


def _after(said: object, plan: Resource) -> bool:
    try:
        return isinstance(said, str) and times.interval(said).low >= times.interval(plan["created"]).low
    except Invalid:
        return False  # no date: it is not known to be later
