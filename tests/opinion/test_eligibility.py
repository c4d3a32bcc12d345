"""What a payer's answer says: row by row, and unknown wherever it does not say it."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.fhir import validate
from fhir_secondop.opinion import eligibility

Plain = dict[str, Any]
SERVICE = {"coding": [{"system": "http://snomed.info/sct", "code": "11429006"}]}
OTHER = {"coding": [{"system": "http://snomed.info/sct", "code": "1"}]}
ASKED: Plain = {
    "resourceType": "CoverageEligibilityRequest", "id": "r", "patient": {"reference": "Patient/p"},
    "insurer": {"reference": "Organization/i"}, "insurance": [{"coverage": {"reference": "Coverage/c"}}],
    "item": [{"productOrService": SERVICE}],
}  # fmt: skip


def answer(*insurance: Plain, **changes: Any) -> Plain:
    whole = {
        "resourceType": "CoverageEligibilityResponse", "id": "a", "status": "active", "purpose": ["benefits"],
        "patient": {"reference": "Patient/p"}, "created": "2026-11-28T12:00:00Z",
        "request": {"reference": "CoverageEligibilityRequest/r"}, "outcome": "complete",
        "insurer": {"reference": "Organization/i"},
        **({"insurance": [{"coverage": {"reference": "Coverage/c"}, **one} for one in insurance]} if insurance else {}),
    }  # fmt: skip
    return {k: v for k, v in {**whole, **changes}.items() if v is not None}


def item(service: Plain = SERVICE, **said: Any) -> Plain:
    return {"inforce": True, "item": [{"productOrService": service, **said}]}


TABLE: dict[str, tuple[Plain, str, str]] = {
    "included": (answer(item(excluded=False)), "covered", "unknown"),
    "listed, and nothing said of excluding it": (answer(item()), "covered", "unknown"),
    "to be authorised": (answer(item(authorizationRequired=True)), "covered", "required"),
    "not to be authorised": (answer(item(authorizationRequired=False)), "covered", "not-required"),
    "excluded": (answer(item(excluded=True)), "not-covered", "unknown"),
    "not in force": (answer({"inforce": False}), "not-covered", "unknown"),
    "nobody says whether it is in force": (answer({"item": [{"productOrService": SERVICE}]}), "unknown", "unknown"),
    "says nothing of this service": (answer(item(OTHER, authorizationRequired=True)), "unknown", "unknown"),
    "in force alone": (answer({"inforce": True}), "unknown", "unknown"),
    "no insurance": (answer(), "unknown", "unknown"),
    "another period": (
        answer({**item(), "benefitPeriod": {"start": "2020-01-01", "end": "2020-12-31"}}), "unknown", "unknown"),
    "this period": (answer({**item(), "benefitPeriod": {"start": "2026-01-01", "end": "2026-12-31"}}),
                    "covered", "unknown"),
    "says both": (answer(item(excluded=True), item(excluded=False)), "unknown", "unknown"),
    "lists it twice, once excluded": (
        answer({"inforce": True, "item": [{"productOrService": SERVICE, "excluded": True},
                                          {"productOrService": SERVICE}]}), "unknown", "unknown"),
    "an error": (answer(item(), outcome="error", error=[{"code": {"text": "member not found"}}]), "unknown", "unknown"),
    "not decided yet": (answer(item(), outcome="queued"), "unknown", "unknown"),
    "a draft": (answer(item(), status="draft"), "unknown", "unknown"),
}  # fmt: skip


@pytest.mark.parametrize(("said", "covered", "authorization"), TABLE.values(), ids=TABLE)
def test_an_answer_is_read_as_it_is_written(said: Plain, covered: str, authorization: str) -> None:
    kept = eligibility.kept(ASKED, said, "k", "https://payer.example/1")
    assert [i.diagnostics for i in validate.validate(kept) if i.severity == "error"] == []
    found = eligibility.read(kept)
    assert (found.covered, found.authorization, bool(found.why)) == (covered, authorization, True)


NOT_OURS = {
    "another request": answer(item(), request={"reference": "CoverageEligibilityRequest/x"}),
    "another patient": answer(item(), request=None, patient={"reference": "Patient/x"}),
    "another type": {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]},
}


@pytest.mark.parametrize("said", NOT_OURS.values(), ids=NOT_OURS)
def test_an_answer_to_something_else_is_not_taken(said: Plain) -> None:
    with pytest.raises(eligibility.NotOurs):
        eligibility.kept(ASKED, said, "k", "https://payer.example/1")


def test_of_an_answer_only_what_is_ours_is_kept() -> None:
    other = {"productOrService": OTHER, "name": "zqsecret"}
    said = answer({"inforce": True, "item": [{"productOrService": SERVICE}, other]},
                  contained=[{"resourceType": "Patient", "id": "z"}],
                  text={"status": "generated", "div": "zqsecret"})  # fmt: skip
    kept = eligibility.kept(ASKED, said, "k", "https://payer.example/1")
    assert "zqsecret" not in str(kept)
    assert "contained" not in kept
