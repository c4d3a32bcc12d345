"""Rungs 4 and 7, and rung 3 where identifiers are dropped: the same contract as every rung, against simulated EHRs."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from fhir_secondop.ehr import documents, push
from fhir_secondop.ehr.client import Client, Written
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.ladder import RUNGS, choose
from fhir_secondop.ehr.rungs import Rung
from fhir_secondop.ehr.target import Target
from fhir_secondop.model import Receipt, Resource
from tests.ehr.conftest import RECORDS, Ehrs, document, held, read, tamper, target_at


def rung_of(number: int) -> Rung:
    return next(rung for rung in RUNGS if rung.number == number)


def place(ehrs: Ehrs, number: int) -> tuple[Target, Rung]:
    if number == 3:  # as Oracle's: drops what it does not know, wants its own form
        base = ehrs("oracle", load=(RECORDS / "lakeside.json",))
        target = target_at(base, "Patient/1", vendor="oracle-health")
        assert choose(target).rung is rung_of(3)
        return target, rung_of(3)
    return target_at(ehrs("full")), rung_of(number)


def sent(target: Target, rung: Rung, document_: Deliverable) -> Receipt:
    return push.send(target, rung, document_)


def copies(target: Target, rung: Rung, document_: Deliverable) -> list[Resource]:
    mark = document_.title.partition(", version")[0]
    found = held(target.client.base, rung.type, patient=target.patient_id)
    return [r for r in found if mark in str(r)]


@pytest.mark.parametrize("number", [3, 4, 7])
def test_what_is_sent_is_verified_and_never_sent_twice(ehrs: Ehrs, number: int) -> None:
    (target, rung), once = place(ehrs, number), document()
    assert push.look(target, rung, once) is None
    receipt = sent(target, rung, once)
    assert (receipt.sent, receipt.copy, receipt.rung) == ("accepted", "verified", number), receipt.evidence
    assert receipt.location.startswith(f"{rung.type}/")
    found = push.look(target, rung, once)
    assert found is not None
    assert (found.location, found.evidence["how"]) == (receipt.location, "found there")
    assert len(copies(target, rung, once)) == 1


@pytest.mark.parametrize("number", [3, 4, 7])
def test_what_is_not_shown_after_it_was_written_is_no_refusal_of_the_write(
    ehrs: Ehrs, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (target, rung), once = place(ehrs, number), document()
    write = target.client.write

    def unsaid(*given: Any) -> Written:
        monkeypatch.setattr(target.client, "search", broken)
        return replace(write(*given), location="", resource=None)

    def broken(*_: Any) -> list[Resource]:
        raise EhrFailure("validation", "A page for people.")

    monkeypatch.setattr(target.client, "write", unsaid)
    receipt = sent(target, rung, once)
    assert (receipt.copy, receipt.evidence["why"]) == ("unverifiable", "no location was given")
    monkeypatch.undo()
    assert push.look(target, rung, once) is not None


@pytest.mark.parametrize("number", [3, 4, 7])
def test_a_search_that_shows_strangers_does_not_say_that_there_is_nothing_more(
    ehrs: Ehrs, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (target, rung), once = place(ehrs, number), document()
    sent(target, rung, once)
    search, stranger = (
        target.client.search,
        {"resourceType": rung.type, "id": "s", "subject": {"reference": "Patient/s"}},
    )

    def strangers(kind: str, params: Any) -> list[Resource]:
        return [*search(kind, params), stranger] if kind == rung.type else search(kind, params)

    monkeypatch.setattr(target.client, "search", strangers)
    with pytest.raises(EhrFailure, match="answered with something else") as caught:
        push.look(target, rung, once)
    assert caught.value.retryable
    # One that never means it is taken as it is, by another delivery.
    monkeypatch.setattr(target.client, "first_page", lambda *_: [stranger])
    target.means.clear()
    assert push.look(target, rung, once) is not None


@pytest.mark.parametrize("number", [3, 4, 7])
def test_the_next_version_is_told_from_the_one_before(ehrs: Ehrs, number: int) -> None:
    (target, rung), case = place(ehrs, number), str(uuid.uuid4())
    first, second = document(case=case), document(2, case=case)
    before = sent(target, rung, first)
    assert push.look(target, rung, second) is None
    after = sent(target, rung, second)
    assert after.copy == "verified", after.evidence
    assert push.look(target, rung, second) is not None
    if number == 4:  # an amendment is the next version of the same report
        assert before.location == after.location
        assert push.look(target, rung, first) is None
    if number == 3:
        assert after.evidence["superseded"] == "marked"
        assert read(target.client.base, before.location)["status"] == "superseded"
    if number == 7:  # nothing marks a message: the board asks for an acknowledgement
        assert after.evidence["superseded"] == "unmarked"
        assert read(target.client.base, after.location)["inResponseTo"] == [{"reference": before.location}]


def test_a_late_version_does_not_overwrite_a_newer_report(ehrs: Ehrs) -> None:
    (target, rung), case = place(ehrs, 4), str(uuid.uuid4())
    sent(target, rung, document(3, case=case))
    with pytest.raises(EhrFailure) as caught:
        sent(target, rung, document(2, case=case))
    assert (caught.value.kind, caught.value.retryable) == ("conflict", False)


@pytest.mark.parametrize("number", [4, 7])
def test_a_copy_that_somebody_changed_is_a_mismatch(ehrs: Ehrs, number: int) -> None:
    (target, rung), once = place(ehrs, number), document()
    receipt = sent(target, rung, once)
    tamper(target.client.base, receipt.location, status="entered-in-error")
    again = push.verify(target, rung, once, receipt.location, how="looked")
    assert (again.copy, "entered-in-error" in again.evidence["why"]) == ("mismatch", True)


@pytest.mark.parametrize("number", [4, 7])
def test_a_copy_of_another_patient_is_not_ours(ehrs: Ehrs, number: int) -> None:
    (one, rung), once = place(ehrs, number), document()
    sent(one, rung, once)
    assert push.look(target_at(one.client.base), rung, once) is None


def test_what_the_ehr_drops_is_not_even_sent(ehrs: Ehrs) -> None:
    (target, rung), once = place(ehrs, 3), document()
    receipt = sent(target, rung, once)
    assert receipt.dropped == ()
    there = read(target.client.base, receipt.location)
    assert once.title in (there["description"], there["content"][0]["attachment"]["title"])
    assert there["content"][0]["attachment"]["contentType"] == "application/pdf;charset=utf-8"


def test_a_document_that_is_no_report_and_a_category_that_is_not_taken_go_another_way(ehrs: Ehrs) -> None:
    site = target_at(ehrs("full"), vendor="oracle-health").client.site
    coded = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "PHY"}]}
    once = document()
    physician = replace(once, report={**(once.report or {}), "category": [coded]})
    assert rung_of(4).unfit(document(report=False), site) == "this document is no report"
    assert rung_of(4).unfit(physician, site).startswith("takes only reports of the categories LP29708-2")
    assert rung_of(4).unfit(physician, replace(site, report_categories=("PHY",))) == ""


def test_a_sender_that_must_be_a_practitioner_there_is_looked_up(ehrs: Ehrs) -> None:
    base, once = ehrs("full"), document()
    target = Target(replace_site(target_at(base), communication_sender="Practitioner"), target_at(base).patient)
    with pytest.raises(EhrFailure, match="sender"):
        sent(target, rung_of(7), once)
    known = held(base, "Practitioner")[0]
    author = {**once.author, "identifier": known["identifier"]}
    receipt = sent(target, rung_of(7), replace(once, author=author))
    assert read(base, receipt.location)["sender"] == {"reference": f"Practitioner/{known['id']}"}


def replace_site(target: Target, **facts: object) -> Client:
    """The target's client with other facts about its site."""
    target.client.site = replace(target.client.site, **facts)  # type: ignore[arg-type]
    return target.client


def test_an_ehr_gets_pdf_and_text_of_the_report_and_no_html() -> None:
    kinds = ("application/pdf", "text/plain; charset=utf-8", "text/html; charset=utf-8")
    whole = document()
    whole = replace(whole, report={**(whole.report or {}), "presentedForm": [{"contentType": kind} for kind in kinds]})
    sent_there = documents.report_for(whole, "Patient/1", [])
    assert [form["contentType"] for form in sent_there["presentedForm"]] == list(kinds[:2])
