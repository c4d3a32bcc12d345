"""Finding and asking a reviewer by the pages alone."""

from __future__ import annotations

import json

from fhir_secondop.fhir import times
from tests.service.world import EXAMPLES
from tests.web.pages.conftest import Clinic


def test_the_coordinator_finds_and_asks_and_is_told_when_nobody_answers(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    page, do = f"/cases/{case_id}/reviewers", f"/cases/{case_id}/do"
    assert "The directory is empty" in clinic.text(page)
    bundle = json.loads((EXAMPLES / "directory.json").read_text("utf-8"))
    assert world.call("POST", "/fhir/$load-directory", bundle).status_code == 200
    shown = clinic.text(page)
    assert "Dr. Clara Standin" in shown
    assert "is the same person (Dr. Harlan Mockridge)" in shown  # barred, and not dropped
    assert "no licence" not in shown  # nobody knows where the patient is
    listed = {c["name"]: c["candidate"] for c in world.get(case_id, "match-reviewer")["candidates"]}
    answer = clinic.send(page, f"{do}/ask-reviewer", "desk", candidates=listed["Dr. Clara Standin"],
                         answerBy=times.instant(world.context.now() + 86_400_000)[:10])  # fmt: skip
    assert answer.headers["Location"] == f"/cases/{case_id}?done=ask-reviewer"
    assert "Choose another reviewer" not in clinic.text("/")
    world.clock.forward(2 * 86_400)
    world.work()
    assert "Choose another reviewer" in clinic.text("/")
    assert "no answer by" in clinic.text(f"/cases/{case_id}")
    assert f'href="{page}"' in clinic.get("/").get_data(as_text=True)


def test_the_coordinator_takes_the_case_back(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    case, do = f"/cases/{case_id}", f"/cases/{case_id}/do"
    assert f"{do}/reassign" not in clinic.forms(case)
    world.accept(case_id)
    assert f"{do}/reassign" not in clinic.forms(case, "reviewer")
    taken = clinic.send(case, f"{do}/reassign", "desk", reason="reviewer-unavailable", text="ill")
    assert taken.headers["Location"] == f"{case}?done=reassign"
    assert clinic.get(case, "reviewer").status_code == 404
    assert "Choose another reviewer" in clinic.text("/")


def test_only_the_coordinator_sees_who_could_review(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    for who, status in (("desk", 200), ("pcp", 403), ("stranger", 404)):
        assert clinic.get(f"/cases/{case_id}/reviewers", who).status_code == status, who
