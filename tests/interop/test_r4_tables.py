"""The shipped tables against HL7's definitions from another source, and the validator against HL7's examples."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.errors import Issue
from fhir_secondop.fhir import definitions, path
from fhir_secondop.fhir.validate import validate

pytestmark = pytest.mark.shared

# Examples that are not valid R4: HL7's own validator refuses each of them too (docs/conformance.md), but for the two
# with modifier extensions that nobody but they know. The 62 with relative canonical URLs are counted alone.
RELATIVE = "must be an absolute URI, or #id, without spaces"
REFUSED = {
    "activitydefinition-servicerequest-example.json": "ActivityDefinition.text.div",
    "activitydefinition-supplyrequest-example.json": "ActivityDefinition.text.div",
    "basic-example.json": "Basic.modifierExtension[0]",
    "bundle-search-warning.json": "Bundle.entry[0].fullUrl",
    "capabilitystatement-example.json": "CapabilityStatement.url",
    "devicemetric-example.json": "DeviceMetric.parent.reference",
    "deviceusestatement-example.json": "DeviceUseStatement.reasonReference[0].reference",
    "diagnosticreport-example-lri.json": "Bundle.entry[1].fullUrl",
    "diagnosticreport-example-pgx.json": "DiagnosticReport.presentedForm[0].hash",
    "diagnosticreport-hla-genetics-results-example.json": "Bundle.entry[0].resource.extension[1].extension[1].url",
    "eventdefinition-example.json": "EventDefinition.text.div",
    "json-edge-cases.json": "Patient.modifierExtension[0]",
    "media-example-sound.json": "Media.text.div",
    "medicationadministration0312.json": "MedicationAdministration.dosage.dose.code",
    "medicationdispense0325.json": "MedicationDispense.dosageInstruction[0].doseAndRate[0].dose.code",
    "medicationexample0304.json": "Medication.ingredient[0].strength.denominator.code",
    "medicationexample0309.json": "Medication.ingredient[0].strength.denominator.code",
    "medicationrequest0301.json": "MedicationRequest.dispenseRequest.performer.reference",
    "medicationrequest0313.json": "MedicationRequest.dispenseRequest.quantity.code",
    "medicationrequest0314.json": "MedicationRequest.dispenseRequest.quantity.code",
    "medicationrequest0327.json": "MedicationRequest.dosageInstruction[0].doseAndRate[0].dose.code",
    "medicationstatementexample1.json": "MedicationStatement.contained[0].ingredient[0].strength.denominator.code",
    "medicationstatementexample2.json": "MedicationStatement.contained[0].ingredient[0].strength.denominator.code",
    "medicationstatementexample3.json": "MedicationStatement.dosage[0].doseAndRate[0].dose.code",
    "message-request-link.json": "Bundle.entry[2].fullUrl",
    "message-response-link.json": "Bundle.entry[3].fullUrl",
    "observation-example-clinical-gender.json": "Observation.performer[0].reference",
    "organization-example-good-health-care.json": "Organization.identifier[0].value",
    "questionnaire-zika-virus-exposure-assessment.json": "Questionnaire.text.div",
    "terminologycapabilities-example.json": "TerminologyCapabilities.url",
}
# What those who keep the other source have added to it.
ADDED = {"http://hl7.org/fhir/questionnaire-item-control": {"multi-select"}}
NOT_TYPES = {"SimpleQuantity", "MoneyQuantity", "MetadataResource"}


def read(file: Path) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in json.loads(lzma.decompress(file.read_bytes()))["entry"]]


def test_structures_are_those_of_hl7(shared_data: Path) -> None:
    compared = 0
    for definition in read(shared_data / "r4-definitions" / "structuredefinitions-4.0.1.json.xz"):
        name = definition["id"]
        if name in NOT_TYPES:
            continue
        structure = definitions.structure(name)
        assert (structure.kind, structure.is_abstract) == (definition["kind"], definition["abstract"])
        assert structure.base == definition.get("baseDefinition", "").rpartition("/")[2]
        if structure.kind == "primitive-type":
            continue
        for element in definition["snapshot"]["element"][1:]:
            compare(element)
            compared += 1
    assert compared > 7000


def compare(wanted: dict[str, Any]) -> None:
    parent, _, name = wanted["path"].rpartition(".")
    found = definitions.structure(parent).elements[name.removesuffix("[x]")]
    assert (found.min, found.is_choice) == (wanted["min"], name.endswith("[x]")), wanted["path"]
    assert ("*" if found.max is None else str(found.max)) == wanted["max"], wanted["path"]
    assert (found.is_modifier, found.is_summary) == (wanted.get("isModifier", False), wanted.get("isSummary", False))
    if "contentReference" in wanted:
        assert found.types == (wanted["contentReference"].removeprefix("#"),)
    elif not found.types[0].startswith(parent + "."):
        codes = [t["code"] for t in wanted["type"] if "fhirpath" not in t["code"]]
        assert list(found.types) == (codes or list(found.types)), wanted["path"]
    for each in wanted.get("type", ()):
        targets = {url.rpartition("/")[2] for url in each.get("targetProfile", ())}
        assert found.targets.get(each["code"], frozenset()) == targets, wanted["path"]
    binding = wanted.get("binding", {})
    required = binding.get("valueSet", "") if binding.get("strength") == "required" else ""
    assert found.binding == required.partition("|")[0], wanted["path"]


def test_no_type_has_an_element_that_hl7_does_not_have(shared_data: Path) -> None:
    wanted = {
        element["path"]
        for definition in read(shared_data / "r4-definitions" / "structuredefinitions-4.0.1.json.xz")
        for element in definition["snapshot"]["element"]
    }
    for name in definitions.resource_types() | definitions.data_types():
        for element in definitions.structure(name).elements.values():
            assert {f"{name}.{element.name}", f"{name}.{element.name}[x]"} & wanted


def test_search_parameters_are_those_of_hl7(shared_data: Path) -> None:
    wanted = read(shared_data / "r4-definitions" / "search-parameters.json.xz")
    assert len(wanted) == 1375
    for parameter in wanted:
        found = definitions.search_parameter_by_url(parameter["url"])
        assert found is not None
        assert (found.code, found.type, found.expression) == (
            parameter["code"],
            parameter["type"],
            parameter.get("expression", ""),
        )
        assert (found.base, found.targets) == (tuple(parameter["base"]), tuple(parameter.get("target", ())))
        components = [(c["definition"], c["expression"]) for c in parameter.get("component", ())]
        assert found.components == tuple(components)


def test_compartments_are_those_of_hl7(shared_data: Path) -> None:
    for wanted in read(shared_data / "r4-definitions" / "compartmentdefinitions.json.xz"):
        members = {each["code"]: sorted(each["param"]) for each in wanted["resource"] if "param" in each}
        assert {key: list(codes) for key, codes in definitions.compartment(wanted["code"]).items()} == members


def test_official_examples_are_valid_but_for_those_named(shared_data: Path) -> None:
    files = sorted((shared_data / "official-r4-examples-json").glob("*.json"))
    assert len(files) == 745
    refused, relative = {}, 0
    for file in files:
        issues = errors(json.loads(file.read_bytes(), parse_float=Decimal))
        relative += any(issue.diagnostics == RELATIVE for issue in issues)
        if others := [issue.expression for issue in issues if issue.diagnostics != RELATIVE]:
            refused[file.name] = others[0]
    assert refused == REFUSED
    assert relative == 62


def errors(resource: dict[str, Any]) -> list[Issue]:
    return [issue for issue in validate(resource) if issue.severity == "error"]


def test_synthetic_records_are_valid(shared_data: Path) -> None:
    files = sorted((shared_data / "synthea-r4-bundles").glob("*.json.gz"))
    assert files
    for file in files:
        assert errors(json.loads(gzip.decompress(file.read_bytes()), parse_float=Decimal)) == [], file.name


def test_search_parameters_find_what_fhirpathpy_finds_in_the_examples(shared_data: Path) -> None:
    for name in ("patient-example", "encounter-example", "diagnosticreport-example-dxa", "servicerequest-example"):
        resource = json.loads((shared_data / "official-r4-examples-json" / f"{name}.json").read_bytes())
        for parameter in definitions.search_parameters(resource["resourceType"]).values():
            if "resolve()" in parameter.expression or parameter.expression.startswith("Resource."):
                continue  # fhirpathpy neither resolves nor takes the base type's name
            found = [value for _, value in path.select(parameter, resource)]
            once = [value for index, value in enumerate(found) if value not in found[:index]]
            assert once == path.evaluate(parameter.expression, resource), parameter.url


def test_codes_of_systems_are_those_of_hl7(shared_data: Path) -> None:
    compared = 0
    for name in ("valuesets", "v3-codesystems", "v2-tables"):
        for resource in read(shared_data / "r4-definitions" / f"{name}.json.xz"):
            if resource["resourceType"] == "CodeSystem" and (found := definitions.code_systems().get(resource["url"])):
                assert set(codes(resource["concept"])) - found == ADDED.get(resource["url"], set()), resource["url"]
                assert found <= set(codes(resource["concept"])), resource["url"]
                compared += 1
    assert compared > 1000
    for foreign in ("http://snomed.info/sct", "http://loinc.org", "http://dicom.nema.org/resources/ontology/DCM"):
        assert foreign not in definitions.code_systems()


def codes(concepts: list[dict[str, Any]]) -> Iterator[str]:
    for concept in concepts:
        yield concept["code"]
        yield from codes(concept.get("concept", []))


def test_bases_are_the_snapshots_of_hl7(shared_data: Path) -> None:
    kept = ("id", "path", "short", "definition", "min", "max", "base", "type", "binding", "contentReference")
    wanted = {d["id"]: d for d in read(shared_data / "r4-definitions" / "structuredefinitions-4.0.1.json.xz")}
    table = dict(definitions.bases())
    constraints = table.pop("constraints")
    assert len(table) > 10
    for name, elements in table.items():
        for found, element in zip(elements, wanted[name]["snapshot"]["element"], strict=True):
            assert {key: found.get(key) for key in kept} == {key: element.get(key) for key in kept}
            assert [constraints[key] for key in found.get("constraint", ())] == element.get("constraint", [])
