"""The draft in the editor: saved as one types, overwritten by nobody, previewed as signed, amended as a whole."""

from __future__ import annotations

import re
from typing import Any

from tests.web.pages.conftest import ANSWERS, Clinic, Form, gaps_of, words_of, written

Plain = dict[str, Any]

# ---- the draft


def test_nobody_overwrites_a_draft_that_they_have_not_read(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    clinic.world.accept(case_id)
    review = f"/cases/{case_id}/review"
    one = clinic.forms(review, "reviewer")[review]
    other = clinic.forms(review, "reviewer")[review]
    assert one["version"] == other["version"] == "0"
    assert (
        clinic.post(review, {**one, "conclusion": "First window.", "history": "Same."}, "reviewer").status_code == 303
    )
    by_script = clinic.post(review, {**other, "conclusion": "Second window."}, "reviewer", Accept="application/json")
    assert (by_script.status_code, by_script.get_json()["version"]) == (409, 1)
    clash = clinic.post(review, {**other, "conclusion": "Second window."}, "reviewer")
    assert clash.status_code == 409
    said = words_of(clash)
    assert "Conclusion Second window. First window." in said
    assert "History (nothing) Same." in said
    assert clinic.forms(review, "reviewer")[review]["conclusion"] == "First window."
    # What the page offers instead: store mine after all, now that both were seen.
    (mine,) = [fields for action, fields in Form(clash.get_data(as_text=True)).forms if action == review]
    assert (mine["version"], mine["conclusion"]) == ("1", "Second window.")
    assert clinic.post(review, mine, "reviewer").status_code == 303
    assert clinic.forms(review, "reviewer")[review]["conclusion"] == "Second window."
    for version in ("", "x", "-1", "1e3"):
        assert clinic.post(review, {**mine, "version": version}, "reviewer").status_code == 422


def test_a_script_saves_again_and_again_with_the_version_that_it_was_told(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    clinic.world.accept(case_id)
    review = f"/cases/{case_id}/review"
    for version, text in enumerate(("D", "De-", "De-escalate.")):
        answer = clinic.post(
            review, {"version": str(version), "conclusion": text}, "reviewer", Accept="application/json"
        )
        assert answer.status_code == 200
        assert answer.get_json()["version"] == version + 1
    assert clinic.forms(review, "reviewer")[review]["conclusion"] == "De-escalate."
    bad = clinic.post(review, {"version": "3", "item.0.diagnosis.concordance": "maybe"}, "reviewer",
                      Accept="application/json")  # fmt: skip
    assert bad.status_code == 422
    assert "Use one of" in bad.get_json()["message"]


def test_a_draft_without_a_conclusion_is_kept_and_never_signed(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    clinic.world.accept(case_id)
    review = f"/cases/{case_id}/review"
    fields = {**ANSWERS, "conclusion": "", "gap": gaps_of(clinic, case_id)}
    assert clinic.post(review, {**fields, "version": "0"}, "reviewer").status_code == 303
    back = clinic.forms(review, "reviewer")[review]
    assert back["answer.0.text"] == "Yes."
    assert not back["conclusion"]
    assert "Write the conclusion." in clinic.text(f"/cases/{case_id}/preview", "reviewer")
    refused = clinic.post(f"/cases/{case_id}/sign", {"version": "1", "read": "yes"}, "reviewer")
    assert refused.status_code == 422
    assert "Write the conclusion." in words_of(refused)
    assert clinic.world.get(case_id)["report"] is None


def test_the_preview_is_what_the_signature_makes_but_for_the_time(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    clinic.world.accept(case_id)
    clinic.world.draft(case_id, gaps_of(clinic, case_id))
    page = clinic.get(f"/cases/{case_id}/preview", "reviewer")
    assert clinic.get(f"/cases/{case_id}/preview.pdf", "reviewer").get_data()[:5] == b"%PDF-"
    assert clinic.post(f"/cases/{case_id}/sign", {"version": "1", "read": "yes"}, "reviewer").status_code == 303
    signed = clinic.get(f"/cases/{case_id}/report.txt", "pcp").get_data(as_text=True)
    assert "CONCLUSION" in signed

    def without_time(text: str) -> str:
        return " ".join(re.sub(r"Issued: +\S+ \S+ UTC", "", text).split())

    assert without_time(signed) in without_time(words_of(page))


def test_only_what_was_read_is_signed_and_only_after_a_fresh_sign_in(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    world.accept(case_id)
    world.draft(case_id, gaps_of(clinic, case_id))
    sign = f"/cases/{case_id}/sign"
    clinic.visitors.stale.add("reviewer")
    assert "prove who you are" in clinic.text(f"/cases/{case_id}/preview", "reviewer")
    late = clinic.post(sign, {"version": "1", "read": "yes"}, "reviewer")
    assert late.headers["Location"] == f"/sign-in/again?next=/cases/{case_id}/preview"
    clinic.visitors.stale.clear()
    assert clinic.post(sign, {"version": "1"}, "reviewer").status_code == 422
    written(clinic, case_id, conclusion="On second thoughts: no.")
    changed = clinic.post(sign, {"version": "1", "read": "yes"}, "reviewer")
    assert changed.status_code == 409
    assert world.get(case_id)["report"] is None
    assert clinic.post(sign, {"version": "2", "read": "yes"}, "reviewer").status_code == 303
    assert world.get(case_id)["report"]["version"] == 1


def test_an_amendment_is_the_whole_report_again_and_what_was_taken_out_is_out(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.signed()
    world.work(60)
    review = f"/cases/{case_id}/review"
    fields = clinic.forms(review, "reviewer")[review]
    assert fields["history"].startswith("55-year-old")
    gaps = gaps_of(clinic, case_id)
    silent = clinic.post(review, {**fields, "gap": gaps}, "reviewer")
    assert silent.status_code == 422  # an amendment says why
    changed = {**fields, "gap": gaps, "kind": "corrected", "reason": "The history was another's.", "history": ""}
    assert clinic.post(review, changed, "reviewer").status_code == 303
    back = clinic.forms(review, "reviewer")[review]
    assert (back["kind"], back["reason"], back["history"]) == ("corrected", "The history was another's.", "")
    assert back["conclusion"] == fields["conclusion"]
    assert (
        clinic.post(f"/cases/{case_id}/sign", {"version": back["version"], "read": "yes"}, "reviewer").status_code
        == 303
    )
    text = clinic.get(f"/cases/{case_id}/report.txt", "pcp").get_data(as_text=True)
    assert "CORRECTED: REPLACES VERSION 1" in text
    assert "55-year-old" not in text
