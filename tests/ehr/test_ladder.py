"""Delivering to simulated EHRs over HTTP: which rung, what is stored there, and what is believed of it."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop.ehr import push
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.ladder import RUNGS, Chosen, choose
from fhir_secondop.ehr.rungs import Rung
from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Conflict
from fhir_secondop.fhir import attachments, refs
from fhir_secondop.model import Resource
from tests.conftest import StartEhr
from tests.ehr.conftest import (
    NPI,
    PCP,
    RECORDS,
    Ehrs,
    client_of,
    document,
    held,
    new_patient,
    read,
    tamper,
    target_at,
)

RIVERSIDE = (RECORDS / "riverside.json",)
EHR_OF_RUNG = {1: ("full",), 2: ("full", "no-transaction"), 3: ("full", "no-transaction", "no-conditional-create")}
ALL_RUNGS = (1, 2, 3, 5)


def rung_of(number: int) -> Rung:
    return next(rung for rung in RUNGS if rung.number == number)


def place(ehrs: Ehrs, number: int) -> tuple[Target, Rung]:
    """A target whose EHR allows exactly this rung, as `choose` finds."""
    if number == 5:
        target = target_at(ehrs("epic", load=RIVERSIDE), "Patient/1", text_only=True)
    else:
        target = target_at(ehrs(*EHR_OF_RUNG[number]))
    chosen = choose(target)
    assert chosen.rung is rung_of(number), chosen.why
    return target, chosen.rung


def documents_of(target: Target, set_id: str) -> list[Resource]:
    return held(target.client.base, "DocumentReference", identifier=f"urn:ietf:rfc3986|{set_id}")


# ---- which rung -----------------------------------------------------------------------------------------------


def test_a_full_ehr_gets_a_transaction(ehrs: Ehrs) -> None:
    chosen = choose(target_at(ehrs("full")))
    assert (chosen.number, chosen.not_possible) == (1, ())
    assert chosen.why == "transaction with conditional creates"


def test_without_transactions_it_is_single_conditional_creates(ehrs: Ehrs) -> None:
    chosen = choose(target_at(ehrs("full", "no-transaction")))
    assert chosen.number == 2
    assert chosen.not_possible == (("transaction with conditional creates", "no transactions"),)


def test_without_conditional_creates_it_is_search_and_create(ehrs: Ehrs) -> None:
    chosen = choose(target_at(ehrs("full", "no-transaction", "no-conditional-create")))
    assert chosen.number == 3
    assert chosen.not_possible == (
        ("transaction with conditional creates", "no transactions"),
        ("single conditional creates", "no conditional create of DocumentReference"),
    )


def test_transactions_without_conditional_creates_are_not_used(ehrs: Ehrs) -> None:
    chosen = choose(target_at(ehrs("full", "no-conditional-create")))
    assert chosen.number == 3
    assert chosen.not_possible[0][1] == "no conditional create of DocumentReference, DiagnosticReport, Observation"


def test_an_epic_shaped_ehr_gets_a_text_note(ehrs: Ehrs) -> None:
    chosen = choose(target_at(ehrs("epic", load=RIVERSIDE), "Patient/1", text_only=True))
    assert chosen.number == 5
    assert [because for _, because in chosen.not_possible] == [
        "no transactions",
        "takes plain text only",
        "takes plain text only",
        "no create of DiagnosticReport",
    ]


def test_a_site_that_takes_only_text_is_never_sent_a_pdf(ehrs: Ehrs) -> None:
    # given an EHR whose statement allows everything, and a site rule that it doesn't state
    target = target_at(ehrs("full", "text-only"), "Patient/1", text_only=True)
    # then
    chosen = choose(target)
    assert chosen.number == 5
    assert {because for _, because in chosen.not_possible} == {"takes plain text only"}


def test_a_read_only_ehr_leaves_the_link(ehrs: Ehrs) -> None:
    chosen = choose(target_at(ehrs("read-only"), "Patient/1"))
    assert (chosen.rung, chosen.number) == (None, 10)
    assert [because for _, because in chosen.not_possible] == [
        "no transactions",
        "no create of DocumentReference",
        "no create of DocumentReference",
        "no create of DiagnosticReport",
        "no create of DocumentReference",
        "no create of Communication",
        "no HL7 v2 interface is configured",
    ]
    assert chosen.why.startswith("link with cover sheet (transaction with conditional creates: no transactions; ")


def test_a_refused_rung_is_left_out_with_the_reason(ehrs: Ehrs) -> None:
    chosen = choose(target_at(ehrs("full")), refused=[(1, "refused (validation, HTTP 422)")])
    assert chosen.number == 2
    assert chosen.not_possible == (("transaction with conditional creates", "refused (validation, HTTP 422)"),)


# ---- what an EHR refuses, the next rung does ------------------------------------------------------------------


def descend(target: Target, sent: Deliverable) -> tuple[Chosen, list[int]]:
    """Goes down the ladder as the delivery workflow does, until a rung takes the document."""
    refused: list[tuple[int, str]] = []
    while True:
        chosen = choose(target, sent, refused)
        if chosen.rung is None:
            return chosen, [number for number, _ in refused]
        try:
            push.send(target, chosen.rung, sent)
        except EhrFailure as failure:
            if failure.kind != "validation":
                raise
            refused.append((chosen.rung.number, failure.kind))
            continue
        return chosen, [number for number, _ in refused]


def test_an_ehr_that_turns_out_to_take_only_text_ends_on_the_note(ehrs: Ehrs) -> None:
    # given a site rule that nobody told us
    target, sent = target_at(ehrs("full", "text-only", "report-categories"), "Patient/1"), document()
    sent = replace(sent, clinicians=frozenset({f"{NPI}|9000000112"}))
    # when
    chosen, refused = descend(target, sent)
    # then the refused tries left nothing behind but the note
    assert (chosen.number, refused) == (5, [1, 2, 3, 4])
    assert [d["content"][0]["attachment"]["contentType"] for d in documents_of(target, sent.set_id)] == [
        "text/plain; charset=utf-8"
    ]


def test_an_ehr_where_notes_need_an_encounter_ends_on_one(ehrs: Ehrs) -> None:
    target, sent = target_at(ehrs("full", "note-needs-encounter", "report-categories"), "Patient/1"), document()
    sent = replace(sent, clinicians=frozenset({f"{NPI}|9000000112"}))
    chosen, refused = descend(target, sent)
    assert (chosen.number, refused) == (5, [1, 2, 3, 4])
    (note,) = documents_of(target, sent.set_id)
    assert note["context"]["encounter"] == [{"reference": "Encounter/3"}]


def test_a_rolled_back_transaction_leaves_no_report_behind(ehrs: Ehrs) -> None:
    target, sent = target_at(ehrs("full", "text-only"), "Patient/1"), document()
    with pytest.raises(EhrFailure) as caught:
        push.send(target, rung_of(1), sent)
    assert (caught.value.kind, caught.value.status) == ("validation", 422)
    assert held(target.client.base, "DiagnosticReport", identifier=f"urn:ietf:rfc3986|{sent.set_id}") == []


# ---- sent, read back, found again -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_what_is_sent_is_verified_by_reading_it_back(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    sent = document()
    # given: nothing there
    assert push.look(target, rung, sent) is None
    # when
    receipt = push.send(target, rung, sent)
    # then: our claim
    assert (receipt.sent, receipt.copy, receipt.rung) == ("accepted", "verified", number)
    assert receipt.dropped == ()
    # and the truth, past our client
    there = read(target.client.base, receipt.location)
    assert there["status"] == "current"
    assert there["docStatus"] == "final"
    assert there["subject"] == {"reference": target.patient}
    assert there["masterIdentifier"]["value"] == sent.version_id
    # a server whose `identifier` search leaves masterIdentifier out must find the version, too
    assert [i["value"] for i in there["identifier"]] == [sent.set_id, sent.version_id]
    expected = sent.text.encode() if number == 5 else sent.pdf
    assert base64.b64decode(there["content"][0]["attachment"]["data"]) == expected
    if number == 5:
        assert there["context"]["encounter"] == [{"reference": "Encounter/2"}]


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_sending_again_finds_it_and_stores_nothing_twice(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    sent = document()
    first = push.send(target, rung, sent)
    found = push.look(target, rung, sent)
    assert found is not None
    assert (found.copy, found.location, found.evidence["how"]) == ("verified", first.location, "found there")
    assert len(documents_of(target, sent.set_id)) == 1


@pytest.mark.parametrize("number", [1, 2])
def test_a_blind_second_send_is_caught_by_the_conditions(ehrs: Ehrs, number: int) -> None:
    # given a worker that sent, and another that doesn't know
    target, rung = place(ehrs, number)
    sent = document()
    first, second = push.send(target, rung, sent), push.send(target, rung, sent)
    assert second.location == first.location
    assert len(documents_of(target, sent.set_id)) == 1
    assert len(held(target.client.base, "DiagnosticReport", patient=target.patient_id)) == 1
    assert len(held(target.client.base, "Observation", patient=target.patient_id)) == 1


@pytest.mark.parametrize("number", [1, 2])
def test_the_report_goes_with_its_results(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    push.send(target, rung, document())
    (report,) = held(target.client.base, "DiagnosticReport", patient=target.patient_id)
    (result,) = held(target.client.base, "Observation", patient=target.patient_id)
    assert [r["reference"] for r in report["result"]] == [f"Observation/{result['id']}"]
    assert report["conclusion"] == "Conclusion of version 1."


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_a_document_without_report_goes_alone(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    sent = document(report=False)
    assert push.send(target, rung, sent).copy == "verified"
    if number != 5:
        assert held(target.client.base, "DiagnosticReport", patient=target.patient_id) == []


def test_a_document_without_order_and_period_is_still_valid(ehrs: Ehrs) -> None:
    target, rung = place(ehrs, 3)
    sent = replace(document(), placer=("", ""), period={})
    assert push.send(target, rung, sent).copy == "verified"


# ---- the next version -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_the_next_version_replaces_the_one_before(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    case = str(uuid.uuid4())
    one, two = document(1, case=case), document(2, case=case)
    first = push.send(target, rung, one)
    # given: version 2 isn't taken for version 1
    assert push.look(target, rung, two) is None
    # when
    second = push.send(target, rung, two)
    # then
    assert second.copy == "verified"
    assert second.evidence["superseded"] == "marked"
    assert second.location != first.location
    new, old = read(target.client.base, second.location), read(target.client.base, first.location)
    assert new["relatesTo"] == [{"code": "replaces", "target": {"reference": first.location}}]
    assert (new["status"], new["docStatus"], old["status"]) == ("current", "amended", "superseded")
    # the old one says what it said
    expected = one.text.encode() if number == 5 else one.pdf
    assert base64.b64decode(old["content"][0]["attachment"]["data"]) == expected
    # and each is found as itself
    found = push.look(target, rung, two)
    assert found is not None
    assert found.location == second.location
    assert rung.find(target, one) == first.location
    assert len(documents_of(target, two.set_id)) == 2


@pytest.mark.parametrize("number", [1, 2])
def test_the_next_version_updates_report_and_results_in_place(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    case = str(uuid.uuid4())
    push.send(target, rung, document(1, case=case))
    before = [held(target.client.base, t, patient=target.patient_id)[0] for t in ("DiagnosticReport", "Observation")]
    # when
    push.send(target, rung, document(2, case=case))
    # then
    (report,) = held(target.client.base, "DiagnosticReport", patient=target.patient_id)
    (result,) = held(target.client.base, "Observation", patient=target.patient_id)
    assert [report["id"], result["id"]] == [r["id"] for r in before]
    assert (report["status"], report["meta"]["versionId"]) == ("appended", "2")
    assert report["result"] == [{"reference": f"Observation/{result['id']}"}]
    assert result["valueCodeableConcept"] == {"text": "agreed-modified, version 2"}


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_a_copy_found_after_a_crash_still_supersedes_the_one_before(ehrs: Ehrs, number: int) -> None:
    # given a worker that was killed after it sent version 2 and before it marked version 1
    target, rung = place(ehrs, number)
    case = str(uuid.uuid4())
    first = push.send(target, rung, document(1, case=case))
    push.send(target, rung, document(2, case=case))
    tamper(target.client.base, first.location, status="current")
    # when the next worker looks
    found = push.look(target, rung, document(2, case=case))
    # then it finishes what was begun
    assert found is not None
    assert found.copy == "verified"
    assert found.evidence["superseded"] == "marked"
    assert read(target.client.base, first.location)["status"] == "superseded"


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_a_version_that_skipped_one_supersedes_what_is_there(ehrs: Ehrs, number: int) -> None:
    # given version 2 that never arrived here
    target, rung = place(ehrs, number)
    case = str(uuid.uuid4())
    first = push.send(target, rung, document(1, case=case))
    # when
    third = push.send(target, rung, document(3, case=case))
    # then
    assert third.evidence.get("superseded") == "marked"
    assert read(target.client.base, first.location)["status"] == "superseded"
    assert read(target.client.base, third.location)["relatesTo"][0]["target"]["reference"] == first.location


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_a_late_version_does_not_supersede_a_newer_one(ehrs: Ehrs, number: int) -> None:
    # given a worker that was held up with version 2 until version 3 had arrived
    target, rung = place(ehrs, number)
    case = str(uuid.uuid4())
    third = push.send(target, rung, document(3, case=case))
    second = push.send(target, rung, document(2, case=case))
    # then
    assert read(target.client.base, third.location)["status"] == "current"
    assert "relatesTo" not in read(target.client.base, second.location)
    assert "superseded" not in second.evidence


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_a_copy_entered_in_error_stays_so(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    case = str(uuid.uuid4())
    first = push.send(target, rung, document(1, case=case))
    tamper(target.client.base, first.location, status="entered-in-error")
    second = push.send(target, rung, document(2, case=case))
    assert read(target.client.base, first.location)["status"] == "entered-in-error"
    assert "relatesTo" not in read(target.client.base, second.location)


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_a_copy_that_differs_supersedes_nothing(ehrs: Ehrs, number: int) -> None:
    # given both versions there, as after a crash, and somebody who retracted the newer one
    target, rung = place(ehrs, number)
    case = str(uuid.uuid4())
    first = push.send(target, rung, document(1, case=case))
    second = push.send(target, rung, document(2, case=case))
    tamper(target.client.base, first.location, status="current")
    tamper(target.client.base, second.location, status="entered-in-error")
    # when
    found = push.look(target, rung, document(2, case=case))
    # then
    assert found is not None
    assert found.copy == "mismatch"
    assert read(target.client.base, first.location)["status"] == "current"


# ---- read back, and not believed ------------------------------------------------------------------------------


def bytes_of(data: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(data).decode(), "hash": attachments.digest(data)}


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_altered_content_is_a_mismatch(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    sent = document()
    location = push.send(target, rung, sent).location
    there = read(target.client.base, location)
    content = there["content"]
    altered = base64.b64decode(content[0]["attachment"]["data"]).replace(b"ersion", b"ersion of mine", 1)
    if number == 5:
        altered = sent.text.replace("Keep the breast", "Remove the breast").encode()
    content[0]["attachment"] |= bytes_of(altered)
    tamper(target.client.base, location, content=content)
    # then
    found = push.look(target, rung, sent)
    assert found is not None
    assert found.copy == "mismatch"
    assert found.evidence["why"] == "its content differs from what was sent"


def test_a_note_with_other_white_space_is_the_same_text(ehrs: Ehrs) -> None:
    target, rung = place(ehrs, 5)
    sent = document()
    location = push.send(target, rung, sent).location
    content = read(target.client.base, location)["content"]
    content[0]["attachment"] |= bytes_of(sent.text.replace("\n", "\r\n").encode())
    tamper(target.client.base, location, content=content)
    found = push.look(target, rung, sent)
    assert found is not None
    assert found.copy == "verified"


@pytest.mark.parametrize("status", ["superseded", "entered-in-error"])
@pytest.mark.parametrize("number", ALL_RUNGS)
def test_a_copy_that_is_not_current_is_a_mismatch(ehrs: Ehrs, number: int, status: str) -> None:
    target, rung = place(ehrs, number)
    sent = document()
    location = push.send(target, rung, sent).location
    tamper(target.client.base, location, status=status)
    found = push.look(target, rung, sent)
    assert found is not None
    assert (found.copy, found.evidence["why"]) == ("mismatch", f"its status is {status}")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_copy_of_another_patient_is_not_ours(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    sent = document()
    location = push.send(target, rung, sent).location
    tamper(target.client.base, location, subject={"reference": new_patient(target.client.base)})
    # looking among the patient's documents doesn't find it; reading it back says what is wrong
    assert push.look(target, rung, sent) is None
    receipt = push.verify(target, rung, sent, location, how="sent")
    assert (receipt.copy, receipt.evidence["why"]) == ("mismatch", "it is about another patient")


def test_a_patient_of_the_same_id_at_another_server_is_another_patient(ehrs: Ehrs) -> None:
    target, rung = place(ehrs, 3)
    sent = document()
    location = push.send(target, rung, sent).location
    tamper(target.client.base, location, subject={"reference": f"https://elsewhere.example/fhir/{target.patient}"})
    receipt = push.verify(target, rung, sent, location, how="sent")
    assert (receipt.copy, receipt.evidence["why"]) == ("mismatch", "it is about another patient")


def test_a_document_moved_away_is_not_taken_for_a_delivery(ehrs: Ehrs) -> None:
    """A conditional create that is answered with somebody else's document stored nothing for our patient."""
    target, rung = place(ehrs, 2)
    sent = document()
    location = push.send(target, rung, sent).location
    tamper(target.client.base, location, subject={"reference": new_patient(target.client.base)})
    with pytest.raises(EhrFailure) as caught:
        push.send(target, rung, sent)
    assert caught.value.kind == "validation"
    # the next rung, which searches by patient, does it
    assert push.send(target, rung_of(3), sent).copy == "verified"


def test_an_unresolved_reference_is_a_mismatch(ehrs: Ehrs) -> None:
    target, rung = place(ehrs, 3)
    sent = document()
    location = push.send(target, rung, sent).location
    tamper(target.client.base, location, authenticator={"reference": f"urn:uuid:{uuid.uuid4()}"})
    receipt = push.verify(target, rung, sent, location, how="sent")
    assert receipt.evidence["why"] == "a reference of the transaction was not resolved"


def test_a_dropped_element_is_named(ehrs: Ehrs) -> None:
    target, rung = place(ehrs, 3)
    sent = document()
    location = push.send(target, rung, sent).location
    there = read(target.client.base, location)
    for name in ("context", "category"):
        del there[name]
    answer = requests.put(f"{target.client.base}/{location}", data=json.dumps(there),
                          headers={"Content-Type": "application/fhir+json"}, timeout=10)  # fmt: skip
    assert answer.status_code == 200
    receipt = push.verify(target, rung, sent, location, how="sent")
    assert (receipt.copy, receipt.dropped) == ("verified", ("category", "context"))


def test_what_may_not_be_read_back_is_unverifiable(httpserver: HTTPServer) -> None:
    """An EHR that lets us write and search and then refuses the read; a fault that no simulated EHR has."""
    offered = [{"code": code} for code in ("create", "search-type")]
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        {"resourceType": "CapabilityStatement",
         "rest": [{"mode": "server", "resource": [{"type": "DocumentReference", "interaction": offered}]}]}
    )  # fmt: skip
    httpserver.expect_request("/fhir/DocumentReference", method="GET").respond_with_json(
        {"resourceType": "Bundle", "type": "searchset"}
    )
    httpserver.expect_request("/fhir/DocumentReference", method="POST").respond_with_data(
        b"", 201, headers={"Location": "DocumentReference/7"}
    )
    httpserver.expect_request("/fhir/DocumentReference/7").respond_with_data(b"", 403)
    target = target_at(httpserver.url_for("/fhir"), "Patient/1")
    receipt = push.send(target, rung_of(3), document())
    assert (receipt.sent, receipt.copy, receipt.location) == ("accepted", "unverifiable", "DocumentReference/7")
    assert receipt.evidence["why"] == "policy"


def test_an_old_copy_that_may_not_be_marked_does_not_undo_the_delivery(httpserver: HTTPServer) -> None:
    """The new version is there; that the old one could not be marked is a fact for the board, not a refusal."""
    case = str(uuid.uuid4())
    one, two = document(1, case=case), document(2, case=case)
    stored: dict[str, Resource] = {}

    def listed(_: Request) -> Response:
        entries = [{"resource": r} for r in stored.values()]
        return Response(json.dumps({"resourceType": "Bundle", "type": "searchset", "entry": entries}))

    def created(request: Request) -> Response:
        resource = json.loads(request.get_data())
        resource["id"] = str(len(stored) + 1)
        stored[resource["id"]] = resource
        return Response(json.dumps(resource), 201)

    def shown(request: Request) -> Response:
        return Response(json.dumps(stored[request.path.rpartition("/")[2]]))

    offered = [{"code": code} for code in ("create", "search-type", "read", "update")]
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        {"resourceType": "CapabilityStatement",
         "rest": [{"mode": "server", "resource": [{"type": "DocumentReference", "interaction": offered}]}]}
    )  # fmt: skip
    httpserver.expect_request("/fhir/DocumentReference", method="GET").respond_with_handler(listed)
    httpserver.expect_request("/fhir/DocumentReference", method="POST").respond_with_handler(created)
    httpserver.expect_request("/fhir/DocumentReference/1", method="PUT").respond_with_data(b"", 422)
    for place_there in ("1", "2"):
        httpserver.expect_request(f"/fhir/DocumentReference/{place_there}", method="GET").respond_with_handler(shown)
    target = target_at(httpserver.url_for("/fhir"), "Patient/1")
    push.send(target, rung_of(3), one)
    # when
    receipt = push.send(target, rung_of(3), two)
    # then
    assert (receipt.copy, receipt.evidence["superseded"]) == ("verified", "unmarked")


# ---- what must never be stored there --------------------------------------------------------------------------


@pytest.mark.parametrize("number", ALL_RUNGS)
def test_no_reference_of_ours_and_none_unresolved_is_stored(ehrs: Ehrs, number: int) -> None:
    target, rung = place(ehrs, number)
    case = str(uuid.uuid4())
    push.send(target, rung, document(1, case=case))
    push.send(target, rung, document(2, case=case))
    kinds = ("DocumentReference",) if number == 5 else ("DocumentReference", "DiagnosticReport", "Observation")
    stored = [
        r for kind in kinds for r in held(target.client.base, kind, patient=target.patient_id) if case in json.dumps(r)
        or any(i.get("value", "").startswith("urn:uuid:") for i in r.get("identifier", []))
    ]  # fmt: skip
    assert len(stored) >= (2 if number in (3, 5) else 4)
    base = target.client.base
    for resource in stored:
        contained = {f"#{c['id']}" for c in resource.get("contained", [])}
        for text in refs.find(resource):
            if text in contained:
                continue
            ref = refs.parse(text)
            assert ref is not None, f"{text} is not resolved"
            assert ref.base in ("", base)
            assert ref.type in ("Patient", "Encounter", "DocumentReference", "Observation"), text
            # it names something that exists there, of this patient
            named = read(base, ref.local)
            assert ref.type == "Patient" or named["subject"]["reference"] == target.patient
        assert "ours" not in [text.rpartition("/")[2] for text in refs.find(resource)]
        assert "?identifier=" not in json.dumps(resource)


# ---- a note and its encounter ---------------------------------------------------------------------------------


def encounters(patient: str, *rows: tuple[str, str, str, str, str]) -> list[Resource]:
    """Entries of a patient and its encounters: (id, class, status, start, practitioner)."""
    made: list[Resource] = [{"resourceType": "Patient", "id": patient, "birthDate": "1960-01-01"}]
    for number, kind, status, start, practitioner in rows:
        made.append(
            {
                "resourceType": "Encounter",
                "id": f"{patient}-{number}",
                "status": status,
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": kind},
                "subject": {"reference": f"Patient/{patient}"},
                "participant": [{"individual": {"reference": f"Practitioner/{practitioner}"}}],
                "period": {"start": start},
            }
        )
    return made


@pytest.fixture(scope="session")
def notes_at(ehrs: Ehrs, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An Epic-shaped EHR with patients whose encounters suit a note, or not. Documents are issued on 2026-11-21."""
    people = {"pcp": "9000000111", "other": "9000000999"}
    resources: list[Resource] = [
        {"resourceType": "Practitioner", "id": key, "identifier": [{"system": NPI, "value": value}]}
        for key, value in people.items()
    ]
    resources += [{"resourceType": "PractitionerRole", "id": "pcp", "practitioner": {"reference": "Practitioner/pcp"}}]
    resources += encounters("emergency", ("1", "EMER", "finished", "2026-11-20", "pcp"))
    resources += encounters("inpatient", ("1", "IMP", "in-progress", "2026-11-20", "pcp"))
    resources += encounters("stranger", ("1", "AMB", "finished", "2026-11-20", "other"))
    resources += encounters("old", ("1", "AMB", "finished", "2026-07-01", "pcp"))
    resources += encounters("planned", ("1", "AMB", "planned", "2026-11-20", "pcp"),
                            ("2", "AMB", "cancelled", "2026-11-19", "pcp"),
                            ("3", "AMB", "entered-in-error", "2026-11-19", "pcp"))  # fmt: skip
    resources += encounters("several", ("1", "AMB", "finished", "2026-11-03T10:00:00Z", "pcp"),
                            ("2", "AMB", "finished", "2026-11-14T10:00:00Z", "pcp"),
                            ("3", "AMB", "finished", "2026-11-18T10:00:00Z", "other"),
                            ("4", "EMER", "finished", "2026-11-19T10:00:00Z", "pcp"),
                            ("5", "AMB", "finished", "2026-11-09T10:00:00Z", "pcp"))  # fmt: skip
    by_role = encounters("role", ("1", "AMB", "finished", "2026-11-18", "pcp"))
    by_role[1]["participant"][0]["individual"]["reference"] = "PractitionerRole/pcp"
    logical = encounters("logical", ("1", "AMB", "finished", "2026-11-18", "pcp"))
    logical[1]["participant"][0]["individual"] = {"identifier": {"system": NPI, "value": people["pcp"]}}
    unreadable = encounters("unreadable", ("1", "AMB", "finished", "2026-11-10", "pcp"),
                            ("2", "AMB", "finished", "2026-11-18", "nobody"))  # fmt: skip
    resources += [*by_role, *logical, *unreadable]
    entries = [
        {"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in resources
    ]
    path: Path = tmp_path_factory.mktemp("notes") / "encounters.json"
    path.write_text(json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}))
    return ehrs("epic", load=(path,))


@pytest.mark.parametrize("patient", ["emergency", "inpatient", "stranger", "old", "planned"])
def test_without_a_suitable_encounter_there_is_no_note(notes_at: str, patient: str) -> None:
    target, sent = target_at(notes_at, f"Patient/{patient}", text_only=True), document()
    # when
    with pytest.raises(EhrFailure) as caught:
        push.send(target, rung_of(5), sent)
    # then the next rung is taken, and nothing was stored
    assert caught.value.kind == "validation"
    assert held(notes_at, "DocumentReference", patient=patient) == []
    assert choose(target, refused=[(5, caught.value.message)]).number == 10


@pytest.mark.parametrize(
    ("patient", "encounter"),
    [("several", "several-2"), ("role", "role-1"), ("logical", "logical-1"), ("unreadable", "unreadable-1")],
)
def test_the_note_goes_on_the_newest_ambulatory_encounter_of_its_clinician(
    notes_at: str, patient: str, encounter: str
) -> None:
    target, sent = target_at(notes_at, f"Patient/{patient}", text_only=True), document()
    receipt = push.send(target, rung_of(5), sent)
    assert receipt.copy == "verified"
    assert read(notes_at, receipt.location)["context"]["encounter"] == [{"reference": f"Encounter/{encounter}"}]


def test_a_longer_site_rule_reaches_an_older_encounter(notes_at: str) -> None:
    target = target_at(notes_at, "Patient/old", text_only=True, encounter_days=200)
    assert push.send(target, rung_of(5), document()).copy == "verified"


def test_a_document_without_clinicians_gets_no_note(notes_at: str) -> None:
    target = target_at(notes_at, "Patient/several", text_only=True)
    with pytest.raises(EhrFailure):
        push.send(target, rung_of(5), replace(document(), clinicians=frozenset()))


def test_an_encounter_of_a_stranger_is_never_used(httpserver: HTTPServer) -> None:
    """A server that ignores `patient` answers with somebody else's visit to the same doctor."""
    wrong = encounters("another", ("1", "AMB", "finished", "2026-11-18", "pcp"))[1]
    wrong["participant"][0]["individual"] = {"identifier": {"system": NPI, "value": PCP.partition("|")[2]}}
    httpserver.expect_request("/fhir/Encounter").respond_with_json(
        {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": wrong}]}
    )
    target = Target(client_of(httpserver.url_for("/fhir"), text_only=True), "Patient/1")
    with pytest.raises(EhrFailure, match="no suitable encounter"):
        rung_of(5).send(target, document(), ())


# ---- the patient there ----------------------------------------------------------------------------------------


def test_an_active_patient_is_delivered_to(ehrs: Ehrs) -> None:
    push.check_patient(target_at(ehrs("full")))


def test_an_inactive_patient_stops_it(ehrs: Ehrs) -> None:
    base = ehrs("full")
    with pytest.raises(Conflict, match="inactive"):
        push.check_patient(target_at(base, new_patient(base, active=False)))


def test_a_patient_replaced_by_another_stops_it(ehrs: Ehrs) -> None:
    base = ehrs("full")
    link = [{"other": {"reference": "Patient/1"}, "type": "replaced-by"}]
    with pytest.raises(Conflict, match="replaced by another"):
        push.check_patient(target_at(base, new_patient(base, link=link)))


def test_a_patient_that_replaces_another_is_the_right_one(ehrs: Ehrs) -> None:
    base = ehrs("full")
    link = [{"other": {"reference": "Patient/1"}, "type": "replaces"}]
    push.check_patient(target_at(base, new_patient(base, link=link)))


def test_a_patient_that_is_gone_stops_it(ehrs: Ehrs) -> None:
    base = ehrs("full")
    patient = new_patient(base)
    requests.delete(f"{base}/{patient}", timeout=10)
    with pytest.raises(EhrFailure) as caught:
        push.check_patient(target_at(base, patient))
    assert (caught.value.kind, caught.value.retryable) == ("not-found", False)


def test_a_dead_ehr_is_tried_again(start_ehr: StartEhr) -> None:
    base = start_ehr("full")
    target = target_at(base)
    target.client.capability  # noqa: B018
    dead = Target(client_of("http://127.0.0.1:1/fhir"), target.patient)
    with pytest.raises(EhrFailure) as caught:
        choose(dead)
    assert (caught.value.kind, caught.value.retryable) == ("unreachable", True)
