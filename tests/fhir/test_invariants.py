"""R4's own invariants: each can be run, and each of the traps of their FHIRPath is as R4 means it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fhir_secondop.fhir import definitions, invariants, path
from fhir_secondop.fhir.validate import validate

Json = dict[str, Any]
ABSENT = [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]


def places() -> list[tuple[str, str]]:
    """(path, type of the value there) of everything that has an invariant."""
    found = []
    for at in definitions.constrained():
        parent, _, name = at.rpartition(".")
        of_parent = definitions.structure(parent).elements if parent else {}
        found += [(at, each) for each in (of_parent[name.removesuffix("[x]")].types if parent else (at,))]
    return found


@pytest.mark.parametrize(("at", "type_name"), places())
def test_each_invariant_of_r4_can_be_run(at: str, type_name: str) -> None:
    for key, _, _, expression in invariants.written(at):
        if invariants.OF_ONE_TYPE.get(key, type_name) == type_name:
            path.invariant(expression, type_name)


def test_what_is_corrected_is_what_r4_wrote() -> None:
    written = {row[3] for at in definitions.constrained() for row in definitions.constraints(at)}
    assert set(invariants.CORRECTED) <= written
    keys = {row[0] for at in definitions.constrained() for row in definitions.constraints(at)}
    assert keys >= invariants.ELSEWHERE


def of(resource_type: str, **members: Any) -> Json:
    return {"resourceType": resource_type, **members}


def observation(**members: Any) -> Json:
    return of("Observation", status="final", code={"text": "x"}, **members)


def questionnaire(*items: Json) -> Json:
    return of("Questionnaire", status="draft", item=[{"linkId": "1", "type": "string", **item} for item in items])


def guide(*grouping: str) -> Json:
    resource = {"reference": {"reference": "Patient/1"}, "groupingId": "a"}
    return of(
        "ImplementationGuide", url="http://example.org/ig", name="Ig", status="draft", packageId="x.y",
        fhirVersion=["4.0.1"],
        definition={"grouping": [{"id": g, "name": g} for g in grouping], "resource": [resource]},
    )  # fmt: skip


CODED = {"coding": [{"system": "http://example.org/s", "code": "a"}]}


@pytest.mark.parametrize(
    ("key", "resource", "holds"),
    [
        # an element with extensions alone is there, and has no value
        ("pat-1", of("Patient", contact=[{"gender": "male"}]), False),
        ("pat-1", of("Patient", contact=[{"name": {"text": "x"}}]), True),
        ("qty-3", observation(valueQuantity={"value": 1, "code": "mg"}), False),
        ("qty-3", observation(valueQuantity={"value": 1, "code": "mg", "_system": {"extension": ABSENT}}), True),
        ("per-1", observation(effectivePeriod={"start": "2020-01-02", "end": "2020-01-01"}), False),
        ("per-1", observation(effectivePeriod={"start": "2020-01-02", "_end": {"extension": ABSENT}}), True),
        # dates of other precision, zones and leap seconds
        ("per-1", observation(effectivePeriod={"start": "2020-01-02", "end": "2020-01"}), True),
        ("per-1", observation(effectivePeriod={"start": "2020-02-01", "end": "2020-01"}), False),
        ("per-1", observation(effectivePeriod={"start": "2020-01-01T10:00:00+05:00",
                                               "end": "2020-01-01T05:00:00Z"}), True),
        ("per-1", observation(effectivePeriod={"start": "2020-01-01T05:00:01Z",
                                               "end": "2020-01-01T10:00:00+05:00"}), False),
        # quantities of one unit and of two
        ("rng-2", observation(valueRange={"low": {"value": 2, "unit": "m"}, "high": {"value": 1, "unit": "m"}}), False),
        ("rng-2", observation(valueRange={"low": {"value": 2, "unit": "m"}, "high": {"value": 1, "unit": "g"}}), True),
        ("rng-2", observation(valueRange={"low": {"value": Decimal("1.0")}, "high": {"value": 1}}), True),
        # sets, of the resource and of the value
        ("obs-7", observation(valueString="x", component=[{"code": CODED}]), True),
        ("obs-7", of("Observation", status="final", code=CODED, valueString="x", component=[{"code": CODED}]), False),
        ("ig-1", guide("b"), False),
        ("ig-1", guide("b", "a"), True),
        ("que-2", questionnaire({}, {}), False),
        ("que-2", questionnaire({}, {"linkId": "2"}), True),
        ("que-2", questionnaire({"type": "group", "item": [{"linkId": "1", "type": "string"}]}), False),
        ("cpb-9", of("CapabilityStatement", status="draft", date="2020", kind="requirements", fhirVersion="4.0.1",
                     format=["json"],
                     rest=[{"mode": "server", "resource": [{"type": "Patient"}, {"type": "Patient"}]}]), False),
        # what R4 wrote otherwise than it meant
        ("que-12", questionnaire({"enableWhen": [{"question": "1", "operator": "exists", "answerBoolean": True}] * 2}),
         False),
        ("que-7", questionnaire({"enableWhen": [{"question": "1", "operator": "exists", "answerBoolean": True}]}),
         True),
        ("que-7", questionnaire({"enableWhen": [{"question": "1", "operator": "exists", "answerInteger": 1}]}), False),
        ("ras-2", of("RiskAssessment", status="final", subject={"reference": "Patient/1"},
                     prediction=[{"qualitativeRisk": {"text": "x"}}]), True),
        ("ras-2", of("RiskAssessment", status="final", subject={"reference": "Patient/1"},
                     prediction=[{"probabilityDecimal": Decimal("100.1")}]), False),
        ("tim-9", of("Basic", code={"text": "x"}, extension=[{"url": "http://example.org/t", "valueTiming": {
            "repeat": {"offset": 5, "when": ["MORN", "C"]}}}]), False),
        ("tim-9", of("Basic", code={"text": "x"}, extension=[{"url": "http://example.org/t", "valueTiming": {
            "repeat": {"offset": 5, "when": ["MORN", "AC"]}}}]), True),
        ("bdl-8", of("Bundle", type="collection", entry=[{"resource": of("Patient")}]), True),
        ("bdl-8", of("Bundle", type="collection", entry=[{"fullUrl": "http://example.org/Patient/1/_history/2",
                                                          "resource": of("Patient", id="1")}]), False),
        # written at an element with a type of its own
        ("org-3", of("Organization", name="x", telecom=[{"system": "phone", "value": "1", "use": "work"}]), True),
        ("org-3", of("Organization", name="x", telecom=[{"system": "phone", "value": "1", "use": "home"}]), False),
        # of a contained resource, and of one in a Bundle
        ("org-1", of("Patient", contained=[of("Organization", id="o")],
                     managingOrganization={"reference": "#o"}), False),
        ("org-1", of("Bundle", type="collection", entry=[{"fullUrl": "http://example.org/Organization/1",
                                                          "resource": of("Organization", id="1")}]), False),
        # operators
        ("app-2", of("Appointment", status="proposed", start="2020-01-01T00:00:00Z",
                     participant=[{"status": "accepted", "type": [{"text": "x"}]}]), False),
        ("ces-1", of("CoverageEligibilityResponse", status="active", purpose=["benefits"], outcome="complete",
                     patient={"reference": "Patient/1"}, created="2020", insurer={"reference": "Organization/1"},
                     request={"reference": "CoverageEligibilityRequest/1"},
                     insurance=[{"coverage": {"reference": "Coverage/1"}, "item": [{"name": "x"}]}]), False),
        ("lnk-1", of("Linkage", item=[{"type": "source", "resource": {"reference": "Patient/1"}}]), False),
        ("cnt-3", of("Basic", code={"text": "x"},
                     extension=[{"url": "http://example.org/c", "valueCount": {"value": Decimal("1.5")}}]), False),
    ],
)  # fmt: skip
def test_invariant_holds_or_not_as_r4_means_it(key: str, resource: Json, holds: bool) -> None:
    found = {issue.diagnostics.partition(":")[0] for issue in validate(resource) if issue.code == "invariant"}
    assert (key in found) is not holds


def test_a_name_that_no_program_can_use_is_a_warning() -> None:
    (found,) = validate(of("ValueSet", status="draft", name="not a name"))
    assert (found.severity, found.expression) == ("warning", "ValueSet")
    assert validate(of("ValueSet", status="draft", name="AName")) == validate(of("ValueSet", status="draft")) == []


def test_what_is_malformed_is_not_asked_for_its_invariants() -> None:
    found = validate(of("Patient", contact=[{"gender": 1}, {"gender": "male"}]))
    assert [(i.code, i.expression) for i in found] == [
        ("value", "Patient.contact[0].gender"), ("invariant", "Patient.contact[1]"),
    ]  # fmt: skip


def test_an_invariant_looks_at_each_value_of_a_long_list_once() -> None:
    """20,000 against 20,000 would be four hundred million comparisons."""
    many = [f"g{number}" for number in range(20_000)]
    resource = guide(*many)
    resource["definition"]["resource"] = [
        {"reference": {"reference": "Patient/1"}, "groupingId": group} for group in many
    ]
    assert [i for i in validate(resource) if i.severity == "error"] == []
