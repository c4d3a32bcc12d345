"""What an EHR refuses to take, and what becomes of what it takes."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
import requests

from fhir_secondop.model import Resource
from tests.sandbox.conftest import Farm, codes, document, get, ids, post, send, transaction

OURS = "DocumentReference?identifier=urn:ours|v1"


def data(resource: Resource) -> bytes:
    return base64.b64decode(resource["content"][0]["attachment"]["data"])


def place(answer: requests.Response) -> str:
    """ "Type/id" of a Location."""
    return "/".join(answer.headers["Location"].split("/")[-4:-2])


def changed(**more: Any) -> Resource:
    """The document with members changed, or with None left out."""
    return {name: value for name, value in {**document(), **more}.items() if value is not None}


PDF = {"contentType": "application/pdf", "data": "JVBERg=="}


@pytest.mark.parametrize(("quirk", "refused", "taken"), [
    ("text-only", changed(content=[{"attachment": PDF}]), changed()),
    ("note-needs-encounter", changed(context=None), changed()),
    ("strict-document", changed(content=document()["content"] * 2), changed()),
    ("strict-document", changed(content=[{"attachment": {"contentType": "text/plain;charset=utf-8", "url": "x:y"}}]),
     changed()),
    ("strict-document", changed(content=[{"attachment": PDF}]),
     changed(content=[{"attachment": {**PDF, "contentType": "application/pdf;charset=utf-8"}}])),
    ("strict-document", changed(context={"period": {"end": "2026-11-20"}}), changed()),
    ("strict-document", changed(docStatus="preliminary"), changed(docStatus="amended")),
    ("strict-document", changed(docStatus=None), changed()),
])  # fmt: skip
def test_a_document_that_breaks_a_rule_of_the_site_is_refused(
    farm: Farm, quirk: str, refused: Resource, taken: Resource
) -> None:
    base = farm("full", quirk)
    assert post(base, refused).status_code == 422
    assert ids(get(base, OURS)) == []
    bundled = transaction(base, (refused, {"method": "POST", "url": "DocumentReference"}))
    assert bundled.status_code == 422
    stored = post(base, taken)
    assert stored.status_code == 201
    update = send("PUT", base, place(stored), {**refused, "id": stored.json()["id"]})
    assert update.status_code == 422, "an update must satisfy it too"
    assert post(farm("full"), refused).status_code == 201


def test_a_strict_site_names_every_broken_rule(farm: Farm) -> None:
    answer = post(farm("full", "strict-document"), changed(docStatus=None, context=None))
    places = [e for issue in answer.json()["issue"] for e in issue["expression"]]
    assert places == ["DocumentReference.context.period.end", "DocumentReference.docStatus"]


def report(code: str) -> Resource:
    return {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "x"},
            "subject": {"reference": "Patient/1"},
            "category": [{"coding": [{"system": "http://loinc.org", "code": code}]}]}  # fmt: skip


def test_only_reports_of_two_categories_are_created(farm: Farm) -> None:
    base = farm("full", "report-categories")
    assert [post(base, report(code)).status_code for code in ("LP29708-2", "LP7839-6", "LP29684-5")] == [201, 201, 422]
    assert post(base, {**report(""), "category": [{"text": "pathology"}]}).status_code == 422


def test_a_communication_is_completed_and_from_a_practitioner(farm: Farm) -> None:
    base = farm("full", "communication-rules")
    good = {"resourceType": "Communication", "status": "completed", "sender": {"reference": "Practitioner/p"}}
    assert post(base, good).status_code == 201
    for bad in ({"status": "in-progress"}, {"sender": {"reference": "Organization/p"}}, {"sender": {"display": "us"}}):
        assert post(base, {**good, **bad}).status_code == 422, bad


def test_a_document_type_may_not_be_mapped(farm: Farm) -> None:
    one, all_ = farm("full", "unmapped-type=34117-2"), farm("full", "unmapped-type")
    assert post(one, document()).status_code == 201
    other = changed(type={"coding": [{"system": "http://loinc.org", "code": "34117-2"}]})
    for base, sent in ((one, other), (all_, document())):
        answer = post(base, sent)
        assert (answer.status_code, codes(answer)) == (400, {"code-invalid", "40000"})
        assert ids(get(base, "DocumentReference?patient=1&type=34117-2")) == []


def test_the_same_document_again_is_a_duplicate(farm: Farm) -> None:
    base = farm("full", "duplicate-59141")
    assert post(base, document()).status_code == 201
    again = post(base, changed(identifier=None))
    assert (again.status_code, codes(again)) == (400, {"duplicate", "59141"})
    assert post(base, document(bytes=b"version 2")).status_code == 201
    assert post(base, changed(subject={"reference": "Patient/2"})).status_code == 201
    assert len(ids(get(base, OURS))) == 3


def test_an_update_must_name_its_version(farm: Farm) -> None:
    base = farm("full", "needs-if-match")
    path = place(post(base, document()))
    stored = get(base, path).json()
    assert send("PUT", base, path, stored).status_code == 412
    assert send("PUT", base, path, stored, If_Match='W/"1"').status_code == 200
    stale = send("PUT", base, path, stored, If_Match='W/"1"')
    assert (stale.status_code, codes(stale)) == (409, {"conflict"})
    assert get(base, path).json()["meta"]["versionId"] == "2"
    other = farm("full", "needs-if-match=400")
    path = place(post(other, document()))
    assert send("PUT", other, path, get(other, path).json()).status_code == 400


def test_transactions_may_not_be_offered(farm: Farm) -> None:
    base = farm("full", "no-transaction")
    assert transaction(base, (document(), {"method": "POST", "url": "DocumentReference"})).status_code == 400
    assert not get(base, "metadata").json()["rest"][0].get("interaction")


def test_conditional_creates_may_not_be_offered(farm: Farm) -> None:
    base = farm("full", "no-conditional-create")
    assert not any(r["conditionalCreate"] for r in get(base, "metadata").json()["rest"][0]["resource"])
    made = [post(base, document(), If_None_Exist="identifier=urn:ours|v1") for _ in range(2)]
    assert [m.status_code for m in made] == [201, 201]


# what becomes of it

CONDITIONAL = {"method": "POST", "url": "DocumentReference", "ifNoneExist": "identifier=urn:ours|v1"}


def test_fields_can_vanish_without_a_word(farm: Farm) -> None:
    base = farm("full", "drops-fields")
    sent = document(
        masterIdentifier={"value": "urn:uuid:1"},
        category=[{"text": "x"}],
        relatesTo=[{"code": "replaces", "target": {"reference": "DocumentReference/d"}}],
    )
    for answer in (post(base, sent), transaction(base, (sent, {"method": "POST", "url": "DocumentReference"}))):
        assert answer.status_code in (200, 201), answer.text
    for path in ids(get(base, "DocumentReference?type=11488-4")):
        stored = get(base, f"DocumentReference/{path}").json()
        kept = {name for name in sent if name not in ("identifier", "masterIdentifier", "category", "relatesTo")}
        assert set(stored) == kept | {"id", "meta"}
        assert set(stored["context"]) == {"period", "encounter"}
        assert data(stored) == b"SECOND OPINION"
    assert len(ids(get(base, "DocumentReference?type=11488-4"))) == 2
    assert "category" in post(base, report("LAB")).json()


def test_other_fields_can_be_named(farm: Farm) -> None:
    stored = post(farm("full", "drops-fields=docStatus,context.period"), changed(
        context={"period": {"end": "2026-11-20T10:00:00Z"}})).json()  # fmt: skip
    assert "identifier" in stored
    assert not {"docStatus", "context"} & set(stored)


def test_bytes_can_change_on_the_way_in(farm: Farm) -> None:
    base = farm("full", "changed-bytes")
    stored = post(base, document()).json()
    assert data(get(base, f"DocumentReference/{stored['id']}").json()) == b"SECOND OPINION\n"
    binary = post(base, {"resourceType": "Binary", "contentType": "text/plain", "data": "eA=="}).json()
    assert base64.b64decode(get(base, f"Binary/{binary['id']}").json()["data"]) == b"x\n"


def test_criteria_can_be_passed_over(farm: Farm) -> None:
    base = farm("full", "ignores-criteria")
    assert [post(base, document(), If_None_Exist="identifier=urn:ours|v1").status_code for _ in range(2)] == [201, 201]
    assert transaction(base, (document(), CONDITIONAL)).json()["entry"][0]["response"]["status"] == "201 Created"
    assert len(ids(get(base, OURS))) == 3
    assert all(r["conditionalCreate"] for r in get(base, "metadata").json()["rest"][0]["resource"])


def test_criteria_can_match_too_much(farm: Farm) -> None:
    base = farm("full", "matches-too-much")
    answer = post(base, document(), If_None_Exist="identifier=urn:ours|v1")
    assert (answer.status_code, answer.json()["id"]) == (200, "d")
    entry = transaction(base, (document(), CONDITIONAL)).json()["entry"][0]["response"]
    assert (entry["status"], entry["location"].split("/")[1]) == ("200 OK", "d")
    assert ids(get(base, OURS)) == []
    task = {"resourceType": "Basic", "code": {"text": "x"}}
    assert post(base, task, If_None_Exist="identifier=x").status_code == 201, "there is none that could match"
    assert post(base, document()).status_code == 201


def test_what_is_answered_with_201_may_be_nowhere(farm: Farm) -> None:
    base = farm("full", "stores-nothing")
    for _ in range(2):
        answer = post(base, document(), If_None_Exist="identifier=urn:ours|v1")
        assert answer.status_code == 201
        assert get(base, place(answer)).status_code == 404
    entry = transaction(base, (document(), CONDITIONAL)).json()["entry"][0]["response"]
    assert entry["status"] == "201 Created"
    assert get(base, entry["location"].partition("/_history")[0]).status_code == 404
    assert get(base, entry["location"]).status_code == 404
    assert ids(get(base, OURS)) == []
    assert ids(get(base, "DocumentReference?patient=1")) == ["d"]


def test_what_is_accepted_may_be_seen_only_later(farm: Farm) -> None:
    base = farm("full", "eventual=0.8")
    answer = post(base, document())
    assert answer.status_code == 202
    assert get(base, place(answer)).status_code == 404
    assert ids(get(base, OURS)) == []
    time.sleep(0.9)
    assert data(get(base, place(answer)).json()) == b"SECOND OPINION"
    assert len(ids(get(base, OURS))) == 1


def test_an_answer_can_come_later_than_the_client_waits(farm: Farm) -> None:
    base = farm("full", "late-answer=1")
    with pytest.raises(requests.ReadTimeout):
        post(base, document(), timeout=0.4)
    assert len(ids(get(base, OURS))) == 1, "it is stored all the same"
    began = time.monotonic()
    assert post(base, document()).status_code == 201
    assert time.monotonic() - began > 0.9


def test_a_write_that_nobody_waits_for_any_more_can_still_land(farm: Farm) -> None:
    base = farm("full", "late-store=0.8")
    with pytest.raises(requests.ReadTimeout):
        post(base, document(), timeout=0.3)
    assert ids(get(base, OURS)) == []
    time.sleep(0.9)
    assert len(ids(get(base, OURS))) == 1


@pytest.mark.parametrize(("quirk", "stored"), [("lost-answer=2", 2), ("refused-late=2", 0)])
def test_a_connection_can_end_after_or_before_a_write_is_stored(farm: Farm, quirk: str, stored: int) -> None:
    base = farm("full", quirk)
    assert get(base, "Patient/1").status_code == 200
    if stored:
        assert post(base, changed(status=None)).status_code == 422, "what is refused is answered"
    with pytest.raises(requests.ConnectionError):
        post(base, document())
    with pytest.raises(requests.ConnectionError):
        transaction(base, (document(), {"method": "POST", "url": "DocumentReference"}))
    assert len(ids(get(base, OURS))) == stored
    assert post(base, document()).status_code == 201
