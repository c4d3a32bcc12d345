"""Conditional read, update and delete: what is there decides, and two criteria never make two of one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from fhir_secondop.access import rights
from fhir_secondop.model import Caller
from fhir_secondop.store.database import Database
from tests.rest.served import NAME, PATIENT, Send, bundle, client_of, created, matches, posting
from tests.store.rows import DESK

MRN = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]}
SAME = "/Patient?identifier=urn:mrn|1"


def test_a_create_of_what_is_there_waits_for_no_writer_and_ignores_the_rest(send: Send, database: Database) -> None:
    name = created(send, MRN)
    same = {"If-None-Exist": "identifier=urn:mrn|1"}
    with ThreadPoolExecutor(1) as others, database.transaction(DESK):
        found = others.submit(send, "POST", "/Patient", MRN, **same).result(timeout=30)
        # R4: with one match the server ignores what was sent.
        ignored = others.submit(send, "POST", "/Patient", {**MRN, "gender": "?"}, **same).result(timeout=30)
    assert [(each.status_code, each.json["id"]) for each in (found, ignored)] == [(200, name)] * 2  # type: ignore[index]
    wrong = send("POST", "/Patient", {**MRN, "gender": "?"}, **{"If-None-Exist": "identifier=urn:mrn|2"})
    assert wrong.status_code == 422


def test_an_update_of_what_matches_creates_updates_or_is_refused(send: Send) -> None:
    made = send("PUT", SAME, MRN)
    assert made.status_code == 201, made.text
    name = made.json["id"]  # type: ignore[index]
    changed = send("PUT", SAME, {**MRN, "gender": "male"})
    assert (changed.status_code, changed.json["id"]) == (200, name)  # type: ignore[index]
    assert changed.headers["ETag"] == 'W/"2"'
    assert send("PUT", SAME, {**MRN, "id": name}).headers["ETag"] == 'W/"3"'
    assert send("PUT", SAME, {**MRN, "id": "other"}).status_code == 400
    assert send("PUT", "/Patient?identifier=urn:mrn|2", {**PATIENT, "id": "other"}).status_code == 405
    created(send, MRN)
    assert send("PUT", SAME, MRN).status_code == 412
    assert len(matches(send("GET", "/Patient"))) == 2


def test_a_deletion_of_what_matches_takes_one_or_none(send: Send) -> None:
    name = created(send, MRN)
    other = created(send)
    gone = send("DELETE", SAME)
    assert (gone.status_code, gone.headers["ETag"]) == (204, 'W/"2"')
    assert send("GET", f"/Patient/{name}").status_code == 410
    assert send("DELETE", SAME).status_code == 404
    created(send)
    assert send("DELETE", f"/Patient?name={NAME}").status_code == 412
    assert other in matches(send("GET", "/Patient"))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_a_write_without_id_and_criteria_is_told_what_to_say(sqlite_send: Send, method: str) -> None:
    name = created(sqlite_send)
    for path, status in (("/Patient", 400), ("/Patient?_format=json", 400), ("/Patient?nme=x", 422)):
        assert sqlite_send(method, path, None if method == "DELETE" else MRN).status_code in (status, 415)
    assert sqlite_send("DELETE", "/Patient?identifier=").status_code == 412, "no criteria are left"
    assert matches(sqlite_send("GET", "/Patient")) == [name]


def test_a_version_is_demanded_of_what_matches(send: Send) -> None:
    created(send, MRN)
    assert send("PUT", SAME, MRN, If_Match='W/"2"').status_code == 412
    assert send("PUT", "/Patient?identifier=urn:mrn|2", MRN, If_Match='W/"1"').status_code == 412
    assert send("PUT", SAME, MRN, If_Match='W/"1"').status_code == 200
    assert send("DELETE", SAME, If_Match='W/"1"').status_code == 412
    assert send("DELETE", SAME, If_Match='W/"2"').status_code == 204


def test_if_none_match_of_a_put_keeps_what_is_there(send: Send) -> None:
    name = created(send, MRN)
    body = {**MRN, "id": name}
    assert send("PUT", f"/Patient/{name}", body, If_None_Match="*").status_code == 412
    assert send("PUT", f"/Patient/{name}", body, If_None_Match='W/"1"').status_code == 412
    assert send("PUT", SAME, MRN, If_None_Match="*").status_code == 412
    assert send("PUT", f"/Patient/{name}", body, If_None_Match='W/"7"').status_code == 200
    assert send("PUT", "/Patient?identifier=urn:mrn|2", PATIENT, If_None_Match="*").status_code == 201


@pytest.mark.parametrize(("method", "path", "header"), [
    ("POST", "/Patient", "If-Match"), ("POST", "/Patient", "If-Unmodified-Since"),
    ("PUT", "/Patient/{}", "If-None-Exist"), ("PUT", "/Patient/{}", "If-Unmodified-Since"),
    ("DELETE", "/Patient/{}", "If-None-Match"), ("DELETE", SAME, "If-None-Exist"),
])  # fmt: skip
def test_a_precondition_that_is_not_taken_is_not_passed_over(
    sqlite_send: Send, method: str, path: str, header: str
) -> None:
    name = created(sqlite_send, MRN)
    body = None if method == "DELETE" else {**MRN, "id": name}
    answer = sqlite_send(method, path.format(name), body, **{header.replace("-", "_"): "x"})
    assert answer.status_code == 400
    assert header in answer.text
    assert matches(sqlite_send("GET", "/Patient")) == [name]


def test_if_modified_since_spares_what_has_not_changed(send: Send) -> None:
    name = created(send)
    since = send("GET", f"/Patient/{name}").headers["Last-Modified"]
    same = send("GET", f"/Patient/{name}", If_Modified_Since=since)
    assert (same.status_code, same.text, same.headers["ETag"]) == (304, "", 'W/"1"')
    assert send("GET", f"/Patient/{name}", If_Modified_Since="Sat, 01 Jan 2000 00:00:00 GMT").status_code == 200
    assert send("GET", f"/Patient/{name}", If_Modified_Since="yesterday").status_code == 400
    # Changed within the second that Last-Modified says, or later: what was read is no longer there.
    assert send("PUT", f"/Patient/{name}", {**PATIENT, "id": name, "gender": "male"}).status_code == 200
    again = send("GET", f"/Patient/{name}", If_Modified_Since=since)
    assert again.status_code == 200
    assert json.loads(again.text)["gender"] == "male"
    # If-None-Match says it better, and alone.
    assert send("GET", f"/Patient/{name}", If_None_Match='W/"1"', If_Modified_Since=again.headers["Last-Modified"]
                ).status_code == 200  # fmt: skip


def test_who_changes_what_matches_may_search_too(database: Any) -> None:
    """Else the answer to a guess would tell what a search may not."""
    alice = Caller(id="alice", name="alice", scopes=("user/Patient.cruds",))
    client = client_of(database, lambda request: alice)
    assert client.put(f"/fhir{SAME}", json=MRN).status_code == 201
    for letters, method, status in (
        ("cru", "put", 403), ("ds", "delete", 204), ("d", "delete", 403), ("us", "put", 403), ("cus", "put", 201),
    ):  # fmt: skip
        limited = replace(alice, scopes=(f"user/Patient.{letters}",))
        answer = getattr(client_of(database, lambda request, who=limited: who), method)(f"/fhir{SAME}", json=MRN)
        assert answer.status_code == status, (letters, method, answer.text)


# ---- criteria that follow references

OBSERVATION = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
THROUGH = ("subject:Patient.identifier=urn:mrn|1", "subject.identifier=urn:mrn|1", "patient.identifier=urn:mrn|1")


def observed(patient: str, **more: Any) -> dict[str, Any]:
    return {**OBSERVATION, "subject": {"reference": f"Patient/{patient}"}, **more}


@pytest.mark.parametrize("criteria", THROUGH)
def test_criteria_go_through_what_the_resource_points_to(send: Send, criteria: str) -> None:
    name, other = created(send, MRN), created(send)
    stranger = created(send, observed(other))
    made = send("POST", "/Observation", observed(name), **{"If-None-Exist": criteria})
    assert made.status_code == 201, made.text
    one = made.json["id"]  # type: ignore[index]
    again = send("POST", "/Observation", observed(name), **{"If-None-Exist": criteria})
    assert (again.status_code, again.json["id"]) == (200, one)  # type: ignore[index]
    changed = send("PUT", f"/Observation?{criteria}", observed(name, status="amended"))
    assert (changed.status_code, changed.headers["ETag"]) == (200, 'W/"2"')
    operations = [{"op": "replace", "path": "/status", "value": "corrected"}]
    patched = send("PATCH", f"/Observation?{criteria}", operations, Content_Type="application/json-patch+json")
    assert (patched.status_code, patched.json["id"]) == (200, one)  # type: ignore[index]
    entries = [{"resource": observed(name), "request": {"method": "PUT", "url": f"Observation?{criteria}"}},
               posting(observed(name), ifNoneExist=f"{criteria}&status=preliminary")]  # fmt: skip
    found = send("POST", "/", bundle(*entries))
    assert [entry["response"]["status"][:3] for entry in found.get_json()["entry"]] == ["200", "201"]
    assert send("DELETE", f"/Observation?{criteria}").status_code == 412, "there are two now"
    assert send("DELETE", f"/Observation?{criteria}&_id={one}").status_code == 204
    assert send("GET", f"/Observation/{stranger}").status_code == 200


def test_criteria_go_backwards_and_conditional_references_either_way(send: Send) -> None:
    name = created(send, MRN)
    created(send)
    one = created(send, observed(name))
    has = f"_has:Observation:subject:_id={one}"
    found = send("POST", "/Patient", PATIENT, **{"If-None-Exist": has})
    assert (found.status_code, found.json["id"]) == (200, name)  # type: ignore[index]
    assert send("PUT", f"/Patient?{has}", {**MRN, "gender": "male"}).headers["ETag"] == 'W/"2"'
    for criteria in (f"Patient?{has}", "Patient?identifier=urn:mrn|1"):
        sent = {**OBSERVATION, "subject": {"reference": criteria}}
        answer = send("POST", "/", bundle(posting(sent)), Prefer="return=representation")
        assert answer.get_json()["entry"][0]["resource"]["subject"]["reference"] == f"Patient/{name}"
    sent = {**OBSERVATION, "subject": {"reference": "Patient?_has:Observation:subject:status=amended"}}
    assert send("POST", "/", bundle(posting(sent))).status_code == 412


def test_criteria_go_no_further_than_a_search_of_the_caller(database: Database) -> None:
    everyone = Caller("alice", "Alice", scopes=("user/*.cruds",))
    alice = client_of(database, lambda request: everyone)
    name = alice.post("/fhir/Patient", json=MRN).json["id"]
    assert alice.post("/fhir/Observation", json=observed(name)).status_code == 201
    through = {"If-None-Exist": THROUGH[0]}
    reference = {**OBSERVATION, "subject": {"reference": "Patient?identifier=urn:mrn|1"}}
    for scopes, status in (
        (("user/*.cruds",), 200), (("user/Observation.cruds", "user/Patient.s"), 200),
        (("user/Observation.cruds", "user/Patient.r"), 403), (("user/Observation.cruds",), 403),
        # What a search of such a scope does not find is not there.
        (("user/Observation.cruds", "user/Patient.s?gender=male"), 201),
    ):  # fmt: skip
        limited = replace(everyone, scopes=scopes)
        client = client_of(database, lambda request, who=limited: who, restrictions=rights.restrictions)
        refers = client.post("/fhir", json=bundle(posting(reference)))
        assert refers.status_code == {200: 200, 201: 412, 403: 403}[status], (scopes, refers.text)
        unless = bundle(posting(observed(name), ifNoneExist=f"{THROUGH[1]}&status=registered"))
        assert client.post("/fhir", json=unless).status_code == (403 if status == 403 else 200)
        for each in client_observations(alice, keep=1):
            assert alice.delete(f"/fhir/Observation/{each}").status_code == 204
        assert client.post("/fhir/Observation", json=observed(name), headers=through).status_code == status, scopes
    bob = client_of(database, lambda request: replace(everyone, id="bob"))
    mine = {**OBSERVATION, "subject": {"reference": f"Patient/{name}"}}
    assert bob.post("/fhir/Observation", json=mine, headers=through).status_code == 201, "alice's are not bob's"


def client_observations(client: Any, *, keep: int) -> list[str]:
    found = client.get("/fhir/Observation").json.get("entry", [])
    return [entry["resource"]["id"] for entry in found][keep:]


def test_where_no_search_follows_references_criteria_do_not_either(database: Database) -> None:
    options = {"searchable": {"Patient": frozenset({"identifier"}), "Observation": frozenset({"subject"})}}
    few = client_of(database, lambda request: Caller("alice", "Alice", scopes=("user/*.cruds",)), **options)
    refused = few.post("/fhir/Observation", json=OBSERVATION, headers={"If-None-Exist": THROUGH[0]})
    assert (refused.status_code, refused.json["issue"][0]["code"]) == (400, "not-supported")
    assert "follow references" in refused.json["issue"][0]["diagnostics"]
    name = few.post("/fhir/Patient", json=MRN).json["id"]
    reference = {**OBSERVATION, "subject": {"reference": "Patient?identifier=urn:mrn|1"}}
    assert few.post("/fhir", json=bundle(posting(reference))).status_code == 200
    assert few.get(f"/fhir/Observation?subject=Patient/{name}").json["entry"]
