from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fhir_secondop.errors import Unsupported
from fhir_secondop.fhir import definitions, path, pathcompiler, pathsyntax
from tests.fhir.made import TYPES, Maker

# Components that look from a composite's element back at the whole resource. Genomics, which we do not search.
NOT_COMPILED = {"%resource.referenceSeq.chromosome", "%resource.referenceSeq.referenceSeqId"}

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "name": [{"family": "Ek", "given": ["Ann", "Bo"]}, {"family": "Holm"}],
    "telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "a@example.org"}],
    "birthDate": "1970-03-30",
    "_birthDate": {"extension": [{"url": "http://example.org/time", "valueDateTime": "1970-03-30T10:00:00Z"}]},
    "deceasedBoolean": False,
    "contact": [{"relationship": [{"text": "sister"}]}],
    "extension": [{"url": "http://example.org/race", "valueCode": "x"}, {"url": "http://example.org/other"}],
}
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"coding": [{"code": "a"}]},
    "subject": {"reference": "Patient/p1"},
    "performer": [{"reference": "http://example.org/fhir/Practitioner/7/_history/1"}, {"type": "Patient"}],
    "valueQuantity": {"value": Decimal("1.10")},
    "component": [{"code": {"text": "c"}, "valueQuantity": {"value": 2}}, {"valueString": "no"}],
}


@pytest.mark.parametrize(
    ("expression", "resource", "expected"),
    [
        ("Patient.name.family", PATIENT, [("string", "Ek"), ("string", "Holm")]),
        ("Patient.name.given", PATIENT, [("string", "Ann"), ("string", "Bo")]),
        ("name[1].family", PATIENT, [("string", "Holm")]),
        ("Patient.name.first().family", PATIENT, [("string", "Ek")]),
        ("Resource.id", PATIENT, [("id", "p1")]),
        ("Patient.birthDate", PATIENT, [("date", "1970-03-30")]),
        ("Patient.gender", PATIENT, []),
        ("Practitioner.gender | Patient.birthDate", PATIENT, [("date", "1970-03-30")]),
        ("Patient.telecom.where(system='phone').value", PATIENT, [("string", "1")]),
        ("Patient.contact.relationship.text", PATIENT, [("string", "sister")]),
        ("Patient.deceased.exists() and Patient.deceased != false", PATIENT, [("boolean", False)]),
        ("Patient.deceased as boolean", PATIENT, [("boolean", False)]),
        ("(Patient.deceased as dateTime)", PATIENT, []),
        ("Patient.extension('http://example.org/race').value", PATIENT, [("code", "x")]),
        ("Patient.extension.where(url = 'http://example.org/race').value", PATIENT, [("code", "x")]),
        (
            "Patient.birthDate.extension('http://example.org/time').value",
            PATIENT,
            [("dateTime", "1970-03-30T10:00:00Z")],
        ),
        ("Patient.gender.empty()", PATIENT, [("boolean", True)]),
        ("Patient.active.exists().not()", PATIENT, [("boolean", True)]),
        ("Patient.active or true", PATIENT, [("boolean", True)]),
        ("Patient.active and true", PATIENT, []),
        ("Patient.id | Patient.birthDate", PATIENT, [("id", "p1"), ("date", "1970-03-30")]),
        ("Observation.value.ofType(Quantity).value", OBSERVATION, [("decimal", Decimal("1.10"))]),
        ("Observation.value is Quantity", OBSERVATION, [("boolean", True)]),
        ("Observation.component.value.as(string)", OBSERVATION, [("string", "no")]),
        ("Observation.subject.where(resolve() is Patient)", OBSERVATION, [("Reference", {"reference": "Patient/p1"})]),
        ("Observation.subject.where(resolve() is Group)", OBSERVATION, []),
        ("Observation.performer.where(resolve() is Patient)", OBSERVATION, [("Reference", {"type": "Patient"})]),
    ],
)
def test_expression_selects_typed_values(
    expression: str, resource: dict[str, Any], expected: list[tuple[str, Any]]
) -> None:
    assert path.select(expression, resource) == expected


def test_values_below_a_composite_are_relative_to_what_it_found() -> None:
    composite = definitions.search_parameters("Observation")["component-code-value-quantity"]
    found = path.select(composite, OBSERVATION)
    assert [name for name, _ in found] == ["Observation.component", "Observation.component"]
    values = [path.select(expression, found[0][1], found[0][0]) for _, expression in composite.components]
    assert values == [[("CodeableConcept", {"text": "c"})], [("Quantity", {"value": 2})]]


def test_resource_in_a_bundle_is_of_its_own_type() -> None:
    bundle = {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Composition", "id": "c"}}]}
    assert path.select("Bundle.entry[0].resource", bundle) == [("Composition", bundle["entry"][0]["resource"])]  # type: ignore[index]
    assert path.select("Bundle.entry.resource.id", bundle) == [("id", "c")]


def test_every_search_parameter_of_r4_compiles_and_can_find_something() -> None:
    for resource_type in definitions.resource_types():
        for parameter in definitions.search_parameters(resource_type).values():
            _, types = pathcompiler.compile_node(pathsyntax.parse(parameter.expression), frozenset({resource_type}))
            assert types, (resource_type, parameter.code)
            for _, expression in parameter.components:
                if expression not in NOT_COMPILED:
                    for each in types:
                        path.compiled(expression, each)


@pytest.mark.parametrize("name", TYPES)
def test_branches_find_together_what_the_whole_expression_finds_and_none_is_missed_by_its_keys(name: str) -> None:
    """Of resources made at random, with every kind of member, some as extensions alone."""
    expressions = sorted({each.expression for each in definitions.search_parameters(name).values() if each.expression})
    for seed in range(12):
        resource = Maker(seed, plenty=(0.2, 0.6)[seed % 2]).resource(name, depth=3)
        for expression in expressions:
            found = [
                node
                for step, keys in path.branches(expression, name)
                if keys is None or not keys.isdisjoint(resource)
                for node in step([(name, resource)])
            ]
            assert found == path.compiled(expression, name)([(name, resource)]), (seed, expression)


def test_named_expressions_are_the_only_ones_that_do_not_compile() -> None:
    for expression in NOT_COMPILED:
        with pytest.raises(Unsupported):
            path.compiled(expression, "MolecularSequence.variant")


@pytest.mark.parametrize(
    "expression",
    [
        "Patient.nickname",
        "Patient.name.where(",
        "Patient.name)",
        "Patient.name.matches()",
        "Patient.name.where(family = %resource.id)",
        "Patient.name as Nickname",
        "Patient.generalPractitioner.resolve()",
        "Patient.name[x]",
        "1.5",
        "$index",
        "Patient.name.where()",
        "Patient.name.extension(use)",
        "Patient.name.is('x')",
        "",
    ],
)
def test_expression_that_can_not_be_compiled_is_refused_before_any_resource_comes(expression: str) -> None:
    with pytest.raises(Unsupported):
        path.compiled(expression, "Patient")


def test_invariant_is_evaluated_with_the_types_of_r4() -> None:
    assert path.evaluate("value.exists() and value is Quantity and %resource.status = 'final'", OBSERVATION) == [True]
    assert path.evaluate("Observation.status = %wanted", OBSERVATION, wanted="final") == [True]


def test_invariant_that_can_not_be_read_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        path.evaluate("status = (", OBSERVATION)


def test_trace_in_an_invariant_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert path.evaluate("status.trace('secret').exists()", OBSERVATION) == [True]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("later", "expected"),
    [("2026-11-20T10:00:00.000Z", [True]), ("2026-11-20T09:59:59Z", [False]), ("2026-11-21", [True])],
)
def test_times_are_compared_by_time_whatever_their_zone(later: str, expected: list[bool]) -> None:
    task = {"resourceType": "Task", "authoredOn": "2026-11-20T15:00:00+05:00", "lastModified": later}
    assert path.evaluate("authoredOn <= lastModified", task) == expected
    assert path.evaluate("lastModified < authoredOn", task) == [not expected[0]]
