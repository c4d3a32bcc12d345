"""What an EHR can do with pages, notices and criteria."""

from __future__ import annotations

import pytest
import requests

from tests.sandbox.conftest import Farm, codes, following, get, ids

OBSERVATIONS = "Observation?patient=1&_count=2"


def pages(base: str, search: str = OBSERVATIONS, most: int = 6) -> list[requests.Response]:
    """The pages of a search, at most so many."""
    answers = [get(base, search)]
    while len(answers) < most and (url := following(answers[-1])):
        answers.append(requests.get(url, timeout=10))
    return answers


def test_without_a_quirk_pages_come_as_they_should(farm: Farm) -> None:
    assert [ids(page) for page in pages(farm("full"))] == [["o1", "o2"], ["o3", "o4"], ["o5"]]


def test_overlapping_pages_repeat_the_last_match_of_the_page_before(farm: Farm) -> None:
    base = farm("full", "overlapping-pages", "more-data")
    found = [ids(page) for page in pages(base)]
    assert found == [["o1", "o2"], ["o2", "o3", "o4"], ["o4", "o5"]]
    assert ids(get(base, OBSERVATIONS)) == ["o1", "o2"], "a first page repeats nothing"


def test_looping_pages_lead_back_to_the_first(farm: Farm) -> None:
    found = [ids(page) for page in pages(farm("full", "looping-pages"))]
    assert found == [["o1", "o2"], ["o3", "o4"]] * 3


def test_a_next_link_can_lead_to_another_host(farm: Farm) -> None:
    first = get(farm("full", "next-elsewhere=https://elsewhere.example/r4/"), OBSERVATIONS)
    assert following(first).startswith("https://elsewhere.example/r4/Observation?patient=1&_count=2&_page=")


def test_expiring_pages_are_there_again_after_so_many_times(farm: Farm) -> None:
    base = farm("full", "expiring-pages=2")
    for _ in range(2):
        first, second = pages(base, most=2)
        assert ids(first) == ["o1", "o2"]
        assert (second.status_code, codes(second)) == (400, {"expired", "4113"})
    assert len(pages(base)) == 3


def test_a_second_page_can_fail_always(farm: Farm) -> None:
    base = farm("full", "page-2-fails")
    assert [page.status_code for _ in range(2) for page in pages(base, most=2)] == [200, 500, 200, 500]


@pytest.mark.parametrize(("quirk", "said"), [("more-data", {"incomplete", "4127"}),
                                             ("withheld-notice", {"suppressed", "59204"})])  # fmt: skip
def test_a_notice_stands_among_the_matches(farm: Farm, quirk: str, said: set[str]) -> None:
    base = farm("full", quirk)
    for search in (OBSERVATIONS, "Goal?patient=1"):
        answer = get(base, search)
        assert codes(answer) == said
        assert [e["search"]["mode"] for e in answer.json()["entry"]][-1] == "outcome"
    assert ids(get(base, OBSERVATIONS)) == ["o1", "o2"]
    assert get(base, "Patient/1").json()["id"] == "1"


def test_a_failure_can_have_the_status_of_success(farm: Farm) -> None:
    base = farm("full", "error-in-200")
    answer = get(base, OBSERVATIONS)
    assert (answer.status_code, answer.json()["resourceType"]) == (200, "OperationOutcome")
    assert get(base, "Patient/1").json()["id"] == "1"


@pytest.mark.parametrize(("quirk", "search", "more"), [
    ("demands-category", "Observation?patient=1", "&category=laboratory"),
    ("demands-category", "Condition?patient=1", "&category=problem-list-item"),
    ("demands-category", "DiagnosticReport?patient=1", "&category=LAB"),
    ("demands-category", "CarePlan?patient=1", "&category=assess-plan"),
    ("demands-status", "MedicationRequest?patient=1", "&status=active"),
    ("demands-status", "CareTeam?patient=1", "&status=active"),
])  # fmt: skip
def test_a_search_without_what_is_demanded_is_refused(farm: Farm, quirk: str, search: str, more: str) -> None:
    base = farm("full", quirk)
    refused = get(base, search)
    assert (refused.status_code, codes(refused)) == (400, {"required", "4111"})
    assert more[1:].partition("=")[0] in refused.text
    kind, _, parameters = (search + more).partition("?")
    assert get(base, search + more).status_code == 200
    form = requests.post(f"{base}/{kind}/_search", data=dict(p.split("=") for p in parameters.split("&")), timeout=10)
    assert form.status_code == 200
    assert get(base, f"{kind}?_id=o1").status_code == 200
    assert get(base, "Procedure?patient=1").status_code == 200


def test_an_ignored_patient_lets_strangers_come_too(farm: Farm) -> None:
    base = farm("full", "ignores-patient")
    for search in ("Observation?patient=1", "Observation?subject=Patient/1", "Observation?subject:Patient=1"):
        assert ids(get(base, search)) == [f"o{n}" for n in range(1, 7)], search
    form = requests.post(f"{base}/Observation/_search", data={"patient": "1"}, timeout=10)
    assert "o6" in ids(form)
    assert ids(get(base, "Observation?patient=1&_id=o2")) == ["o2"], "other parameters hold"


def test_an_ignored_identifier_finds_everybody(farm: Farm) -> None:
    base = farm("full", "ignores-identifier")
    assert ids(get(base, "Patient?identifier=nobody|x")) == ["1", "2"]
    assert ids(get(base, "Patient?identifier=nobody|x&birthdate=1969-01-02")) == ["2"]
