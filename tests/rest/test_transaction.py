"""What a transaction changes by criteria and by patches; where it puts the new ids."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from fhir_secondop.fhir import codec, validate
from fhir_secondop.limits import Limits
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import patching
from fhir_secondop.sandbox.signin import VISITOR
from tests.rest.served import PATIENT, URN, Send, bundle, client_of, created, expressions, matches, posting, sender
from tests.store.rows import BASE

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


# ---- reading in a transaction

OBSERVATION = {"resourceType": "Observation", "status": "final", "code": {"text": "x"},
               "subject": {"reference": f"{URN}1"}}  # fmt: skip


@pytest.fixture
def whole(database: Any) -> Send:
    """An endpoint that offers all that there is, histories and searches of all types too."""
    return sender(client_of(database, lambda request: VISITOR).application)


def test_what_a_transaction_reads_is_what_it_has_written(whole: Send) -> None:
    name, gone = created(whole, MRN), created(whole)
    answer = whole(
        "POST", "/",
        bundle(
            asking("GET", f"Patient/{name}"), asking("GET", SAME + "&_total=accurate"),
            asking("GET", "Observation?patient.identifier=urn:mrn|1&_include=Observation:subject"),
            asking("GET", f"{BASE}/Patient/{name}/_history"), asking("GET", f"/Patient/{name}/_history/1"),
            asking("GET", f"Patient/{name}/Observation"), asking("GET", "?_type=Patient,Observation"),
            asking("GET", "Patient/_history?_count=1"), asking("HEAD", f"Patient/{name}"),
            asking("GET", f"Patient/{name}", ifNoneMatch='W/"2"'),
            {**asking("PUT", SAME, {**MRN, "gender": "male"}), "fullUrl": f"{URN}1"}, posting(OBSERVATION),
            asking("DELETE", f"Patient/{gone}"),
        ),
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    result = codec.parse(answer.get_data())
    assert validate.validate(result) == []
    found = result["entry"]
    said = [entry["response"]["status"] for entry in found]
    assert [int(each[:3]) for each in said] == [*[200] * 9, 304, 200, 201, 204]
    shown = [entry.get("resource") for entry in found]
    assert (shown[0]["gender"], shown[0]["meta"]["versionId"], found[0]["response"]["etag"]) == ("male", "2", 'W/"2"')
    assert (shown[1]["total"], shown[1]["entry"][0]["resource"]["gender"]) == (1, "male")
    assert [entry["search"]["mode"] for entry in shown[2]["entry"]] == ["match", "include"]
    assert [entry["resource"]["meta"]["versionId"] for entry in shown[3]["entry"]] == ["2", "1"]
    assert "gender" not in shown[4]
    assert len(shown[5]["entry"]) == 1
    assert sorted(entry["resource"]["resourceType"] for entry in shown[6]["entry"]) == ["Observation", "Patient"]
    assert len(shown[7]["entry"]) == 1
    assert shown[8:] == [None] * 5
    following = next(link["url"] for link in shown[7]["link"] if link["relation"] == "next")
    page = whole("GET", following.removeprefix(BASE))
    assert page.status_code == 200
    assert len(json.loads(page.text)["entry"]) == 1


def test_a_sorted_search_in_a_transaction_has_further_pages(send: Send) -> None:
    names = [{**PATIENT, "birthDate": f"197{n}-01-01"} for n in range(3)]
    found = done(send, asking("GET", "Patient?_sort=-birthdate&_count=2"), *map(posting, names))
    page = found[0]["resource"]
    assert [entry["resource"]["birthDate"][:4] for entry in page["entry"]] == ["1972", "1971"]
    following = next(link["url"] for link in page["link"] if link["relation"] == "next")
    rest = json.loads(send("GET", following.removeprefix(BASE)).text)
    assert [entry["resource"]["birthDate"][:4] for entry in rest["entry"]] == ["1970"]


@pytest.mark.parametrize(("url", "status"), [
    ("Patient/nowhere", 404), ("Patient?nme=x", 422), ("Patient?name=x&_page=made-up", 400),
    ("Observation?patient.nme=x", 422), ("Patient/nowhere/_history", 404), ("Patient/a/b/c", 404),
    ("Patient?birthdate=never", 422), ("_history?_since=never", 422), ("Basic/_search", 405),
])  # fmt: skip
def test_what_cannot_be_read_undoes_the_transaction(whole: Send, url: str, status: int) -> None:
    answer = whole("POST", "/", bundle(posting(PATIENT), asking("GET", "Patient"), asking("GET", url)))
    assert (answer.status_code, expressions(answer)) == (status, ["Bundle.entry[2].request"]), answer.text
    assert matches(whole("GET", "/Patient")) == []
    alone = whole("GET", f"/{url}")
    assert alone.status_code == status
    if alone.mimetype == answer.mimetype:
        said = [[issue["diagnostics"] for issue in json.loads(each.text)["issue"]] for each in (alone, answer)]
        assert said[0] == said[1]


@pytest.mark.parametrize("entry", [
    asking("GET", "Patient/$everything"), asking("GET", "metadata"), asking("GET", "Nothing/1"),
    asking("GET", f"Observation?subject={URN}1"), asking("GET", "Patient", ifMatch='W/"1"'),
    posting(OBSERVATION, ifNoneExist=f"subject={URN}1"), asking("PUT", f"Observation?subject={URN}1", OBSERVATION),
    asking("GET", "Observation?subject=" + URN.replace(":", "%3A") + "1"),
])  # fmt: skip
def test_what_is_not_asked_in_a_transaction_is_refused(sqlite_send: Send, entry: Resource) -> None:
    answer = sqlite_send("POST", "/", bundle(posting(PATIENT, f"{URN}1"), entry))
    assert answer.status_code == 422, answer.text
    assert expressions(answer)[0].startswith("Bundle.entry[1].request.")
    assert matches(sqlite_send("GET", "/Patient")) == []


def test_reading_takes_the_right_that_it_takes_alone(database: Any) -> None:
    alice = Caller(id="alice", name="alice", scopes=("user/Patient.cs", "user/Observation.c"))
    client = client_of(database, lambda request: alice)
    sent = (posting(PATIENT, f"{URN}1"), posting(OBSERVATION), asking("GET", "Patient?_total=accurate"))
    assert client.post("/fhir", json=bundle(*sent)).json["entry"][2]["resource"]["total"] == 1
    for url in ("Observation", "Patient?_has:Observation:subject:status=final", "Patient/_history", "Patient/x"):
        refused = client.post("/fhir", json=bundle(*sent, asking("GET", url)))
        assert (refused.status_code, expressions(refused)) == (403, ["Bundle.entry[3].request"]), url
    bob = client_of(database, lambda request: replace(alice, id="bob"))
    seen = bob.post("/fhir", json=bundle(posting(PATIENT), asking("GET", "Patient?_total=accurate")))
    assert seen.json["entry"][1]["resource"]["total"] == 1, "its own, and not alice's"


def test_reading_in_a_transaction_ends_with_its_time(database: Any) -> None:
    send = sender(client_of(database, lambda request: VISITOR, limits=Limits(max_search_s=0.0)).application)
    answer = send("POST", "/", bundle(posting(PATIENT), asking("GET", "Patient")))
    assert answer.status_code == 422
    assert "max_search_s" in answer.text
    assert done(send, posting(PATIENT))
