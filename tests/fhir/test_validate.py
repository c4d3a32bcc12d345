from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_secondop.fhir.validate import validate

PATIENT: dict[str, Any] = {"resourceType": "Patient", "name": [{"family": "Ek"}]}
OBSERVATION: dict[str, Any] = {"resourceType": "Observation", "status": "final", "code": {"text": "weight"}}
ABSENT = [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]
DIV = '<div xmlns="http://www.w3.org/1999/xhtml">%s</div>'


def patient(**elements: Any) -> dict[str, Any]:
    return PATIENT | elements


def observation(**elements: Any) -> dict[str, Any]:
    return OBSERVATION | elements


def bundle(kind: str, *entries: Any) -> dict[str, Any]:
    named = [
        {"fullUrl": f"urn:uuid:00000000-0000-0000-0000-{n:012}", **e} if "resource" in e else e
        for n, e in enumerate(entries)
    ]
    return {"resourceType": "Bundle", "type": kind, "entry": named}


def holding(*contained: Any) -> dict[str, Any]:
    """A Patient that contains these, and refers to #a."""
    return patient(contained=list(contained), link=[{"other": {"reference": "#a"}, "type": "refer"}])


def nested(levels: int) -> dict[str, Any]:
    extension: dict[str, Any] = {"url": "http://example.org/u", "valueString": "x"}
    for _ in range(levels):
        extension = {"url": "http://example.org/u", "extension": [extension]}
    return extension


def faults(resource: Any, **options: Any) -> list[tuple[str, str]]:
    return [(issue.code, issue.expression) for issue in validate(resource, **options)]


@pytest.mark.parametrize(
    "resource",
    [
        PATIENT,
        OBSERVATION,
        {"resourceType": "Patient"},
        {"resourceType": "Basic", "code": {"text": "x"}},
        patient(birthDate="1970-02"),
        patient(birthDate="2024-02-29", _birthDate={"id": "a"}),
        patient(_birthDate={"extension": ABSENT}),
        observation(valueQuantity={"value": Decimal("1.10"), "comparator": "<"}),
        observation(valueQuantity={"value": 1}),
        observation(_status={"extension": ABSENT}) | {"status": "final"},
        patient(name=[{"given": ["A", None], "_given": [None, {"extension": ABSENT}]}]),
        patient(
            contained=[{"resourceType": "Organization", "id": "o", "name": "x"}],
            managingOrganization={"reference": "#o"},
        ),
        patient(managingOrganization={"reference": "http://example.org/fhir/Organization/1"}),
        patient(managingOrganization={"reference": "urn:uuid:1dd6e4c5-0f1b-4c6b-8d4a-6d5b1d7f3a10"}),
        patient(managingOrganization={"reference": "Organization?identifier=x|y"}),
        patient(managingOrganization={"reference": "Organization/1/_history/2"}),
        patient(text={"status": "generated", "div": DIV % '<p style="color: red">a &#160; <a href="#b">b</a></p>'}),
        patient(photo=[{"contentType": "image/png", "data": "aGVs\nbG8="}]),
        patient(multipleBirthInteger=2),
        patient(extension=[nested(20)]),
        bundle("transaction", {"resource": PATIENT, "request": {"method": "POST", "url": "Patient"}}),
        bundle("collection", {"resource": PATIENT}),
        {"resourceType": "Parameters", "parameter": [{"name": "a", "valueString": "b"}]},
        {"resourceType": "Parameters", "parameter": [{"name": "r", "resource": PATIENT}]},
        {
            "resourceType": "Questionnaire",
            "status": "draft",
            "item": [{"linkId": "1", "type": "group", "item": [{"linkId": "1.1", "type": "string"}]}],
        },
    ],
)
def test_valid_resource_has_no_faults(resource: dict[str, Any]) -> None:
    before = copy.deepcopy(resource)
    assert validate(resource) == []
    assert resource == before


@pytest.mark.parametrize(
    ("resource", "code", "expression"),
    [
        # the type
        ({}, "structure", "Resource"),
        ({"resourceType": 3}, "structure", "Resource"),
        ({"resourceType": ["Patient"]}, "structure", "Resource"),
        ({"resourceType": "Citation"}, "not-supported", "Resource"),
        ({"resourceType": "DomainResource"}, "not-supported", "Resource"),
        ({"resourceType": "HumanName"}, "not-supported", "Resource"),
        # elements
        (patient(nickname="x"), "structure", "Patient.nickname"),
        (patient(**{"a b": "x"}), "structure", "Patient"),
        (patient(_name=[{"id": "x"}]), "structure", "Patient._name"),
        (patient(fhir_comments=["x"]), "structure", "Patient.fhir_comments"),
        (patient(name=[{"family": "Ek", "first": "x"}]), "structure", "Patient.name[0].first"),
        (patient(contact=[{"name": {"text": "Ek"}}, {"name": {"x": 1}}]), "structure", "Patient.contact[1].name.x"),
        (patient(deceased=True), "structure", "Patient.deceased"),
        # counts and JSON types
        ({"resourceType": "Observation", "status": "final"}, "required", "Observation.code"),
        ({"resourceType": "Observation", "code": {"text": "x"}}, "required", "Observation.status"),
        (patient(communication=[{"preferred": True}]), "required", "Patient.communication[0].language"),
        (patient(name={"family": "Ek"}), "structure", "Patient.name"),
        (patient(name=["Ek"]), "structure", "Patient.name[0]"),
        (patient(name=[None]), "structure", "Patient.name[0]"),
        (patient(gender=["male"]), "structure", "Patient.gender"),
        (patient(maritalStatus=[{"text": "x"}]), "structure", "Patient.maritalStatus"),
        (patient(name=[]), "structure", "Patient.name"),
        (patient(name=[{}]), "structure", "Patient.name[0]"),
        (patient(name=[{"id": "only"}]), "structure", "Patient.name[0]"),
        (patient(birthDate=None), "structure", "Patient.birthDate"),
        (patient(name=[{"given": []}]), "structure", "Patient.name[0].given"),
        (patient(name=[{"given": "Ann"}]), "structure", "Patient.name[0].given"),
        (patient(active="true"), "value", "Patient.active"),
        (patient(active=1), "value", "Patient.active"),
        (patient(multipleBirthInteger=True), "value", "Patient.multipleBirth"),
        (patient(multipleBirthInteger=Decimal("1.0")), "value", "Patient.multipleBirth"),
        (patient(multipleBirthInteger=2**31), "value", "Patient.multipleBirth"),
        (observation(valueQuantity={"value": "1.1"}), "value", "Observation.value.value"),
        (observation(valueQuantity={"value": 1.1}), "value", "Observation.value.value"),
        (observation(valueQuantity={"value": True}), "value", "Observation.value.value"),
        (observation(valueQuantity={"value": Decimal("1E+999999")}), "value", "Observation.value.value"),
        (observation(valueString=1), "value", "Observation.value"),
        # syntax
        (patient(id="a b"), "value", "Patient.id"),
        (patient(id="a" * 65), "value", "Patient.id"),
        (patient(id=""), "value", "Patient.id"),
        (patient(birthDate="1970-13"), "value", "Patient.birthDate"),
        (patient(birthDate="2023-02-29"), "value", "Patient.birthDate"),
        (patient(birthDate="70-01-01"), "value", "Patient.birthDate"),
        (patient(birthDate="1970-01-01T00:00:00Z"), "value", "Patient.birthDate"),
        (patient(birthDate="1970-01-01\n"), "value", "Patient.birthDate"),
        (patient(deceasedDateTime="2024-01-01T10:00:00"), "value", "Patient.deceased"),
        (patient(deceasedDateTime="2024-01-01T10:00Z"), "value", "Patient.deceased"),
        (patient(deceasedDateTime="2024-04-31T10:00:00Z"), "value", "Patient.deceased"),
        (patient(meta={"lastUpdated": "2024-01-01"}), "value", "Patient.meta.lastUpdated"),
        (patient(language="de "), "value", "Patient.language"),
        (patient(implicitRules="http://a b"), "value", "Patient.implicitRules"),
        (patient(name=[{"family": ""}]), "value", "Patient.name[0].family"),
        (patient(name=[{"family": "a\x00"}]), "value", "Patient.name[0].family"),
        (patient(name=[{"family": "\ud800"}]), "value", "Patient.name[0].family"),
        (patient(name=[{"family": "x" * (1024 * 1024 + 1)}]), "value", "Patient.name[0].family"),
        (patient(name=[{"given": ["A", 1]}]), "value", "Patient.name[0].given[1]"),
        (patient(telecom=[{"rank": 0}]), "value", "Patient.telecom[0].rank"),
        (patient(photo=[{"data": "not base64!"}]), "value", "Patient.photo[0].data"),
        (patient(photo=[{"data": "abc"}]), "value", "Patient.photo[0].data"),
        (patient(photo=[{"data": " " * 50_000 + "!"}]), "value", "Patient.photo[0].data"),
        (patient(photo=[{"size": -1}]), "value", "Patient.photo[0].size"),
        (observation(valueTime="24:00:00"), "value", "Observation.value"),
        (
            patient(extension=[{"url": "http://example.org/u", "valueOid": "urn:oid:9.1"}]),
            "value",
            "Patient.extension[0].value",
        ),
        (
            patient(extension=[{"url": "http://example.org/u", "valueUuid": "urn:uuid:1"}]),
            "value",
            "Patient.extension[0].value",
        ),
        # primitives with extensions
        (patient(_birthDate={}), "structure", "Patient.birthDate"),
        (patient(_birthDate={"id": "only"}), "structure", "Patient.birthDate"),
        (patient(birthDate="1970", _birthDate={"id": 1}), "value", "Patient.birthDate.id"),
        (patient(_birthDate={"value": "1970"}), "structure", "Patient.birthDate.value"),
        (patient(_birthDate=[{"extension": ABSENT}]), "structure", "Patient.birthDate"),
        (patient(name=[{"given": [None]}]), "structure", "Patient.name[0].given[0]"),
        (patient(name=[{"given": ["A"], "_given": [None]}]), None, None),
        (patient(name=[{"given": ["A", "B"], "_given": [None]}]), "structure", "Patient.name[0].given"),
        (patient(name=[{"_given": [None]}]), "structure", "Patient.name[0].given[0]"),
        # choices
        (patient(deceasedBoolean=True, deceasedDateTime="2024"), "structure", "Patient.deceased"),
        (patient(deceasedBoolean=True, _deceasedDateTime={"extension": ABSENT}), "structure", "Patient.deceased"),
        (observation(valueAddress={"text": "x"}), "structure", "Observation.valueAddress"),
        # an element defined elsewhere
        (
            observation(component=[{"code": {"text": "x"}, "referenceRange": [{"lower": "x"}]}]),
            "structure",
            "Observation.component[0].referenceRange[0].lower",
        ),
        # codes
        (patient(gender="Male"), "code-invalid", "Patient.gender"),
        (observation(status="done"), "code-invalid", "Observation.status"),
        (observation(valueQuantity={"value": 1, "comparator": "~"}), "code-invalid", "Observation.value.comparator"),
        (
            {"resourceType": "AllergyIntolerance", "patient": {"display": "x"}, "clinicalStatus": {"text": "active"}},
            "code-invalid",
            "AllergyIntolerance.clinicalStatus",
        ),
        (
            {
                "resourceType": "AllergyIntolerance",
                "patient": {"display": "x"},
                "clinicalStatus": {"coding": [{"system": "http://example.org", "code": "active"}]},
            },
            "code-invalid",
            "AllergyIntolerance.clinicalStatus",
        ),
        # references
        (patient(managingOrganization={"reference": "Patient/1"}), "value", "Patient.managingOrganization.reference"),
        (
            patient(managingOrganization={"reference": "https://example.org/fhir/Patient/1"}),
            "value",
            "Patient.managingOrganization.reference",
        ),
        (patient(managingOrganization={"reference": "Clinic/1"}), "value", "Patient.managingOrganization.reference"),
        (patient(managingOrganization={"reference": "the clinic"}), "value", "Patient.managingOrganization.reference"),
        (patient(managingOrganization={"reference": "#o"}), "not-found", "Patient.managingOrganization.reference"),
        (
            patient(contained=[{"resourceType": "Patient", "id": "o"}], managingOrganization={"reference": "#o"}),
            "value",
            "Patient.managingOrganization.reference",
        ),
        # contained resources
        (patient(contained=[{"resourceType": "Basic", "code": {"text": "x"}}]), "required", "Patient.contained[0].id"),
        (holding(PATIENT | {"id": "a"}, PATIENT | {"id": "a"}), "duplicate", "Patient.contained[1].id"),
        (holding({"resourceType": "Citation", "id": "a"}), "not-supported", "Patient.contained[0]"),
        (holding({"resourceType": [], "id": "a"}), "structure", "Patient.contained[0]"),
        (holding(PATIENT | {"id": "a", "sex": 1}), "structure", "Patient.contained[0].sex"),
        (
            holding(PATIENT | {"id": "a", "meta": {"versionId": "1"}}),
            "structure",
            "Patient.contained[0].meta.versionId",
        ),
        # extensions
        (patient(extension=[{"url": "http://example.org/u"}]), "extension", "Patient.extension[0]"),
        (patient(extension=[{"valueCode": "x"}]), "required", "Patient.extension[0].url"),
        (patient(extension=[nested(0) | {"extension": [nested(0)]}]), "extension", "Patient.extension[0]"),
        (patient(modifierExtension=[nested(0)]), "extension", "Patient.modifierExtension[0]"),
        (patient(contact=[{"modifierExtension": [nested(0)]}]), "extension", "Patient.contact[0].modifierExtension[0]"),
        # narrative
        (patient(text={"status": "generated"}), "required", "Patient.text.div"),
        (patient(text={"status": "generated", "div": "plain"}), "invalid", "Patient.text.div"),
        (patient(text={"status": "generated", "div": "<div>no namespace</div>"}), "invalid", "Patient.text.div"),
        # in other resources
        (bundle("collection", {"resource": patient(sex="x")}), "structure", "Bundle.entry[0].resource.sex"),
        (bundle("collection", {"resource": {"a": 1}}), "structure", "Bundle.entry[0].resource"),
        (bundle("collection", {"resource": "x"}), "structure", "Bundle.entry[0].resource"),
        (
            {"resourceType": "Parameters", "parameter": [{"name": "a", "part": [{"name": "b", "resource": {"x": 1}}]}]},
            "structure",
            "Parameters.parameter[0].part[0].resource",
        ),
        # Bundles
        (bundle("transaction", {"resource": PATIENT}), "required", "Bundle.entry[0].request"),
        (bundle("batch-response", {"resource": PATIENT}), "required", "Bundle.entry[0].response"),
        (bundle("collection", {"fullUrl": "urn:x:y"}), "required", "Bundle.entry[0].resource"),
        (
            bundle("collection", *[{"fullUrl": "urn:x:y", "resource": PATIENT}] * 2),
            "invariant",
            "Bundle.entry[1].fullUrl",
        ),
        (bundle("document", {"resource": PATIENT}), "invariant", "Bundle.entry[0].resource"),
    ],
)
def test_fault_is_named_with_its_place(resource: Any, code: str | None, expression: str | None) -> None:
    found = faults(resource)
    if code is None:
        assert found == []
    else:
        assert found == [(code, expression)]


def test_nested_contained_resource_is_refused_at_its_place() -> None:
    inner = PATIENT | {"id": "a", "contained": [{"resourceType": "Patient", "id": "b"}]}
    assert ("structure", "Patient.contained[0].contained") in faults(patient(contained=[inner]))


def test_nesting_is_bounded() -> None:
    assert [code for code, _ in faults(patient(extension=[nested(98)]))] == []
    assert [code for code, _ in faults(patient(extension=[nested(400)]))] == ["too-costly"]


def test_all_faults_are_found_at_once() -> None:
    resource = patient(active="yes", birthDate="x", name=[{"family": 1}, {"last": "x"}], sex="f")
    assert [expression for _, expression in faults(resource)] == [
        "Patient.name[0].family",
        "Patient.name[1].last",
        "Patient.active",
        "Patient.birthDate",
        "Patient.sex",
    ]


def test_message_never_quotes_what_was_sent() -> None:
    resource = patient(gender="SECRET", birthDate="SECRET", name=[{"family": ["SECRET"]}], **{"SECRET 1": "x"})
    resource["managingOrganization"] = {"reference": "SECRET"}
    resource["text"] = {"status": "generated", "div": DIV % "<SECRET/>"}
    assert "SECRET" not in json.dumps([issue.expression + issue.diagnostics for issue in validate(resource)])


@pytest.mark.parametrize(
    "content",
    [
        "<script>x()</script>",
        '<p onclick="x()">a</p>',
        '<a href="javascript:x()">a</a>',
        '<a href=" java&#10;script:x()">a</a>',
        '<a href="data:text/html,x">a</a>',
        '<img src="data:image/svg+xml,x" alt="a"/>',
        '<iframe src="http://example.org"/>',
        '<form action="http://example.org"/>',
        '<svg xmlns="http://www.w3.org/2000/svg"/>',
        '<p style="background: url(http://example.org/x)">a</p>',
        '<p style="background: url(//example.org/x)">a</p>',
        '<p style="background: url(\'/x)">a</p>',
        '<p style="background: u\\72l(http://example.org/x)">a</p>',
        "<style>p {}</style>",
        '<link href="http://example.org/x.css"/>',
        "<p>a",
        "<p>&nbsp;</p>",
        "<?php x ?>",
        '<p xml:base="http://example.org">a</p>',
    ],
)
def test_narrative_that_could_harm_is_refused(content: str) -> None:
    text = {"status": "generated", "div": DIV % content}
    assert faults(patient(text=text)) == [("invalid", "Patient.text.div")]


@pytest.mark.parametrize(
    "div",
    [
        '<!DOCTYPE div [<!ENTITY a "b">]><div xmlns="http://www.w3.org/1999/xhtml">&a;</div>',
        '<!doctype div><div xmlns="http://www.w3.org/1999/xhtml">a</div>',
        '<?xml version="1.0" encoding="UTF-16"?><div xmlns="http://www.w3.org/1999/xhtml">a</div>',
        '<p xmlns="http://www.w3.org/1999/xhtml">a</p>',
        DIV % ("<b>" * 300 + "a" + "</b>" * 300),
    ],
)
def test_narrative_that_is_not_one_plain_div_is_refused(div: str) -> None:
    assert faults(patient(text={"status": "generated", "div": div})) == [("invalid", "Patient.text.div")]


NAMES = ["id", "meta", "text", "div", "contained", "extension", "url", "valueString", "_birthDate", "birthDate", "name"]
NAMES += ["given", "_given", "reference", "managingOrganization", "resourceType", "entry", "resource", "gender", "a"]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, 0, Decimal("NaN"), "", "x", "\ud800", "Patient", "#", "1970", [], {}]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=6,
)


@given(st.sampled_from(["Patient", "Bundle", "Parameters"]), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3))
def test_no_json_makes_the_validator_fail(resource_type: str, elements: dict[str, Any]) -> None:
    validate(elements | {"resourceType": resource_type})


@pytest.mark.parametrize(
    ("resource", "fault"),
    [
        (patient(name=[{"id": "x", "text": "A"}, {"id": "x", "text": "B"}]), ("duplicate", "Patient.name[1].id")),
        (patient(name=[{"id": "x", "family": "Ek"}], birthDate="1970", _birthDate={"id": "x"}),
         ("duplicate", "Patient.birthDate.id")),
        (patient(contained=[{**PATIENT, "id": "a"}]), ("invariant", "Patient.contained[0]")),
        (patient(managingOrganization={"reference": "#"}), ("not-found", "Patient.managingOrganization.reference")),
        (patient(managingOrganization={"reference": "Organization/1", "type": "Patient"}),
         ("value", "Patient.managingOrganization.type")),
        (patient(managingOrganization={"type": "Patient", "display": "x"}),
         ("value", "Patient.managingOrganization.type")),
        (patient(meta={"profile": ["Patient/1"]}), ("value", "Patient.meta.profile[0]")),
        (patient(identifier=[{"system": "MRN", "value": "1"}]), ("value", "Patient.identifier[0].system")),
        (patient(identifier=[{"system": "urn:oid:MRN", "value": "1"}]), ("value", "Patient.identifier[0].system")),
        (patient(implicitRules="urn:uuid:6F9A0C8E-1F5C-4B5E-9D5C-0F6F5D1C2B3B"), ("value", "Patient.implicitRules")),
        (patient(meta={"tag": [{"system": "urn:x:y", "code": "a\tb"}]}), ("value", "Patient.meta.tag[0].code")),
        (patient(text={"status": "empty", "div": DIV % " &#160; "}), ("invalid", "Patient.text.div")),
        (patient(photo=[{"contentType": "x/y", "data": "aGVsbG8=", "hash": "qvTGHdzF6KLavt4PO0gs2a6pQ00="}]), None),
        (patient(photo=[{"contentType": "x/y", "data": "aGVsbG8h", "hash": "qvTGHdzF6KLavt4PO0gs2a6pQ00="}]),
         ("invalid", "Patient.photo[0].hash")),
        (patient(text={"status": "empty", "div": DIV % '<img src="#x" alt="x"/>'}), ("invalid", "Patient.text.div")),
        (patient(text={"status": "empty", "div": DIV % "<u>x</u>"}), ("invalid", "Patient.text.div")),
        ({"resourceType": "Basic", "code": {"text": "x"}, "extension": [
            {"url": "http://example.org/r", "valueRange": {"low": {"value": 1, "comparator": "<"}}}]},
         ("invariant", "Basic.extension[0].value.low")),
    ],
)  # fmt: skip
def test_what_r4_says_in_words_is_looked_at_too(resource: dict[str, Any], fault: tuple[str, str] | None) -> None:
    assert faults(resource) == ([fault] if fault else [])


def test_what_is_contained_is_referred_to_or_refers_to_what_contains_it() -> None:
    inner = {"resourceType": "Provenance", "id": "p", "target": [{"reference": "#"}],
             "recorded": "2026-11-23T09:30:00Z", "agent": [{"who": {"reference": "Practitioner/1"}}]}  # fmt: skip
    assert faults(patient(contained=[inner])) == []
    assert faults(holding({**PATIENT, "id": "a"})) == []
    canonical = {"resourceType": "Questionnaire", "status": "draft", "contained": [
        {"resourceType": "ValueSet", "id": "v", "status": "draft"}],
        "item": [{"linkId": "1", "type": "choice", "answerValueSet": "#v"}]}  # fmt: skip
    assert faults(canonical) == []


def test_an_extensible_binding_is_a_warning_where_no_code_of_it_is_given() -> None:
    def identified(*codings: dict[str, str]) -> dict[str, Any]:
        return patient(identifier=[{"type": {"coding": list(codings)}, "value": "1"}])

    ours, theirs = {"system": "http://example.org", "code": "x"}, {
        "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR",
    }  # fmt: skip
    assert validate(identified(theirs)) == validate(identified(ours, theirs)) == []
    (found,) = validate(identified(ours))
    assert (found.severity, found.code, found.expression) == ("warning", "code-invalid", "Patient.identifier[0].type")
    assert validate(patient(identifier=[{"type": {"text": "x"}, "value": "1"}])) == []


def test_what_was_not_checked_is_named_where_somebody_asks() -> None:
    resource = patient(
        meta={"profile": ["http://example.org/StructureDefinition/p"]}, photo=[{"contentType": "image/png"}],
        extension=[{"url": "http://example.org/e", "valueString": "x"}],
    )  # fmt: skip
    assert validate(resource) == []
    noted = validate(resource, notes=True)
    assert {i.severity for i in noted} == {"information"}
    assert sorted(i.expression for i in noted) == ["Patient", "Patient.extension[0]", "Patient.photo[0].contentType"]


V3 = "http://terminology.hl7.org/CodeSystem/v3-orderableDrugForm"
V2 = "http://terminology.hl7.org/CodeSystem/v2-0203"


@pytest.mark.parametrize(
    ("system", "code", "severity"),
    [
        ("http://hl7.org/fhir/observation-status", "final", None),
        ("http://hl7.org/fhir/observation-status", "Final", "error"),
        ("http://hl7.org/fhir/observation-status", "done", "error"),
        (V3, "TAB", None),
        (V3, "Tab", "error"),  # that there is one and the other is unlikely
        (V3, "newer-than-2019", "warning"),
        (V2, "MR", None),
        (V2, "mr", None),  # whether case matters there nobody says
        (V2, "XYZ", "warning"),
        ("http://loinc.org", "no-such-code", None),
        ("https://secondop.example/x", "x", None),
    ],
)
def test_a_code_that_its_system_does_not_have_is_named(system: str, code: str, severity: str | None) -> None:
    wanted = [(severity, "Observation.value.code")] if severity else []
    quantity = observation(valueQuantity={"value": 1, "system": system, "code": code})
    assert [(i.severity, i.expression) for i in validate(quantity)] == wanted
    concept = observation(valueCodeableConcept={"coding": [{"system": system, "code": code}]})
    assert [i.severity for i in validate(concept)] == [severity for severity, _ in wanted]


def test_extensions_are_no_code_of_a_required_binding() -> None:
    assert faults(patient(_gender={"extension": ABSENT})) == [("code-invalid", "Patient.gender")]
    assert faults(patient(gender="other", _gender={"extension": ABSENT})) == []
    purposes = {"_purpose": [{"extension": ABSENT}, None], "purpose": [None, "benefits"]}
    request = {"resourceType": "CoverageEligibilityRequest", "status": "active", "created": "2026-01-01",
               "patient": {"display": "x"}, "insurer": {"display": "x"}}  # fmt: skip
    assert faults(request | purposes) == [("code-invalid", "CoverageEligibilityRequest.purpose[0]")]
    assert faults(patient(_birthDate={"extension": ABSENT})) == []


def test_the_value_of_an_identifier_that_is_a_uri_has_a_scheme() -> None:
    def identified(value: str) -> dict[str, Any]:
        return patient(identifier=[{"system": "urn:ietf:rfc:3986", "value": value}])

    assert faults(identified("urn:oid:2.16.840.1.113883.19.5")) == []
    assert faults(identified("2.16.840.1.113883.19.5")) == [("value", "Patient.identifier[0].value")]


def test_only_a_practitioner_that_is_here_acts_on_behalf_of_an_organization() -> None:
    def team(member: str, contained: str) -> dict[str, Any]:
        inside = {"resourceType": contained, "id": "a", "text": {"status": "empty", "div": DIV % "x"}}
        participant = {"member": {"reference": member}, "onBehalfOf": {"reference": "Organization/1"}}
        other = {"member": {"reference": "#a"}}
        return {"resourceType": "CareTeam", "contained": [inside], "participant": [participant, other]}

    assert faults(team("#a", "Practitioner")) == []
    assert faults(team("#a", "Patient")) == [("invariant", "CareTeam.participant[0].onBehalfOf")]
    assert faults(team("Patient/1", "Patient")) == []  # nobody knows whether it is there


def test_an_image_beside_the_narrative_may_be_in_a_style() -> None:
    """As HL7's publisher writes it into the narrative of each Questionnaire."""
    for address in ("tbl_bck1.png", "'a/b.png'", "#x"):
        div = DIV % f'<p style="background: white url({address})">a</p>'
        assert faults(patient(text={"status": "generated", "div": div})) == []


def test_a_warning_below_keeps_no_rule_from_being_looked_at() -> None:
    described = {"coding": [{"system": "http://example.org", "code": "x"}]}
    found = validate({"resourceType": "Organization", "contact": [{"purpose": described}]})
    assert [(i.severity, i.expression) for i in found] == [
        ("warning", "Organization.contact[0].purpose"), ("error", "Organization"),
    ]  # fmt: skip
