"""Side by side, row by row from a table that a clinician can read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.opinion import compare
from tests.opinion import cases

SYSTEMS = {"icd10cm": "http://hl7.org/fhir/sid/icd-10-cm", "sct": "http://snomed.info/sct"}
with (Path(__file__).parent / "tables" / "side-by-side.csv").open(encoding="utf-8", newline="") as table:
    ROWS = list(csv.DictReader(table))


def coding(text: str) -> dict[str, Any] | None:
    system, _, code = text.partition(" ")
    return {"system": SYSTEMS[system], "code": code} if text else None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['why']}: {row['reviewer says']}")
def test_row(row: dict[str, str]) -> None:
    case = cases.case_of("breast-treatment-plan")
    kind = "Condition" if row["axis"] == "diagnosis" else "CarePlan"
    place = next(n for n, item in enumerate(case.items) if item["resourceType"] == kind)
    item, code = case.items[place], coding(row["original code"])
    for name in ("stage", "bodySite", "activity", "description", "category"):
        item.pop(name, None)
    item["code"] = {"text": row["original words"], **({"coding": [code]} if code else {})}
    if kind == "CarePlan":
        item.pop("code")
        item["description"] = row["original words"]
    proposed = {"text": row["second words"]} if row["second words"] else {}
    second = coding(row["second code"])
    if second:
        proposed["code"] = second  # type: ignore[assignment]
    said = {"item": place, "axis": row["axis"], "concordance": row["reviewer says"]}
    (pair,) = compare.side_by_side(case, {"items": [{**said, **({"proposed": proposed} if proposed else {})}]})
    assert pair.verdict == row["by machine"], pair.why
    assert pair.why


def test_the_examples_are_compared_in_the_order_of_their_items() -> None:
    for name in ("breast-treatment-plan", "spine-surgery"):
        pairs = compare.side_by_side(cases.case_of(name), cases.draft_of(name))
        assert [(p.item, p.axis) for p in pairs] == sorted((p.item, p.axis) for p in pairs)
        assert all(p.original.text and p.original.by for p in pairs)
