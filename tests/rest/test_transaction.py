"""What a transaction changes by criteria and by patches; where it puts the new ids."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import patching
from tests.rest.served import PATIENT, URN, Send, bundle, client_of, created, matches, posting

MRN = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]}
SAME = "Patient?identifier=urn:mrn|1"


def asking(method: str, url: str, resource: Resource | None = None, **request: str) -> Resource:
    return {**({"resource": resource} if resource else {}), "request": {"method": method, "url": url, **request}}


def patch(url: str, operations: Any, **request: str) -> Resource:
    data = base64.b64encode(json.dumps(operations).encode()).decode()
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": data}
    return asking("PATCH", url, binary, **request)


def done(send: Send, *entries: Resource, status: int = 200, **headers: str) -> list[Resource]:
    answer = send("POST", "/", bundle(*entries), **headers)
    assert answer.status_code == status, answer.text
    return list(json.loads(answer.text).get("entry", []))


def test_what_matches_is_updated_created_patched_and_deleted(send: Send) -> None:
    [made] = done(send, asking("PUT", SAME, MRN))
    name = made["response"]["location"].split("/")[1]
    assert made["response"]["status"] == "201 Created"
    gone = created(send, {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "2"}]})
    observation = {"resourceType": "Observation", "status": "final", "code": {"text": "x"},
                   "subject": {"reference": f"{URN}1"}}  # fmt: skip
    found = done(
        send,
        {**asking("PUT", SAME, {**MRN, "gender": "male"}), "fullUrl": f"{URN}1"}, posting(observation),
        asking("DELETE", "Patient?identifier=urn:mrn|2"), asking("DELETE", "Patient?identifier=urn:mrn|3"),
    )  # fmt: skip
    assert [e["response"]["status"][:3] for e in found] == ["200", "201", "204", "204"]
    assert send("GET", f"/Patient/{gone}").status_code == 410
    assert len(matches(send("GET", f"/Observation?subject=Patient/{name}"))) == 1
    [patched] = done(send, patch(SAME, [{"op": "replace", "path": "/gender", "value": "female"}]))
    assert patched["response"]["etag"] == 'W/"3"'
    assert json.loads(send("GET", f"/Patient/{name}").text)["gender"] == "female"
    done(send, patch("Patient?identifier=urn:mrn|7", []), status=404)
    done(send, patch(f"Patient/{name}", [], ifMatch='W/"1"'), status=412)
    done(send, patch(f"Patient/{name}", [{"op": "remove", "path": "/birthDate"}]), status=409)


def test_one_resource_is_changed_once(send: Send) -> None:
    name = created(send, MRN)
    for entries in (
        (asking("PUT", SAME, MRN), asking("DELETE", f"Patient/{name}")),
        (asking("DELETE", SAME), patch(f"Patient/{name}", [])),
        (posting(MRN, ifNoneExist="identifier=urn:mrn|1"), asking("DELETE", SAME)),
        (asking("PUT", "Patient?identifier=urn:mrn|5", {**MRN, "identifier": [{"system": "urn:mrn", "value": "5"}]}),
         asking("PUT", "Patient?identifier=urn:mrn|5", {**MRN, "identifier": [{"system": "urn:mrn", "value": "5"}]})),
    ):  # fmt: skip
        done(send, *entries, status=422)
    assert matches(send("GET", "/Patient")) == [name]
    assert json.loads(send("GET", f"/Patient/{name}").text)["meta"]["versionId"] == "1"


def test_a_patch_is_made_anew_of_what_others_have_changed(send: Send, monkeypatch: Any) -> None:
    name = created(send, MRN)
    real, others = patching.patched, iter(["male", "female"])

    def slow(*of: Any) -> Any:
        result = real(*of)
        gender = next(others, None)
        if gender:  # between reading and writing
            assert send("PUT", f"/Patient/{name}", {**MRN, "id": name, "gender": gender}).status_code == 200
        return result

    monkeypatch.setattr(patching, "patched", slow)
    done(send, patch(f"Patient/{name}", [{"op": "add", "path": "/birthDate", "value": "1970-01-01"}]))
    found = json.loads(send("GET", f"/Patient/{name}").text)
    assert (found["gender"], found["birthDate"], found["meta"]["versionId"]) == ("female", "1970-01-01", "4")


def test_new_ids_stand_wherever_an_address_may(send: Send) -> None:
    div = (f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{URN}1</p><a href="{URN}1">x</a>'
           f'<img src="{URN}2" alt="x"/><a href="Patient?name=x">y</a></div>')  # fmt: skip
    basic = {
        "resourceType": "Basic", "code": {"text": f"{URN}1"}, "text": {"status": "generated", "div": div},
        "subject": {"reference": f"{URN}1"},
        "extension": [{"url": "http://x.example/a", "valueUri": f"{URN}1"},
                      {"url": "http://x.example/b", "valueUrl": f"{URN}2"},
                      {"url": "http://x.example/c", "valueUuid": f"{URN}1"},
                      {"url": "http://x.example/d", "valueAttachment": {"url": f"{URN}2"}}],
    }  # fmt: skip
    binary = {"resourceType": "Binary", "contentType": "image/png", "data": "aGVsbG8="}
    found = done(send, posting(basic), posting(PATIENT, f"{URN}1"), posting(binary, f"{URN}2"))
    name, patient, image = (e["response"]["location"].partition("/_history")[0] for e in found)
    stored = json.loads(send("GET", f"/{name}").text)
    assert stored["text"]["div"] == div.replace(f'"{URN}1"', f'"{patient}"').replace(f'"{URN}2"', f'"{image}"')
    values = [next(v for k, v in e.items() if k != "url") for e in stored["extension"]]
    assert values == [patient, image, f"{URN}1", {"url": image}]
    assert stored["subject"]["reference"] == patient
    assert stored["code"]["text"] == f"{URN}1"


def test_prefer_says_whether_what_was_written_is_in_the_answer(send: Send) -> None:
    assert "resource" not in done(send, posting(PATIENT))[0]
    [entry] = done(send, posting(PATIENT), Prefer="return=representation")
    assert entry["resource"]["id"] == entry["response"]["location"].split("/")[1]


def test_criteria_take_the_right_to_search_and_creating_its_own(database: Any) -> None:
    alice = Caller(id="alice", name="alice", scopes=("user/Patient.cruds",))
    for letters, entry, status in (
        ("cu", asking("PUT", SAME, MRN), 403), ("us", asking("PUT", SAME, MRN), 403),
        ("d", asking("DELETE", SAME), 403), ("cus", asking("PUT", SAME, MRN), 200),
        ("us", asking("PUT", SAME, MRN), 200), ("ds", asking("DELETE", SAME), 200),
    ):  # fmt: skip
        limited = replace(alice, scopes=(f"user/Patient.{letters}",))
        client = client_of(database, lambda request, who=limited: who)
        assert client.post("/fhir", json=bundle(entry)).status_code == status, (letters, entry)
