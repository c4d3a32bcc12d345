"""Who has a case in hand, for how long, and what nobody changes around its operations; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.opinion import intake_json, workflow
from tests.service.conftest import TOKENS, Bench
from tests.service.test_consent import consent, patient_of
from tests.service.test_review import accepted, asked, coordination, example, operate, operate_get, resources
from tests.service.world import World, opened

Plain = dict[str, Any]
DAY_S = 86_400


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


@pytest.mark.parametrize("code", ["gather", "request-item"])
def test_a_reviewer_who_was_asked_does_nothing_to_the_record_before_accepting(bench: Bench, code: str) -> None:
    case_id = asked(bench)
    body = {"item": "x", "title": "A thing"} if code == "request-item" else {}
    assert operate_get(bench, case_id, "completeness", "reviewer")["items"]  # it reads, to know whether to accept
    assert operate(bench, case_id, code, body, "reviewer").status_code == 403
    operate(bench, case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    assert operate(bench, case_id, code, body, "reviewer").status_code in (200, 201, 202)


def test_who_asks_for_opinions_elsewhere_does_nothing_to_a_case_it_was_only_asked_to_review(world: World) -> None:
    both = TOKENS.replace('roles = ["reviewer"]', 'roles = ["reviewer", "requester"]')
    assert both != TOKENS
    (world.folder / "tokens.toml").write_text(both)
    world.start()
    case_id = world.gathered(sources=[])
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    world.post(case_id, "pause", {"reason": "awaiting-tests"}, "reviewer", 403)
    given = consent(patient_of(world, case_id))
    assert world.call("POST", "/fhir/Consent", given, "reviewer").status_code == 403
    made = world.call("POST", "/fhir/Consent", given).get_json()
    path = f"/fhir/Consent/{made['id']}"
    assert world.call("PUT", path, {**made, "status": "inactive"}, "reviewer").status_code == 403
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    world.post(case_id, "pause", {"reason": "awaiting-tests"}, "reviewer")


@pytest.mark.parametrize("who", ["reviewer", "desk"])
def test_how_far_a_case_has_come_is_nobodys_to_write(bench: Bench, who: str) -> None:
    task = coordination(bench, accepted(bench))
    task["businessStatus"]["coding"][0]["code"] = "records-complete"
    answer = bench.call("PUT", f"/fhir/Task/{task['id']}", task, who=who)
    assert answer.status_code == 403
    assert answer.get_json()["issue"][0]["expression"] == ["Task.businessStatus"]


def test_a_review_that_the_desk_cancels_leaves_the_case_open_for_the_next(bench: Bench) -> None:
    case_id = accepted(bench)
    operate(bench, case_id, "submit-report", example("review.json")["draft"], "reviewer")
    review = next(t for t in resources(bench, case_id, "Task") if workflow.is_review(t))
    why = {"resourceType": "Parameters", "parameter": [{"name": "reason", "valueString": "reviewer-unavailable"}]}
    path = f"/fhir/Task/{review['id']}/$cancel"
    assert bench.call("POST", path, why, who="reviewer").status_code == 403
    assert bench.call("POST", path, why).status_code == 200
    tasks = resources(bench, case_id, "Task")
    assert [t["status"] for t in tasks if workflow.is_coordination(t)] == ["failed", "requested"]
    assert [t["status"] for t in tasks if workflow.is_review(t)] == ["failed"]
    assert bench.call("GET", f"/api/second-opinions/{case_id}", who="reviewer").status_code == 404
    assert bench.call("GET", "/fhir/DiagnosticReport", who="reviewer").get_json().get("entry", []) == []


def test_a_reviewer_who_gets_the_report_too_keeps_it_after_the_record_is_closed(world: World) -> None:
    world.ehr("lakeside")
    request = example("request.json")
    reviewer = {**example("review.json")["reviewer"], "organization": "lakeside"}
    world.monkeypatch.setattr("tests.service.world.example", lambda name: {
        "request.json": {**request, "providers": {**request["providers"], "reader": reviewer},
                         "inform": [*request.get("inform", []), "reader"]},
        "review.json": example("review.json"),
    }[name])  # fmt: skip
    case_id = world.signed(sources=["lakeside"])

    def kinds() -> set[str]:
        return {r["resourceType"] for r in world.package(case_id, who="reviewer")}

    assert {"Condition", "DiagnosticReport", "List", "AllergyIntolerance"} <= kinds()
    world.clock.forward(89 * DAY_S)
    assert "AllergyIntolerance" in kinds()
    world.clock.forward(2 * DAY_S)
    assert "AllergyIntolerance" not in kinds()
    assert "DiagnosticReport" in kinds()


@pytest.mark.parametrize("scopes", ['"system/*.rus"', '"system/*.rus", "system/ServiceRequest.c"',
                                    '"system/*.rus", "system/*.c?status=active"'])  # fmt: skip
def test_every_door_of_intake_asks_for_the_scope_of_each_type(world: World, scopes: str) -> None:
    clinic = 'roles = ["requester"]\nscopes = '
    said = TOKENS.replace(f'{clinic}["system/*.crus"]', f"{clinic}[{scopes}]")
    (world.folder / "tokens.toml").write_text(said)
    world.start()
    bundle = intake_json.to_bundle(example("request.json"))
    parameters = {"resourceType": "Parameters", "parameter": [
        {"name": "part", "resource": entry["resource"]} for entry in bundle["entry"]]}  # fmt: skip
    ours = "/fhir/$request-second-opinion"
    doors = [("/api/second-opinions", example("request.json")), ("/fhir", bundle), (ours, bundle), (ours, parameters)]
    for path, sent in doors:
        refused = world.call("POST", path, sent, "clinic")
        assert refused.status_code == 403, path
        assert "Patient.c" in refused.get_data(as_text=True) or path == "/fhir"  # which asks at the first entry
    assert world.call("POST", "/api/second-opinions", example("request.json")).status_code == 201
