"""read, create, update and delete of one resource: what each answers, and what it takes."""

from __future__ import annotations

import json

import pytest

from fhir_secondop.fhir import codec, validate
from tests.rest.served import (
    NAME,
    PATIENT,
    Send,
    created,
    matches,
)
from tests.store.rows import BASE


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
    for form in ("Group?identifier=urn:mrn|1", "identifier=urn:mrn|1&_sort=_id", "general-practitioner.nme=x"):
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
