from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fhir_secondop.fhir import definitions, invariants, profiles
from fhir_secondop.fhir.validate import validate

BASE = "http://example.org/StructureDefinition/"
EXTENSION: dict[str, Any] = {
    "url": BASE + "urgency",
    "type": "Extension",
    "differential": {
        "element": [
            {"id": "Extension", "path": "Extension"},
            {"id": "Extension.url", "path": "Extension.url", "fixedUri": BASE + "urgency"},
            {
                "id": "Extension.value[x]",
                "path": "Extension.value[x]",
                "min": 1,
                "type": [{"code": "code"}],
                "binding": {"strength": "required", "valueSet": "http://example.org/ValueSet/urgency"},
            },
        ]
    },
}
MODIFIER: dict[str, Any] = {
    "url": BASE + "refuted",
    "type": "Extension",
    "differential": {"element": [{"id": "Extension", "path": "Extension", "isModifier": True}]},
}
REQUEST: dict[str, Any] = {
    "url": BASE + "request",
    "type": "ServiceRequest",
    "baseDefinition": BASE + "any-request",
    "differential": {
        "element": [
            {
                "id": "ServiceRequest",
                "path": "ServiceRequest",
                "constraint": [
                    {"key": "so-1", "severity": "error", "human": "has a reason", "expression": "reasonCode.exists()"},
                    {"key": "so-2", "severity": "warning", "human": "has a note", "expression": "note.exists()"},
                ],
            },
            {
                "id": "ServiceRequest.extension",
                "path": "ServiceRequest.extension",
                "slicing": {"discriminator": [{"type": "value", "path": "url"}], "rules": "open"},
            },
            {
                "id": "ServiceRequest.extension:urgency",
                "path": "ServiceRequest.extension",
                "sliceName": "urgency",
                "min": 1,
                "max": "1",
                "type": [{"code": "Extension", "profile": [BASE + "urgency"]}],
            },
            {
                "id": "ServiceRequest.identifier",
                "path": "ServiceRequest.identifier",
                "slicing": {"discriminator": [{"type": "value", "path": "system"}], "rules": "open"},
            },
            {
                "id": "ServiceRequest.identifier:case",
                "path": "ServiceRequest.identifier",
                "sliceName": "case",
                "max": "1",
            },
            {
                "id": "ServiceRequest.identifier:case.system",
                "path": "ServiceRequest.identifier.system",
                "fixedUri": "http://example.org/case",
            },
            {"id": "ServiceRequest.identifier:case.value", "path": "ServiceRequest.identifier.value", "min": 1},
            {"id": "ServiceRequest.intent", "path": "ServiceRequest.intent", "fixedCode": "order"},
            {
                "id": "ServiceRequest.code",
                "path": "ServiceRequest.code",
                "min": 1,
                "patternCodeableConcept": {"coding": [{"system": "http://example.org/kinds", "code": "opinion"}]},
                "constraint": [{"key": "so-3", "severity": "error", "human": "text", "expression": "text.exists()"}],
            },
            {"id": "ServiceRequest.quantity[x]", "path": "ServiceRequest.quantity[x]", "max": "0"},
            {
                "id": "ServiceRequest.occurrence[x]",
                "path": "ServiceRequest.occurrence[x]",
                "type": [{"code": "dateTime"}, {"code": "Period"}],
            },
            {
                "id": "ServiceRequest.performer",
                "path": "ServiceRequest.performer",
                "max": "1",
                "type": [
                    {
                        "code": "Reference",
                        "targetProfile": ["http://hl7.org/fhir/StructureDefinition/Organization"],
                    }
                ],
            },
        ]
    },
}
ANY_REQUEST: dict[str, Any] = {
    "url": BASE + "any-request",
    "type": "ServiceRequest",
    "baseDefinition": "http://hl7.org/fhir/StructureDefinition/ServiceRequest",
    "differential": {"element": [{"id": "ServiceRequest.authoredOn", "path": "ServiceRequest.authoredOn", "min": 1}]},
}
URGENCIES: dict[str, Any] = {
    "url": "http://example.org/ValueSet/urgency",
    "compose": {"include": [{"system": "http://example.org/urgency", "concept": [{"code": "soon"}]}]},
}

GOOD: dict[str, Any] = {
    "resourceType": "ServiceRequest",
    "meta": {"profile": [BASE + "request|1.0"]},
    "extension": [{"url": BASE + "urgency", "valueCode": "soon"}],
    "identifier": [{"system": "http://example.org/case", "value": "1"}, {"system": "http://example.org/other"}],
    "status": "active",
    "intent": "order",
    "code": {"coding": [{"system": "http://example.org/kinds", "code": "opinion", "display": "x"}], "text": "x"},
    "subject": {"reference": "Patient/1"},
    "authoredOn": "2024-05-01",
    "occurrenceDateTime": "2024-05-02",
    "performer": [{"reference": "Organization/1"}],
    "reasonCode": [{"text": "x"}],
}


@pytest.fixture(autouse=True)
def own_profiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    own: dict[str, dict[str, Any]] = {
        "structures": {each["url"]: each for each in (EXTENSION, MODIFIER, REQUEST, ANY_REQUEST)},
        "valuesets": {"http://example.org/ValueSet/urgency": URGENCIES},
    }
    caches = (definitions.value_set, definitions.extension, invariants.of_extension, profiles._tree)
    monkeypatch.setattr(definitions, "_own", lambda folder: own.get(folder, {}))
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def faults(resource: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    return [(issue.code, issue.expression) for issue in validate(resource, **options)]


def test_resource_that_conforms_has_no_faults() -> None:
    assert faults(GOOD) == []


def test_claim_of_an_unknown_profile_demands_nothing() -> None:
    assert faults({"resourceType": "Patient", "meta": {"profile": ["http://example.org/unknown"]}}) == []


@pytest.mark.parametrize(
    ("change", "code", "expression"),
    [
        ({"extension": None}, "required", "ServiceRequest.extension"),
        ({"extension": GOOD["extension"] * 2}, "structure", "ServiceRequest.extension"),
        (
            {"extension": [{"url": BASE + "urgency", "valueCode": "never"}]},
            "code-invalid",
            "ServiceRequest.extension[0].value",
        ),
        (
            {"extension": [{"url": BASE + "urgency", "valueBoolean": True}]},
            "extension",
            "ServiceRequest.extension[0].value",
        ),
        ({"identifier": [{"system": "http://example.org/case"}]}, "required", "ServiceRequest.identifier[0].value"),
        ({"identifier": GOOD["identifier"][:1] * 2}, "structure", "ServiceRequest.identifier"),
        ({"intent": "plan"}, "value", "ServiceRequest.intent"),
        ({"code": None}, "required", "ServiceRequest.code"),
        ({"code": {"text": "other"}}, "value", "ServiceRequest.code"),
        ({"code": {"coding": GOOD["code"]["coding"]}}, "invariant", "ServiceRequest.code"),
        ({"quantityQuantity": {"value": 1}}, "structure", "ServiceRequest.quantity"),
        (
            {"occurrenceDateTime": None, "occurrenceTiming": {"code": {"text": "daily"}}},
            "structure",
            "ServiceRequest.occurrence",
        ),
        ({"performer": [{"reference": "Patient/1"}]}, "value", "ServiceRequest.performer[0].reference"),
        ({"reasonCode": None}, "invariant", "ServiceRequest"),
        ({"authoredOn": None}, "required", "ServiceRequest.authoredOn"),
    ],
)
def test_fault_against_a_profile_is_named_with_its_place(change: dict[str, Any], code: str, expression: str) -> None:
    resource = {key: value for key, value in (GOOD | change).items() if value is not None}
    found = faults(resource)
    assert (code, expression) in found
    assert {code for code, _ in found} <= {code, "value", "structure"}


def test_profile_can_be_demanded_of_a_resource_that_does_not_claim_it() -> None:
    unclaimed = {key: value for key, value in GOOD.items() if key not in ("meta", "reasonCode")}
    assert faults(unclaimed) == []
    assert faults(unclaimed, profiles=[BASE + "request"]) == [("invariant", "ServiceRequest")]


def test_profile_of_another_type_is_not_met() -> None:
    assert faults({"resourceType": "Patient"}, profiles=[BASE + "request"]) == [("structure", "Patient")]


def test_resource_in_a_bundle_answers_for_the_profiles_it_claims() -> None:
    bad = {key: value for key, value in GOOD.items() if key not in ("reasonCode", "extension")}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [
        {"fullUrl": "urn:x:1", "resource": GOOD}, {"fullUrl": "urn:x:2", "resource": bad},
    ]}  # fmt: skip
    assert faults(bundle) == [
        ("invariant", "Bundle.entry[1].resource"),
        ("required", "Bundle.entry[1].resource.extension"),
    ]


def test_malformed_resource_gives_both_kinds_of_faults_and_no_exception() -> None:
    resource = GOOD | {"identifier": "x", "code": [1], "performer": {}, "sex": "f"}
    resource["extension"] = [None, 3, {"url": ["x"]}, {"url": BASE + "urgency", "valueCode": 1}]
    found = faults(resource)
    assert ("structure", "ServiceRequest.identifier") in found
    assert ("code-invalid", "ServiceRequest.extension[3].value") in found


def test_modifier_extension_that_a_profile_defines_is_known() -> None:
    known = {"url": BASE + "refuted", "valueBoolean": True}
    assert faults({"resourceType": "Patient", "modifierExtension": [known]}) == []
    assert faults({"resourceType": "Patient", "extension": [known]}) == [("extension", "Patient.extension[0]")]
