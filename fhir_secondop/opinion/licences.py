"""Is somebody licensed where the patient is? Read from Practitioner.qualification.

R4 has no element for where a qualification holds: it is said by the extension of Da Vinci Plan-Net, or by the issuer of
a licence number (a state's medical board). A degree has a place too, and is no licence.
Source: https://hl7.org/fhir/us/davinci-pdex-plan-net/StructureDefinition-practitioner-qualification.html
"""

from __future__ import annotations

from collections.abc import Iterator

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, places
from fhir_secondop.opinion.people import Directory
from fhir_secondop.opinion.places import Place

QUALIFICATION = "http://hl7.org/fhir/us/davinci-pdex-plan-net/StructureDefinition/practitioner-qualification"
_NUMBERS = ("LN", "MD", "DO")  # of v2-0203: licence, medical licence and osteopathic licence number


def judged(practitioner: Resource, directory: Directory, patient: Place | None, now_ms: int) -> tuple[str, str]:
    """pass, fail or unknown, and the fact: a licence that is not stated is unknown, one that has ended is a fail."""
    if patient is None or not patient.state:
        return "unknown", "the patient's state is not known"
    elsewhere: list[str] = []
    here: list[tuple[str, str]] = []
    for qualification in practitioner.get("qualification", []):
        for place in _places(qualification, directory):
            if places.same_state(place, patient):
                here.append(_standing(qualification, patient, now_ms))
            elif place.state:
                elsewhere.append(place.state)
    for wanted in ("pass", "fail", "unknown"):
        for result, fact in here:
            if result == wanted:
                return result, fact
    stated = f"; stated for {', '.join(sorted(set(elsewhere)))}" if elsewhere else ""
    return "unknown", f"no licence for {patient.state} is stated{stated}"


def _standing(qualification: Resource, patient: Place, now_ms: int) -> tuple[str, str]:
    """Of one licence that is for the patient's state."""
    period, status = qualification.get("period", {}), _status(qualification)
    name = f"licence for {patient.state}"
    if status not in ("", "active"):
        return "fail", f"the {name} is {status}"
    if "end" in period and times.interval(period["end"]).high <= now_ms:
        return "fail", f"the {name} ended on {period['end']}"
    if "start" in period and times.interval(period["start"]).low > now_ms:
        return "fail", f"the {name} begins on {period['start']}"
    if not period and not status:
        return "unknown", f"a {name} is stated, but neither its period nor its status"
    return "pass", f"{name}" + (f" until {period['end']}" if "end" in period else ", no end is stated")


def _places(qualification: Resource, directory: Directory) -> Iterator[Place]:
    """Where a qualification says that it holds."""
    said = [part for ext in _extensions(qualification) for part in ext if part.get("url") == "whereValid"]
    for part in said:
        location = directory.resource(part.get("valueReference", {}).get("reference", ""))
        if location is not None:
            yield places.of_address(location.get("address", {}))
        concept = part.get("valueCodeableConcept", {})
        for coding in concept.get("coding", []):
            yield Place(str(coding.get("code", "")), "US" if "usps" in coding.get("system", "") else "")
        if not concept.get("coding") and concept.get("text"):
            yield Place(str(concept["text"]))
    if not said and _is_licence(qualification):
        issuer = directory.resource(qualification.get("issuer", {}).get("reference", "")) or {}
        yield from places.of_addresses(issuer.get("address", []))


def _status(qualification: Resource) -> str:
    parts = (part for ext in _extensions(qualification) for part in ext if part.get("url") == "status")
    return next((str(part.get("valueCode", "")) for part in parts), "")


def _extensions(qualification: Resource) -> list[list[Resource]]:
    return [e.get("extension", []) for e in qualification.get("extension", []) if e.get("url") == QUALIFICATION]


def _is_licence(qualification: Resource) -> bool:
    numbers = qualification.get("identifier", [])
    return any(codes.has(n.get("type"), codes.V2_IDENTIFIER_TYPE, kind) for n in numbers for kind in _NUMBERS)
