"""From asking a reviewer to the plan of record, on both databases: who may do what, and what follows in one commit."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import pytest

from fhir_secondop.opinion import alignment, workflow
from fhir_secondop.service import delivery, gather, signing, tokens
from fhir_secondop.service.delivering import orders
from tests.service.conftest import Bench

Plain = dict[str, Any]
THO = "http://terminology.hl7.org/CodeSystem"


def example(name: str) -> Plain:
    plain: Plain = json.loads((files("fhir_secondop.examples") / "breast-treatment-plan" / name).read_text("utf-8"))
    return plain


def opened(bench: Bench) -> str:
    case_id: str = bench.call("POST", "/api/second-opinions", example("request.json")).get_json()["id"]
    # No EHR is configured here: each source ends at once, with nothing received and the reason.
    for kind, _, _, task in [w for w in bench.enqueued if w[0] == "gather"]:
        assert kind == gather.WORKFLOW
        assert gather.begin(bench.service.context, task) == ["ended"]
    return case_id


def operate(bench: Bench, case_id: str, code: str, body: Plain | None = None, who: str = "desk") -> Any:
    return bench.call("POST", f"/api/second-opinions/{case_id}/{code}", body or {}, who=who)


def asked(bench: Bench, **changes: Any) -> str:
    case_id = opened(bench)
    reviewer = {**example("review.json")["reviewer"], **changes}
    answer = operate(bench, case_id, "ask-reviewer", {"reviewer": reviewer})
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return case_id


def accepted(bench: Bench) -> str:
    case_id = asked(bench)
    answer = operate(bench, case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return case_id


def drafted(bench: Bench) -> str:
    case_id = accepted(bench)
    gaps = operate_get(bench, case_id, "completeness")["gaps"]
    draft = {**example("review.json")["draft"], "gapsConfirmed": gaps}
    assert operate(bench, case_id, "submit-report", draft, "reviewer").status_code == 200
    return case_id


def signed(bench: Bench) -> str:
    case_id = drafted(bench)
    answer = operate(bench, case_id, "sign", who="reviewer")
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return case_id


def resources(bench: Bench, case_id: str, kind: str) -> list[Plain]:
    package = bench.call("GET", f"/fhir/ServiceRequest/{case_id}/$package").get_json()
    return [e["resource"] for e in package["entry"] if e["resource"]["resourceType"] == kind]


def coordination(bench: Bench, case_id: str) -> Plain:
    return [t for t in resources(bench, case_id, "Task") if workflow.is_coordination(t)][-1]


def test_a_source_without_a_connection_is_a_named_gap(bench: Bench) -> None:
    case_id = opened(bench)
    manifest = operate_get(bench, case_id, "manifest")
    assert manifest["stillAsking"] == []
    assert [s["received"] for s in manifest["sources"]] == [0, 0]
    assert all("No connection" in s["types"][0]["detail"] for s in manifest["sources"])
    assert workflow.business_status(coordination(bench, case_id)) == "records-incomplete"


def operate_get(bench: Bench, case_id: str, code: str, who: str = "desk") -> Plain:
    plain: Plain = bench.call("GET", f"/api/second-opinions/{case_id}/{code}", who=who).get_json()
    return plain


def test_a_reviewer_sees_a_case_only_from_being_asked_until_declining(bench: Bench) -> None:
    case_id = opened(bench)
    assert bench.call("GET", f"/api/second-opinions/{case_id}", who="reviewer").status_code == 404
    assert operate(bench, case_id, "accept", {}, "reviewer").status_code == 404
    operate(bench, case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    assert bench.call("GET", f"/api/second-opinions/{case_id}", who="reviewer").status_code == 200
    declined = operate(bench, case_id, "decline", {"reason": "no-capacity"}, "reviewer").get_json()
    assert declined["status"] == "rejected"
    assert bench.call("GET", f"/api/second-opinions/{case_id}", who="reviewer").status_code == 404
    assert coordination(bench, case_id)["status"] == "requested"  # the case stays open for the next


def test_without_a_declaration_acceptance_needs_an_attestation(bench: Bench) -> None:
    case_id = asked(bench)
    refused = operate(bench, case_id, "accept", {}, "reviewer")
    assert refused.status_code == 422
    assert refused.get_json()["issue"][0]["expression"] == ["attestation"]
    assert operate(bench, case_id, "accept", {"attestation": "I know none of them."}, "reviewer").status_code == 200
    said = coordination(bench, case_id)["extension"][0]["extension"]
    assert {"url": "attestation", "valueString": "I know none of them."} in said


def test_a_declared_interest_needs_an_override_which_is_kept(bench: Bench) -> None:
    case_id = asked(bench)
    body: Plain = {"declaration": {"interests": "paid by the maker"}}
    assert operate(bench, case_id, "accept", body, "reviewer").status_code == 422
    body["override"] = "Nobody else has seen this disease."
    assert operate(bench, case_id, "accept", body, "reviewer").status_code == 200
    assert body["override"] in json.dumps(coordination(bench, case_id))


def test_an_author_of_what_is_under_review_is_barred_whatever_is_said(bench: Bench) -> None:
    surgeon = example("request.json")["providers"]["surgeon"]
    case_id = opened(bench)
    author = {**example("review.json")["reviewer"], "npi": surgeon["npi"]}
    refused = operate(bench, case_id, "ask-reviewer", {"reviewer": author})
    assert (refused.status_code, refused.get_json()["issue"][0]["expression"]) == (409, ["reviewer"])
    said = bench.call("POST", f"/fhir/ServiceRequest/{case_id}/$independence", {
        "resourceType": "Parameters",
        "parameter": [{"name": "reviewer", "part": [
            {"name": "family", "valueString": "X"}, {"name": "npi", "valueString": surgeon["npi"]},
            {"name": "organization", "part": [{"name": "name", "valueString": "Y"}]}]}],
    }).get_json()  # fmt: skip
    assert said["parameter"][0] == {"name": "result", "valueString": "barred"}


def test_accepting_by_updating_the_task_is_the_same_as_the_operation(bench: Bench) -> None:
    case_id = asked(bench)
    task = next(t for t in resources(bench, case_id, "Task") if workflow.is_review(t))
    task["status"] = "accepted"
    assert bench.call("PUT", f"/fhir/Task/{task['id']}", task, who="desk").status_code == 403  # not the desk's to say
    refused = bench.call("PUT", f"/fhir/Task/{task['id']}", task, who="reviewer")
    assert refused.status_code == 422  # no declaration: the note attests
    task["note"] = [{"text": "I know none of them."}]
    assert bench.call("PUT", f"/fhir/Task/{task['id']}", task, who="reviewer").status_code == 200
    assert coordination(bench, case_id)["status"] == "accepted"
    assert coordination(bench, case_id)["owner"]["reference"] == task["owner"]["reference"]


def test_a_withdrawal_fails_both_tasks_and_opens_a_new_coordination(bench: Bench) -> None:
    case_id = accepted(bench)
    assert operate(bench, case_id, "withdraw", {"reason": "conflict-of-interest"}, "reviewer").status_code == 200
    tasks = resources(bench, case_id, "Task")
    assert [t["status"] for t in tasks if workflow.is_coordination(t)] == ["failed", "requested"]
    assert [t["status"] for t in tasks if workflow.is_review(t)] == ["failed"]
    assert bench.call("GET", f"/api/second-opinions/{case_id}", who="reviewer").status_code == 404


def test_only_the_reviewer_who_has_the_case_writes_and_signs(bench: Bench) -> None:
    case_id = accepted(bench)
    draft = example("review.json")["draft"]
    assert operate(bench, case_id, "submit-report", draft, "desk").status_code == 403
    assert operate(bench, case_id, "submit-report", draft, "reviewer").status_code == 200
    assert operate(bench, case_id, "sign", who="desk").status_code == 403


def test_signing_makes_everything_in_one_commit_and_signing_again_nothing(bench: Bench) -> None:
    case_id = signed(bench)
    report = resources(bench, case_id, "DiagnosticReport")[0]
    assert report["status"] == "final"
    assert {f["contentType"].partition(";")[0] for f in report["presentedForm"]} == {
        "application/pdf",
        "text/plain",
        "text/html",
    }
    assert coordination(bench, case_id)["status"] == "completed"
    assert resources(bench, case_id, "Encounter")[0]["status"] == "finished"
    document = resources(bench, case_id, "Bundle")[0]
    kinds = [e["resource"]["resourceType"] for e in document["entry"]]
    assert (document["type"], kinds[0]) == ("document", "Composition")
    assert {"ServiceRequest", "Encounter", "DiagnosticReport", "Observation", "Condition", "CarePlan"} <= set(kinds)
    statuses = {e["resource"]["resourceType"]: e["resource"].get("status") for e in document["entry"]}
    assert (statuses["Encounter"], statuses["DiagnosticReport"]) == ("finished", "final")
    jobs = [w for w in bench.enqueued if w[0] == orders.WORKFLOW]
    assert len(jobs) == 4
    again = operate(bench, case_id, "sign", who="reviewer")
    assert (again.status_code, again.get_json()["version"]) == (200, 1)
    assert [w for w in bench.enqueued if w[0] == orders.WORKFLOW] == jobs


def test_two_signatures_at_once_sign_once(bench: Bench) -> None:
    case_id = drafted(bench)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: operate(bench, case_id, "sign", who="reviewer").status_code, range(4)))
    assert answers.count(200) >= 1
    assert set(answers) <= {200, 409}
    assert len([w for w in bench.enqueued if w[0] == orders.WORKFLOW]) == 4
    assert len(resources(bench, case_id, "Bundle")) == 1


def test_the_placers_request_keeps_every_byte_but_its_status(bench: Bench) -> None:
    case_id = opened(bench)
    before = bench.call("GET", f"/fhir/ServiceRequest/{case_id}").get_json()
    assert operate(bench, case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]}).status_code == 200
    operate(bench, case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    gaps = operate_get(bench, case_id, "completeness")["gaps"]
    draft = {**example("review.json")["draft"], "gapsConfirmed": gaps}
    operate(bench, case_id, "submit-report", draft, "reviewer")
    assert operate(bench, case_id, "sign", who="reviewer").status_code == 200
    after = bench.call("GET", f"/fhir/ServiceRequest/{case_id}").get_json()
    assert (before.pop("status"), after.pop("status")) == ("active", "completed")
    assert list(before) == list(after)
    before.pop("meta")
    after.pop("meta")
    assert before == after


def test_a_retraction_goes_everywhere_and_says_what_it_is(bench: Bench) -> None:
    case_id = signed(bench)
    body = {"kind": "entered-in-error", "reason": "It is about another patient."}
    assert operate(bench, case_id, "amend-report", body, "reviewer").status_code == 200
    assert resources(bench, case_id, "DiagnosticReport")[0]["status"] == "final"  # until it is signed
    assert operate(bench, case_id, "sign", who="reviewer").get_json()["version"] == 2
    report = next(r for r in resources(bench, case_id, "DiagnosticReport") if r["status"] == "entered-in-error")
    text = next(f["data"] for f in report["presentedForm"] if f["contentType"].startswith("text/plain"))
    assert "ENTERED-IN-ERROR: REPLACES VERSION 1" in base64.b64decode(text).decode()
    documents = {d["id"]: (d["status"], d.get("docStatus")) for d in resources(bench, case_id, "DocumentReference")}
    assert sorted(documents.values()) == [("current", "entered-in-error"), ("superseded", "final")]
    assert operate_get(bench, case_id, "alignment")["case"]["aligned"] is False


def test_a_link_is_single_use_bound_to_its_version_and_read_by_no_scanner(bench: Bench) -> None:
    case_id = signed(bench)
    context = bench.service.context
    for _, _, _, task, number in [w for w in bench.enqueued if w[0] == orders.WORKFLOW]:
        assert delivery.attempt(context, task, number) == "link"  # no EHR is configured here
    task = operate_get_case(bench, case_id)["deliveries"][0]
    url = operate(bench, case_id, "cover-sheet", {"task": task["task"]}).get_json()["url"]
    path = url.removeprefix(context.public_url)
    assert operate(bench, case_id, "cover-sheet", {"task": task["task"]}, "reviewer").status_code == 403
    for _ in range(2):  # a mail scanner
        shown = bench.client.get(path)
        assert shown.status_code == 200
        assert "CONCLUSION" in shown.get_data(as_text=True)
    assert bench.client.get(f"{path}/document.pdf").data.startswith(b"%PDF")
    assert ack_of(bench, case_id, task) == "none"
    assert bench.client.post(path, data={"name": " ", "role": "Physician"}).status_code == 422
    assert bench.client.post(path, data={"name": "Dr. A. Sample", "role": "Physician"}).status_code == 200
    assert ack_of(bench, case_id, task) == "link"
    assert bench.client.post(path, data={"name": "Dr. B. Sample", "role": "Physician"}).status_code == 409
    assert "CONCLUSION" not in bench.client.get(path).get_data(as_text=True)
    assert bench.client.get(f"{path}/document.pdf").status_code == 409
    other = path[:-2] + ("AA" if not path.endswith("AA") else "BB")
    assert bench.client.get(other).status_code == 404


def operate_get_case(bench: Bench, case_id: str) -> Plain:
    plain: Plain = bench.call("GET", f"/api/second-opinions/{case_id}").get_json()
    return plain


def ack_of(bench: Bench, case_id: str, task: Plain) -> str:
    found = next(t for t in resources(bench, case_id, "Task") if t["id"] == task["task"])
    return alignment.held(found).ack


def test_the_link_of_an_old_version_says_so(bench: Bench) -> None:
    case_id = signed(bench)
    context = bench.service.context
    for _, _, _, task, number in [w for w in bench.enqueued if w[0] == orders.WORKFLOW]:
        delivery.attempt(context, task, number)
    old = operate_get_case(bench, case_id)["deliveries"][0]["task"]
    path = f"/ack/{tokens.make(context, tokens.ACKNOWLEDGE, old)}"
    operate(bench, case_id, "amend-report", {"kind": "corrected", "reason": "A dose was wrong."}, "reviewer")
    assert bench.client.get(path).status_code == 200
    assert "CONCLUSION" in bench.client.get(path).get_data(as_text=True)  # not signed yet: still current
    operate(bench, case_id, "sign", who="reviewer")
    shown = bench.client.get(path).get_data(as_text=True)
    assert "replaced by version 2" in shown
    assert "CONCLUSION" not in shown
    assert bench.client.post(path, data={"name": "A", "role": "B"}).status_code == 409


def test_a_task_that_was_not_begun_is_cancelled_and_one_in_progress_gets_an_abort(bench: Bench) -> None:
    case_id = accepted(bench)
    task = coordination(bench, case_id)
    operate(bench, case_id, "submit-report", example("review.json")["draft"], "reviewer")
    why = {"resourceType": "Parameters", "parameter": [{"name": "reason", "valueString": "patient-withdrew"}]}
    answer = bench.call("POST", f"/fhir/Task/{task['id']}/$cancel", why)
    abort = answer.get_json()
    assert abort["code"]["coding"][0]["code"] == "abort"
    assert abort["focus"]["reference"] == f"Task/{task['id']}"
    assert coordination(bench, case_id)["status"] == "in-progress"


@pytest.mark.parametrize("code", ["accept", "sign", "acknowledge", "decide", "plan-of-record", "replay", "cover-sheet"])
def test_unknown_members_and_missing_ones_are_named(bench: Bench, code: str) -> None:
    case_id = opened(bench)
    answer = operate(bench, case_id, code, {"nonsense": 1})
    assert answer.status_code == 422
    assert "nonsense" in answer.get_data(as_text=True)


def test_a_draft_is_seen_by_its_reviewer_and_not_by_the_audience_before_it_is_signed(bench: Bench) -> None:
    case_id = drafted(bench)
    sentence = example("review.json")["draft"]["conclusion"]

    def says(who: str) -> bool:
        reports = bench.call("GET", "/fhir/DiagnosticReport", who=who).get_data(as_text=True)
        package = bench.call("GET", f"/fhir/ServiceRequest/{case_id}/$package", who=who).get_data(as_text=True)
        return sentence in reports + package

    assert not says("pcp")
    assert not says("clinic")
    assert "registered" in bench.call("GET", "/fhir/DiagnosticReport", who="reviewer").get_data(as_text=True)
    draft = bench.call("GET", "/fhir/DiagnosticReport", who="reviewer").get_json()["entry"][0]["resource"]
    assert bench.call("GET", f"/fhir/DiagnosticReport/{draft['id']}/_history", who="pcp").status_code == 404
    operate(bench, case_id, "sign", who="reviewer")
    assert says("pcp")
    assert bench.call("GET", f"/fhir/DiagnosticReport/{draft['id']}/_history", who="pcp").status_code == 404


def test_a_draft_changed_while_it_is_signed_is_not_signed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    case_id = drafted(bench)
    gaps = operate_get(bench, case_id, "completeness")["gaps"]
    other = {**example("review.json")["draft"], "gapsConfirmed": gaps, "conclusion": "On second thoughts: no."}
    real = signing.render.pdf

    def slow(template: str, said: Plain) -> bytes:
        assert operate(bench, case_id, "submit-report", other, "reviewer").status_code == 200
        return real(template, said)

    monkeypatch.setattr(signing.render, "pdf", slow)
    assert operate(bench, case_id, "sign", who="reviewer").status_code == 409
    monkeypatch.setattr(signing.render, "pdf", real)
    assert operate(bench, case_id, "sign", who="reviewer").status_code == 200
    report = resources(bench, case_id, "DiagnosticReport")[0]
    assert report["conclusion"] == "On second thoughts: no."


def test_a_failure_of_ours_says_a_number_and_quotes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case_id = opened(bench)

    def broken(*_: Any) -> None:
        raise KeyError("Sampleton")

    monkeypatch.setattr("fhir_secondop.access.rights.acts_as", broken)
    for answer in (
        operate(bench, case_id, "acknowledge", {"version": 1}),
        bench.call("POST", f"/fhir/ServiceRequest/{case_id}/$acknowledge", {
            "resourceType": "Parameters", "parameter": [{"name": "version", "valueInteger": 1}]}),
    ):  # fmt: skip
        assert answer.status_code == 500
        assert answer.get_json()["resourceType"] == "OperationOutcome"
        assert "Sampleton" not in answer.get_data(as_text=True)
    assert "Sampleton" not in caplog.text
    assert "failure" in caplog.text


# ---- what an adversary tries ----------------------------------------------------------------------------------


def cancel(bench: Bench, task: Plain, who: str) -> int:
    why = {"resourceType": "Parameters", "parameter": [{"name": "reason", "valueString": "duplicate"}]}
    status: int = bench.call("POST", f"/fhir/Task/{task['id']}/$cancel", why, who=who).status_code
    return status


@pytest.mark.parametrize("whole", [False, True])
def test_who_was_asked_sees_nothing_of_what_is_cancelled(bench: Bench, whole: bool) -> None:
    case_id = asked(bench)
    assert bench.call("GET", f"/api/second-opinions/{case_id}", who="reviewer").status_code == 200
    tasks = [t for t in resources(bench, case_id, "Task") if t["code"]["coding"][0]["code"] == "fulfill"]
    (task,) = [t for t in tasks if workflow.is_coordination(t) is whole]
    assert cancel(bench, task, "desk") == 200
    assert bench.call("GET", f"/api/second-opinions/{case_id}", who="reviewer").status_code == 404


def test_a_recipient_cancels_nothing_that_is_not_its_own(bench: Bench) -> None:
    case_id = opened(bench)
    care_team = "pcp"  # requester and PCP of the example: may call its own request back, and nothing else
    for task in resources(bench, case_id, "Task"):
        if not workflow.is_coordination(task):
            assert cancel(bench, task, care_team) in (403, 409)
    signed_case = signed_again(bench)
    for task in [t for t in resources(bench, signed_case, "Task") if workflow.is_delivery(t)]:
        assert cancel(bench, task, care_team) == 403
        assert cancel(bench, task, "desk") == 409


def signed_again(bench: Bench) -> str:
    """A second case, signed."""
    plain = example("request.json")
    plain["placer"]["value"] = "another"
    case_id: str = bench.call("POST", "/api/second-opinions", plain).get_json()["id"]
    for _, _, _, task in [w for w in bench.enqueued if w[0] == "gather"]:
        gather.begin(bench.service.context, task)
    operate(bench, case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    operate(bench, case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")
    gaps = operate_get(bench, case_id, "completeness")["gaps"]
    operate(bench, case_id, "submit-report", {**example("review.json")["draft"], "gapsConfirmed": gaps}, "reviewer")
    assert operate(bench, case_id, "sign", who="reviewer").status_code == 200
    return case_id


def test_a_reviewer_who_withdrew_sees_no_draft_of_the_case(bench: Bench) -> None:
    case_id = drafted(bench)
    draft = bench.call("GET", "/fhir/DiagnosticReport", who="reviewer").get_json()["entry"][0]["resource"]
    operate(bench, case_id, "withdraw", {"reason": "conflict-of-interest"}, "reviewer")
    assert bench.call("GET", f"/fhir/DiagnosticReport/{draft['id']}", who="reviewer").status_code == 404
    assert bench.call("GET", f"/fhir/DiagnosticReport/{draft['id']}/_history", who="reviewer").status_code == 404
    assert "entry" not in bench.call("GET", "/fhir/DiagnosticReport", who="reviewer").get_json()
    # The next one begins anew: the draft is gone for everybody.
    assert bench.call("GET", f"/fhir/DiagnosticReport/{draft['id']}").status_code == 410


def test_nothing_forged_stands_beside_what_a_case_says(bench: Bench) -> None:
    case_id = signed(bench)
    report = resources(bench, case_id, "DiagnosticReport")[0]
    forged = {
        "resourceType": "DiagnosticReport", "status": "final", "code": report["code"], "conclusion": "FORGED",
        "basedOn": [{"reference": f"ServiceRequest/{case_id}"}],
    }  # fmt: skip
    assert bench.call("POST", "/fhir/DiagnosticReport", forged).status_code == 403
    found = bench.call("GET", f"/fhir/DiagnosticReport?based-on=ServiceRequest/{case_id}").get_json()
    assert [e["resource"]["id"] for e in found["entry"]] == [report["id"]]


def test_a_consent_that_comes_later_joins_the_case_and_calls_links_back(bench: Bench) -> None:
    case_id = signed(bench)
    context = bench.service.context
    for _, _, _, task, number in [w for w in bench.enqueued if w[0] == orders.WORKFLOW]:
        delivery.attempt(context, task, number)
    task = operate_get_case(bench, case_id)["deliveries"][0]["task"]
    path = f"/ack/{tokens.make(context, tokens.ACKNOWLEDGE, task)}"
    assert bench.client.get(path).status_code == 200
    patient = resources(bench, case_id, "Patient")[0]
    deny = {
        "resourceType": "Consent", "status": "active", "patient": {"reference": f"Patient/{patient['id']}"},
        "scope": {"coding": [{"system": f"{THO}/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "64292-6"}]}],
        "policyRule": {"coding": [{"system": f"{THO}/v3-ActCode", "code": "OPTOUT"}]},
        "provision": {"type": "deny"},
    }  # fmt: skip
    assert bench.call("POST", "/fhir/Consent", deny).status_code == 201
    assert len(resources(bench, case_id, "Consent")) == 1
    assert bench.client.get(path).status_code == 410
    assert bench.client.get(f"{path}/document.pdf").status_code == 410
    before = len(bench.enqueued)
    operate(bench, case_id, "amend-report", {"kind": "corrected", "reason": "A dose."}, "reviewer")
    assert operate(bench, case_id, "sign", who="reviewer").status_code == 200
    for _, _, _, task, number in [w for w in bench.enqueued[before:] if w[0] == orders.WORKFLOW]:
        assert delivery.attempt(context, task, number) == "on-hold"


def test_a_retracted_report_is_neither_decided_on_nor_amended(bench: Bench) -> None:
    case_id = signed(bench)
    operate(bench, case_id, "amend-report", {"kind": "entered-in-error", "reason": "Wrong patient."}, "reviewer")
    operate(bench, case_id, "sign", who="reviewer")
    again = operate(bench, case_id, "amend-report", {"kind": "amended", "reason": "No."}, "reviewer")
    assert again.status_code == 409
    assert operate(bench, case_id, "decide", {"version": 2, "decision": "adopt"}, "pcp").status_code == 409


def test_a_judgement_that_an_amendment_drops_was_an_error_and_stays_readable(bench: Bench) -> None:
    case_id = signed(bench)
    items = example("review.json")["draft"]["items"]
    body = {"kind": "amended", "reason": "One item withdrawn.", "changes": {"items": items[:1]}}
    operate(bench, case_id, "amend-report", body, "reviewer")
    assert operate(bench, case_id, "sign", who="reviewer").status_code == 200
    statuses = [o["status"] for o in resources(bench, case_id, "Observation")]
    assert statuses.count("entered-in-error") == len(items) - 1
    report = resources(bench, case_id, "DiagnosticReport")[0]
    first = bench.call("GET", f"/fhir/DiagnosticReport/{report['id']}/_history/1").get_json()
    for result in first["result"]:
        assert bench.call("GET", f"/fhir/{result['reference']}").status_code == 200


def test_the_coordination_task_is_not_moved_past_the_review_by_hand(bench: Bench) -> None:
    case_id = opened(bench)
    task = coordination(bench, case_id)
    assert bench.call("PUT", f"/fhir/Task/{task['id']}", {**task, "status": "accepted"}).status_code == 403
    assert coordination(bench, case_id)["status"] == "requested"


def test_a_recipient_who_declines_to_review_keeps_its_own_rights(bench: Bench) -> None:
    case_id = opened(bench)
    pcp = example("request.json")["providers"]["pcp"]
    reviewer = {**{k: pcp[k] for k in ("family", "npi", "specialty")}, "organization": {"name": "Riverside"}}
    operate(bench, case_id, "ask-reviewer", {"reviewer": reviewer})
    assert operate(bench, case_id, "decline", {"reason": "conflict-of-interest"}, "pcp").status_code == 200
    assert bench.call("GET", f"/api/second-opinions/{case_id}", who="pcp").status_code == 200


def test_both_opinions_stand_side_by_side_for_who_may_read_both(bench: Bench) -> None:
    case_id = accepted(bench)
    path = f"/api/second-opinions/{case_id}/compare"
    assert bench.call("GET", path, who="reviewer").status_code == 404  # there is no second one yet
    draft = {**example("review.json")["draft"], "gapsConfirmed": operate_get(bench, case_id, "completeness")["gaps"]}
    operate(bench, case_id, "submit-report", draft, "reviewer")
    assert operate_get(bench, case_id, "compare", "reviewer")["draft"] is True
    assert bench.call("GET", path, who="pcp").status_code == 404  # a draft is its reviewer's
    operate(bench, case_id, "sign", who="reviewer")
    shown = operate_get(bench, case_id, "compare", "pcp")
    assert (shown["draft"], shown["version"]) == (False, 1)
    assert [(r["item"], r["axis"], r["judgement"]) for r in shown["items"]] == [
        (i["item"], i["axis"], i["concordance"]) for i in draft["items"]]  # fmt: skip
    assert {r["verdict"] for r in shown["items"]} <= {"same", "refined", "different", "needs-judgement"}
