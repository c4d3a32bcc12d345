"""What a resource says of itself: whether it counts as evidence, and how old what it tells is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import Resource

_DAY_MS = 86_400_000
_VOID = frozenset({"entered-in-error", "cancelled", "revoked", "rejected", "superseded", "registered"})
_NOT_PERFORMED = frozenset({"not-performed", "not-applicable"})
_HIDDEN = frozenset({"masked", "not-permitted"})
# Codes that fill a place for which the source has nothing: https://hl7.org/fhir/uv/ips/CodeSystem-absent-unknown-uv-ips
# and what US Core writes for a required code that is not known.
_NOTHING_SAID = frozenset(
    {"no-allergy-info", "no-medication-info", "no-problem-info", "no-procedure-info", "no-device-info"}
)
_REASON_SYSTEM = "http://terminology.hl7.org/CodeSystem/data-absent-reason"

# The elements that date what it tells, best first; [x] left out. `meta.lastUpdated` dates the row, not the exam.
_DATED: Mapping[str, tuple[str, ...]] = {
    "AllergyIntolerance": ("recordedDate", "onset"),
    "CarePlan": ("period", "created"),
    "ClinicalImpression": ("effective", "date"),
    "Condition": ("recordedDate", "onset"),
    "DiagnosticReport": ("effective", "issued"),
    # `date` is when it was indexed: a scan of an old report is not new.
    "DocumentReference": ("context.period", "content.attachment.creation", "date"),
    "Encounter": ("period",),
    "FamilyMemberHistory": ("date",),
    "ImagingStudy": ("started",),
    "Immunization": ("occurrence", "recorded"),
    "MedicationDispense": ("whenHandedOver", "whenPrepared"),
    "MedicationRequest": ("authoredOn",),
    "MedicationStatement": ("effective", "dateAsserted"),
    "Observation": ("effective", "issued"),
    "Procedure": ("performed",),
    "QuestionnaireResponse": ("authored",),
    "ServiceRequest": ("authoredOn", "occurrence"),
}
# Of these a period without an end is still going on; a document's or an exam's is not.
_LASTING = frozenset({"CarePlan", "Condition", "MedicationStatement"})


@dataclass(frozen=True, slots=True)
class Dated:
    """When: the text as it stands there, and the span of time that it may mean (milliseconds since 1970)."""

    text: str
    low: int
    high: int


def standing(resource: Resource) -> str:
    """One of: counts, refuted, not-done, not-performed, hidden, void.

    Not performed is a result that says why it has no value: it was not tested; hidden one whose value we may not see.
    An event that was not done is less: that one injection was not given does not mean that none was. Void is what was
    entered in error, cancelled or replaced, what is not reported yet, and what says nothing.
    """
    statuses = {str(resource.get(key, "")) for key in ("status", "docStatus")}
    statuses |= {str(c.get("code", "")) for c in _codings(resource.get("verificationStatus"))}
    if statuses & _VOID:
        return "void"
    for own in ("refuted", "not-done"):
        if own in statuses:
            return own
    reasons = {str(c.get("code", "")) for c in _codings(resource.get("dataAbsentReason"))}
    if reasons & _NOT_PERFORMED:
        return "not-performed"
    if reasons & _HIDDEN:
        return "hidden"
    codings = list(_codings(resource.get("code"))) + list(_codings(resource.get("medicationCodeableConcept")))
    says_nothing = any(c.get("system") == _REASON_SYSTEM or c.get("code") in _NOTHING_SAID for c in codings)
    return "void" if reasons or says_nothing else "counts"


def _codings(concept: Any) -> Iterator[Mapping[str, Any]]:
    codings = concept.get("coding") if isinstance(concept, Mapping) else None
    yield from (c for c in codings if isinstance(c, Mapping)) if isinstance(codings, list) else ()


def dated(resource: Resource) -> Dated | None:
    """When what it tells was so; None if it says no date, or none that can be read."""
    kind = str(resource["resourceType"])
    for place in _DATED.get(kind, ()):
        for value in _values(resource, place):
            found = _read(value, kind in _LASTING)
            if found is not None:
                return found
    return None


def _values(value: Any, place: str) -> Iterator[Any]:
    """What stands at a dotted place, whichever type a choice has."""
    name, _, rest = place.partition(".")
    if isinstance(value, Mapping):
        for key in (name, f"{name}DateTime", f"{name}Date", f"{name}Period", f"{name}Instant"):
            inner = value.get(key)
            for each in inner if isinstance(inner, list) else [inner]:
                if each is not None:
                    yield from _values(each, rest) if rest else [each]


def _read(value: Any, lasting: bool) -> Dated | None:
    if isinstance(value, Mapping):
        end, start = value.get("end"), value.get("start")
        found = _read(end or start, lasting)
        if found is not None and lasting and not end:
            return Dated(f"since {found.text}", times.MAX_MS, times.MAX_MS)
        return found
    try:
        span = times.interval(str(value))
    except Invalid:
        return None
    return Dated(str(value), span.low, span.high)


def age(resource: Resource, max_age_days: int, today: str) -> str:
    """ "fresh", "old", or "unknown": undated, or dated so roughly (a year) that it may be either."""
    when = dated(resource)
    limit = times.interval(today).low - max_age_days * _DAY_MS
    if when is None or when.low < limit < when.high:
        return "unknown"
    return "fresh" if when.low >= limit else "old"
