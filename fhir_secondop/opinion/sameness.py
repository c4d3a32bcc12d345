"""When two copies are of the same fact, type by type: what speaks for it, and what rules it out.

Both are needed: `likeness` gives the reason to group, `apart` the reason never to, and one that is apart of any member
of a group stays out of it. In doubt two copies stay two; what is wrongly left apart is seen twice, what is wrongly
taken for one is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from fhir_secondop.opinion import medicines, staging
from fhir_secondop.opinion.likeness import (
    DAY,
    INSTANT,
    NEVER,
    agree,
    concepts_alike,
    contradict,
    distinct_identifiers,
    measured_alike,
    moments,
    sites_contradict,
)
from fhir_secondop.opinion.sourced import Sourced, fold, substances

# People, places, visits and what is only packaging: not facts of the record.
NOT_FACTS = frozenset(
    {
        "Patient", "Practitioner", "PractitionerRole", "Organization", "Location", "RelatedPerson", "Encounter",
        "Medication", "Binary", "Provenance", "CareTeam", "Device", "Coverage", "Linkage", "List",
    }
)  # fmt: skip
DOCUMENTS = frozenset({"DiagnosticReport", "DocumentReference"})
# Happened once: two of one source are two, unless it is the same moment or the same number.
EVENTS = frozenset({"Observation", "Procedure", "Immunization", "DiagnosticReport", "DocumentReference"})
_VOID = frozenset({"entered-in-error", "cancelled", "not-done"})
PROOF = 3
"""Strength of a shared number or file; below it the strengths are those of `likeness.moments`."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How strongly two copies look like the same fact, and why in words."""

    strength: int
    why: str


def family(item: Sourced) -> str:
    """What an item is compared with: its own type; the two ways to list a medicine are one."""
    return "Medication" if item.type in medicines.TYPES else item.type


def likeness(a: Sourced, b: Sourced) -> Likeness | None:
    """Why two copies may be of the same fact; None when nothing says so. `apart` is asked separately."""
    if a.type in DOCUMENTS and b.type in DOCUMENTS and a.files.keys() & b.files.keys():
        return Likeness(PROOF, "same file")
    if family(a) != family(b):
        return None
    shared = sorted(a.identifiers & b.identifiers)
    if shared:
        return Likeness(PROOF, f"same identifier ({shared[0][0]} {shared[0][1]})")
    if a.source == b.source and not (a.type == "Observation" and moments(a.when, b.when) == INSTANT):
        return None
    return _BY_TYPE[family(a)](a, b) if family(a) in _BY_TYPE else None


def _condition(a: Sourced, b: Sourced) -> Likeness | None:
    why = concepts_alike(a, b)
    said = "same onset" if a.when and b.when and _onset(a) and _onset(b) else "onset not said by both"
    return Likeness(DAY, f"{why}, {said}") if why else None


def _onset(item: Sourced) -> str:
    found = item.resource.get("onsetDateTime") or item.resource.get("onsetPeriod", {}).get("start", "")
    return str(found)


def _allergy(a: Sourced, b: Sourced) -> Likeness | None:
    why = substance_alike(a, b)
    return Likeness(DAY, why) if why else None


def substance_alike(a: Sourced, b: Sourced) -> str:
    """Why two allergies are to the same substance, "" when that can't be told."""
    coded = concepts_alike(a, b)
    if coded:
        return coded.replace("same code", "same substance")
    common = sorted(substances(a) & substances(b)) if not contradict(a.codes, b.codes) else []
    return f'same substance ("{common[0]}")' if common else ""


def _medication(a: Sourced, b: Sourced) -> Likeness | None:
    why = medicines.same_medicine(a, b)
    current = all(medicines.phase(item.resource) == "current" for item in (a, b))
    return Likeness(DAY, why) if why and (current or _nearness(a, b)) else None


def _event(a: Sourced, b: Sourced) -> Likeness | None:
    why, strength = concepts_alike(a, b), _nearness(a, b)
    said = "same time" if strength == INSTANT else "same day"
    return Likeness(strength, f"{why}, {said}") if why and strength else None


def _nearness(a: Sourced, b: Sourced) -> int:
    """As `moments`; but only of a measurement is another time of the day another fact: of an operation one source may
    have the beginning, the other the end.
    """
    same_day = a.type != "Observation" and len(a.when) >= 10 and a.when[:10] == b.when[:10]
    return max(moments(a.when, b.when), DAY if same_day else NEVER)


def _observation(a: Sourced, b: Sourced) -> Likeness | None:
    found = _event(a, b)
    alike = measured_alike(a.resource, b.resource)
    return Likeness(found.strength, f"{found.why}, same value") if found and alike else None


def _report(a: Sourced, b: Sourced) -> Likeness | None:
    """Two laboratories may each have a "Laboratory report" of the day: the day alone needs the same conclusion."""
    found = _event(a, b)
    ends = [fold(item.resource.get("conclusion", "")) for item in (a, b)]
    if found is None or not a.texts & b.texts or (all(ends) and ends[0] != ends[1]):
        return None
    return found if found.strength == INSTANT or all(ends) else None


def _document(a: Sourced, b: Sourced) -> Likeness | None:
    """Same type, date and title; the day alone needs the same author."""
    found = _event(a, b)
    if found is None or not _titles(a) & _titles(b):
        return None
    return Likeness(found.strength, f"{found.why}, same title") if found.strength == INSTANT or _by_same(a, b) else None


def _titles(item: Sourced) -> frozenset[str]:
    titles = [c.get("attachment", {}).get("title", "") for c in item.resource.get("content", [])]
    return frozenset(map(fold, [item.resource.get("description", ""), *titles])) - {""}


def _by_same(a: Sourced, b: Sourced) -> bool:
    authors = [{fold(who.get("display", "")) for who in item.resource.get("author", [])} - {""} for item in (a, b)]
    return bool(authors[0] & authors[1])


_BY_TYPE = {
    "Condition": _condition, "AllergyIntolerance": _allergy, "Medication": _medication, "Observation": _observation,
    "Procedure": _event, "Immunization": _event, "DiagnosticReport": _report, "DocumentReference": _document,
}  # fmt: skip


def apart(a: Sourced, b: Sourced) -> bool:
    """Whether two copies can't be of the same fact, whatever looks alike."""
    if a.type in DOCUMENTS and b.type in DOCUMENTS:
        if a.files.keys() & b.files.keys():
            return not _days_meet(a, b)
        if a.type == b.type and set(a.files.values()) & set(b.files.values()):
            return True
    elif family(a) != family(b):
        return True
    if (a.resource.get("status") in _VOID) != (b.resource.get("status") in _VOID) or a.negative != b.negative:
        return True
    if family(a) == "Medication":
        return not medicines.same_medicine(a, b) or medicines.phase(a.resource) != medicines.phase(b.resource)
    if contradict(a.codes, b.codes) or sites_contradict(a, b):
        return True
    return _events_apart(a, b) if a.type in EVENTS else _states_apart(a, b)


def _events_apart(a: Sourced, b: Sourced) -> bool:
    if distinct_identifiers(a, b) or (a.type not in DOCUMENTS and a.when and b.when and not _nearness(a, b)):
        return True
    if a.type == "Observation" and measured_alike(a.resource, b.resource) is False:
        return True
    again = a.type == "Observation" and moments(a.when, b.when) == INSTANT
    return a.source == b.source and not a.identifiers & b.identifiers and not again


def _states_apart(a: Sourced, b: Sourced) -> bool:
    if a.type == "AllergyIntolerance":
        return a.over != b.over
    if a.type != "Condition":
        return False
    # Without an onset a new episode looks like the old one, but for what became of it.
    unsaid = not (_onset(a) and _onset(b))
    return not agree(_onset(a), _onset(b)) or (unsaid and a.over != b.over) or staging.contradict(a, b)


def _days_meet(a: Sourced, b: Sourced) -> bool:
    days = [
        {str(item.resource[name])[:10] for name in ("date", "effectiveDateTime", "issued") if name in item.resource}
        for item in (a, b)
    ]
    return not all(days) or bool(days[0] & days[1])
