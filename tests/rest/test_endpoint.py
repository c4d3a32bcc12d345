"""The FHIR endpoint: every route, every header, every refusal, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from fhir_secondop.access import rights
from fhir_secondop.errors import Unauthenticated
from fhir_secondop.fhir import codec, definitions, validate
from fhir_secondop.limits import Limits
from fhir_secondop.model import Caller, Operation, Resource, Result
from fhir_secondop.rest.app import blueprint
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.sandbox import ehr
from fhir_secondop.sandbox.signin import VISITOR
from fhir_secondop.store.database import Database, now_ms
from tests.rest.served import (
    BINARY,
    NAME,
    PATIENT,
    URN,
    Send,
    bundle,
    client_of,
    created,
    expressions,
    matches,
    posting,
    sender,
)
from tests.store.rows import BASE

# create


def test_create_answers_where_it_is_and_gives_it_back_as_sent(send: Send) -> None:
    text = f'{{ "resourceType":"Patient", "name" : [{{"family":"{NAME}"}}],\n "multipleBirthInteger": 1 }}'
    answer = send("POST", "/Patient", text)
    assert answer.status_code == 201
    assert answer.json
    name = answer.json["id"]
    assert answer.headers["Location"] == f"{BASE}/Patient/{name}/_history/1"
    assert answer.headers["ETag"] == 'W/"1"'
    assert answer.headers["Last-Modified"].endswith("GMT")
    assert answer.mimetype == "application/fhir+json"
    again = send("GET", f"/Patient/{name}")
    assert again.text == answer.text
    assert again.headers["ETag"] == 'W/"1"'
    assert again.headers["Last-Modified"] == answer.headers["Last-Modified"]
    head, _, tail = answer.text.partition(',"id":')
    assert text == head + tail[tail.index("}") + 1 :]


def test_the_id_of_the_sender_is_not_taken(send: Send) -> None:
    answer = send("POST", "/Patient", {**PATIENT, "id": "mine"})
    assert answer.json
    assert answer.json["id"] != "mine"
    assert send("GET", "/Patient/mine").status_code == 404


ORDERS = (
    '{"resourceType":"Patient","id":"x","meta":{"versionId":"1"}}',
    '{"resourceType":"Patient","active":true,"id":"x","meta":{"versionId":"1"}}',
    '{"id":"x","meta":{"versionId":"1"},"resourceType":"Patient"}',
    '{"meta":{"versionId":"1"},"resourceType":"Patient","active":true , "id":"x"  }',
    '{"id":"x" , "resourceType":"Patient" , "meta":{"versionId":"1"} , "active":true}',
)


def test_wherever_id_and_meta_stand_what_is_stored_can_be_read(send: Send) -> None:
    for text in ORDERS:
        can_be_read(send, text)
    assert len(matches(send("GET", "/Patient"))) == len(ORDERS)


def can_be_read(send: Send, text: str) -> None:
    answer = send("POST", "/Patient", text)
    stored = codec.parse(answer.get_data())
    assert codec.parse(send("GET", f"/Patient/{stored['id']}").get_data()) == stored
    assert stored.get("active") == json.loads(text).get("active")
    again = send("PUT", f"/Patient/{stored['id']}", answer.text)
    assert again.status_code == 200


@pytest.mark.parametrize(("prefer", "kind"), [("return=minimal", ""), ("return=OperationOutcome", "OperationOutcome"),
                                              ("return=representation", "Patient"), ("", "Patient")])  # fmt: skip
def test_prefer_says_what_a_write_answers(sqlite_send: Send, prefer: str, kind: str) -> None:
    send = sqlite_send
    first = send("POST", "/Patient", PATIENT, Prefer=prefer)
    name = first.headers["Location"].split("/")[-3]
    second = send("PUT", f"/Patient/{name}", {**PATIENT, "id": name}, Prefer=prefer)
    assert (first.status_code, second.status_code) == (201, 200)
    for answer in (first, second):
        assert (json.loads(answer.text)["resourceType"] if answer.text else "") == kind
        assert answer.headers["ETag"]
    assert json.loads(send("GET", f"/Patient/{name}", Prefer=prefer).text)["resourceType"] == "Patient"


def test_if_none_exist_creates_finds_or_refuses(send: Send) -> None:
    identified = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]}
    asked = {"If_None_Exist": "identifier=urn:mrn|1"}
    first = send("POST", "/Patient", identified, **asked)
    second = send("POST", "/Patient", {**identified, "gender": "male"}, **asked)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.headers["Location"] == first.headers["Location"]
    assert second.text == first.text, "what is there already stays"
    for form in ("?identifier=urn:mrn|1", "Patient?identifier=urn:mrn|1", f"{BASE}/Patient?identifier=urn:mrn|1"):
        assert send("POST", "/Patient", identified, If_None_Exist=form).status_code == 200, form
    for form in ("Group?identifier=urn:mrn|1", "identifier=urn:mrn|1&_sort=_id", "general-practitioner.name=x"):
        assert send("POST", "/Patient", identified, If_None_Exist=form).status_code in (400, 422), form
    created(send, identified)
    assert send("POST", "/Patient", identified, **asked).status_code == 412
    assert send("POST", "/Patient", identified, If_None_Exist="").status_code == 412
    assert send("POST", "/Patient", identified, If_None_Exist="identifer=1").status_code == 422
    assert len(matches(send("GET", "/Patient"))) == 2
    assert send("POST", "/Patient", PATIENT, If_None_Exist="identifier=what?").status_code == 201


def test_criteria_in_the_address_of_a_write_are_not_passed_over(sqlite_send: Send) -> None:
    """fhirpy's get_or_create does that: passing over them would make a second patient."""
    name = created(sqlite_send)
    for method, path in (("POST", "/Patient"), ("PUT", f"/Patient/{name}"), ("DELETE", f"/Patient/{name}")):
        body = None if method == "DELETE" else {**PATIENT, "id": name}
        assert sqlite_send(method, f"{path}?name={NAME}", body).status_code == 400
    assert matches(sqlite_send("GET", "/Patient")) == [name]
    assert sqlite_send("POST", "/Patient?_format=json&_pretty=true", PATIENT).status_code == 201


# read and versions


def test_a_parameter_of_a_read_is_not_passed_over(sqlite_send: Send) -> None:
    name = created(sqlite_send)
    for path in (f"/Patient/{name}", f"/Patient/{name}/_history/1"):
        assert sqlite_send("GET", f"{path}?_format=json&_pretty=true").status_code == 200
        for asked in ("_elements=id", "nonsense=1", "_include=*"):
            assert sqlite_send("GET", f"{path}?{asked}").status_code == 400


def test_if_none_match_spares_the_answer(send: Send) -> None:
    name = created(send)
    for held in ('W/"1"', '"1"', 'W/"7", W/"1"', "*"):
        answer = send("GET", f"/Patient/{name}", If_None_Match=held)
        assert (answer.status_code, answer.text, answer.headers["ETag"]) == (304, "", 'W/"1"'), held
    assert send("GET", f"/Patient/{name}", If_None_Match='W/"2"').status_code == 200


def test_head_has_the_headers_of_get_and_no_body(send: Send) -> None:
    name = created(send)
    for path in (f"/Patient/{name}", f"/Patient/{name}/_history/1", "/Patient", "/metadata"):
        full, head = send("GET", path), send("HEAD", path)
        assert (head.status_code, head.text) == (200, "")
        for header in ("Content-Type", "ETag", "Last-Modified", "Content-Length"):
            assert head.headers.get(header) == full.headers.get(header), (path, header)
    assert send("HEAD", "/Patient/nowhere").status_code == 404


def test_update_history_and_deletion(send: Send) -> None:
    name = created(send)
    updated = send("PUT", f"/Patient/{name}", {**PATIENT, "id": name, "gender": "female"}, If_Match='W/"1"')
    assert (updated.status_code, updated.headers["ETag"]) == (200, 'W/"2"')
    assert updated.headers["Location"] == f"{BASE}/Patient/{name}/_history/2"
    assert send("PUT", f"/Patient/{name}", {**PATIENT, "id": name}, If_Match='W/"1"').status_code == 412
    assert send("DELETE", f"/Patient/{name}", If_Match='W/"1"').status_code == 412
    assert send("PUT", f"/Patient/{name}", {**PATIENT, "id": name}, If_Match=NAME[:3]).status_code == 400
    assert json.loads(send("GET", f"/Patient/{name}/_history/1").text).get("gender") is None
    assert send("DELETE", f"/Patient/{name}", If_Match='W/"2"').status_code == 204
    assert send("DELETE", f"/Patient/{name}").status_code == 204
    assert send("GET", f"/Patient/{name}").status_code == 410
    assert send("GET", f"/Patient/{name}/_history/3").status_code == 410, "the deletion has no content to show"
    assert json.loads(send("GET", f"/Patient/{name}/_history/2").text)["gender"] == "female"
    history = send("GET", f"/Patient/{name}/_history")
    bundle = codec.parse(history.get_data())
    assert validate.validate(bundle) == []
    assert [(e["request"]["method"], e["response"]["status"], "resource" in e) for e in bundle["entry"]] == [
        ("DELETE", "204", False),
        ("PUT", "200", True),
        ("POST", "201", True),
    ]
    assert {e["fullUrl"] for e in bundle["entry"]} == {f"{BASE}/Patient/{name}"}
    assert bundle["total"] == 3


@pytest.mark.parametrize("path", ["/Patient/nowhere", "/Patient/nowhere/_history", "/Patient/nowhere/_history/1",
                                  f"/Patient/{NAME}%20x", "/Patient/%00", f"/Nothing/{NAME}", "/Patient/a/b/c", "/x",
                                  f"/{NAME}",
                                  "/Patient/a/_history/x", "/Patient/a/_history/" + "9" * 30, "/patient", "/$nothing",
                                  "/Patient/a/$nothing", "/Nothing/_history", "/Subject/1"])  # fmt: skip
def test_what_is_not_there_is_not_found(sqlite_send: Send, path: str) -> None:
    assert sqlite_send("GET", path).status_code == 404


def test_ids_that_are_none_are_not_found_on_either_database(send: Send) -> None:
    for path in ("/Patient/%00", "/Patient/%00/_history", "/Patient/%ED%A0%80", "/Patient/" + "x" * 70):
        assert send("GET", path).status_code == 404
        assert send("DELETE", path.removesuffix("/_history")).status_code == 404
    assert send("PUT", "/Patient/nowhere", {**PATIENT, "id": "nowhere"}).status_code == 405  # R4: no update as create


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("POST", "/Patient/1", "DELETE, GET, HEAD, PATCH, PUT"),
    ("POST", "/Patient/1/_history", "GET, HEAD"), ("PUT", "/", "GET, HEAD, POST"), ("DELETE", "", "GET, HEAD, POST"),
    ("POST", "/metadata", "GET, HEAD"), ("GET", "/Patient/1/_history/1/x", ""),
])  # fmt: skip
def test_a_wrong_method_is_told_the_right_ones(sqlite_send: Send, method: str, path: str, allowed: str) -> None:
    answer = sqlite_send(method, path, {} if method in ("POST", "PUT", "PATCH") else None)
    assert (answer.status_code, answer.headers.get("Allow", "")) == (405 if allowed else 404, allowed)


# formats


def test_formats_that_are_not_written_or_read_are_refused(sqlite_send: Send) -> None:
    send = sqlite_send
    name = created(send)
    for header in ("application/fhir+xml", "text/html", "application/pdf, text/turtle"):
        assert send("GET", f"/Patient/{name}", Accept=header).status_code == 406
    for header in (
        "application/fhir+json",
        "application/json",
        "text/html, */*;q=0.1",
        "application/fhir+json; fhirVersion=4.0",
    ):
        assert send("GET", f"/Patient/{name}", Accept=header).status_code == 200
    for asked in ("xml", "text/html", "application/fhir%2Bxml"):
        for path in (f"/Patient/{name}", "/Patient", "/metadata"):
            assert send("GET", f"{path}?_format={asked}").status_code == 406
    for asked in ("json", "application/fhir%2Bjson", "application/fhir+json", "application/json"):
        assert send("GET", f"/Patient/{name}?_format={asked}", Accept="text/html").status_code == 200
    for kind in (
        "application/fhir+xml",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json-patch+json",
    ):
        assert send("POST", "/Patient", PATIENT, Content_Type=kind).status_code == 415
        assert send("PUT", f"/Patient/{name}", PATIENT, Content_Type=kind).status_code == 415
        assert send("POST", "/", PATIENT, Content_Type=kind).status_code == 415
    assert len(matches(send("GET", "/Patient"))) == 1


@pytest.mark.parametrize(("body", "where"), [
    (f'{{"resourceType": "Patient",\n  "name": [{{"family": "{NAME}"}},]}}', "line 2, column"),
    (f'{{"resourceType": "Patient",\n\n "{NAME}": }}', "line 3, column"),
    (f'["{NAME}"]', "one JSON object"), ("", "empty"), (b'{"resourceType":"Patient","x":"\xff"}', "UTF-8"),
    (f'{{"{NAME[0]}":1}}', "resourceType"), ("\ufeff{}", "byte order mark"), ("[" * 200 + "]" * 200, "deeper"),
    ('{"resourceType":"Patient","active":true,"active":false}', "twice"), ('{"resourceType":"Patient","x":NaN}', "NaN"),
    ('{"resourceType":"Patient","language":"\\u0000"}', "NUL"),
    ('{"resourceType":"Patient","language":"\\ud800"}', "NUL"),
])  # fmt: skip
def test_what_cannot_be_parsed_is_told_where(sqlite_send: Send, body: str | bytes, where: str) -> None:
    answer = sqlite_send("POST", "/Patient", body)
    assert answer.status_code == 400
    assert where in answer.text


def test_every_fault_is_named_with_its_place_and_nothing_is_stored(sqlite_send: Send) -> None:
    broken = {
        "resourceType": "Patient", "name": [{"family": NAME}, {"family": ""}], "gender": NAME,
        "birthDate": "1970-13-01", "contact": [{"name": {"famly": NAME}}], "active": "true",
    }  # fmt: skip
    for answer in (
        sqlite_send("POST", "/Patient", broken),
        sqlite_send("PUT", "/Patient/x", {**broken, "id": "x"}),
    ):
        assert answer.status_code == 422
        found = set(expressions(answer))
        assert found >= {"Patient.name[1].family", "Patient.gender", "Patient.birthDate", "Patient.active"}
        assert any(e.startswith("Patient.contact[0].name") for e in found)
    assert matches(sqlite_send("GET", "/Patient")) == []


@pytest.mark.parametrize("body", [{"resourceType": "Observation"}, {"resourceType": NAME}, {"resourceType": "Bundle"}])
def test_a_body_of_another_type_is_refused(sqlite_send: Send, body: Resource) -> None:
    assert sqlite_send("POST", "/Patient", body).status_code == 422


def test_an_update_needs_the_id_of_its_address(sqlite_send: Send) -> None:
    name = created(sqlite_send)
    for body in (PATIENT, {**PATIENT, "id": "other"}):
        answer = sqlite_send("PUT", f"/Patient/{name}", body)
        assert (answer.status_code, expressions(answer)) == (400, ["Patient.id"])


def test_an_oversized_body_without_a_length_is_refused(tmp_path: Any) -> None:
    """Chunked: the length is not known before."""
    database = Database(str(tmp_path / "one.sqlite"))
    database.migrate()
    text = b'{"resourceType":"Patient"' + b" " * 2000 + b"}"
    sent = EnvironBuilder("/fhir/Patient", method="POST", data=text, content_type="application/fhir+json")
    environ = sent.get_environ()
    del environ["CONTENT_LENGTH"]
    environ["wsgi.input_terminated"] = True
    client = client_of(database, lambda request: VISITOR, limits=Limits(max_body_bytes=1000))
    _, status, _ = run_wsgi_app(client.application, environ)
    assert status.startswith("413")
    database.dispose()


# search


def test_search_answers_a_valid_bundle_with_links(send: Send) -> None:
    names = [created(send) for _ in range(5)]
    answer = send("GET", f"/Patient?name={NAME}&_count=2&_total=accurate")
    assert matches(answer) == names[:2]
    assert answer.json
    assert answer.json["total"] == 5
    assert [e["fullUrl"] for e in answer.json["entry"]] == [f"{BASE}/Patient/{n}" for n in names[:2]]
    seen = []
    while True:
        assert answer.json
        seen += matches(answer)
        links = {link["relation"]: link["url"] for link in answer.json["link"]}
        assert links["self"].startswith(f"{BASE}/Patient?")
        if "next" not in links:
            break
        assert links["next"].startswith(f"{BASE}/Patient?")
        answer = send("GET", links["next"].removeprefix(BASE))
    assert seen == names


def test_a_search_by_post_is_the_same_search(send: Send) -> None:
    names = [created(send), created(send, {"resourceType": "Patient", "name": [{"family": "Berg"}]})]
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    answer = send("POST", "/Patient/_search", f"name={NAME}&_total=accurate", **form)
    assert matches(answer) == names[:1]
    assert matches(send("POST", "/Patient/_search?name=berg", "", **form)) == names[1:]
    assert matches(send("POST", f"/Patient/_search?name={NAME}", "name=berg", **form)) == []
    assert matches(send("POST", "/Patient/_search")) == names
    assert answer.json
    [link] = answer.json["link"]
    assert dict(parse_qsl(urlsplit(link["url"]).query)) == {"name": NAME, "_total": "accurate"}


def test_a_search_by_post_that_is_no_form_is_refused_and_not_run_without(sqlite_send: Send) -> None:
    created(sqlite_send)
    for kind in ("application/fhir+json", "text/plain", "multipart/form-data"):
        assert sqlite_send("POST", "/Patient/_search", "name=nobody", Content_Type=kind).status_code == 415


def test_an_unknown_parameter_is_an_error_unless_leniency_is_asked_for(sqlite_send: Send) -> None:
    name = created(sqlite_send)
    created(sqlite_send, {"resourceType": "Patient", "name": [{"family": "Berg"}]})
    asked = f"/Patient?name={NAME}&famly=x&shoe-size=44"
    refused = sqlite_send("GET", asked)
    assert refused.status_code == 422
    assert expressions(refused) == ["famly", "shoe-size"]
    lenient = sqlite_send("GET", asked, Prefer="handling=lenient")
    assert matches(lenient) == [name]
    assert lenient.json
    assert lenient.json["link"][0]["url"] == f"{BASE}/Patient?name={NAME}"
    [notice] = [e["resource"] for e in lenient.json["entry"] if e["search"]["mode"] == "outcome"]
    assert [(i["severity"], i["expression"]) for i in notice["issue"]] == [
        ("warning", ["famly"]), ("warning", ["shoe-size"]),
    ]  # fmt: skip


UNRUNNABLE = (
    f"birthdate={NAME}", "birthdate=1970-13-01", f"_page={NAME}", "_page=" + "9" * 40 + ".1", f"name:missing={NAME}",
    "name=%00", "identifier=%00", "_id=%00", "general-practitioner=%00",
)  # fmt: skip


def test_a_search_that_cannot_be_run_is_refused_without_repeating_it(send: Send) -> None:
    for asked in UNRUNNABLE:
        answer = send("GET", f"/Patient?{asked}")
        assert answer.status_code == (400 if asked.startswith("_page") else 422), asked
        assert "1970" not in answer.text


# transaction


def document(patient: str, binary: str) -> Resource:
    return {
        "resourceType": "DocumentReference", "status": "current", "subject": {"reference": patient},
        "content": [{"attachment": {"contentType": "text/plain", "url": binary}}],
    }  # fmt: skip


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


# rights, operations and failures of our own: an endpoint put together here


def ran(caller: Caller, resource_id: str, sent: Resource) -> Result:
    if resource_id == "breaks":
        raise RuntimeError(f"{NAME} was in the row")
    return Result({"ran": True})


@pytest.fixture
def guarded(database: Database) -> Callable[[Caller], Send]:
    """guarded(caller) → an endpoint that knows only that caller, with two operations."""

    def build(caller: Caller) -> Send:
        def authenticate(request: Any) -> Caller:
            if not caller.id:
                raise Unauthenticated("Say who you are.")
            return caller

        endpoint = Endpoint(
            database=database, base_url=BASE, software="test", authenticate=authenticate,
            visibility=lambda caller: rights.visibility(caller, now_ms()), allows=rights.allows,
            operations=(
                Operation("look", "Patient", "Looks.", ran, reads=True),
                Operation("do", "Patient", "Does.", ran),
            ),
        )  # fmt: skip
        app = Flask("test", static_folder=None)
        app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")
        return sender(app)

    return build


ALICE = Caller("alice", "Alice", frozenset({"provider"}), ("user/*.cruds",))
BOB = Caller("bob", "Bob", frozenset({"provider"}), ("user/*.cruds",))


def test_nobody_reaches_what_belongs_to_somebody_else(guarded: Callable[[Caller], Send]) -> None:
    alice, bob = guarded(ALICE), guarded(BOB)
    identified = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]}
    name = created(alice, identified)
    for path in (f"/Patient/{name}", f"/Patient/{name}/_history", f"/Patient/{name}/_history/1"):
        assert alice("GET", path).status_code == 200
        for method in ("GET", "HEAD"):
            assert bob(method, path).status_code == 404
    # As with an id that nobody has: hidden and absent are told apart by nothing.
    assert bob("PUT", f"/Patient/{name}", {**PATIENT, "id": name}).status_code == 405
    assert bob("DELETE", f"/Patient/{name}").status_code == 404
    for asked in (
        "",
        f"name={NAME}",
        f"_id={name}",
        "identifier=urn:mrn|1",
        "name:missing=false",
        "gender:missing=true",
    ):
        assert matches(alice("GET", f"/Patient?{asked}")) == [name]
        answer = bob("GET", f"/Patient?{asked}&_total=accurate")
        assert matches(answer) == []
        assert answer.json
        assert answer.json["total"] == 0
    for entry in (
        {"request": {"method": "GET", "url": f"Patient/{name}"}},
        {"resource": {**PATIENT, "id": name}, "request": {"method": "PUT", "url": f"Patient/{name}"}},
        posting(document("Patient?identifier=urn:mrn|1", "https://x/1")),
    ):
        assert bob("POST", "/", bundle(entry)).status_code in (404, 412)
    bob("POST", "/", bundle({"request": {"method": "DELETE", "url": f"Patient/{name}"}}))
    # A conditional create must not tell that it is there.
    assert bob("POST", "/Patient", identified, If_None_Exist="identifier=urn:mrn|1").status_code == 201
    assert json.loads(alice("GET", f"/Patient/{name}").text)["meta"]["versionId"] == "1"


SCOPES = [
    ("r", "GET", "/Patient/{}"), ("r", "GET", "/Patient/{}/_history"), ("r", "GET", "/Patient/{}/_history/1"),
    ("s", "GET", "/Patient"), ("s", "POST", "/Patient/_search"), ("c", "POST", "/Patient"), ("u", "PUT", "/Patient/{}"),
    ("u", "PATCH", "/Patient/{}"), ("d", "DELETE", "/Patient/{}"), ("c", "POST", "/"),
]  # fmt: skip


def test_each_interaction_needs_its_letter(guarded: Callable[[Caller], Send]) -> None:
    for letter, method, path in SCOPES:
        name = created(guarded(ALICE))
        body: Any = {**PATIENT, "id": name} if method in ("POST", "PUT") and "_search" not in path else None
        more = {}
        if path == "/":
            body = bundle(posting(PATIENT))
        if method == "PATCH":
            body, more = [], {"Content_Type": "application/json-patch+json"}
        for scopes, allowed in (
            (f"user/Patient.{letter}", True), ("user/Observation.cruds", False), ("", False),
            ("user/Patient." + "cruds".replace(letter, ""), False),
        ):  # fmt: skip
            status = guarded(replace(ALICE, scopes=(scopes,)))(method, path.format(name), body, **more).status_code
            assert (status < 300) == allowed, (method, path, scopes, status)
            assert allowed or status == 403


@pytest.mark.parametrize(("letters", "shown"), [("c", False), ("cr", True)])
def test_what_a_conditional_create_finds_is_shown_to_who_may_read_it(
    guarded: Callable[[Caller], Send], letters: str, shown: bool
) -> None:
    identified = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}], "gender": "female"}
    name = created(guarded(ALICE), identified)
    send = guarded(replace(ALICE, scopes=(f"user/Patient.{letters}",)))
    answer = send("POST", "/Patient", PATIENT, **{"If-None-Exist": "identifier=urn:mrn|1"})
    assert (answer.status_code, answer.headers["Location"]) == (200, f"{BASE}/Patient/{name}/_history/1")
    assert ("female" in answer.get_data(as_text=True)) is shown


def test_who_says_nothing_is_asked_who_it_is(guarded: Callable[[Caller], Send]) -> None:
    nobody = guarded(Caller("", ""))
    for method, path in (("GET", "/Patient/1"), ("GET", "/Patient"), ("POST", "/"), ("GET", "/Patient/1/$look")):
        answer = nobody(method, path, {} if method == "POST" else None)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert nobody("GET", "/metadata").status_code == 200


def test_get_and_head_run_only_operations_that_read(guarded: Callable[[Caller], Send]) -> None:
    send = guarded(ALICE)
    assert [send(method, "/Patient/1/$look").status_code for method in ("GET", "HEAD", "POST")] == [200, 200, 200]
    assert [send(method, "/Patient/1/$do").status_code for method in ("GET", "HEAD", "POST")] == [404, 404, 200]
    assert send("DELETE", "/Patient/1/$do").status_code == 405


def test_a_failure_of_ours_says_nothing_of_the_row(
    guarded: Callable[[Caller], Send], caplog: pytest.LogCaptureFixture
) -> None:
    answer = guarded(ALICE)("POST", "/Patient/breaks/$do")
    assert answer.status_code == 500
    assert "Quote number" in answer.text
    assert "test_endpoint.py" in caplog.text
    assert NAME not in caplog.text


# the CapabilityStatement tells the truth


@pytest.mark.parametrize("shape", ["full", "epic", "read-only"])
def test_what_is_declared_works_and_what_is_not_is_refused(shape: str, tmp_path: Any) -> None:
    database = Database(str(tmp_path / "one.sqlite"))
    database.migrate()
    send = sender(ehr.build(shape, database, BASE))
    writer = sender(ehr.build("full", database, BASE))
    statement = codec.parse(send("GET", "/metadata").get_data())
    assert validate.validate(statement) == []
    assert statement["fhirVersion"] == "4.0.1"
    [rest] = statement["rest"]
    declared = {r["type"]: r for r in rest["resource"]}
    basic = {"resourceType": "Basic", "code": {"text": "x"}}
    samples = {"Patient": PATIENT, "Basic": basic, "Binary": BINARY}
    for kind in definitions.resource_types():
        offered = {i["code"] for i in declared.get(kind, {}).get("interaction", [])}
        found = send("GET", f"/{kind}?_count=0")
        assert (found.status_code == 200) == ("search-type" in offered), kind
        assert (send("GET", f"/{kind}/x").status_code == 404) == ("read" in offered), kind
        assert (send("GET", f"/{kind}/x/_history").status_code == 404) == ("history-instance" in offered), kind
        assert (send("GET", f"/{kind}/x/_history/1").status_code == 404) == ("vread" in offered), kind
        assert (send("GET", f"/{kind}/_history").status_code == 200) == ("history-type" in offered), kind
        assert (send("DELETE", f"/{kind}/x").status_code == 404) == ("delete" in offered), kind
        parameters = declared.get(kind, {}).get("searchParam", [])
        for parameter in parameters[:: 8 if shape == "read-only" else 1]:  # the same two thousand as of "full"
            value = value_for(definitions.search_parameters(kind)[parameter["name"]])
            answer = send("GET", f"/{kind}?{parameter['name']}={value}&_count=1")
            assert answer.status_code == 200, (kind, parameter["name"], answer.text)
            known = definitions.search_parameters(kind)[parameter["name"]]
            assert (known.type, known.url) == (parameter["type"], parameter["definition"])
    for kind, resource in samples.items():
        offered = {i["code"] for i in declared.get(kind, {}).get("interaction", [])}
        name = created(writer, resource)
        posted = send("POST", f"/{kind}", resource)
        assert (posted.status_code == 201) == ("create" in offered), posted.text
        updated = send("PUT", f"/{kind}/{name}", {**resource, "id": name})
        assert (updated.status_code == 200) == ("update" in offered), updated.text
        patched = send("PATCH", f"/{kind}/{name}", "[]", Content_Type="application/json-patch+json")
        assert (patched.status_code == 200) == ("patch" in offered), patched.text
        elsewhere = send("PUT", f"/{kind}?_id=nowhere", resource)
        assert (elsewhere.status_code == 201) == declared.get(kind, {}).get("conditionalUpdate", False), elsewhere.text
        absent = send("DELETE", f"/{kind}?_id=nowhere").status_code
        assert (absent == 404) == (declared.get(kind, {}).get("conditionalDelete") == "single")
        assert (send("GET", f"/{kind}/{name}").status_code == 200) == ("read" in offered)
        assert (send("GET", f"/{kind}/{name}/_history").status_code == 200) == ("history-instance" in offered)
        assert (send("GET", f"/{kind}/{name}/_history/1").status_code == 200) == ("vread" in offered)
    assert statement.get("patchFormat") == (["application/json-patch+json"] if shape == "full" else None)
    for kind in ("transaction", "batch"):
        is_offered = {"code": kind} in rest.get("interaction", [])
        assert (send("POST", "/", bundle(posting(basic), kind=kind)).status_code == 200) == is_offered
    for entry in declared.values():
        codes = {i["code"] for i in entry["interaction"]}
        assert entry["versioning"] == "versioned", "If-Match is not demanded"
        assert entry["readHistory"] == ("vread" in codes)
        assert entry["conditionalCreate"] == (shape == "full" and "create" in codes)
        assert entry["updateCreate"] is False
        assert entry["conditionalRead"] == "full-support"
        assert entry["conditionalUpdate"] == (shape == "full" and "update" in codes)
        assert entry["conditionalDelete"] == ("single" if shape == "full" and "delete" in codes else "not-supported")
        assert bool(entry.get("searchInclude")) == (shape != "epic" and "search-type" in codes)
        for name in ("searchInclude", "searchRevInclude"):
            parameter = "_include" if name == "searchInclude" else "_revinclude"
            for value in entry.get(name, [])[::9]:
                assert send("GET", f"/{entry['type']}?_count=1&{parameter}={value}").status_code == 200, value
    database.dispose()


def value_for(parameter: definitions.SearchParameter) -> str:
    """A value that a parameter can take."""
    if parameter.type == "composite":
        return "$".join(value_for(part) for part, _ in definitions.components(parameter))
    return {"date": "2024-01-01", "number": "1", "quantity": "1"}.get(parameter.type, "x")


def test_a_transaction_does_not_offer_more_than_the_types_do(tmp_path: Any) -> None:
    database = Database(str(tmp_path / "one.sqlite"))
    database.migrate()
    endpoint = Endpoint(
        database=database, base_url=BASE, software="test", authenticate=lambda request: ehr.VISITOR,
        visibility=lambda caller: rights.visibility(caller, now_ms()), allows=rights.allows,
        by_type={"Patient": frozenset({"create", "read"})},
    )  # fmt: skip
    app = Flask("test", static_folder=None)
    app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")
    send = sender(app)
    assert send("POST", "/", bundle(posting(PATIENT))).status_code == 200
    refused = (
        posting({"resourceType": "Basic", "code": {"text": "x"}}),
        {"resource": {**PATIENT, "id": "1"}, "request": {"method": "PUT", "url": "Patient/1"}},
        {"request": {"method": "DELETE", "url": "Patient/1"}},
    )
    for entry in refused:
        assert send("POST", "/", bundle(posting(PATIENT), entry)).status_code == 400
    assert send("GET", "/Patient").status_code == 400, "searching is not offered"
    database.dispose()
