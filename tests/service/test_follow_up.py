"""Questions about the signed report: an addendum answers them, a correction and a retraction don't wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_secondop.opinion import progress
from fhir_secondop.service import worklist
from tests.service.test_review import example
from tests.service.world import World, opened

ASKED = {"text": "Does zq-the-dose change?"}


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.ehr("lakeside")
        yield made


def listed(world: World) -> worklist.Listed:
    (one,) = worklist.listed(world.context, world.caller("desk"), 20)
    return one


def waiting_for(world: World) -> tuple[str, ...]:
    one = listed(world)
    return progress.waiting_for(one.case, one.stage)


def test_an_addendum_answers_each_follow_up_and_is_delivered(world: World) -> None:
    case_id = world.gathered(sources=["lakeside"])
    world.accept(case_id)
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    world.post(case_id, "ask-follow-up", ASKED, status=409)  # nothing is signed
    world.post(case_id, "sign", who="reviewer")
    world.work()
    world.post(case_id, "ask-follow-up", ASKED, "stranger", 404)
    world.post(case_id, "ask-follow-up", ASKED, "reviewer", 403)
    world.post(case_id, "ask-follow-up", {"text": " "}, "pcp", 422)
    world.post(case_id, "ask-follow-up", ASKED, "pcp")
    world.post(case_id, "ask-follow-up", {"text": "And when?"}, "surgeon")

    first = len(example("request.json")["questions"])
    said = world.get(case_id)
    assert said["questions"][first:] == [ASKED["text"], "And when?"]
    assert [(f["number"], f["text"], f["answeredIn"]) for f in said["followUps"]] == [
        (1, ASKED["text"], None), (2, "And when?", None)]  # fmt: skip
    assert [n.kind for n in progress.needs(listed(world).case)].count("follow-up") == 1
    assert any("Standin: addendum, 2 follow-up" in line for line in waiting_for(world))

    answers = example("review.json")["draft"]["answers"]
    changes = {"answers": [*answers, {"question": first, "text": "zq-no."}]}
    world.post(case_id, "amend-report", {"kind": "appended", "reason": "Asked.", "changes": changes}, "reviewer")
    refused = world.post(case_id, "sign", who="reviewer", status=422)
    assert f"answers[question={first + 1}]" in str(refused)
    changes["answers"].append({"question": first + 1, "cannotAnswer": "zq-it depends."})
    world.post(case_id, "amend-report", {"kind": "appended", "reason": "Asked.", "changes": changes}, "reviewer")
    world.post(case_id, "sign", who="reviewer")
    text = world.pdf(case_id)
    assert all(word in text for word in ("zq-the-dose", "zq-no.", "zq-it depends."))
    assert [f["answeredIn"] for f in world.get(case_id)["followUps"]] == [2, 2]
    assert world.deliveries(case_id, version=2)
    case = listed(world).case
    assert "follow-up" not in [n.kind for n in progress.needs(case)]
    assert not any("addendum" in line for line in waiting_for(world))


@pytest.mark.parametrize("kind", ["corrected", "entered-in-error"])
def test_neither_correction_nor_retraction_waits_for_an_answer(world: World, kind: str) -> None:
    case_id = world.signed(sources=["lakeside"])
    world.post(case_id, "ask-follow-up", ASKED, "pcp")
    world.amend(case_id, kind)
    assert world.get(case_id)["report"]["status"] == kind
    (asked,) = world.get(case_id)["followUps"]
    assert asked["answeredIn"] is None
    waits = any("addendum" in line for line in waiting_for(world))
    assert waits == (kind == "corrected")
    if kind == "entered-in-error":
        world.post(case_id, "ask-follow-up", ASKED, "pcp", 409)
