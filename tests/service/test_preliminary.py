"""A draft that is shown before it is signed: who reads it, what becomes of it, and that nothing of it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir.validate import validate
from tests.service.conftest import TOKENS
from tests.service.test_review import example
from tests.service.test_urgent import PATIENT, let_in
from tests.service.world import SURGEON, World, opened, readable

Plain = dict[str, Any]
CONCLUSION = "zq-conservation is possible"


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        (made.folder / "tokens.toml").write_text(TOKENS + SURGEON + PATIENT)
        made.ehr("lakeside")
        made.start()
        yield made


def drafted(world: World, conclusion: str = CONCLUSION, case_id: str = "") -> str:
    if not case_id:
        case_id = world.gathered(sources=["lakeside"])
        world.accept(case_id)
    gaps = world.get(case_id, "completeness")["gaps"]
    draft = {**example("review.json")["draft"], "gapsConfirmed": gaps, "conclusion": conclusion}
    world.post(case_id, "submit-report", draft, "reviewer")
    return case_id


def reports(world: World, case_id: str, who: str = "pcp") -> list[Plain]:
    return [r for r in world.package(case_id, "DiagnosticReport", who=who) if "47040-1" in str(r["code"])]


def test_it_is_read_by_the_clinicians_and_by_no_patient_and_goes_nowhere(world: World) -> None:
    case_id = drafted(world)
    world.post(case_id, "show-preliminary", who="desk", status=403)
    assert reports(world, case_id) == []
    world.post(case_id, "show-preliminary", who="reviewer")
    for who in ("pcp", "surgeon", "desk", "reviewer"):
        (found,) = [r for r in reports(world, case_id, who) if r["status"] == "preliminary"]
        assert (validate(found), found["conclusion"]) == ([], CONCLUSION)
        assert world.call("GET", f"/fhir/DiagnosticReport/{found['id']}", who=who).status_code == 200
        assert world.get(case_id, who=who)["preliminary"]["conclusion"] == CONCLUSION
    searched = world.call("GET", "/fhir/DiagnosticReport?status=preliminary&_total=accurate", who="pcp").get_json()
    assert searched["total"] == 1
    let_in(world, case_id)
    assert CONCLUSION not in readable(world, case_id, "maren") + readable(world, case_id, "stranger")
    said = world.get(case_id)
    assert (said["report"], said["businessStatus"]) == (None, "preliminary-outcome")
    world.work(60)
    assert world.deliveries(case_id) == []
    assert world.ehrs["lakeside"].written == []
    world.post(case_id, "acknowledge", {"version": 1}, "pcp", 404)
    world.post(case_id, "decide", {"version": 1, "decision": "adopt"}, "surgeon", 409)
    changed = world.call("PUT", f"/fhir/DiagnosticReport/{found['id']}", {**found, "status": "final"}, "reviewer")
    assert changed.status_code in (403, 422)


def test_the_final_report_is_its_next_version_and_says_what_changed(world: World) -> None:
    case_id = drafted(world)
    world.post(case_id, "show-preliminary", who="reviewer")
    drafted(world, "zq-mastectomy after all", case_id)
    assert world.get(case_id, who="pcp")["preliminary"]["conclusion"] == CONCLUSION  # as it was shown
    world.post(case_id, "sign", who="reviewer")
    (final,) = reports(world, case_id)
    assert (final["status"], final["meta"]["versionId"]) == ("final", "2")
    first = world.call("GET", f"/fhir/DiagnosticReport/{final['id']}/_history/1", who="pcp").get_json()
    assert (first["status"], first["conclusion"]) == ("preliminary", CONCLUSION)
    assert world.get(case_id)["report"] == {"status": "final", "version": 1}
    assert world.get(case_id, who="pcp")["preliminary"] is None
    text = world.pdf(case_id)
    assert "this report takes its place. Its conclusion was changed" in text
    assert "overall concordance was the same" in text
    world.post(case_id, "show-preliminary", who="reviewer", status=409)
    world.work(60)
    assert {d["status"] for d in world.deliveries(case_id)} == {"completed"}
    world.amend(case_id)
    assert "A preliminary opinion" not in world.pdf(case_id)  # said once, in the version that took its place


def test_less_than_a_conclusion_and_a_judgement_is_not_shown(world: World) -> None:
    case_id = world.gathered(sources=["lakeside"])
    world.accept(case_id)
    world.post(case_id, "show-preliminary", who="reviewer", status=409)
    world.post(case_id, "submit-report", {"items": [], "answers": []}, "reviewer")
    refused = world.post(case_id, "show-preliminary", who="reviewer", status=422)
    assert all(word in str(refused) for word in ("conclusion", "items"))
    assert reports(world, case_id) == []


def test_it_goes_with_its_reviewer_and_the_next_one_signs_where_everybody_reads(world: World) -> None:
    case_id = drafted(world)
    world.post(case_id, "show-preliminary", who="reviewer")
    world.post(case_id, "withdraw", {"reason": "reviewer-unavailable"}, "reviewer")
    assert reports(world, case_id) == []
    assert world.get(case_id, who="pcp")["preliminary"] is None
    world.accept(case_id)
    drafted(world, "zq-by the next", case_id)
    assert reports(world, case_id) == []
    world.post(case_id, "sign", who="reviewer")
    (final,) = reports(world, case_id)
    assert (final["status"], final["conclusion"]) == ("final", "zq-by the next")
    assert "A preliminary opinion" not in world.pdf(case_id)
    world.work(60)
    assert {d["status"] for d in world.deliveries(case_id)} == {"completed"}


def test_what_the_final_report_leaves_out_does_not_stand_on(world: World) -> None:
    case_id = drafted(world)
    world.post(case_id, "show-preliminary", who="reviewer")
    gaps = world.get(case_id, "completeness")["gaps"]
    whole = example("review.json")["draft"]
    draft = {**whole, "gapsConfirmed": gaps, "items": whole["items"][:1], "recommendations": []}
    world.post(case_id, "submit-report", draft, "reviewer")
    world.post(case_id, "sign", who="reviewer")
    statuses = {o["status"] for o in world.package(case_id, "Observation", who="pcp")}
    assert statuses == {"final", "entered-in-error"}
