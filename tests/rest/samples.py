"""A small valid resource of each type of R4, from its definition: what must be there, and nothing else."""

from __future__ import annotations

from typing import Any

from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.definitions import Element

Json = dict[str, Any]
_VALUES: dict[str, Any] = {
    "boolean": True, "integer": 1, "unsignedInt": 1, "positiveInt": 1, "decimal": 1.5, "date": "2024-01-01",
    "dateTime": "2024-01-01T10:00:00Z", "instant": "2024-01-01T10:00:00Z", "time": "10:00:00", "code": "x",
    "id": "x", "string": "x", "markdown": "x", "uri": "http://x.example/a", "url": "http://x.example/a",
    "canonical": "http://x.example/a", "oid": "urn:oid:1.2", "base64Binary": "QUFB",
    "uuid": "urn:uuid:00000000-0000-4000-8000-000000000000", "xhtml": "<div/>",
    "Reference": {"display": "x"}, "CodeableConcept": {"text": "x"}, "Identifier": {"value": "x"},
    "Attachment": {"title": "x"}, "HumanName": {"text": "x"}, "Period": {"start": "2024"}, "Quantity": {"value": 1},
    "Annotation": {"text": "x"}, "ContactPoint": {"system": "phone", "value": "x"}, "Money": {"value": 1},
    "Expression": {"language": "text/fhirpath", "expression": "true"}, "Dosage": {"text": "x"},
    "Coding": {"code": "x"}, "TriggerDefinition": {"type": "named-event", "name": "x"},
}  # fmt: skip
# What rules of R4 demand beyond what the elements do.
_CLINICAL = "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical"
_MORE: dict[str, Json] = {
    "AllergyIntolerance": {"clinicalStatus": {"coding": [{"system": _CLINICAL, "code": "active"}]}},
    "Appointment": {"status": "proposed", "participant": [{"status": "needs-action", "actor": {"display": "x"}}]},
    "AppointmentResponse": {"actor": {"display": "x"}},
    "CapabilityStatement": {"kind": "requirements", "description": "x", "rest": [{"mode": "server"}]},
    "Consent": {"policyRule": {"text": "x"}},
    "ImmunizationRecommendation": {"recommendation": [
        {"vaccineCode": [{"text": "x"}], "forecastStatus": {"text": "x"}}]},
    "InsurancePlan": {"name": "x"},
    "Linkage": {"item": [{"type": "source", "resource": {"display": each}} for each in "ab"]},
    "Organization": {"name": "x"},
    "StructureDefinition": {"abstract": True, "differential": {"element": [{"id": "Basic", "path": "Basic"}]},
                            "type": "Basic", "kind": "resource"},
    "TerminologyCapabilities": {"kind": "requirements", "description": "x"},
}  # fmt: skip


def sample(kind: str) -> Json:
    """The resource."""
    return {"resourceType": kind, **_filled(kind, kind), **_MORE.get(kind, {})}


def _filled(name: str, path: str) -> Json:
    found: Json = {}
    for element in definitions.structure(name).elements.values():
        if element.min:
            value = _value(element, f"{path}.{element.name}")
            key = element.name + (element.types[0][:1].upper() + element.types[0][1:] if element.is_choice else "")
            found[key] = [value] if element.max != 1 else value
    return found


def _value(element: Element, path: str) -> Any:
    kind = element.types[0]
    codes = definitions.value_set(element.binding) if element.binding else None
    if codes:
        system, values = next(iter(sorted((system, sorted(some)) for system, some in codes.items())))
        if kind == "code":
            return values[0]
        coding = {"system": system, "code": values[0]}
        return coding if kind == "Coding" else {"coding": [coding]}
    if kind in _VALUES:
        return _VALUES[kind]
    return _filled(kind, path)
