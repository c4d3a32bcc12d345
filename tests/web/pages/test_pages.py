"""The pages by Flask's client: each page for each role, what it offers, what is refused, and hostile content."""

from __future__ import annotations

import copy
import re
from typing import Any

from fhir_secondop.service import intake
from tests.service.test_gathering import result
from tests.service.test_review import example
from tests.service.world import record_of
from tests.web.pages.conftest import ANSWERS, PATIENT, WHY, Clinic, Form, gaps_of, words_of, written

Plain = dict[str, Any]
GETS = ("", "/records", "/review", "/preview", "/preview.pdf", "/report.pdf", "/report.html", "/report.txt")

# ---- nobody without sign-in, nothing without the session's own form


def rules(clinic: Clinic, method: str) -> list[str]:
    """Every address of the pages, its parts filled with something."""
    filled = {"case_id": "c", "task_id": "t", "code": "accept", "kind": "Binary", "resource_id": "r", "place": 0,
              "version": 1, "name": "lakeside", "measure": "loop", "alert_id": "a"}  # fmt: skip
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
    "pcp": (200, 200, 403, 200, 1), "surgeon": (200, 403, 403, 200, 1), "stranger": (404, 404, 404, 404, 0),
}  # fmt: skip


def test_each_page_shows_each_role_what_the_operations_allow(clinic: Clinic) -> None:
    case_id = clinic.world.signed()
    clinic.world.work(60)
    for who, (case, record, editor, report, count) in SEEN.items():
        expected = (case, record, editor, editor, editor, report, report, report)
        if who == "reviewer":  # after the signature there is no draft until one amends
            expected = (200, 200, 200, 404, 404, 200, 200, 200)
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

    called_off = f"{case}/tasks/{coordination(clinic, case_id)}/cancel"
    assert offered("desk") == {"ask-reviewer", "blind-first", "gather", "check-coverage", "pause", called_off}
    assert offered("pcp") == {f"{case}/tasks/{coordination(clinic, case_id)}/cancel"}
    assert offered("surgeon") == set()
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    assert offered("reviewer") == {"accept", "decline"}
    world.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    assert {"withdraw", "pause"} < offered("reviewer")
    world.post(case_id, "pause", {"reason": "awaiting-tests"}, "reviewer")
    assert "resume" in offered("reviewer") & offered("desk")
    assert offered("surgeon") == set()
    world.post(case_id, "resume", who="reviewer")
    world.draft(case_id, gaps_of(clinic, case_id))
    world.post(case_id, "sign", who="reviewer")
    world.work(60)
    assert {who: offered(who) for who in OFFERED} == {
        "desk": {"schedule", "third-opinion", "ask-follow-up"}, "reviewer": {"schedule", "raise-urgent"},
        "pcp": {"acknowledge", "decide", "third-opinion", "ask-follow-up", "answer-proposal"},
        "surgeon": {"acknowledge", "decide", "plan-of-record", "third-opinion", "ask-follow-up", "answer-proposal"},
    }  # fmt: skip


def test_a_proposal_is_made_answered_and_gets_its_result_by_forms(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    clinic.world.accept(case_id)
    case = f"/cases/{case_id}"
    form = {"kind": "test", "text": "MRI <b>of</b> the breast", "why": "the margin", "until": ""}
    assert clinic.send(case, f"{case}/do/propose", "reviewer", **form).status_code == 303
    assert f"{case}/do/propose" not in clinic.forms(case, "desk")
    assert "MRI <b>of</b> the breast" in clinic.text(case, "surgeon")
    refused = clinic.send(case, f"{case}/do/answer-proposal", "pcp", proposal="1", outcome="declined", reason="")
    assert "Say why it is not taken up" in refused.get_data(as_text=True)
    assert clinic.send(case, f"{case}/do/answer-proposal", "pcp", proposal="1", outcome="accepted").status_code == 303
    assert f"{case}/do/answer-proposal" not in clinic.forms(case, "pcp")
    assert "taken up" in clinic.text(case, "reviewer")
    results = clinic.forms(f"{case}/records", "desk")
    assert f"{case}/do/proposal-result" in results
    record = clinic.world.package(case_id, "Observation")
    cited = next(f"Observation/{r['id']}" for r in record if "source" in r.get("meta", {}))
    sent = clinic.send(f"{case}/records", f"{case}/do/proposal-result", "desk", proposal="1", result=cited)
    assert sent.status_code == 303
    name = next(r["code"]["text"] for r in record if cited.endswith(r["id"]))
    assert f"Result: {name}" in clinic.text(case, "reviewer")
    assert f"Result: {cited}" in clinic.text(case, "surgeon")  # who does not see the record


def test_the_clocks_stand_on_the_case_with_the_notices_to_its_reader(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    world.accept(case_id)
    told = "Dr. Clara Standin has accepted the second opinion on your decision."
    assert told in clinic.text(f"/cases/{case_id}", "surgeon")
    assert told in clinic.text(f"/cases/{case_id}")
    assert "on your decision" not in clinic.text(f"/cases/{case_id}", "pcp")
    assert (
        clinic.post(f"/cases/{case_id}/do/pause", {"reason": "awaiting-tests", "text": "an assay"}).status_code == 303
    )
    assert "On hold: awaiting tests: an assay" in clinic.text(f"/cases/{case_id}")
    assert "Both clocks stand still." in clinic.text(f"/cases/{case_id}", "pcp")
    assert "on hold" in clinic.text("/")
    assert clinic.post(f"/cases/{case_id}/do/resume", {}).status_code == 303
    assert "The case goes on it was on hold" in clinic.text(f"/cases/{case_id}")
    world.work(40 * 86_400)
    world.clock.forward(1)
    assert "The due date has passed" in clinic.text("/")
    assert 'href="#clocks"' in clinic.get(f"/cases/{case_id}").get_data(as_text=True)
    assert "10 business days since the record was complete." in clinic.text(f"/cases/{case_id}")


def test_a_booking_and_what_became_of_it_are_recorded_on_the_case(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    case = f"/cases/{case_id}"
    assert "schedule" not in str(clinic.forms(case))
    world.accept(case_id)
    assert "From the record alone" in clinic.text(case, "surgeon")
    form = {"for": "consultation", "mode": "visit", "start": "2026-01-12T10:00", "end": "2026-01-12T11:00"}
    assert clinic.send(case, f"{case}/do/schedule", "reviewer", **form).status_code == 303
    assert "Visit in person" in clinic.text(case)
    assert "2026-01-12 10:00 UTC" in clinic.text(case)
    assert clinic.send(case, f"{case}/do/schedule", "desk", status="noshow", reason="no answer").status_code == 303
    assert "the patient did not come to the appointment of 2026-01-12." in clinic.text(case, "surgeon")
    assert "The patient did not come to the visit" in clinic.text(case)
    assert f"{case}/do/schedule" not in clinic.forms(case, "surgeon")
    world.draft(case_id, gaps_of(clinic, case_id))
    world.post(case_id, "sign", who="reviewer")
    form = {"mode": "video", "start": "2026-01-13T10:00", "end": "2026-01-13T11:00"}
    assert clinic.send(case, f"{case}/do/schedule", "reviewer", **form).status_code == 303
    assert "Results discussion, by video" in clinic.text(case)


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
        ("pcp", f"tasks/{task}/cancel", {"reason": "duplicate"}, 403),
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


def test_a_patient_asks_about_the_report_on_its_own_page(clinic: Clinic) -> None:
    case_id = clinic.world.signed()
    clinic.admit(case_id, PATIENT)
    action = f"/cases/{case_id}/do/ask-follow-up"
    assert action in clinic.forms(f"/my/{case_id}", "maren")
    assert clinic.post(action, {"text": "zq-may I travel?"}, "maren").status_code == 303
    for who, path in (("maren", f"/my/{case_id}"), ("reviewer", f"/cases/{case_id}"), ("desk", f"/cases/{case_id}")):
        shown = clinic.get(path, who).get_data(as_text=True)
        assert "zq-may I travel?" in shown, path
        assert "not answered yet" in shown, path
    assert "See the questions" in clinic.get(f"/cases/{case_id}", "desk").get_data(as_text=True)


def test_an_urgent_contact_is_first_on_the_list_and_the_call_is_recorded_on_the_case(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    world.accept(case_id)
    raising, recording = f"/cases/{case_id}/do/raise-urgent", f"/cases/{case_id}/do/record-call"
    assert raising in clinic.forms(f"/cases/{case_id}", "reviewer")
    named = re.findall(r'value="(\w+/[^"]+)">Dr. Ines Placeholder', clinic.get(f"/cases/{case_id}", "reviewer").text)
    assert "zq-cord" not in clinic.get(f"/cases/{case_id}", "desk").get_data(as_text=True)
    clinic.admit(case_id, PATIENT)
    before = clinic.text(f"/my/{case_id}", "maren")
    assert clinic.post(raising, {"finding": " "}, "reviewer").status_code == 422
    assert clinic.post(raising, {"finding": "zq-cord is compressed", "deputy": named[1]}, "reviewer").status_code == 303
    assert clinic.text(f"/my/{case_id}", "maren") == before
    listed = clinic.get("/", "desk").get_data(as_text=True)
    assert listed.index("Somebody must be called now") < listed.index(f"/cases/{case_id}#urgent")
    for who in ("surgeon", "pcp", "reviewer"):
        assert "Somebody must be called now" in clinic.text("/", who), who
    shown = clinic.get(f"/cases/{case_id}", "surgeon").get_data(as_text=True)
    assert "zq-cord is compressed" in shown
    assert "To be called now: Dr. Harlan Mockridge" in shown
    assert "deputy Dr. Ines Placeholder" in shown
    assert shown.index('id="urgent"') < shown.index('id="asked"')
    for who in ("desk", "reviewer", "surgeon", "pcp"):
        assert recording in clinic.forms(f"/cases/{case_id}", who), who
    fields = {"with": "Dr. Harlan Mockridge", "readBack": "zq-today", "by": "", "at": ""}
    assert clinic.post(recording, fields, "surgeon").status_code == 303
    after = clinic.text(f"/my/{case_id}", "maren")
    ends = after.index("Who saw"), before.index("Who saw")  # there stands who opened the case's page meanwhile
    assert after[: ends[0]] == before[: ends[1]]
    assert set(re.findall(r"\((.*?)\)", after[ends[0] :])) <= set(re.findall(r"\((.*?)\)", before[ends[1] :]))
    shown = clinic.get(f"/cases/{case_id}", "desk").get_data(as_text=True)
    assert "Dr. Harlan Mockridge spoke with Dr. Harlan Mockridge" in shown
    assert "Read back: zq-today" in shown
    assert "spoken about" in shown
    assert recording not in clinic.forms(f"/cases/{case_id}", "desk")
    assert "Somebody must be called now" not in clinic.get("/", "desk").get_data(as_text=True)


def test_a_critical_item_names_its_call_in_the_editor(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    world.accept(case_id)
    editor = f"/cases/{case_id}/review"
    judged = {**ANSWERS, "item.0.diagnosis.concordance": "confirmed", "item.0.diagnosis.significance": "critical",
              "gap": gaps_of(clinic, case_id)}  # fmt: skip
    assert written(clinic, case_id, **judged).status_code == 303
    assert "have somebody called now" in clinic.text(editor, "reviewer")
    contact = world.post(case_id, "raise-urgent", {"finding": "zq-cord"}, "reviewer")["resource"].partition("/")[2]
    assert "no conversation yet" in clinic.text(editor, "reviewer")
    assert "item.1.treatment.urgentContact" in clinic.forms(editor, "reviewer")[editor]
    world.post(case_id, "record-call", {"with": "Dr. Harlan Mockridge", "readBack": "Understood."}, "surgeon")
    world.post(case_id, "sign", who="reviewer", status=422)
    assert written(clinic, case_id, **judged, **{"item.0.diagnosis.urgentContact": contact}).status_code == 303
    assert clinic.forms(editor, "reviewer")[editor]["item.0.diagnosis.urgentContact"] == contact
    world.post(case_id, "sign", who="reviewer")


def test_no_page_runs_or_loads_anything_but_our_own_files_and_none_is_kept(clinic: Clinic) -> None:
    case_id = amended(clinic)
    for who, path in every_page(clinic, case_id):
        answer = clinic.get(path, who)
        text = answer.get_data(as_text=True)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"), path
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
    named = ("conclusion", "answer.0.text", "history", "recommendation.0.text", "option.0.text", "option.0.forWhom")
    hostile = dict.fromkeys(named, HOSTILE)
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
    author = {**clinic.forms(case)[f"{do}/ask-reviewer"], "reviewer.family": "Mockridge",
              "reviewer.npi": "9000000112", "reviewer.organization.name": "Lakeside"}  # fmt: skip
    barred = clinic.post(f"{case}/independence", author)
    assert "barred" in words_of(barred)
    assert "Reviewer asked" not in clinic.text("/")
    onward = dict(Form(barred.get_data(as_text=True)).forms)[f"{do}/ask-reviewer"]
    assert (onward["reviewer.family"], onward["reviewer.npi"]) == ("Mockridge", "9000000112")
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


def test_forms_that_no_page_has_made_are_refused(clinic: Clinic) -> None:
    case_id = clinic.world.open()
    for action, form in (
        ("ask-reviewer", {"reviewer": "x", "reviewer.family": "y"}),
        ("unlink", {"group": "1", "group.x": "2", "reason": "r"}),
        ("decide", {"version": "9" * 5000, "decision": "adopt"}),
    ):
        assert clinic.post(f"/cases/{case_id}/do/{action}", form, "desk").status_code in (403, 422), action
