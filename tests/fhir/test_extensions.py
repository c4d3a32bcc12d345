"""Extensions against their definitions: HL7's and ours."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.validate import validate
from fhir_secondop.opinion import codes

Json = dict[str, Any]
HL7 = "http://hl7.org/fhir/StructureDefinition/"
BIRTH_PLACE = {"url": f"{HL7}patient-birthPlace", "valueAddress": {"city": "Oslo"}}
NATIONALITY = {
    "url": f"{HL7}patient-nationality",
    "extension": [{"url": "code", "valueCodeableConcept": {"text": "x"}}],
}
ABSENT = {"url": f"{HL7}data-absent-reason", "valueCode": "unknown"}
OPTION = {"url": codes.OPTION, "extension": [{"url": "advantages", "valueString": "x"}]}


def patient(**members: Any) -> Json:
    return {"resourceType": "Patient", **members}


def plan(activity: Json) -> Json:
    return {
        "resourceType": "CarePlan", "status": "draft", "intent": "option", "subject": {"reference": "Patient/1"},
        "activity": [{"reference": {"reference": "Task/1"}, **activity}],
    }  # fmt: skip


def faults(resource: Json) -> list[tuple[str, str, str]]:
    return [(i.severity[0], i.code, i.expression) for i in validate(resource)]


@pytest.mark.parametrize(
    "resource",
    [
        patient(extension=[BIRTH_PLACE, NATIONALITY, NATIONALITY]),
        patient(extension=[{"url": "http://example.org/ours-alone", "valueString": "x"}]),
        patient(name=[{"family": "Ek", "_family": {"extension": [{"url": f"{HL7}humanname-own-name",
                                                                    "valueString": "x"}]}}]),
        patient(_birthDate={"extension": [ABSENT]}),  # Element: anywhere
        patient(contact=[{"name": {"text": "x", "extension": [ABSENT]}}]),
        patient(address=[{"line": ["x"], "_line": [{"extension": [{"url": f"{HL7}iso21090-ADXP-houseNumber",
                                                                    "valueString": "1"}]}]}]),
        {"resourceType": "Questionnaire", "status": "draft", "item": [
            {"linkId": "1", "type": "group", "item": [
                {"linkId": "2", "type": "group", "item": [
                    {"linkId": "3", "type": "string",
                     "extension": [{"url": f"{HL7}questionnaire-hidden", "valueBoolean": True}]}]}]}]},
        plan({"extension": [OPTION]}),
        patient(extension=[{"url": f"{HL7}patient-religion", "valueCodeableConcept": {"text": "x"}},
                           {"url": f"{HL7}patient-mothersMaidenName", "_valueString": {"extension": [ABSENT]}}]),
    ],
)  # fmt: skip
def test_an_extension_as_it_is_defined_is_let_through(resource: Json) -> None:
    assert faults(resource) == []


@pytest.mark.parametrize(
    ("resource", "fault"),
    [
        (patient(extension=[{"url": "birthPlace", "valueString": "x"}]),
         ("e", "extension", "Patient.extension[0].url")),
        (patient(extension=[{**BIRTH_PLACE, "valueString": "x"}]), ("e", "structure", "Patient.extension[0].value")),
        (patient(extension=[{"url": BIRTH_PLACE["url"], "valueString": "x"}]),
         ("e", "extension", "Patient.extension[0].value")),
        (patient(extension=[{"url": BIRTH_PLACE["url"], "extension": [ABSENT]}]),
         ("e", "required", "Patient.extension[0].value")),
        (patient(contact=[{"name": {"text": "x"}, "extension": [BIRTH_PLACE]}]),
         ("e", "extension", "Patient.contact[0].extension[0]")),
        (patient(extension=[{**NATIONALITY, "extension": [{"url": "nobody", "valueString": "x"}]}]),
         ("e", "extension", "Patient.extension[0].extension[0].url")),
        (patient(extension=[{**NATIONALITY, "extension": NATIONALITY["extension"] * 2}]),
         ("e", "structure", "Patient.extension[0].extension")),
        (patient(_birthDate={"extension": [{**ABSENT, "valueCode": "no-such-reason"}]}),
         ("e", "code-invalid", "Patient.birthDate.extension[0].value")),
        (patient(extension=[{"url": f"{HL7}request-doNotPerform", "valueBoolean": True}]),
         ("e", "extension", "Patient.extension[0]")),
        (patient(extension=[BIRTH_PLACE, BIRTH_PLACE]), ("w", "extension", "Patient.extension")),
        # ours, wherever they stand, and whatever profile the resource claims
        (plan({"extension": [{**OPTION, "extension": [{"url": "advantages", "valueCode": "x"}]}]}),
         ("e", "extension", "CarePlan.activity[0].extension[0].extension[0].value")),
        ({**plan({}), "extension": [OPTION]}, ("e", "extension", "CarePlan.extension[0]")),
        ({"resourceType": "ServiceRequest", "status": "revoked", "intent": "proposal",
          "subject": {"reference": "Patient/1"},
          "extension": [{"url": codes.PROPOSAL_OUTCOME, "extension": [
              {"url": "outcome", "valueCode": "declined"}, {"url": "at", "valueInstant": "2026-11-23T09:30:00Z"},
              {"url": "by", "valueString": "x"}]}]},
         ("e", "invariant", "ServiceRequest.extension[0]")),
    ],
)  # fmt: skip
def test_an_extension_that_is_not_as_defined_is_named_with_its_place(
    resource: Json, fault: tuple[str, str, str]
) -> None:
    assert fault in faults(resource)


def test_each_extension_of_ours_says_where_it_may_stand() -> None:
    for url, definition in definitions.profiles().items():
        if definition["type"] == "Extension":
            row = definitions.extension(url)
            assert row is not None
            assert row["context"], url


def test_the_rules_about_the_place_of_an_extension_are_evaluated_on_what_is_around_it() -> None:
    unit = {"url": f"{HL7}questionnaire-unit", "valueCoding": {"code": "kg"}}

    def asked(kind: str) -> Json:
        inner = {"linkId": "2", "type": kind, "extension": [unit]}
        return {"resourceType": "Questionnaire", "status": "draft",
                "item": [{"linkId": "1", "type": "group", "item": [inner]}]}  # fmt: skip

    assert faults(asked("decimal")) == []
    assert faults(asked("string")) == [("e", "extension", "Questionnaire.item[0].item[0].extension[0]")]
    base = {"url": f"{HL7}list-changeBase", "valueReference": {"reference": "List/1"}}
    changes = {"resourceType": "List", "status": "current", "mode": "changes", "extension": [base]}
    assert faults(changes) == []
    assert faults({**changes, "mode": "working"}) == [("e", "extension", "List.extension[0]")]
    assert faults({"resourceType": "Basic", "id": "a", "code": {"text": "x"}, "contained": [
        {**changes, "id": "b", "mode": "snapshot"}], "subject": {"reference": "#b"}}) == [
        ("e", "extension", "Basic.contained[0].extension[0]")]  # fmt: skip
