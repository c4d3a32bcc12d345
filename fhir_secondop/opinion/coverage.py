"""The patient's insurance, as the case knows it."""

from __future__ import annotations

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion.case import Case


def of_case(case: Case, now_ms: int) -> list[Resource]:
    """The Coverages that hold now: those that the request names, else every one of the patient that the case has."""
    named = [case.directory.resource(ref.get("reference", "")) for ref in case.request.get("insurance", [])]
    found = [one for one in named if one is not None and one["resourceType"] == "Coverage"]
    return [one for one in found or case.of_type("Coverage") if _holds(one, now_ms)]


def _holds(coverage: Resource, now_ms: int) -> bool:
    period = coverage.get("period", {})
    ended = "end" in period and times.interval(period["end"]).high <= now_ms
    return coverage.get("status") == "active" and not ended
