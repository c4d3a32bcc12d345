"""What a transaction stores and answers; with one fault, nothing."""

from __future__ import annotations

import json

import pytest

from fhir_secondop.fhir import codec, validate
from fhir_secondop.model import Resource
from tests.rest.served import (
    BINARY,
    NAME,
    PATIENT,
    URN,
    Send,
    bundle,
    created,
    document,
    expressions,
    matches,
    posting,
)


def test_a_transaction_stores_all_and_answers_in_order(send: Send) -> None:
    old, gone = created(send), created(send)
    answer = send(
        "POST",
        "/",
        bundle(
            {"request": {"method": "GET", "url": f"Patient/{old}"}},
            {"resource": {**PATIENT, "id": old, "gender": "male"},
             "request": {"method": "PUT", "url": f"Patient/{old}", "ifMatch": 'W/"1"'}},
            posting(document(f"{URN}1", f"{URN}2"), f"{URN}3"),
            posting(PATIENT, f"{URN}1"),
            posting(BINARY, f"{URN}2"),
            {"request": {"method": "DELETE", "url": f"Patient/{gone}"}},
        ),
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    result = codec.parse(answer.get_data())
    assert validate.validate(result) == []
    assert result["type"] == "transaction-response"
    responses = [e["response"] for e in result["entry"]]
    assert [r["status"][:3] for r in responses] == ["200", "200", "201", "201", "201", "204"]
    assert result["entry"][0]["resource"]["gender"] == "male"
    patient, binary = (r["location"].partition("/_history")[0] for r in responses[3:5])
    stored = json.loads(send("GET", "/" + responses[2]["location"]).text)
    assert stored["subject"]["reference"] == patient
    assert stored["content"][0]["attachment"]["url"] == binary
    assert responses[2]["etag"] == 'W/"1"'
    assert send("GET", f"/Patient/{gone}").status_code == 410
    assert matches(send("GET", f"/DocumentReference?subject={patient}")) == [stored["id"]]


def test_what_a_transaction_reads_comes_as_it_was_stored(sqlite_send: Send) -> None:
    text = '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.0e2}}'
    posted = json.loads(sqlite_send("POST", "/Observation", text).text)
    answer = sqlite_send("POST", "/", bundle({"request": {"method": "GET", "url": f"Observation/{posted['id']}"}}))
    assert '"value":1.0e2' in answer.text


def test_a_transaction_is_idempotent_by_if_none_exist(send: Send) -> None:
    identified = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]}
    sent = bundle(
        posting(identified, f"{URN}1", ifNoneExist="identifier=urn:mrn|1"), posting(document(f"{URN}1", "https://x/1"))
    )
    first, second = (json.loads(send("POST", "/", sent).text)["entry"] for _ in range(2))
    assert (first[0]["response"]["status"], second[0]["response"]["status"]) == ("201 Created", "200 OK")
    assert first[0]["response"]["location"] == second[0]["response"]["location"]
    assert len(matches(send("GET", "/Patient"))) == 1
    reference = first[0]["response"]["location"].partition("/_history")[0]
    assert len(matches(send("GET", f"/DocumentReference?subject={reference}"))) == 2


def test_a_conditional_reference_is_resolved(send: Send) -> None:
    name = created(send, {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]})
    answer = send("POST", "/", bundle(posting(document("Patient?identifier=urn:mrn|1", "https://x/1"))))
    location = json.loads(answer.text)["entry"][0]["response"]["location"]
    assert json.loads(send("GET", f"/{location}").text)["subject"]["reference"] == f"Patient/{name}"


BAD: list[tuple[int, str, Resource]] = [
    (422, "Bundle.entry[1].resource", posting(document(f"{URN}9", "https://x/1"))),
    (412, "Bundle.entry", posting(document(f"Patient?name={NAME}x", "https://x/1"))),
    (422, "Bundle.entry[1].request.url", {"request": {"method": "GET", "url": f"Nothing?name={NAME}"}}),
    (422, "Bundle.entry[1].request", {"request": {"method": "GET", "url": f"Patient?name={NAME}&nme=x"}}),
    (412, "", {"resource": PATIENT, "request": {"method": "PUT", "url": "Patient?name=", "ifMatch": 'W/"1"'}}),
    (412, "Bundle.entry[1].request.ifMatch",
     {"resource": PATIENT, "request": {"method": "PUT", "url": "Patient?name=nobody", "ifMatch": 'W/"1"'}}),
    (422, "Bundle.entry[1].resource.id",
     {"resource": {**PATIENT, "id": "x"}, "request": {"method": "PUT", "url": "Patient?name=nobody"}}),
    (422, "Bundle.entry[1].resource.id",
     {"resource": {**PATIENT, "id": "x"}, "request": {"method": "PUT", "url": "Patient/y"}}),
    (422, "Bundle.entry[1].request.ifNoneMatch", posting(PATIENT, ifNoneMatch="*")),
    (422, "Bundle.entry[1].request.ifNoneExist",
     {"request": {"method": "GET", "url": "Patient/x", "ifNoneExist": "name=x"}}),
    (422, "Bundle.entry[1].request.url", {"resource": PATIENT, "request": {"method": "PUT", "url": "Patient"}}),
    (422, "Bundle.entry[1].request.url", {"resource": PATIENT, "request": {"method": "POST", "url": "Observation"}}),
    (422, "Bundle.entry[1].request.url", {"resource": PATIENT, "request": {"method": "POST", "url": f"{NAME} x"}}),
    (422, "Bundle.entry[1].resource", {"resource": BINARY, "request": {"method": "PATCH", "url": "Binary/1"}}),
    (422, "Bundle.entry[1].resource", {"request": {"method": "POST", "url": "Patient"}}),
    (422, "Bundle.entry[1].request", {"resource": PATIENT}),
    (404, "Bundle.entry[1].request.url",
     {"resource": {**PATIENT, "id": "x"}, "request": {"method": "PUT", "url": "Patient/x"}}),
    (404, "Bundle.entry[1].request", {"request": {"method": "GET", "url": "Patient/nowhere"}}),
    (422, "Bundle.entry[1].resource.ofType(Patient).gender", posting({**PATIENT, "gender": NAME})),
    (422, "Bundle.entry[1].fullUrl", posting(PATIENT, f"{URN}1")),
    (422, "identifer", posting(PATIENT, ifNoneExist="identifer=1")),
    (412, "", posting(PATIENT, ifNoneExist="name=")),
]  # fmt: skip


@pytest.mark.parametrize(("status", "where", "entry"), BAD)
def test_a_transaction_with_one_fault_stores_nothing(
    sqlite_send: Send, status: int, where: str, entry: Resource
) -> None:
    answer = sqlite_send("POST", "/", bundle(posting(PATIENT, f"{URN}1"), entry))
    assert answer.status_code == status, answer.text
    found = expressions(answer)
    # The validator may write the resource's place with or without its type.
    assert not where or any(e == where or e.replace(".ofType(Patient)", "") == where.replace(".ofType(Patient)", "")
                            for e in found), found  # fmt: skip
    assert matches(sqlite_send("GET", "/Patient")) == []


def test_every_faulty_entry_of_a_transaction_is_named(sqlite_send: Send) -> None:
    answer = sqlite_send(
        "POST", "/",
        bundle(
            {"request": {"method": "GET", "url": "Nothing/1"}}, posting(PATIENT),
            {"request": {"method": "PUT", "url": "Patient/1"}},
        ),
    )  # fmt: skip
    assert expressions(answer) == ["Bundle.entry[0].request.url", "Bundle.entry[2].resource"]


def test_an_outdated_entry_rolls_the_whole_transaction_back(send: Send) -> None:
    name = created(send)
    outdated = {
        "resource": {**PATIENT, "id": name, "gender": "male"},
        "request": {"method": "PUT", "url": f"Patient/{name}", "ifMatch": 'W/"4"'},
    }
    assert send("POST", "/", bundle(posting(PATIENT), outdated)).status_code == 412
    assert matches(send("GET", "/Patient")) == [name]
    change = outdated | {"request": {"method": "PUT", "url": f"Patient/{name}"}}
    assert send("POST", "/", bundle(change, change)).status_code == 422
    assert json.loads(send("GET", f"/Patient/{name}").text)["meta"]["versionId"] == "1"


@pytest.mark.parametrize(("body", "status"), [
    (PATIENT, 422), (bundle(kind="batch"), 200), (bundle(kind="collection"), 400),
    ({"resourceType": "Bundle", "type": NAME}, 400), ({"resourceType": "Bundle"}, 400), (bundle(), 200),
])  # fmt: skip
def test_only_transactions_and_batches_are_taken_at_the_base(sqlite_send: Send, body: Resource, status: int) -> None:
    assert sqlite_send("POST", "/", body).status_code == status
    assert sqlite_send("POST", "", body).status_code == status
