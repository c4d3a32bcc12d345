"""A third opinion: linked to the second, blind to both, by somebody who is independent of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.test_review import example
from tests.service.world import World, opened, readable

Plain = dict[str, Any]
THIRD = """
[callers.third]
name = "Dr. Tertia Sample"
token = "third"
roles = ["reviewer"]
scopes = ["user/*.rus"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000199"]
"""
READER = {"family": "Sample", "given": ["Tertia"], "npi": "9000000199",
          "organization": {"name": "Northfield Made-up Hospital"},
          "specialty": {"system": "http://nucc.org/provider-taxonomy", "code": "207RX0202X"}}  # fmt: skip
DISCORDANT = {"item": 0, "axis": "diagnosis", "concordance": "changed", "significance": "major",
              "proposed": {"text": "zq-another-disease"}, "basis": "zq-the-slides"}  # fmt: skip


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.ehr("lakeside")
        with (made.folder / "tokens.toml").open("a") as tokens:
            tokens.write(THIRD)
        made.start()
        yield made


def discordant(world: World) -> str:
    case_id = world.gathered(sources=["lakeside"])
    world.accept(case_id)
    gaps = world.get(case_id, "completeness")["gaps"]
    draft = {**example("review.json")["draft"], "items": [DISCORDANT], "gapsConfirmed": gaps,
             "conclusion": "zq-it-is-something-else"}  # fmt: skip
    world.post(case_id, "submit-report", draft, "reviewer")
    world.post(case_id, "sign", who="reviewer")
    return case_id


def test_it_is_suggested_when_the_two_are_discordant_and_may_always_be_asked_for(world: World) -> None:
    agreed = world.signed(sources=["lakeside"])
    assert world.get(agreed)["thirdOpinion"] == {"suggested": False, "why": ""}
    assert world.post(agreed, "third-opinion", {"reason": "To be sure."}, "pcp", 201)
    other = {**example("request.json"), "placer": {"system": "https://x.example", "value": "2"}}
    world.monkeypatch.setattr("tests.service.world.example", lambda name: other if name == "request.json" else example(
        name))  # fmt: skip
    case_id = discordant(world)
    assert world.get(case_id)["thirdOpinion"]["suggested"] is True


def test_its_reviewer_is_blind_to_both_and_independent_of_both(world: World) -> None:
    case_id = discordant(world)
    world.post(case_id, "third-opinion", {"reason": "They disagree."}, "stranger", 404)
    opened_ = world.post(case_id, "third-opinion", {"reason": "They disagree."}, "surgeon", 201)
    assert world.post(case_id, "third-opinion", {"reason": "They disagree."}, "surgeon")["id"] == opened_["id"]
    world.post(case_id, "third-opinion", {"reason": "Another reason."}, "surgeon", 409)
    third = opened_["id"]
    world.work()
    request = next(r for r in world.package(third, "ServiceRequest") if r["id"] == third)
    assert request["basedOn"] == [{"reference": f"ServiceRequest/{case_id}"}]
    # The second reviewer is barred from giving the third opinion on its own.
    findings = world.post(third, "independence", {"reviewer": example("review.json")["reviewer"]})
    assert findings["result"] == "barred"
    assert len([f for f in findings["findings"] if "Standin" in f["about"]]) >= 1

    world.post(third, "ask-reviewer", {"reviewer": READER})
    world.post(third, "accept", {"declaration": {"interests": "none"}, "attestation": "I know none of them."}, "third")
    first = example("request.json")["underReview"][0]["text"]
    shown = readable(world, third, "third")
    for withheld in ("zq-another-disease", "zq-the-slides", "zq-it-is-something-else", first):
        assert withheld not in shown, withheld
    assert not [d for d in world.package(third, "DocumentReference", who="third")
                if "47040-1" in str(d)]  # fmt: skip
    assert world.call("GET", f"/api/second-opinions/{case_id}", who="third").status_code == 404
    world.post(third, "first-read", {"assessment": "It looks benign to me."}, "third")
    assert first in readable(world, third, "third")
    letters = [d for d in world.package(third, "DocumentReference", who="third") if "47040-1" in str(d)]
    # The one that went along, and what came back from the EHR into which the second opinion was delivered.
    letter = next(d for d in letters if "source" not in d["meta"])
    assert letter["content"][0]["attachment"]["contentType"] == "application/pdf"


def test_there_is_none_before_there_is_a_second(world: World) -> None:
    case_id = world.gathered(sources=["lakeside"])
    world.post(case_id, "third-opinion", {"reason": "x"}, status=409)
    world.post(case_id, "third-opinion", {"reason": "x"}, "pcp", 409)
