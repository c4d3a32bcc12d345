"""A batch: requests in a Bundle, each with its own fate."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fhir_secondop.fhir import codec, validate
from fhir_secondop.limits import Limits
from fhir_secondop.model import Caller, Resource
from fhir_secondop.sandbox.signin import VISITOR
from tests.rest.served import NAME, PATIENT, URN, Send, bundle, client_of, created, matches, posting, sender
from tests.rest.test_transaction import asking, patch
from tests.store.rows import BASE

MRN = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]}


def answered(send: Send, *entries: Resource, **headers: str) -> list[Resource]:
    answer = send("POST", "", bundle(*entries, kind="batch"), **headers)
    assert answer.status_code == 200, answer.text
    result = codec.parse(answer.get_data())
    assert validate.validate(result) == []
    assert (result["type"], len(result.get("entry", []))) == ("batch-response", len(entries))
    return list(result.get("entry", []))


def statuses(entries: list[Resource]) -> list[int]:
    return [int(entry["response"]["status"][:3]) for entry in entries]


def test_each_entry_is_the_request_that_it_says(send: Send) -> None:
    name, gone = created(send, MRN), created(send)
    found = answered(
        send,
        asking("GET", f"Patient/{name}"), asking("GET", f"Patient/{name}/_history/1"),
        asking("GET", "Patient?identifier=urn:mrn|1&_total=accurate"), asking("GET", f"{BASE}/Patient/{name}"),
        asking("GET", "metadata"), asking("GET", f"Patient/{name}", ifNoneMatch='W/"1"'),
        posting(PATIENT), posting(MRN, ifNoneExist="identifier=urn:mrn|1"),
        asking("PUT", f"Patient/{name}", {**MRN, "id": name}, ifMatch='W/"1"'),
        asking("PUT", "Patient?identifier=urn:mrn|7", {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "7"}]}),
        patch(f"Patient/{name}", [{"op": "add", "path": "/gender", "value": "male"}]),
        asking("DELETE", f"Patient/{gone}"), asking("HEAD", f"Patient/{name}"),
    )  # fmt: skip
    assert statuses(found) == [200, 200, 200, 200, 200, 304, 201, 200, 200, 201, 200, 204, 200]
    assert [e.get("resource", {}).get("resourceType") for e in found] == [
        "Patient", "Patient", "Bundle", "Patient", "CapabilityStatement", *[None] * 8
    ]  # fmt: skip
    assert found[2]["resource"]["total"] == 1
    assert found[10]["response"]["etag"] == 'W/"3"'
    assert found[8]["response"]["location"] == f"Patient/{name}/_history/2"
    assert found[8]["response"]["lastModified"]
    assert send("GET", f"/Patient/{gone}").status_code == 410
    assert json.loads(send("GET", f"/Patient/{name}").text)["gender"] == "male"


def test_what_one_entry_fails_with_is_its_own(send: Send) -> None:
    found = answered(
        send,
        posting(PATIENT), posting({**PATIENT, "gender": NAME}), asking("GET", "Patient/nowhere"),
        asking("GET", "Patient?nme=x"), asking("GET", "Nothing/1"), asking("DELETE", "Patient"),
        asking("POST", "/", bundle(posting(PATIENT), kind="batch")), patch("Patient?name=nobody", []),
        asking("PATCH", "Patient/1", PATIENT), posting(PATIENT),
    )  # fmt: skip
    assert statuses(found) == [201, 422, 404, 422, 404, 400, 422, 404, 422, 201]
    for entry in found[1:-1]:
        said = entry["response"]["outcome"]
        assert said["resourceType"] == "OperationOutcome"
        assert NAME not in json.dumps(said)
    assert found[1]["response"]["outcome"]["issue"][0]["expression"] == ["Patient.gender"]
    assert len(matches(send("GET", "/Patient"))) == 2


def test_what_an_operation_finds_is_its_result(database: Any) -> None:
    alice = Caller(id="alice", name="alice", scopes=("user/*.cruds",))
    client = client_of(database, lambda request: alice, validates=True)
    sent = bundle(asking("POST", "Patient/$validate", {**PATIENT, "gender": "unknowable"}), kind="batch")
    [entry] = json.loads(client.post("/fhir", json=sent).text)["entry"]
    assert entry["response"]["status"] == "200 OK"
    assert entry["resource"]["issue"][0]["expression"] == ["Patient.gender"]


def test_no_entry_refers_to_another(send: Send) -> None:
    observation = {"resourceType": "Observation", "status": "final", "code": {"text": "x"},
                   "subject": {"reference": f"{URN}1"}}  # fmt: skip
    assert statuses(answered(send, posting(PATIENT, f"{URN}1"), posting(observation, f"{URN}2"))) == [201, 422]


@pytest.mark.parametrize(("preference", "shown"), [("", None), ("return=minimal", None),
                                                   ("return=representation", "resource"),
                                                   ("return=OperationOutcome", "outcome")])  # fmt: skip
def test_prefer_says_what_each_write_answers(sqlite_send: Send, preference: str, shown: str | None) -> None:
    [entry] = answered(sqlite_send, posting(PATIENT), **({"Prefer": preference} if preference else {}))
    assert ("resource" in entry) == (shown == "resource")
    assert ("outcome" in entry["response"]) == (shown == "outcome")


def test_a_batch_that_is_no_bundle_is_refused_whole(sqlite_send: Send) -> None:
    for broken in ({"resource": PATIENT}, {"resource": PATIENT, "request": {"method": "SEND", "url": "Patient"}}):
        assert sqlite_send("POST", "/", bundle(posting(PATIENT), broken, kind="batch")).status_code == 422
    assert matches(sqlite_send("GET", "/Patient")) == []
    assert answered(sqlite_send) == []


def test_what_a_batch_cannot_answer_is_not_done(database: Any) -> None:
    def limited(**limits: Any) -> Send:
        return sender(client_of(database, lambda request: VISITOR, limits=Limits(**limits)).application)

    found = answered(limited(max_batch_bytes=100), asking("GET", "metadata"), posting(PATIENT))
    assert statuses(found) == [200, 413]
    assert "max_batch_bytes" in json.dumps(found[1])
    found = answered(limited(max_batch_s=-1.0), posting(PATIENT))
    assert statuses(found) == [503]
    assert "max_batch_s" in json.dumps(found)
    assert matches(limited()("GET", "/Patient")) == []


def test_each_entry_needs_its_own_right(database: Any) -> None:
    alice = Caller(id="alice", name="alice", scopes=("user/Patient.c",))
    client = client_of(database, lambda request: alice)
    sent = bundle(posting(PATIENT), asking("GET", "Patient"), asking("GET", "Patient/x"), kind="batch")
    found = json.loads(client.post("/fhir", json=sent).text)["entry"]
    assert statuses(found) == [201, 403, 403]
    others = client_of(database, lambda request: replace(alice, id="bob", scopes=("user/Patient.cruds",)))
    name = found[0]["response"]["location"].split("/")[1]
    sent = bundle(asking("GET", f"Patient/{name}"), asking("GET", "Patient?_total=accurate"), kind="batch")
    seen = json.loads(others.post("/fhir", json=sent).text)["entry"]
    assert statuses(seen) == [404, 200]
    assert seen[1]["resource"]["total"] == 0
