"""Work list, record, patient and connections: what needs a person, clocks, filters, files; many cases at once."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.opinion import lines, progress
from fhir_secondop.service import intake, queues, worklist
from fhir_secondop.service.alerts import watch
from tests.service.test_gathering import OTHER_CONTACT, person, result, without_identifier_there
from tests.service.test_review import example
from tests.service.world import DAY_MS
from tests.web.pages.conftest import PATIENT, Clinic, gaps_of, words_of

Plain = dict[str, Any]

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


def test_the_two_clocks_count_business_days_and_the_second_starts_when_the_record_is_complete(
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
    at = world.context.now() + 2 * DAY_MS
    object.__setattr__(bare.world.context, "now", lambda: at)
    found = {one.case.id: one.clocks for one in worklist.listed(bare.world.context, bare.world.caller("desk"), 20)}
    days = bare.world.context.clocks.calendar
    began = found[first].request.started
    assert at - began >= 5 * DAY_MS
    assert found[first].request.elapsed == days.position(at) - days.position(began)
    assert found[first].record is None
    assert found[second].record is not None
    assert f"{found[first].request.words} not complete" in bare.text("/")


def test_the_list_is_filtered_by_state_and_says_what_to_do_when_it_is_empty(bare: Clinic) -> None:
    assert "A case begins when a request comes in" in bare.text("/")
    case_id = bare.world.open()
    assert "Gathering the record (1)" in bare.text("/")
    for stage in progress.STAGES:
        there = f'<a href="/cases/{case_id}"' in bare.get(f"/?stage={stage}").get_data(as_text=True)
        assert there is (stage == "gathering"), stage
    assert "No case is in this state" in bare.text("/?stage=aligned")


def test_a_long_list_goes_on_and_says_that_it_does(bare: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    world, orders = bare.world, "https://riverside.example/orders"
    monkeypatch.setattr("fhir_secondop.web.pages.worklist.SHOWN", 2)
    monkeypatch.setattr("fhir_secondop.web.api.PAGE", 2)
    ids = [world.open(placer={"system": orders, "value": str(number)}) for number in range(5)][::-1]
    pages, listed, path, api = [], [], "/", "/api/second-opinions"
    while path:
        shown = bare.get(path).get_data(as_text=True)
        pages += [i for i in ids if f'<a href="/cases/{i}"' in shown]
        path = next(iter(re.findall(r'href="(/\?before=[^"]*)">more cases', shown)), "")
    while api:
        answer = world.call("GET", api).get_json()
        listed += [case["id"] for case in answer["cases"]]
        api = answer.get("next", "")
    assert (pages, listed) == (ids, ids)
    assert world.call("GET", "/api/second-opinions?before=nowhere").status_code == 404
    assert bare.get("/?before=nowhere").status_code == 404
    assert bare.get(f"/?before={ids[0]}", "stranger").status_code == 404
    assert world.call("GET", f"/api/second-opinions?before={ids[0]}", who="stranger").status_code == 404


def test_a_case_that_can_t_be_read_is_named_to_who_coordinates(bare: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = "https://riverside.example/orders"
    ids = [bare.world.open(placer={"system": orders, "value": str(number)}) for number in range(3)]
    stage = progress.stage

    def broken(case: Any) -> str:
        if case.id == ids[1]:
            raise KeyError("owner")
        return stage(case)

    monkeypatch.setattr(progress, "stage", broken)
    shown = bare.text("/")
    assert "can't be read 1 case" in shown
    assert ids[1] in shown
    assert "Gathering the record (2)" in shown
    assert "can't be read" not in bare.text("/", "pcp")


def test_more_cases_take_no_more_statements(bare: Clinic) -> None:
    counted: list[str] = []
    engine = bare.world.context.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *said: counted.append(said[2]))

    def statements() -> tuple[int, int]:
        """Of the first who looks after something was written, and of the next."""
        counts = []
        for _ in range(2):
            counted.clear()
            assert bare.get("/").status_code == 200
            counts.append(len(counted))
        return counts[0], counts[1]

    orders = "https://riverside.example/orders"
    for number in range(2):
        bare.world.open(placer={"system": orders, "value": f"n{number}"})
    bare.world.work()
    few = statements()
    for number in range(2, 12):
        bare.world.open(placer={"system": orders, "value": f"n{number}"})
    bare.world.work()
    many = statements()
    # One may come on top, once a minute: that somebody was seen.
    assert [now <= before + 1 for now, before in zip(many, few, strict=True)] == [True, True], (many, few)
    assert [now <= most for now, most in zip(many, (20, 10), strict=True)] == [True, True], many
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
    assert "The second doctor agrees in part." in late
    assert "What to talk about with your doctor" in late
    assert "Dr. Ines Placeholder requester, PCP ✓ yes" in late or "Dr. Ines Placeholder requester, PCP yes" in late
    assert clinic.get(f"/cases/{case_id}/report.pdf", "maren").get_data()[:5] == b"%PDF-"
    page = clinic.get(f"/cases/{case_id}/report.html", "maren")
    assert page.content_type == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"].endswith("sandbox")
    assert "Content-Disposition" not in page.headers
    assert "The diagnosis is confirmed" in page.get_data(as_text=True)


def test_a_patient_sees_who_saw_the_case(bare: Clinic) -> None:
    case_id = bare.world.open()
    bare.admit(case_id, PATIENT)
    assert bare.world.call("GET", f"/api/second-opinions/{case_id}", who="pcp").status_code == 200
    assert bare.world.call("GET", f"/api/second-opinions/{case_id}", who="stranger").status_code == 404
    shown = bare.text(f"/my/{case_id}", "maren")
    assert "UTC pcp read it" in shown
    assert "stranger" not in shown


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


def test_what_stands_is_on_the_connections_and_an_operator_takes_care_of_it(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.signed()
    watch.look(world.context)
    world.clock.forward(3_700)
    watch.look(world.context)
    world.clock.forward(130)
    watch.look(world.context)
    shown = clinic.text("/connections", "operator")
    assert "the oldest delivery has waited for 63 minutes; the limit is 60 minutes." in shown
    assert case_id not in shown
    callers = clinic.visitors.callers
    alert = next(a for a, _ in watch.listed(world.context, callers["operator"]) if a.subject == "lakeside")
    path = f"/alerts/{alert.id}/acknowledge"
    for who in ("pcp", "reviewer", "maren", "clinic"):
        assert clinic.post(path, {}, who).status_code == 403
    done = clinic.post(path, {}, "operator")
    assert (done.status_code, done.headers["Location"]) == (303, "/connections?done=acknowledge-alert")
    assert f"acknowledged by {callers['operator'].name}" in clinic.text("/connections", "operator")
    assert clinic.post("/alerts/none/acknowledge", {}, "operator").status_code == 404


def test_a_follow_up_question_on_the_work_list_leads_to_the_questions(clinic: Clinic) -> None:
    case_id = clinic.world.signed()
    clinic.world.post(case_id, "ask-follow-up", {"text": "Does the dose change?"}, "pcp")
    assert "A follow-up question is open" in clinic.text("/")
    assert f'href="/cases/{case_id}#follow-ups"' in clinic.get("/").get_data(as_text=True)


def test_a_case_on_hold_says_so_beside_its_state(bare: Clinic) -> None:
    case_id = bare.world.gathered(sources=[])
    bare.world.accept(case_id)
    bare.world.post(case_id, "pause", {"reason": "insufficient-records", "text": "The slides are on their way."})
    assert "Under review on hold" in bare.text("/")
    shown = bare.text(f"/cases/{case_id}")
    assert "Under review on hold" in shown
    assert "The slides are on their way. Both clocks stand still." in shown


def test_who_gets_a_proposal_is_asked_to_answer_it_and_not_to_acknowledge_a_report(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered()
    world.accept(case_id)
    world.post(case_id, "propose", {"kind": "test", "text": "MRI of the breast"}, "reviewer")
    world.work(60)
    offered = clinic.forms(f"/cases/{case_id}", "surgeon")
    assert f"/cases/{case_id}/do/answer-proposal" in offered
    assert f"/cases/{case_id}/do/acknowledge" not in offered
