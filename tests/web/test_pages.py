"""The pages by Flask's client: each page for each role, what it offers, what is refused, and hostile content."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.datastructures import MultiDict

from fhir_secondop.errors import Conflict, Forbidden
from fhir_secondop.fhir import refs
from fhir_secondop.model import Operation, Result
from fhir_secondop.opinion import checklist, codes, lines, progress
from fhir_secondop.service import drafts, history, intake, queues, worklist
from fhir_secondop.web.pages import draft_form, forms, words
from tests.service.test_gathering import OTHER_CONTACT, person, result, without_identifier_there
from tests.service.test_review import example
from tests.service.world import DAY_MS, record_of
from tests.web.conftest import PATIENT, Clinic, Form, words_of
from tests.web.visitors import app_with_pages

Plain = dict[str, Any]
GETS = ("", "/records", "/review", "/preview", "/preview.pdf", "/report.pdf", "/report.txt")
ANSWERS = {"conclusion": "The plan stands.", "item.1.treatment.concordance": "agreed",
           "answer.0.text": "Yes.", "answer.1.text": "Yes.", "answer.2.text": "No.", "answer.3.text": "No images.",
           "answer.3.cannot": "yes"}  # fmt: skip


WHY = {"kind": "amended", "reason": "A dose was wrong."}


def written(clinic: Clinic, case_id: str, **fields: str) -> Any:
    """The reviewer fills in the editor and saves."""
    return clinic.send(f"/cases/{case_id}/review", f"/cases/{case_id}/review", "reviewer", **fields)


def gaps_of(clinic: Clinic, case_id: str) -> list[str]:
    found: list[str] = clinic.world.get(case_id, "completeness")["gaps"]
    return found


# ---- nobody without sign-in, nothing without the session's own form


def rules(clinic: Clinic, method: str) -> list[str]:
    """Every address of the pages, its parts filled with something."""
    filled = {"case_id": "c", "task_id": "t", "code": "accept", "kind": "Binary", "resource_id": "r", "place": 0,
              "name": "lakeside"}  # fmt: skip
    adapter = clinic.app.url_map.bind("localhost")
    return [
        adapter.build(rule.endpoint, {name: filled[name] for name in rule.arguments}, method=method)
        for rule in clinic.app.url_map.iter_rules()
        if rule.endpoint.startswith("pages.") and method in (rule.methods or set())
    ]


def test_every_page_leads_somebody_unknown_to_sign_in_and_back(bare: Clinic) -> None:
    found = rules(bare, "GET")
    assert len(found) >= 15
    for path in found:
        answer = bare.get(path, who="")
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/sign-in?next={path}"), path
    for path in rules(bare, "POST"):
        answer = bare.post(path, who="")
        assert answer.status_code == 303, path
        assert answer.headers["Location"].startswith("/sign-in?next=/"), path
    lost = bare.get("/?stage=review", who="")
    assert lost.headers["Location"] == "/sign-in?next=/%3Fstage%3Dreview"
    assert bare.post("/cases/c/review", who="").headers["Location"] == "/sign-in?next=/cases/c/review"
    by_script = bare.post("/cases/c/review", who="", Accept="application/json")
    assert by_script.status_code == 401
    assert "Sign in" in by_script.get_json()["message"]


def test_no_form_is_taken_that_another_session_or_site_made(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    clinic.world.accept(case_id)
    before = clinic.world.package(case_id)
    posted = rules(clinic, "POST")
    assert len(posted) >= 5
    for path in posted:
        for token in ("", "token-of-pcp"):
            answer = clinic.post(path.replace("/c/", f"/{case_id}/"), {"csrf": token, **ANSWERS}, "reviewer")
            assert answer.status_code == 403, path
    assert clinic.world.package(case_id) == before


# ---- each page for each role

SEEN = {
    # who: case, record, editor and previews, report, what the work list shows
    "desk": (200, 200, 403, 200, 1), "clinic": (404, 404, 404, 404, 0), "reviewer": (200, 200, 200, 200, 1),
    "pcp": (200, 200, 403, 200, 1), "surgeon": (200, 200, 403, 200, 1), "stranger": (404, 404, 404, 404, 0),
}  # fmt: skip


def test_each_page_shows_each_role_what_the_operations_allow(clinic: Clinic) -> None:
    case_id = clinic.world.signed()
    clinic.world.work(60)
    for who, (case, record, editor, report, count) in SEEN.items():
        expected = (case, record, editor, editor, editor, report, report)
        if who == "reviewer":  # after the signature there is no draft until one amends
            expected = (200, 200, 200, 404, 404, 200, 200)
        found = tuple(clinic.get(f"/cases/{case_id}{path}", who).status_code for path in GETS)
        assert found == expected, who
        work = clinic.get("/", who)
        assert work.get_data(as_text=True).count(f'<th scope="row"><a href="/cases/{case_id}"') == count, who
    assert clinic.get(f"/cases/{case_id}", "operator").status_code == 404
    assert clinic.get("/", "operator").headers["Location"] == "/connections"
    assert clinic.get("/", "maren").headers["Location"] == "/my"


OFFERED = {
    "desk": {"gather"}, "reviewer": {"withdraw", "gather"},
    "pcp": {"acknowledge", "decide"}, "surgeon": {"acknowledge", "decide", "plan-of-record"},
}  # fmt: skip


def test_a_case_offers_each_role_what_it_may_do_and_nothing_else(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    case = f"/cases/{case_id}"

    def offered(who: str) -> set[str]:
        found = {action.removeprefix(f"{case}/do/") for action in clinic.forms(case, who)}
        return {code for code in found if not code.startswith("/sign-out")}

    assert offered("desk") == {"ask-reviewer", "gather", f"{case}/tasks/{coordination(clinic, case_id)}/cancel"}
    assert offered("pcp") == {f"{case}/tasks/{coordination(clinic, case_id)}/cancel"}
    assert offered("surgeon") == set()
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    assert offered("reviewer") == {"accept", "decline", "gather"}
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    assert {"withdraw"} < offered("reviewer")
    world.draft(case_id, gaps_of(clinic, case_id))
    world.post(case_id, "sign", who="reviewer")
    world.work(60)
    assert {who: offered(who) for who in OFFERED} == {
        "desk": set(), "reviewer": set(), "pcp": {"acknowledge", "decide"},
        "surgeon": {"acknowledge", "decide", "plan-of-record"},
    }  # fmt: skip


def coordination(clinic: Clinic, case_id: str) -> str:
    found: str = intake.find_case(clinic.world.context, clinic.world.caller("desk"), case_id).coordination["id"]
    return found


def test_what_is_posted_although_it_was_not_offered_is_refused_and_changes_nothing(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.signed()
    world.work(60)
    task = world.deliveries(case_id)[0]["task"]
    before = world.package(case_id)
    refused = [
        ("pcp", "do/replay", {"task": task, "changed": "x"}, 403),
        ("pcp", "do/plan-of-record", {"version": "1", "decision": "adopt", "text": "x"}, 403),
        ("pcp", "do/ask-reviewer", {"reviewer.family": "X", "reviewer.organization.name": "Y"}, 403),
        ("pcp", "do/withdraw", {"reason": "no-capacity"}, 404),
        ("pcp", "review", {"version": "0", **WHY, **ANSWERS}, 403),
        ("pcp", "sign", {"version": "0", "read": "yes"}, 403),
        ("pcp", f"tasks/{task}/cancel", {"reason": "duplicate"}, 409),
        ("desk", "do/acknowledge", {"version": "1"}, 403),
        ("desk", "do/decide", {"version": "1", "decision": "adopt"}, 403),
        ("desk", "review", {"version": "0", **WHY, **ANSWERS}, 403),
        ("desk", "sign", {"version": "0", "read": "yes"}, 403),
        ("surgeon", "do/decide", {"version": "2", "decision": "adopt"}, 404),
        ("surgeon", "do/decide", {"version": "1", "decision": "perhaps"}, 422),
        ("surgeon", "do/decide", {"version": "1", "decision": "adopt", "as": "pcp"}, 422),
        ("surgeon", "do/alignment", {}, 404),
        ("surgeon", "do/nothing", {}, 404),
        ("reviewer", "do/sign", {}, 404),
        ("reviewer", "do/submit-report", {"conclusion": "x"}, 404),
        ("stranger", "do/acknowledge", {"version": "1"}, 404), ("stranger", "do/accept", {}, 404),
        ("stranger", "review", {"version": "0", **ANSWERS}, 404),
        ("stranger", "sign", {"version": "1", "read": "yes"}, 404),
        ("stranger", f"tasks/{task}/cancel", {"reason": "duplicate"}, 404),
    ]  # fmt: skip
    for who, path, form, status in refused:
        answer = clinic.post(f"/cases/{case_id}/{path}", form, who)
        assert answer.status_code == status, (who, path, words_of(answer))
        assert "This did not work" in words_of(answer)
    assert world.package(case_id) == before
    # A Task of another case can't be reached by way of a case that one may see.
    other = world.gathered(placer={"system": "https://riverside.example/orders", "value": "other"})
    crossed = clinic.post(f"/cases/{case_id}/tasks/{coordination(clinic, other)}/cancel", {"reason": "duplicate"})
    assert crossed.status_code == 404


# ---- what every page is made of


def every_page(clinic: Clinic, case_id: str) -> list[tuple[str, str]]:
    """Who and path of every page there is, as it is reached."""
    task = clinic.world.deliveries(case_id)[0]["task"]
    case = f"/cases/{case_id}"
    return [
        *((who, path) for who in ("desk", "reviewer", "pcp") for path in ("/", case, f"{case}/records")),
        ("reviewer", f"{case}/review"), ("reviewer", f"{case}/preview"), ("desk", f"{case}/deliveries/{task}"),
        ("maren", f"/my/{case_id}"), ("maren", f"/my/{case_id}x"), ("operator", "/connections"),
        ("pcp", "/connections"),
    ]  # fmt: skip


def amended(clinic: Clinic) -> str:
    """A signed and delivered case whose amendment is being drafted, and that the patient may see."""
    case_id = clinic.world.signed()
    clinic.world.work(60)
    changes = {"kind": "amended", "reason": "A dose was wrong.", "changes": {"conclusion": "New."}}
    clinic.world.post(case_id, "amend-report", changes, "reviewer")
    clinic.admit(case_id, PATIENT)
    return case_id


def test_no_page_runs_or_loads_anything_but_our_own_files_and_none_is_kept(clinic: Clinic) -> None:
    case_id = amended(clinic)
    for who, path in every_page(clinic, case_id):
        answer = clinic.get(path, who)
        text = answer.get_data(as_text=True)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:;"), path
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store", path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert re.findall(r"<script(?![^>]*\ssrc=)", text) == [], path
        assert re.findall(r"<[^>]*\s(?:style|on\w+)=", text) == [], path
        assert "<style" not in text
        loaded = re.findall(r"<(?:script|link|img|iframe|object|embed)[^>]*(?:src|href|data)=\"([^\"]*)\"", text)
        assert set(loaded) <= {"data:,", "/assets/pages.css", "/assets/pages.js"}, path
        links = re.findall(r"<a [^>]*href=\"([^\"]*)\"", text)
        assert [link for link in links if not link.startswith(("/", "#"))] == [], path
    for moved in (clinic.get("/", "maren"), clinic.get("/", who="")):
        assert (moved.status_code, moved.headers["Cache-Control"]) == (303, "no-store")
        assert moved.headers["Content-Security-Policy"].startswith("default-src 'none'")
    for name, kind in (("pages.css", "text/css"), ("pages.js", "text/javascript")):
        asset = clinic.get(f"/assets/{name}", who="")
        assert (asset.status_code, asset.mimetype) == (200, kind)
        assert "http" not in asset.get_data(as_text=True)


def test_no_page_has_a_patient_in_its_title_or_address(clinic: Clinic) -> None:
    case_id = amended(clinic)
    for who, path in every_page(clinic, case_id):
        text = clinic.get(path, who).get_data(as_text=True)
        title = re.search(r"<title>(.*?)</title>", text, re.S)
        assert title is not None
        assert title[1].strip(), path
        addresses = " ".join(re.findall(r"(?:href|action)=\"([^\"]*)\"", text))
        for name in ("Sampleton", "Maren", "RS-100482", "1971-04-17"):
            assert name not in title[1], path
            assert name not in addresses, path


def test_every_page_has_landmarks_headings_labels_and_scoped_headers(clinic: Clinic) -> None:
    case_id = amended(clinic)
    for who, path in every_page(clinic, case_id):
        text = clinic.get(path, who).get_data(as_text=True)
        assert '<html lang="en">' in text
        assert text.count('<main id="main"') == text.count("<h1>") == 1, path
        assert 'class="skip" href="#main"' in text
        assert re.findall(r"<th(?![^>]*scope=)[ >]", text) == [], path
        fields = re.findall(r"<(?:input|select|textarea)(?![^>]*type=\"(?:hidden|checkbox|radio)\")[^>]*>", text)
        named = set(re.findall(r"<label[^>]* for=\"([^\"]*)\"", text))
        for field in fields:
            found = re.search(r" id=\"([^\"]*)\"", field)
            assert found is not None, (path, field)
            assert found[1] in named, (path, field)
        ids = re.findall(r" id=\"([^\"]*)\"", text)
        assert sorted(set(ids)) == sorted(ids), path


HOSTILE = '<script>alert("x")</script>\'"&<b>'


def test_hostile_names_and_texts_are_shown_as_they_are_written_and_never_run(clinic: Clinic) -> None:
    sent = copy.deepcopy(example("request.json"))
    sent["patient"]["family"] = HOSTILE
    sent["questions"][0] = HOSTILE
    sent["underReview"][0]["text"] = HOSTILE
    sent["reasons"][0]["text"] = HOSTILE
    sent["providers"]["pcp"]["family"] = HOSTILE
    sent["placer"]["value"] = HOSTILE
    record = [*record_of("lakeside"), result(900, note=[{"text": HOSTILE}], valueString=HOSTILE)]
    family = [{"family": HOSTILE, "given": ["Maren", "Elise"]}]
    record = [{**r, "name": family} if r["resourceType"] == "Patient" else r for r in record]
    clinic.world.ehrs["lakeside"].close()
    clinic.world.ehr("lakeside", record=record)
    clinic = Clinic(clinic.world)
    case_id = clinic.world.gathered(**sent)
    clinic.world.accept(case_id)
    hostile = dict.fromkeys(("conclusion", "answer.0.text", "history", "recommendation.0.text"), HOSTILE)
    assert written(clinic, case_id, **{**ANSWERS, **hostile}).status_code == 303
    clinic.post(f"/cases/{case_id}/review", {**ANSWERS, **hostile, "version": "1", "gap": gaps_of(clinic, case_id)},
                "reviewer")  # fmt: skip
    assert clinic.post(f"/cases/{case_id}/sign", {"version": "2", "read": "yes"}, "reviewer").status_code == 303
    clinic.world.work(60)
    clinic.post(f"/cases/{case_id}/do/decide", {"version": "1", "decision": "adopt", "comment": HOSTILE}, "surgeon")
    clinic.world.post(
        case_id, "amend-report", {"kind": "amended", "reason": HOSTILE, "changes": {"history": HOSTILE}}, "reviewer"
    )
    clinic.admit(case_id, PATIENT)
    shown = 0
    pages = [*every_page(clinic, case_id), ("desk", f"/{HOSTILE}"), ("desk", f"/cases/{HOSTILE}"),
             ("desk", f"/?stage={HOSTILE}&done={HOSTILE}")]  # fmt: skip
    for who, path in pages:
        text = clinic.get(path, who).get_data(as_text=True)
        assert "<script>alert" not in text, path
        assert "<b>" not in text, path
        shown += text.count("&lt;script&gt;alert")
    assert shown > 30
    # A text that stands in an attribute ends there.
    assert clinic.forms(f"/cases/{case_id}/review", "reviewer")[f"/cases/{case_id}/review"]["reason"] == HOSTILE
    clash = clinic.post(f"/cases/{case_id}/review", {**ANSWERS, **hostile, "version": "0", "kind": "amended",
                                                     "reason": HOSTILE}, "reviewer")  # fmt: skip
    assert clash.status_code == 409
    assert "<script>alert" not in clash.get_data(as_text=True)


# ---- the whole story by forms


def test_a_case_goes_from_the_request_to_aligned_by_forms_alone(clinic: Clinic) -> None:
    world = clinic.world
    world.ehr("hillcrest", "read-only")
    clinic = Clinic(world)
    case_id = world.gathered()
    case, do = f"/cases/{case_id}", f"/cases/{case_id}/do"
    asked = clinic.send(case, f"{do}/ask-reviewer", "desk", **{
        "reviewer.given": "Clara", "reviewer.family": "Standin", "reviewer.npi": "9000000190",
        "reviewer.organization.name": "Harbourview Mock Cancer Institute",
    })  # fmt: skip
    assert asked.headers["Location"] == f"{case}?done=ask-reviewer"
    assert "Reviewer asked" in clinic.text("/")
    # The independence of somebody whose specialty nobody said is not fully known: it must be attested.
    refused = clinic.send(case, f"{do}/accept", "reviewer", **{"declaration.interests": "none"})
    assert refused.status_code == 422
    assert "attest" in words_of(refused)
    taken = clinic.send(case, f"{do}/accept", "reviewer", **{"declaration.interests": "none",
                                                            "attestation": "I know none of them."})  # fmt: skip
    assert taken.status_code == 303, words_of(taken)
    assert "Under review" in clinic.text("/", "reviewer")

    saved = written(clinic, case_id, **ANSWERS, then="preview")
    assert saved.headers["Location"] == f"{case}/preview"
    assert "The record lacks" in clinic.text(f"{case}/preview", "reviewer")
    assert f"{case}/sign" not in clinic.forms(f"{case}/preview", "reviewer")
    confirmed = {**clinic.forms(f"{case}/review", "reviewer")[f"{case}/review"], "gap": gaps_of(clinic, case_id)}
    assert clinic.post(f"{case}/review", confirmed, "reviewer").status_code == 303
    signed = clinic.send(f"{case}/preview", f"{case}/sign", "reviewer", read="yes")
    assert signed.headers["Location"] == f"{case}?done=sign", words_of(signed)
    assert "signed and on its way" in clinic.text(f"{case}?done=sign", "reviewer")
    world.work(60)
    assert "Waiting for the providers" in clinic.text("/")

    for who in ("pcp", "surgeon"):
        assert clinic.send(case, f"{do}/acknowledge", who).status_code == 303
        assert clinic.send(case, f"{do}/decide", who, decision="adopt").status_code == 303
    plan = clinic.send(case, f"{do}/plan-of-record", "surgeon", decision="adopt", text="As proposed.",
                       items="Biopsy\r\n\r\nAssay")  # fmt: skip
    assert plan.status_code == 303, words_of(plan)
    (care_plan,) = [p for p in world.package(case_id, "CarePlan") if p.get("description") == "As proposed."]
    assert [a["detail"]["description"] for a in care_plan["activity"]] == ["Biopsy", "Assay"]
    world.work(60)
    for who in ("pcp", "surgeon"):
        page = clinic.get(case, who).get_data(as_text=True)
        assert 'name="what" value="plan"' in page
        clinic.post(f"{do}/acknowledge", {"what": "plan", "version": "1"}, who)
    board = world.get(case_id, "alignment")
    by_hand = [d for d in world.get(case_id)["deliveries"] if d["evidence"].get("rung") == "10"]
    assert len(by_hand) == 2
    for one in by_hand:
        sheet = clinic.get(f"{case}/cover-sheet/{one['task']}.pdf")
        assert sheet.mimetype == "application/pdf"
        assert clinic.get(f"{case}/cover-sheet/{one['task']}.pdf", "pcp").status_code == 403
        link = world.post(case_id, "cover-sheet", {"task": one["task"]})["url"]
        path = link[link.index("/ack/") :]
        assert clinic.get(path, who="").headers["Content-Security-Policy"].count("unsafe") == 0
        assert (
            clinic.post(path, {"name": "Dr. Colm Standish-Sample", "role": "Radiation oncologist"}, "").status_code
            == 200
        )
    board = world.get(case_id, "alignment")
    assert board["case"]["aligned"], board["waitingFor"]
    shown = clinic.text(case)
    assert "everybody is aligned" in shown
    assert "not everybody" not in shown
    assert "Aligned (1)" in clinic.text("/")

    told = [what for what in re.findall(r"<p>([^<]*)</p>", clinic.get(case).get_data(as_text=True)) if what]
    for what in ("The request was taken in", "Dr. Clara Standin accepted the review",
                 "Dr. Clara Standin signed report version 1",
                 "Dr. Harlan Mockridge set the plan of record"):  # fmt: skip
        assert what in told
    assert told.index("Dr. Harlan Mockridge set the plan of record") < told.index("The request was taken in")


def test_what_a_reviewer_declines_or_gives_back_is_gone_from_their_pages_at_once(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    case = f"/cases/{case_id}"
    clinic.world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    left = clinic.send(case, f"{case}/do/decline", "reviewer", reason="no-capacity")
    assert left.headers["Location"] == "/?done=decline"
    assert "There is no case that you may see yet" in clinic.text("/?done=decline", "reviewer")
    assert clinic.get(case, "reviewer").status_code == 404
    assert "Needs a reviewer" in clinic.text("/")


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


# ---- needs a person


def test_a_near_twin_waits_on_the_work_list_until_a_person_has_compared(bare: Clinic) -> None:
    world = bare.world
    ehr = world.ehr("lakeside", record=[person(**OTHER_CONTACT), result(1)])
    clinic = Clinic(world)
    case_id = world.gathered(**without_identifier_there())
    (task,) = [g["task"].removeprefix("Task/") for g in world.get(case_id)["gathering"]]
    choose = f"/cases/{case_id}/confirm/{task}"
    assert "Who is the patient there?" in clinic.text("/")
    assert f'href="{choose}"' in clinic.get("/").get_data(as_text=True)
    assert "Needs a person" not in clinic.text("/", "pcp")
    assert clinic.get(choose, "pcp").status_code == 403
    shown = clinic.text(choose)
    assert "+1-202-555-0199" in shown
    assert "Differs in phone" in shown
    before = len(ehr.seen)
    assert clinic.send(choose, f"/cases/{case_id}/do/confirm-patient", "desk", patient="1").status_code == 303
    world.work()
    assert len(ehr.seen) > before
    assert "Who is the patient there?" not in clinic.text("/")
    assert "result 1" in clinic.text(f"/cases/{case_id}/records")


def test_a_held_delivery_stands_on_the_work_list_with_its_reason_and_is_tried_again(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.signed()
    world.ehrs["lakeside"].instead = lambda asked: None
    world.connect("lakeside", world.ehrs["riverside"].base.replace("/fhir", "/nothing-here"))
    clinic = Clinic(world)
    world.work(3600 * 24)
    held = [d for d in world.deliveries(case_id) if d["status"] == "on-hold"]
    assert held
    assert held[0]["why"] in clinic.text("/")
    page = f"/cases/{case_id}/deliveries/{held[0]['task']}"
    assert f'href="{page}"' in clinic.get("/").get_data(as_text=True)
    assert f"/cases/{case_id}/do/replay" not in clinic.forms(page, "pcp")
    world.connect("lakeside", world.ehrs["lakeside"].base)
    clinic = Clinic(world)
    assert (
        clinic.send(page, f"/cases/{case_id}/do/replay", "desk", changed="The address was mended.").status_code == 303
    )
    would = clinic.text(f"{page}?would=1")
    assert "What sending it now would do" in would
    assert "conditional create" in would
    assert clinic.get(f"{page}?would=1", "pcp").status_code == 403
    world.work(60)
    assert world.delivery(case_id, held[0]["to"])["status"] == "completed"
    assert "The address was mended." in clinic.text(f"/cases/{case_id}")


def test_a_gap_is_asked_for_and_shown_with_its_link_to_the_coordinator_alone(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    shown = clinic.text(f"/cases/{case_id}")
    assert "Result of genetic testing" in shown
    assert "/upload/" in shown
    assert "hand the request over" in clinic.text("/")
    assert "/upload/" not in clinic.get(f"/cases/{case_id}", "pcp").get_data(as_text=True)


# ---- clocks, filters, many cases


def test_the_two_clocks_count_whole_days_and_the_second_starts_when_the_record_is_complete(
    bare: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = bare.world
    first = world.open()
    world.work()  # no EHR is connected: the record is in, with gaps
    monkeypatch.setattr("fhir_secondop.opinion.checklist.GAPS", frozenset())
    world.clock.forward(3 * 86_400 + 60)
    second = world.open(placer={"system": "https://riverside.example/orders", "value": "two"})
    world.work()
    monkeypatch.undo()
    world.context = world.service.context
    now = world.service.context.now() + 2 * DAY_MS

    def later() -> int:
        return now

    object.__setattr__(bare.world.context, "now", later)
    found = {one.case.id: one for one in worklist.listed(bare.world.context, bare.world.caller("desk"))}
    assert (found[first].days, found[first].days_complete) == (5, None)
    assert found[second].days == 2
    assert found[second].days_complete is not None
    shown = bare.text("/")
    assert "5 days not complete" in shown


def test_the_list_is_filtered_by_state_and_says_what_to_do_when_it_is_empty(bare: Clinic) -> None:
    assert "A case begins when a request comes in" in bare.text("/")
    case_id = bare.world.open()
    assert "Gathering the record (1)" in bare.text("/")
    for stage in progress.STAGES:
        there = f'<a href="/cases/{case_id}"' in bare.get(f"/?stage={stage}").get_data(as_text=True)
        assert there is (stage == "gathering"), stage
    assert "No case is in this state" in bare.text("/?stage=aligned")


def test_more_cases_take_no_more_statements(bare: Clinic) -> None:
    counted: list[str] = []
    engine = bare.world.context.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *said: counted.append(said[2]))

    def statements() -> int:
        counted.clear()
        assert bare.get("/").status_code == 200
        return len(counted)

    orders = "https://riverside.example/orders"
    for number in range(2):
        bare.world.open(placer={"system": orders, "value": f"n{number}"})
    bare.world.work()
    few = statements()
    for number in range(2, 12):
        bare.world.open(placer={"system": orders, "value": f"n{number}"})
    bare.world.work()
    assert statements() == few <= 8
    assert bare.get("/").get_data(as_text=True).count('<th scope="row"><a href="/cases/') == 12


# ---- record and files


def test_the_record_shows_every_copy_once_with_its_source_and_conflicts_side_by_side(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    case = intake.find_case(clinic.world.context, clinic.world.caller("desk"), case_id, gathered=True)
    entries = lines.of_case(case)
    shown = [line.reference for entry in entries for line in entry.copies]
    assert len(set(shown)) == len(shown) > 60
    assert any(len(entry.copies) > 1 for entry in entries)
    text = clinic.text(f"/cases/{case_id}/records")
    for said in ("Contact urticaria", "Lisinopril 20 mg", "Lisinopril 10 mg", "Riverside Sample Clinic"):
        assert said in text
    assert "not on its list, which has: Amoxicillin" in text
    ours = {"Patient", "Practitioner", "PractitionerRole", "Organization", "Location", "Binary"}
    for resource in case.resources:
        if "source" in resource.get("meta", {}) and resource["resourceType"] not in ours | {"Encounter"}:
            name = f"{resource['resourceType']}/{resource['id']}"
            assert name in shown or "subject" not in resource, name


def test_a_file_is_shown_only_where_nothing_in_it_can_run_and_only_of_this_case(clinic: Clinic) -> None:
    world = clinic.world
    html = {"contentType": "text/html", "data": "PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==", "title": "a letter"}
    letter = {"resourceType": "DocumentReference", "id": "d900", "status": "current", "type": {"text": "Letter"},
              "subject": {"reference": "Patient/1"},
              "content": [{"attachment": html}, {"attachment": {"contentType": "text/plain", "data": "SGk="}},
                          {"attachment": {"url": "https://elsewhere.example/x.pdf"}}]}  # fmt: skip
    world.ehrs["lakeside"].put(letter)
    case_id = world.gathered()
    found = re.findall(rf"/cases/{case_id}/files/DocumentReference/[0-9a-f-]+/\d",
                       clinic.get(f"/cases/{case_id}/records").get_data(as_text=True))  # fmt: skip
    files = {clinic.get(path).mimetype: clinic.get(path) for path in found}
    page = next(f for f in files.values() if f.get_data() == b"<script>alert(1)</script>")
    assert page.mimetype == "application/octet-stream"
    assert page.headers["Content-Disposition"] == "attachment"
    assert "sandbox" in page.headers["Content-Security-Policy"]
    assert files["text/plain"].headers["X-Content-Type-Options"] == "nosniff"
    outside = [clinic.get(path) for path in found if path.endswith("/2")]
    assert [(o.status_code, "was not brought along" in words_of(o)) for o in outside] == [(404, True)]
    other = world.open(placer={"system": "https://riverside.example/orders", "value": "other"})
    for path in found:
        assert clinic.get(path, "stranger").status_code == 404
        assert clinic.get(path.replace(case_id, other)).status_code == 404
    assert clinic.get(f"{found[0][:-1]}99").status_code == 404


def test_a_group_is_taken_apart_on_the_record_page(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    page = clinic.get(f"/cases/{case_id}/records").get_data(as_text=True)
    groups = re.findall(r'name="group" value="([^"]+)"', page)
    assert groups
    done = clinic.post(f"/cases/{case_id}/do/unlink", {"group": groups[0], "reason": "Two of them."})
    assert done.status_code == 303
    assert "Taken apart by hand" in clinic.text(f"/cases/{case_id}/records")


# ---- patient, connections


def test_the_patient_sees_status_questions_recipients_and_report_in_plain_words(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    assert "There is no second opinion of yours here yet" in clinic.text("/my", "maren")
    assert clinic.get(f"/my/{case_id}", "maren").status_code == 404
    clinic.admit(case_id, PATIENT)
    assert clinic.get("/my", "maren").headers["Location"] == f"/my/{case_id}"
    assert clinic.get(f"/cases/{case_id}", "maren").headers["Location"] == f"/my/{case_id}"
    early = clinic.text(f"/my/{case_id}", "maren")
    assert "We are looking for the right specialist" in early
    assert example("request.json")["questions"][1] in early
    assert "Open the report" not in early
    world.accept(case_id)
    world.draft(case_id, gaps_of(clinic, case_id))
    assert "is reading your records" in clinic.text(f"/my/{case_id}", "maren")
    assert "The diagnosis is confirmed" not in clinic.text(f"/my/{case_id}", "maren")
    world.post(case_id, "sign", who="reviewer")
    world.work(60)
    late = clinic.text(f"/my/{case_id}", "maren")
    assert "The diagnosis is confirmed" in late
    assert "Dr. Ines Placeholder requester, PCP ✓ yes" in late or "Dr. Ines Placeholder requester, PCP yes" in late
    assert clinic.get(f"/cases/{case_id}/report.pdf", "maren").get_data()[:5] == b"%PDF-"
    assert "Who saw your record" not in late


def test_who_saw_the_record_is_shown_where_there_is_such_an_operation(bare: Clinic) -> None:
    entry = {"at": "2026-11-28T09:30:00.000Z", "who": "Dr. Ines Placeholder", "what": "read the case"}

    def trail(caller: Any, case_id: str, plain: Plain) -> Result:
        return Result({"entries": [entry]})

    service = bare.world.service
    row = Operation("audit-trail", "ServiceRequest", "Who saw the record.", trail, reads=True)
    object.__setattr__(service, "operations", (*service.operations, row))
    bare.app = app_with_pages(service, bare.visitors)
    case_id = bare.world.open()
    bare.admit(case_id, PATIENT)
    assert "2026-11-28 09:30 UTC Dr. Ines Placeholder read the case" in bare.text(f"/my/{case_id}", "maren")


def test_the_connections_show_queues_and_what_an_ehr_allows_and_nothing_of_a_patient(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.signed()
    for who in ("pcp", "reviewer", "maren", "clinic"):
        assert clinic.get("/connections", who).status_code == 403
        assert clinic.post("/connections/lakeside", {}, who).status_code == 403
    before = clinic.text("/connections", "operator")
    assert "lakeside" in before
    waiting = {q.name: q for q in queues.of_connections(world.context, clinic.visitors.callers["operator"])}
    assert (waiting["riverside"].delivering, waiting["lakeside"].delivering) == (1, 2)
    assert waiting["lakeside"].oldest
    world.work(60)
    after = {q.name: q for q in queues.of_connections(world.context, clinic.visitors.callers["operator"])}
    assert (after["lakeside"].delivering, after["lakeside"].held, after["lakeside"].oldest) == (0, 0, "")
    assert after["lakeside"].last_success > waiting["lakeside"].last_success
    examined = clinic.post("/connections/lakeside", {}, "operator")
    assert examined.status_code == 200
    assert "Rung 1" in words_of(examined)
    for text in (clinic.text("/connections", "operator"), words_of(examined)):
        for name in ("Sampleton", "Maren", case_id, "RS-2026-0117"):
            assert name not in text
    assert clinic.post("/connections/nowhere", {}, "operator").status_code == 404


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
