"""The directory, who of it fits, and what follows when candidates are asked, answer, or don't."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir import times
from tests.service.test_review import example
from tests.service.world import EXAMPLES, World, opened

Plain = dict[str, Any]
NPI = "http://hl7.org/fhir/sid/us-npi"
SUBSTITUTE = """
[callers.substitute]
name = "Dr. Ravi Substitute"
token = "substitute"
roles = ["reviewer"]
scopes = ["user/*.rus"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000195"]
"""
HOUR_S = 3600
# One author's specialty has no pair in the list, so the substitute's, which is coded in SNOMED CT, can't be compared.
ATTESTED = {"declaration": {"interests": "none"}, "attestation": "I know none of them."}


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        tokens = tmp_path / "tokens.toml"
        tokens.write_text(tokens.read_text() + SUBSTITUTE)
        made.start()
        yield made


def listed() -> Plain:
    bundle: Plain = json.loads((EXAMPLES / "directory.json").read_text("utf-8"))
    return bundle


def load(world: World, bundle: Plain | None = None, who: str = "desk", status: int = 200) -> Plain:
    answer = world.call("POST", "/fhir/$load-directory", bundle or listed(), who)
    assert answer.status_code == status, answer.get_data(as_text=True)
    plain: Plain = answer.get_json()
    return {p["name"]: p["valueInteger"] for p in plain["parameter"]} if status == 200 else plain


def insured(world: World) -> str:
    """A case whose patient lives in Maryland, speaks Spanish and is insured."""
    plain = example("request.json")
    patient = {**plain["patient"], "language": "es", "address": {"state": "MD", "country": "US"}}
    payer = {"name": "Samplecare Mutual", "identifier": {"system": "https://samplecare.example/payers",
                                                         "value": "SAMPLECARE"}}  # fmt: skip
    return world.open(
        patient=patient, organizations={**plain["organizations"], "samplecare": payer},
        insurance=[{"payer": "samplecare", "memberId": "M-1", "network": "Samplecare Open Network"}],
    )  # fmt: skip


def matched(world: World, case_id: str) -> dict[str, Plain]:
    """Family name → the candidate, in the order of the list."""
    return {c["name"].split()[-1]: c for c in world.get(case_id, "match-reviewer")["candidates"]}


def by(candidate: Plain) -> dict[str, str]:
    return {row["criterion"]: row["result"] for row in candidate["criteria"]}


def sees(world: World, case_id: str, who: str) -> bool:
    status = world.call("GET", f"/api/second-opinions/{case_id}", who=who).status_code
    assert status in (200, 404)
    return bool(status == 200)


def reviews(world: World, case_id: str) -> list[Plain]:
    return [
        t for t in world.package(case_id, "Task") if t.get("partOf") and t["code"]["coding"][0]["code"] == "fulfill"
    ]


# ---- the directory


def test_the_file_is_the_directory_and_a_reload_says_what_changed(world: World) -> None:
    bundle = listed()
    whole = len(bundle["entry"])
    assert load(world) == {"created": whole, "updated": 0, "unchanged": 0, "removed": 0}
    assert load(world)["unchanged"] == whole
    practitioner = next(e["resource"] for e in bundle["entry"] if e["resource"]["id"] == "standin")
    practitioner["name"][0]["family"] = "Renamed"
    bundle["entry"] = [e for e in bundle["entry"] if e["resource"]["id"] != "formerly-harbourview"]
    assert load(world, bundle) == {"created": 0, "updated": 1, "unchanged": whole - 2, "removed": 1}
    assert load(world) == {"created": 1, "updated": 1, "unchanged": whole - 2, "removed": 0}


def test_only_the_coordinator_loads_and_reads_the_directory(world: World) -> None:
    load(world, who="clinic", status=403)
    load(world)
    found = world.call("GET", f"/fhir/Practitioner?identifier={NPI}|9000000190").get_json()["entry"]
    for who in ("clinic", "reviewer", "pcp", "stranger"):
        assert world.call("GET", f"/fhir/Practitioner/{found[0]['resource']['id']}", who=who).status_code == 404
        searched = world.call("GET", f"/fhir/Practitioner?identifier={NPI}|9000000190", who=who)
        assert "entry" not in searched.get_json()
    case_id = world.open()
    for who in ("clinic", "pcp"):
        world.post(case_id, "match-reviewer", who=who, status=403)


def test_nobody_changes_an_entry_past_the_file(world: World) -> None:
    load(world)
    found = world.call("GET", f"/fhir/Practitioner?identifier={NPI}|9000000190").get_json()["entry"][0]["resource"]
    changed = world.call("PUT", f"/fhir/Practitioner/{found['id']}", {**found, "gender": "female"})
    assert changed.status_code == 403


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"resourceType": "Patient", "id": "p"}, "Bundle.entry[0].resource"),
        ({"resourceType": "Practitioner", "id": "p"}, "Bundle.entry[0].resource.identifier"),
        ({"resourceType": "PractitionerRole", "id": "p"}, "Bundle.entry[0].resource.practitioner"),
        (
            {"resourceType": "Organization", "id": "p", "partOf": {"reference": "Organization/x"}},
            "Bundle.entry[0].resource",
        ),
        ({"resourceType": "Organization", "name": "X"}, "Bundle.entry[0].fullUrl"),
    ],
)
def test_a_fault_is_named_and_the_directory_stays(world: World, change: Plain, path: str) -> None:
    load(world)
    bundle = listed()
    bundle["entry"][0] = {**({"fullUrl": "urn:x:changed"} if "id" in change else {}), "resource": change}
    said = load(world, bundle, status=422)
    assert path in [place for issue in said["issue"] for place in issue["expression"]]
    assert load(world)["unchanged"] == len(listed()["entry"])


# ---- who fits


def test_every_candidate_is_listed_with_the_reason_for_each_criterion(world: World) -> None:
    load(world)
    found = matched(world, insured(world))
    assert list(found) == ["Standin", "Substitute", "Unsaid", "Lapsed", "Formerly", "Elsewhere", "Mockridge"]
    assert set(by(found["Standin"]).values()) == {"pass", "warn"}
    assert by(found["Standin"])["independence"] == "warn"  # the surgeon, one of two authors, is of another specialty
    assert (by(found["Substitute"])["availability"], by(found["Substitute"])["language"]) == ("warn", "warn")
    assert by(found["Lapsed"])["licence"] == "fail"
    assert by(found["Formerly"])["availability"] == "fail"
    elsewhere = by(found["Elsewhere"])
    assert (elsewhere["specialty"], elsewhere["place"], elsewhere["licence"]) == ("fail", "warn", "unknown")
    assert elsewhere["network"] == "fail"
    assert set(by(found["Unsaid"]).values()) == {"unknown"}
    assert found["Mockridge"]["result"] == "barred"
    facts = {row["criterion"]: row["fact"] for row in found["Lapsed"]["criteria"]}
    assert facts["licence"] == "the licence for MD ended on 2024-12-31"
    assert facts["network"] == "is in Samplecare Open Network"


def test_what_the_case_does_not_say_is_unknown_for_everybody(world: World) -> None:
    load(world)
    found = matched(world, world.open())
    for candidate in found.values():
        said = by(candidate)
        assert (said["place"], said["licence"], said["language"], said["network"]) == ("unknown",) * 4


def test_without_a_directory_nobody_is_listed(world: World) -> None:
    assert world.get(world.open(), "match-reviewer")["candidates"] == []


# ---- asking


def test_one_of_several_accepts_and_the_others_see_the_case_no_more(world: World) -> None:
    load(world)
    case_id = insured(world)
    found = matched(world, case_id)
    names = [found["Standin"]["candidate"], found["Substitute"]["candidate"]]
    assert len(world.post(case_id, "ask-reviewer", {"candidates": names})["tasks"]) == 2
    assert sees(world, case_id, "reviewer")
    assert sees(world, case_id, "substitute")
    world.post(case_id, "accept", ATTESTED, "substitute")
    assert not sees(world, case_id, "reviewer")
    assert sorted(t["status"] for t in reviews(world, case_id)) == ["accepted", "cancelled"]
    assert matched(world, case_id)["Standin"]["asked"] == "cancelled"


def test_the_case_gets_of_a_candidate_only_what_it_needs(world: World) -> None:
    bundle = listed()
    practitioner = next(e["resource"] for e in bundle["entry"] if e["resource"]["id"] == "standin")
    practitioner |= {"birthDate": "1970-01-01", "telecom": [{"system": "phone", "use": "home", "value": "555-0199"}]}
    load(world, bundle)
    case_id = insured(world)
    world.post(case_id, "ask-reviewer", {"candidates": [matched(world, case_id)["Standin"]["candidate"]]})
    copied = [p for p in world.package(case_id, "Practitioner", who="pcp") if "9000000190" in json.dumps(p)]
    assert len(copied) == 1
    assert "1970" not in json.dumps(copied)
    assert "555-0199" not in json.dumps(copied)
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    assert world.get(case_id)["status"] == "accepted"


def test_an_unanswered_request_ends_with_its_time_and_so_does_its_access(world: World) -> None:
    load(world)
    case_id = insured(world)
    candidate = matched(world, case_id)["Standin"]["candidate"]
    soon = world.context.now() + 2 * HOUR_S * 1000
    world.post(case_id, "ask-reviewer", {"candidates": [candidate], "answerBy": times.instant(soon)})
    assert sees(world, case_id, "reviewer")
    world.clock.forward(2 * HOUR_S + 1)
    assert not sees(world, case_id, "reviewer")  # before any workflow ran
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer", 404)
    assert "cancelled" in world.work()
    task = reviews(world, case_id)[0]
    assert task["status"] == "cancelled"
    assert task["statusReason"]["coding"][0]["code"] == "reviewer-unavailable"
    assert "no answer by" in task["statusReason"]["text"]
    # Asked again, it is a request of its own, and sees the case again.
    world.post(case_id, "ask-reviewer", {"candidates": [candidate]})
    assert sees(world, case_id, "reviewer")
    assert len(reviews(world, case_id)) == 2


def test_who_has_accepted_in_time_keeps_the_case(world: World) -> None:
    load(world)
    case_id = insured(world)
    body = {"candidates": [matched(world, case_id)["Standin"]["candidate"]], "answerBy": "2099-01-01"}
    world.post(case_id, "ask-reviewer", body)
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    world.clock.forward(75 * 365 * 24 * HOUR_S)
    assert sees(world, case_id, "reviewer")
    assert "ended" in world.work()
    assert reviews(world, case_id)[0]["status"] == "accepted"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "candidates"),
        ({"candidates": ["PractitionerRole/nobody"]}, "candidates[0]"),
        ({"reviewer": None, "answerBy": "2001-01-01"}, "answerBy"),
    ],
)
def test_what_is_wrong_with_a_request_is_named_and_nobody_is_asked(world: World, body: Plain, path: str) -> None:
    case_id = world.open()
    if "reviewer" in body:
        body = {**body, "reviewer": example("review.json")["reviewer"]}
    said = world.post(case_id, "ask-reviewer", body, status=422)
    assert said["issue"][0]["expression"] == [path]
    assert reviews(world, case_id) == []


def test_who_is_barred_is_not_asked_nor_anybody_with_them(world: World) -> None:
    load(world)
    case_id = insured(world)
    found = matched(world, case_id)
    names = [found["Standin"]["candidate"], found["Mockridge"]["candidate"]]
    said = world.post(case_id, "ask-reviewer", {"candidates": names}, status=409)
    assert said["issue"][0]["expression"] == ["candidates[1]"]
    assert reviews(world, case_id) == []
    assert not sees(world, case_id, "reviewer")


def test_the_coordinator_gives_the_case_to_another_reviewer(world: World) -> None:
    load(world)
    case_id = insured(world)
    found = matched(world, case_id)
    world.post(case_id, "reassign", {"reason": "reviewer-unavailable"}, status=409)
    world.post(case_id, "ask-reviewer", {"candidates": [found["Standin"]["candidate"]]})
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    body = {"reason": "reviewer-unavailable", "text": "ill", "candidates": [found["Substitute"]["candidate"]]}
    world.post(case_id, "reassign", body, "reviewer", 403)
    said = world.post(case_id, "reassign", body)
    assert [t["status"] for t in said["tasks"]] == ["failed", "requested"]
    assert not sees(world, case_id, "reviewer")
    world.post(case_id, "accept", ATTESTED, "substitute")
    assert world.get(case_id)["status"] == "accepted"
