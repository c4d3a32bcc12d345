"""The parts of the pages by themselves: forms, words, drafts, the timeline's evidence."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.datastructures import MultiDict

from fhir_secondop.errors import Conflict, Forbidden
from fhir_secondop.fhir import refs
from fhir_secondop.opinion import checklist, codes, progress
from fhir_secondop.service import drafts, history, intake
from fhir_secondop.web.pages import draft_form, forms, words
from tests.service.test_review import example
from tests.web.pages.conftest import Clinic

Plain = dict[str, Any]

# ---- the parts by themselves


@pytest.mark.parametrize("case", ["breast", "empty", "cannot"])
def test_a_draft_goes_through_the_form_and_comes_back_the_same(case: str, bare: Clinic) -> None:
    case_id = bare.world.open()
    found = intake.find_case(bare.world.context, bare.world.caller("desk"), case_id)
    draft: Plain = {"items": [], "answers": []}
    if case == "breast":
        draft = {**example("review.json")["draft"], "gapsConfirmed": ["images", "lakeside/Observation"]}
    elif case == "cannot":
        draft["answers"] = [{"question": 3, "cannotAnswer": "a\nb"}]
    form: MultiDict[str, str] = MultiDict(draft_form.fields(draft))
    for code in draft.get("gapsConfirmed", []):
        form.add("gap", code)
    assert draft_form.draft_of(form, found) == draft
    assert draft_form.differences(draft, draft, found) == []


def test_a_basis_without_a_judgement_is_kept(bare: Clinic) -> None:
    case_id = bare.world.open()
    found = intake.find_case(bare.world.context, bare.world.caller("desk"), case_id)
    draft = draft_form.draft_of(MultiDict({"item.0.diagnosis.basis": "Pathology"}), found)
    assert draft["items"] == [{"item": 0, "axis": "diagnosis", "concordance": "not-assessed", "basis": "Pathology"}]


def test_a_form_becomes_what_the_schema_of_its_operation_wants() -> None:
    schema = {"properties": {"n": {"type": "integer"}, "full": {"type": "boolean"},
                             "lines": {"type": "array"}, "a": {"properties": {"b": {"type": "integer"}}}}}  # fmt: skip
    form = MultiDict([("csrf", "x"), ("n", "12"), ("full", "on"),
                      ("lines", "a\r\n\r\n b "), ("a.b", "3"), ("empty", " "),
                      ("other", "7"), ("+a.c", "constant"), ("+absent.c", "constant")])  # fmt: skip
    assert forms.plain_of(form, schema) == {
        "n": 12, "full": True, "lines": ["a", "b"], "a": {"b": 3, "c": "constant"}, "other": "7"
    }  # fmt: skip
    assert forms.plain_of(MultiDict({"n": "²"}), schema) == {"n": "²"}


def test_every_code_that_a_page_may_show_has_a_word_and_a_sign() -> None:
    assert set(words.STAGE_MARKS) == set(progress.STAGES)
    assert set(words.ITEM_STATES) == set(words.ITEM_MARKS) == set(checklist.STATES)
    assert set(words.CONCORDANCE) == {*codes.DIAGNOSIS_CODES, *codes.TREATMENT_CODES}
    assert set(words.DECISIONS) == {"none", *codes.DECISIONS}
    assert set(words.REASONS) == set(codes.STATUS_REASONS) - {"not-selected"}
    assert set(words.MARKS) == set(words.STATES)


def test_every_event_of_a_case_cites_a_version_that_exists(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.signed()
    world.work(60)
    events = history.events(world.context, world.caller("desk"), case_id)
    assert [e.at for e in events] == sorted(e.at for e in events)
    assert len(events) > 12
    for event in events:
        ref = refs.parse(event.evidence)
        assert ref is not None
        assert world.call("GET", f"/fhir/{event.evidence}").status_code == 200, event


def test_drafts_are_read_by_their_reviewer_alone(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    with pytest.raises(Conflict):
        drafts.read(world.context, world.caller("desk"), case_id)
    world.accept(case_id)
    world.draft(case_id, [])
    for who in ("desk", "pcp"):
        with pytest.raises(Forbidden):
            drafts.read(world.context, world.caller(who), case_id)
        with pytest.raises(Forbidden):
            drafts.preview(world.context, world.caller(who), case_id)
    assert drafts.read(world.context, world.caller("reviewer"), case_id).version == 1
