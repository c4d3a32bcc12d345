"""What of a chart contradicts the codes of a plan of record, line by line; and what must never seem to."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.opinion import planned

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
SNOMED = "http://snomed.info/sct"
BEFORE, SET, AFTER = "2026-11-01T09:00:00Z", "2026-11-10T09:00:00Z", "2026-11-20T09:00:00Z"
STOP = {"text": "Warfarin", "kind": "MedicationRequest", "system": RXNORM, "code": "11289", "avoid": True}
OPERATE = {"text": "Lumpectomy", "kind": "ServiceRequest", "system": SNOMED, "code": "392021009"}


def plan(*items: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "CarePlan", "created": SET, "activity": [planned.activity(item) for item in items]}


def coded(kind: str, status: str, system: str, code: str, written: str = AFTER, **more: Any) -> dict[str, Any]:
    element = "medicationCodeableConcept" if kind == "MedicationRequest" else "code"
    return {
        "resourceType": kind, "id": "1", "status": status, "meta": {"lastUpdated": written},
        element: {"coding": [{"system": system, "code": code}]}, **more,
    }  # fmt: skip


def medicine(status: str = "active", code: str = "11289", **more: Any) -> dict[str, Any]:
    return coded("MedicationRequest", status, RXNORM, code, **{"intent": "order", **more})


def surgery(kind: str, status: str, **more: Any) -> dict[str, Any]:
    return coded(kind, status, SNOMED, "392021009", **more)


def found(items: list[dict[str, Any]], *chart: dict[str, Any]) -> list[tuple[str, bool]]:
    seen = planned.contradictions(plan(*items), chart, {"Medication/w": {"code": {"coding": [
        {"system": RXNORM, "code": "11289"}]}}})  # fmt: skip
    return [(c.line["status"], c.since) for c in seen]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (medicine(), [("active", True)]),
        (medicine(written=BEFORE), [("active", False)]),  # was there before: somebody may be about to stop it
        (medicine("stopped"), []),
        (medicine("completed"), []),
        (medicine("entered-in-error"), []),
        (medicine(intent="plan"), []),
        (medicine(doNotPerform=True), []),
        (medicine(code="1191"), []),
        ({**medicine(), "medicationCodeableConcept": {"text": "Warfarin 5 mg"}}, []),  # words are not read
        ({**medicine(), "medicationCodeableConcept": {"coding": [{"system": "urn:other", "code": "11289"}]}}, []),
        ({k: v for k, v in medicine().items() if k != "medicationCodeableConcept"}
         | {"medicationReference": {"reference": "Medication/w"}}, [("active", True)]),
        ({**medicine(), "meta": {"lastUpdated": "yesterday"}}, [("active", False)]),
    ],
)  # fmt: skip
def test_a_medicine_that_is_to_be_stopped(line: dict[str, Any], expected: list[tuple[str, bool]]) -> None:
    assert found([STOP], line) == expected


@pytest.mark.parametrize(
    ("chart", "expected"),
    [
        ([], []),  # nothing was ordered yet: no contradiction
        ([surgery("ServiceRequest", "active")], []),
        ([surgery("ServiceRequest", "revoked")], [("revoked", True)]),
        ([surgery("ServiceRequest", "revoked", written=BEFORE)], []),  # before the plan was set
        ([surgery("ServiceRequest", "revoked"), surgery("ServiceRequest", "active")], []),  # ordered anew
        ([surgery("ServiceRequest", "revoked"), surgery("Procedure", "completed")], []),  # it was done
        ([surgery("Procedure", "not-done")], [("not-done", True)]),
        ([surgery("ServiceRequest", "active", doNotPerform=True)], [("active", True)]),
        ([surgery("ServiceRequest", "entered-in-error")], []),
        ([surgery("ServiceRequest", "\u0001")], []),
    ],
)
def test_a_procedure_that_is_to_be_done(chart: list[dict[str, Any]], expected: list[tuple[str, bool]]) -> None:
    assert found([OPERATE], *chart) == expected


def test_a_procedure_that_is_not_to_be_done_was_done_since() -> None:
    avoid = {**OPERATE, "avoid": True}
    assert found([avoid], surgery("Procedure", "completed", performedDateTime=AFTER)) == [("completed", True)]
    assert found([avoid], surgery("Procedure", "completed", performedDateTime=BEFORE)) == []
    assert found([avoid], surgery("Procedure", "completed")) == []  # when is not said
    assert found([avoid], surgery("ServiceRequest", "active", intent="order")) == [("active", True)]


def test_words_without_a_code_are_compared_with_nothing() -> None:
    in_words = {**plan(), "activity": [{"detail": {"status": "not-started", "description": "Stop warfarin"}}]}
    assert list(planned.contradictions(in_words, [medicine()], {})) == []


def test_everybody_reads_that_it_is_not_to_be_done() -> None:
    assert planned.activity(STOP)["detail"]["description"] == "Not: Warfarin"
    assert planned.activity(OPERATE)["detail"]["description"] == "Lumpectomy"
