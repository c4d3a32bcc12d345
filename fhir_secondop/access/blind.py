"""Blind-first: what of a resource a reviewer does not read until the first read is locked. Pure.

Which resources are withheld whole, `opinion.blinding` says of a case. Here is what is cut from those that are shown:
the reason for an act often is the diagnosis under review. Free text can't be cut; it is marked instead.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fhir_secondop.fhir import definitions

SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
FREE_TEXT = {"system": "https://secondop.example/fhir/CodeSystem/blindness", "code": "free-text"}

# The reason for an act, and the narrative that repeats it. Results, images, pathology, allergies and what medicine is
# taken stay whole.
_CUT = {
    kind: frozenset({"text", "reasonCode", "reasonReference", "diagnosis"})
    for kind in (
        "Encounter", "EpisodeOfCare", "Procedure", "MedicationRequest", "MedicationAdministration",
        "MedicationStatement", "ImagingStudy", "Immunization", "Appointment", "CareTeam", "DeviceRequest",
        "DeviceUseStatement", "NutritionOrder", "Claim", "ExplanationOfBenefit",
    )
}  # fmt: skip
# Of a request only what says who asks for what kind of thing, by when; its codes without their words.
_REQUEST = frozenset({
    "resourceType", "id", "meta", "extension", "identifier", "basedOn", "replaces", "requisition", "status", "intent",
    "category", "priority", "code", "orderDetail", "subject", "encounter", "occurrenceDateTime", "occurrencePeriod",
    "authoredOn", "requester", "performerType", "performer", "reasonCode", "insurance", "supportingInfo",
})  # fmt: skip
_SEARCHABLE = frozenset({
    "_id", "_lastUpdated", "identifier", "status", "intent", "priority", "subject", "patient", "requester", "performer",
    "performer-type", "requisition", "authored", "occurrence", "encounter", "based-on", "replaces",
})  # fmt: skip
_KEPT_SYSTEMS = ("https://secondop.example/fhir/CodeSystem/reason", "http://terminology.hl7.org/CodeSystem/v2-0336")
_PROPOSAL = "https://secondop.example/fhir/StructureDefinition/proposal"
_ENDED = "/proposal-outcome"  # why it ended says who treats the patient
_OF_THE_OPINION = ("/item-under-review", "/decision-under-review")
_UNDER_REVIEW = ("Condition", "CarePlan", "MedicationRequest", "ServiceRequest")
_WITH_FREE_TEXT = frozenset({"DocumentReference", "DiagnosticReport", "QuestionnaireResponse", "Communication"})


def cut(resource: dict[str, Any]) -> dict[str, Any]:
    """A resource as the blind reader gets it, marked as SUBSETTED or as free text; itself where nothing is to cut."""
    kind = resource["resourceType"]
    if kind == "ServiceRequest":
        return _marked(_request(resource), SUBSETTED)
    if kind in _WITH_FREE_TEXT:
        return _marked(resource, FREE_TEXT)
    gone = _CUT.get(kind, frozenset()) & set(resource)
    if not gone:
        return resource
    return _marked({name: value for name, value in resource.items() if name not in gone}, SUBSETTED)


def _marked(resource: dict[str, Any], tag: dict[str, str]) -> dict[str, Any]:
    meta = resource.get("meta", {})
    return {**resource, "meta": {**meta, "tag": [*meta.get("tag", []), tag]}}


def _ended(extension: dict[str, Any]) -> dict[str, Any]:
    if not extension.get("url", "").endswith(_ENDED):
        return extension
    return {**extension, "extension": [p for p in extension.get("extension", []) if p.get("url") != "reason"]}


def _request(request: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in request.items() if name in _REQUEST}
    for name in ("code", "performerType"):
        if name in kept:
            kept[name] = _codes(kept[name])
    for name in ("orderDetail", "category"):
        if name in kept:
            kept[name] = [_codes(concept) for concept in kept[name]]
    reasons = [_codes(concept, _KEPT_SYSTEMS) for concept in kept.pop("reasonCode", [])]
    cited = [_plain(r) for r in kept.pop("supportingInfo", []) if not r.get("reference", "").startswith(_UNDER_REVIEW)]
    told = [_ended(e) for e in kept.pop("extension", []) if not e.get("url", "").endswith(_OF_THE_OPINION)]
    for name, values in (("reasonCode", [r for r in reasons if r]), ("supportingInfo", cited), ("extension", told)):
        if values:
            kept[name] = values
    if _PROPOSAL in request.get("meta", {}).get("profile", []):
        # Somebody else's are withheld whole (`opinion.blinding`): these are the blind reader's own words.
        kept |= {name: request[name] for name in ("code", "note") if name in request}
    return kept


def _codes(concept: dict[str, Any], systems: tuple[str, ...] = ()) -> dict[str, Any]:
    """A concept by its codes (of these systems, or of any), without the words that a sender chose."""
    codings = [c for c in concept.get("coding", []) if not systems or c.get("system") in systems]
    found = [{name: c[name] for name in ("system", "code") if name in c} for c in codings]
    return {"coding": found} if found else {}


def _plain(reference: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in reference.items() if name != "display"}


@cache
def unsearchable() -> frozenset[tuple[str, str]]:
    """(type, parameter) by which the blind reader finds nothing: what is not read is not asked for either."""
    found = {
        ("ServiceRequest", code) for code in definitions.search_parameters("ServiceRequest") if code not in _SEARCHABLE
    }
    for kind, elements in _CUT.items():
        for code, parameter in definitions.search_parameters(kind).items():
            if any(f".{element}" in parameter.expression for element in elements):
                found.add((kind, code))
    return frozenset(found)
