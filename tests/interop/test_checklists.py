"""The checklists over records and names that others made: carebundle, Synthea, and LOINC's names as R4 lists them."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.model import Resource
from fhir_secondop.opinion import checklist
from fhir_secondop.opinion.conditions import Seen, meets

pytestmark = pytest.mark.shared

TODAY = "2026-06-01"
PROFILES = ("healthy", "type2_diabetes", "hypertension", "ckd_stage3", "anaemia")
# What carebundle writes for an item of the generic checklist; it has no documents, no imaging and no plans.
WRITES = {"problems": "Condition", "medications": "MedicationRequest", "allergies": "AllergyIntolerance"}


@pytest.fixture(scope="module")
def invented() -> list[list[Resource]]:
    """60 records of carebundle, with ids as a server would give them."""
    carebundle = pytest.importorskip("carebundle", reason="pip install carebundle")
    records = []
    for number in range(60):
        made = carebundle.generate_bundle(profile=PROFILES[number % len(PROFILES)], seed=number, sex="FM"[number % 2])
        entries = json.loads(carebundle.to_json(made))["entry"]
        records.append([{**e["resource"], "id": f"r{n}"} for n, e in enumerate(entries)])
    return records


def states(name: str, record: list[Resource], reviewed: list[Resource]) -> dict[str, str]:
    return {i.code: i.state for i in checklist.evaluate(checklist.load(name), record, reviewed, today=TODAY)}


def expected(record: list[Resource]) -> dict[str, str]:
    """The truth about a record of carebundle, by its types alone."""
    there = {r["resourceType"] for r in record}
    found = dict.fromkeys(("imaging-report", "images", "notes", "plan"), "missing")
    found |= {item: "present" if kind in there else "missing" for item, kind in WRITES.items()}
    return {**found, "laboratory": "present", "pathology-report": "not-applicable"}


def test_records_of_carebundle_have_exactly_the_items_that_it_writes(invented: list[list[Resource]]) -> None:
    for record in invented:
        assert states("generic", record, [r for r in record if r["resourceType"] == "Condition"]) == expected(record)
    for item in WRITES:
        found = [expected(record)[item] for record in invented]
        assert min(found.count("present"), found.count("missing")) >= 3  # both sides are really tried


def test_what_is_taken_from_a_record_of_carebundle_is_exactly_the_gap(invented: list[list[Resource]]) -> None:
    for record in invented:
        whole = expected(record)
        for item, kind in WRITES.items():
            rest = [r for r in record if r["resourceType"] != kind]
            assert states("generic", rest, []) == {**whole, item: "missing"}
        vital = [r for r in record if "laboratory" not in json.dumps(r.get("category", []))]
        assert states("generic", vital, []) == {**whole, "laboratory": "missing"}


def test_a_record_of_carebundle_has_nothing_that_a_breast_or_spine_case_asks_for(
    invented: list[list[Resource]],
) -> None:
    common = {"problems", "medications", "allergies", "plan"}
    for name, word in (("breast", "Breast cancer"), ("spine", "Lumbar fusion for instability")):
        reviewed = [{"resourceType": "Condition", "id": "c", "code": {"text": word}}]
        for record in invented:
            found = states(name, record, reviewed)
            assert {code for code, state in found.items() if state == "present"} <= common


# By hand, from reading the two records of Synthea with breast cancer: mammographies are Procedures without a report,
# and every plan is for something else (diabetes, lipids, joints).
BY_HAND = {
    "problems": "present", "medications": "present", "operative-report": "not-applicable",
    "genetics": "not-applicable",
}  # fmt: skip


def test_synthetic_patients_with_breast_cancer_lack_what_synthea_does_not_write(shared_data: Path) -> None:
    tried = 0
    for path in sorted((shared_data / "synthea-r4-bundles").glob("*.json.gz")):
        record = [e["resource"] for e in json.loads(gzip.decompress(path.read_bytes()))["entry"]]
        cancer = [r for r in record if r["resourceType"] == "Condition" and "of breast" in json.dumps(r)]
        if not cancer:
            continue
        tried += 1
        assert checklist.choose(cancer)["id"] == "breast"
        found = checklist.evaluate(checklist.load("breast"), record, cancer, today="2020-06-01")
        assert {i.code: i.state for i in found if i.state != "missing"} == BY_HAND
    assert tried == 2


@pytest.fixture(scope="module")
def names(shared_data: Path) -> dict[str, str]:
    """LOINC's codes and names, as far as R4's value set of document types lists them: 6,400, most of them imaging."""
    bundle = json.loads(lzma.decompress((shared_data / "r4-definitions/valuesets.json.xz").read_bytes()))
    [value_set] = [
        e["resource"] for e in bundle["entry"] if e["resource"].get("url", "").endswith("/c80-doc-typecodes")
    ]
    return {c["code"]: c["display"] for i in value_set["compose"]["include"] for c in i.get("concept", ())}


def found_by(item: dict[str, Any], names: dict[str, str], *, name_only: bool) -> set[str]:
    """The codes of the list that satisfy an item, each as a report that has its name only, or its code only."""
    found = set()
    for code, name in names.items():
        concept: Resource = {"text": name} if name_only else {"coding": [{"system": "http://loinc.org", "code": code}]}
        element = {"DiagnosticReport": "code", "DocumentReference": "type"}
        for kind in set(item["types"]) & element.keys():
            if meets(item, Seen({"resourceType": kind, "id": "1", element[kind]: concept})):
                found.add(code)
    return found


@pytest.mark.parametrize(
    ("name", "code", "count"),
    [
        ("breast", "mammography-report", 98),
        ("breast", "breast-ultrasound-or-mri-report", 45),
        ("spine", "spine-mri-report", 37),
        ("spine", "flexion-extension-report", 16),
    ],
)
def test_an_examination_is_found_by_its_name_as_by_its_code_among_all_names_of_loinc(
    names: dict[str, str], name: str, code: str, count: int
) -> None:
    [item] = [i for i in checklist.load(name)["items"] if i["code"] == code]

    by_code = found_by(item, names, name_only=False)

    assert len(names) > 6000
    assert found_by(item, names, name_only=True) == by_code
    assert len(by_code) == count


def test_the_value_sets_of_kinds_of_report_and_note_are_in_the_list_that_they_are_taken_from(
    names: dict[str, str],
) -> None:
    folder = Path(__file__).parents[2] / "profiles" / "valuesets"
    # Of US Core (two categories), R4's document classes, mCODE and the German MII (profiles/valuesets/README.md).
    elsewhere = {"LP29684-5", "LP7839-6", "18726-0", "22637-3", "34574-4", "60567-5"}
    for stem in ("imaging-report", "pathology-report", "operative-note", "conservative-treatment-note",
                 "spine-examination-note", "breast-mri", "breast-mammography", "breast-ultrasound", "spine-mri",
                 "spine-flexion-extension"):  # fmt: skip
        value_set = json.loads((folder / f"{stem}.json").read_text("utf-8"))
        for include in value_set["compose"]["include"]:
            if include["system"] == "http://loinc.org":
                assert {c["code"] for c in include["concept"]} - names.keys() <= elsewhere, stem
