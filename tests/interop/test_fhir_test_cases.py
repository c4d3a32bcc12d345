"""HL7's own test cases for FHIRPath and parsers: how many of them we have right. They may only get more."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from fhir_secondop import fhir
from fhir_secondop.errors import Conflict, SecondOpError, Unsupported
from fhir_secondop.fhir import codec, patch, path
from fhir_secondop.fhir.pathfunctions import SCOPE, Incomparable
from fhir_secondop.fhir.xml import from_xml, to_xml

pytestmark = pytest.mark.shared

# Of the 854 with a file: what the compiler (search parameters, invariants) reads at all, and has right; what fhirpathpy
# has. Of the compiler's 18 others ten should be an error and give something, or nothing; three count a union's
# duplicates, which stay on purpose; the rest ask for System types, which R4's own expressions don't.
COMPILED = {"read": 228, "right": 210}
GENERAL = 759

# Of the 80 resources in JSON among the cases, those that no reader of R4 can turn into XML, and why.
NOT_READ = {
    "conformance.json.gz": "Resource is of a resource type that FHIR R4 (4.0.1) does not have",  # DSTU2
    "myconsent-resource.json": "Consent.period is no element that R4 (4.0.1) has in Consent",  # STU3
    "patient-name-extensions.json": "Patient.name[0].given given and _given must be arrays of the same length",
    "r4-caredove-bundle.json": "Bundle.entry[0].resource.id must be a JSON string",  # it is a number
}


@dataclass(frozen=True)
class Case:
    """One test: the values that must come out, as text; `is_invalid` where an error must."""

    name: str
    file: str
    expression: str
    outputs: tuple[str, ...]
    is_predicate: bool
    is_invalid: bool


def cases(folder: Path) -> Iterator[Case]:
    root = etree.parse(folder / "fhirpath" / "tests-fhir-r4.xml").getroot()
    for test in root.iter("test"):
        expression = test.find("expression")
        assert expression is not None
        yield Case(
            str(test.get("name")), str(test.get("inputfile") or ""), expression.text or "",
            tuple((output.text or "").strip() for output in test.iterfind("output")),
            test.get("predicate") == "true", expression.get("invalid") is not None,
        )  # fmt: skip


@cache
def resource(file: Path) -> dict[str, Any]:
    # This copy has its elements in another order than R4's, and so is no resource; the official one has the same.
    if file.name == "observation-example.xml":
        file = file.parents[1] / "official-r4-examples-xml" / file.name
    return fhir.parse(file.read_bytes())


def said(value: Any) -> str:
    """A result as the test cases write it, without the "@" of dates and the quotes of texts."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return number(str(value))
    return str(value)


def number(text: str) -> str:
    try:
        return str(Decimal(text).normalize())
    except InvalidOperation:
        return text


def is_right(case: Case, found: list[Any]) -> bool:
    if case.is_predicate:
        truth = bool(found) and found[0] is not False
        return case.outputs == (str(truth).lower(),)
    wanted = [number(output.removeprefix("@").removeprefix("T").strip("'")) for output in case.outputs]
    return [number(said(value).removeprefix("@").removeprefix("T")) for value in found] == wanted


def compiled(case: Case, value: dict[str, Any]) -> list[Any]:
    step = path.invariant(case.expression, value["resourceType"])
    node = (value["resourceType"], value)
    SCOPE.resource, SCOPE.root, SCOPE.context, SCOPE.kept = node, node, node, {}
    return [found for _, found in step([node])]


def test_the_compiler_has_right_what_it_reads(shared_data: Path) -> None:
    """It reads the part of FHIRPath that R4's own expressions use; of that nothing may come out wrong."""
    folder, score, wrong = shared_data / "fhir-test-cases-r4", Counter[str](), []
    for case in cases(folder):
        if not (folder / case.file).is_file():
            continue
        score["all"] += 1
        try:
            found = compiled(case, resource(folder / case.file))
        except (Unsupported, Incomparable):
            continue
        score["read"] += 1
        if case.is_invalid or not is_right(case, found):
            wrong.append((case.name, case.expression, case.outputs, found))
        else:
            score["right"] += 1
    print(dict(score), *wrong, sep="\n")
    assert score["read"] >= COMPILED["read"]
    assert score["right"] >= COMPILED["right"]


def test_the_general_evaluator_keeps_its_score(shared_data: Path) -> None:
    folder, right, asked = shared_data / "fhir-test-cases-r4", 0, 0
    for case in cases(folder):
        if not (folder / case.file).is_file():
            continue
        asked += 1
        try:
            found = path.evaluate(case.expression, resource(folder / case.file))
        except Unsupported:
            right += case.is_invalid
            continue
        right += not case.is_invalid and is_right(case, found)
    print(f"fhirpathpy: {right} of {asked} right")
    assert right >= GENERAL


def test_each_resource_in_json_comes_back_from_xml_the_same(shared_data: Path) -> None:
    folder = shared_data / "fhir-test-cases-r4"
    same, refused = 0, {}
    for file in sorted([*folder.rglob("*.json"), *folder.rglob("*.json.gz")]):
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        if "resourceType" not in json.loads(data):
            continue  # a query of GraphQL, or what is expected of one
        try:
            again = from_xml(to_xml(data))
        except SecondOpError as reason:
            refused[file.name] = str(reason)
            continue
        assert codec.parse_exact(again) == codec.parse_exact(data), file.name
        same += 1
    print(same, "come back the same of", same + len(refused), refused)
    assert {name: said for name, said in refused.items() if not said.startswith(NOT_READ.get(name, "?"))} == {}
    assert same >= 76


def test_json_patches_are_applied_as_rfc_6902_says(shared_data: Path) -> None:
    given = json.loads((shared_data / "fhir-test-cases-r4/patch/json-patch-tests.json").read_text("utf-8"))
    for case in given:
        try:
            found = patch.apply(case["doc"], patch.parse(json.dumps(case["patch"])))
        except Conflict:
            assert "error" in case, case["comment"]
        else:
            assert found == case.get("expected"), case["comment"]
    assert len(given) == 16
