"""JSON Patch: of one resource, or of the one that a search finds; all of it or nothing."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from werkzeug.test import TestResponse

from fhir_secondop.errors import Conflict, Invalid, Malformed, SecondOpError, TooLarge
from fhir_secondop.fhir import codec, patch, validate
from fhir_secondop.limits import Limits
from fhir_secondop.rest import patching
from fhir_secondop.sandbox.signin import VISITOR
from tests.rest.served import PATIENT, Send, bundle, client_of, created, expressions, matches, sender
from tests.rest.test_transaction import MRN
from tests.rest.test_transaction import patch as patch_entry

DIV = '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'
VALUE = '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.10,"unit":"mg"}}'


def send_patch(send: Send, path: str, operations: Any, **headers: str) -> TestResponse:
    return send("PATCH", path, operations, Content_Type="application/json-patch+json", **headers)


def add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def test_a_patch_changes_what_it_names_and_keeps_the_rest(send: Send) -> None:
    name = json.loads(send("POST", "/Observation", VALUE).text)["id"]
    answer = send_patch(
        send, f"/Observation/{name}",
        '[{"op":"test","path":"/valueQuantity/value","value":1.1},{"op":"replace","path":"/status","value":"amended"},'
        '{"op":"add","path":"/valueQuantity/extension","value":[{"url":"http://x.example","valueDecimal":0.50}]}]',
    )  # fmt: skip
    assert (answer.status_code, answer.headers["ETag"]) == (200, 'W/"2"'), answer.text
    assert answer.headers["Location"].endswith(f"/Observation/{name}/_history/2")
    assert '"value":1.10' in answer.text
    assert '"valueDecimal":0.50' in answer.text
    assert send("GET", f"/Observation/{name}").text == answer.text
    assert '"final"' in send("GET", f"/Observation/{name}/_history/1").text
    assert matches(send("GET", "/Observation?status=amended")) == [name]


def test_a_patch_of_what_matches(send: Send) -> None:
    name = created(send, {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]})
    same = "/Patient?identifier=urn:mrn|1"
    assert send_patch(send, same, [add("/gender", "male")]).json["id"] == name  # type: ignore[index]
    assert send_patch(send, "/Patient?identifier=urn:mrn|2", [add("/gender", "male")]).status_code == 404
    created(send, {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]})
    assert send_patch(send, same, [add("/gender", "female")]).status_code == 412
    assert send_patch(send, "/Patient", []).status_code == 400


def test_a_version_is_demanded(send: Send) -> None:
    name = created(send)
    assert send_patch(send, f"/Patient/{name}", [add("/gender", "male")], If_Match='W/"2"').status_code == 412
    assert send_patch(send, f"/Patient/{name}", [add("/gender", "male")], If_Match='W/"1"').status_code == 200
    assert send_patch(send, f"/Patient/{name}", [], If_None_Match="*").status_code == 400


@pytest.mark.parametrize(("operations", "status", "where"), [
    ([{"op": "test", "path": "/gender", "value": "male"}], 409, ["[0]"]),
    ([add("/gender", "male"), {"op": "remove", "path": "/birthDate"}], 409, ["[1]"]),
    ([add("/name/7/family", "x")], 409, ["[0]"]),
    ([add("/gender", "unknowable")], 422, ["Patient.gender"]),
    ([add("/id", "other")], 422, ["id"]),
    ([add("/resourceType", "Person")], 422, ["resourceType"]),
    ([{"op": "remove", "path": ""}], 409, ["[0]"]),
    ([{"op": "replace", "path": "", "value": "x"}], 422, []),
    ([add("", {})], 422, ["resourceType"]),
    ([{"op": "drop", "path": "/gender"}], 400, ["[0]"]),
    ([{"op": "add", "path": "/gender"}], 400, ["[0].value"]),
    ([{"op": "add", "path": "gender", "value": "male"}], 400, ["[0]"]),
    (["gender"], 400, ["[0]"]),
    ({"op": "add"}, 400, []),
    ("[", 400, []),
    ("", 400, []),
    ([add("/gender", "male")] * 1001, 413, []),
])  # fmt: skip
def test_a_patch_that_cannot_be_applied_changes_nothing(
    sqlite_send: Send, operations: Any, status: int, where: list[str]
) -> None:
    name = created(sqlite_send)
    answer = send_patch(sqlite_send, f"/Patient/{name}", operations)
    assert answer.status_code == status, answer.text
    assert expressions(answer) == where
    assert json.loads(sqlite_send("GET", f"/Patient/{name}").text)["meta"]["versionId"] == "1"


def test_other_forms_of_patch_are_refused_by_name(sqlite_send: Send) -> None:
    name = created(sqlite_send)
    for form in ("application/fhir+json", "application/xml-patch+xml", "application/json"):
        answer = sqlite_send("PATCH", f"/Patient/{name}", "[]", Content_Type=form)
        assert answer.status_code == 415
        assert "application/json-patch+json" in answer.text


def test_what_is_not_there_is_not_patched(sqlite_send: Send) -> None:
    name = created(sqlite_send)
    assert sqlite_send("DELETE", f"/Patient/{name}").status_code == 204
    assert send_patch(sqlite_send, f"/Patient/{name}", []).status_code == 410
    assert send_patch(sqlite_send, "/Patient/nowhere", []).status_code == 404


def test_prefer_says_what_a_patch_answers(sqlite_send: Send) -> None:
    name = created(sqlite_send)
    for preference, kind in (
        ("minimal", None),
        ("OperationOutcome", "OperationOutcome"),
        ("representation", "Patient"),
    ):
        answer = send_patch(sqlite_send, f"/Patient/{name}", [], Prefer=f"return={preference}")
        assert (json.loads(answer.text)["resourceType"] if answer.text else None) == kind


@pytest.mark.parametrize(("status", "operations", "kept"), [
    ("generated", [add("/gender", "male")], False),
    ("generated", [add("/meta", {"tag": [{"code": "x"}]})], True),
    ("generated", [add("/gender", "male"), add("/text/div", DIV.replace("x<", "male<"))], True),
    ("generated", [], True),
    ("additional", [add("/gender", "male"), add("/text/div", DIV.replace("x<", "male<"))], True),
    ("additional", [add("/gender", "male")], None),
])  # fmt: skip
def test_no_narrative_stays_that_was_made_of_what_is_changed(
    sqlite_send: Send, status: str, operations: list[Any], kept: bool | None
) -> None:
    name = created(sqlite_send, {**PATIENT, "text": {"status": status, "div": DIV}})
    answer = send_patch(sqlite_send, f"/Patient/{name}", operations)
    if kept is None:
        assert (answer.status_code, expressions(answer)) == (409, ["Patient.text"])
        return
    assert answer.status_code == 200
    assert ("text" in json.loads(answer.text)) == kept


def test_two_patches_at_once_are_both_there(send: Send) -> None:
    name = created(send, {**PATIENT, "name": [{"family": "Muster", "given": ["0"]}]})
    answers: list[int] = []

    def run(who: int) -> None:
        for number in range(5):
            said = send_patch(send, f"/Patient/{name}", [add("/name/0/given/-", f"{who}.{number}")])
            answers.append(said.status_code)

    threads = [threading.Thread(target=run, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    given = json.loads(send("GET", f"/Patient/{name}").text)["name"][0]["given"]
    assert set(answers) <= {200, 503}
    assert len(given) == len(set(given)) == 1 + answers.count(200) > 4


def test_a_patch_that_is_overtaken_each_time_is_given_up(database: Any, monkeypatch: Any) -> None:
    whole = sender(client_of(database, lambda request: VISITOR, limits=Limits(max_attempts=2)).application)
    name = created(whole)
    real, overtaken = patching.patched, [False]

    def slow(*of: Any) -> Any:
        result = real(*of)
        if overtaken.pop(0):  # between reading and writing
            assert whole("PUT", f"/Patient/{name}", {**PATIENT, "id": name}).status_code == 200
        return result

    monkeypatch.setattr(patching, "patched", slow)
    ways: list[Any] = [
        lambda: send_patch(whole, f"/Patient/{name}", [add("/gender", "male")]),
        lambda: whole("POST", "/", bundle(patch_entry(f"Patient/{name}", [add("/gender", "male")]))),
    ]
    for way in ways:
        overtaken[:] = [True, False]
        assert way().status_code == 200
        overtaken[:] = [True, True]
        answer = way()
        assert answer.status_code == 503, answer.text
        assert "max_attempts" in answer.text
        assert answer.headers["Retry-After"]


# the pure part


def test_a_patch_can_neither_nest_nor_grow_without_end() -> None:
    deep: Any = "x"
    for _ in range(90):
        deep = {"a": deep}
    nested = patch.parse(
        codec.dumps([add("/b" + "/a" * 90 * place + ("/a" if place else ""), deep) for place in range(1)])
    )
    assert patch.apply({"resourceType": "Basic"}, nested)
    twice = [add("/b", [["x" * 1_000_000]]), *({"op": "copy", "from": "/b", "path": "/b/-"} for _ in range(40))]
    with pytest.raises(TooLarge):
        patch.apply({"resourceType": "Basic"}, patch.parse(codec.dumps(twice)))
    into = [
        add("/b", deep),
        *({"op": "copy", "from": "/b", "path": "/b" + "/a" * (place * 90 + 1)} for place in range(60)),
    ]
    with pytest.raises((Invalid, Conflict, Malformed)):
        codec.parse(codec.dumps(patch.apply({"resourceType": "Basic"}, patch.parse(codec.dumps(into)))))


def test_the_patch_itself_is_not_changed_by_being_applied() -> None:
    operations = patch.parse('[{"op":"add","path":"/a","value":{"b":[]}},{"op":"add","path":"/a/b/-","value":1}]')
    for _ in range(2):
        assert patch.apply({"resourceType": "Basic"}, operations) == {"resourceType": "Basic", "a": {"b": [1]}}


def test_true_is_not_one() -> None:
    with pytest.raises(SecondOpError):
        patch.apply({"resourceType": "Basic", "a": True}, patch.parse('[{"op":"test","path":"/a","value":1}]'))


def test_histories_say_by_what_each_version_came_about(database: Any) -> None:
    whole = sender(client_of(database, lambda request: VISITOR, update_creates=True).application)
    name = created(whole, MRN)
    assert send_patch(whole, f"/Patient/{name}", [add("/gender", "male")]).status_code == 200
    assert whole("PUT", f"/Patient/{name}", {**MRN, "id": name}).status_code == 200
    assert send_patch(whole, "/Patient?identifier=urn:mrn|1", [add("/gender", "female")]).status_code == 200
    change = patch_entry(f"Patient/{name}", [add("/active", True)])
    assert whole("POST", "/", bundle(change)).status_code == 200
    assert whole("PUT", "/Patient/chosen", {**PATIENT, "id": "chosen"}).status_code == 201
    found = whole("PUT", "/Patient?identifier=urn:mrn|2", {**PATIENT, "identifier": [{"value": "2"}]})
    assert found.status_code == 201
    assert whole("DELETE", f"/Patient/{name}").status_code == 204
    here = f"Patient/{name}"
    ours = [("DELETE", here, "204"), ("PATCH", here, "200"), ("PATCH", here, "200"), ("PUT", here, "200"),
            ("PATCH", here, "200"), ("POST", "Patient", "201")]  # fmt: skip
    others = [("PUT", f"Patient/{found.get_json()['id']}", "201"), ("PUT", "Patient/chosen", "201")]
    assert said(whole, f"/{here}/_history") == ours
    for path in ("/Patient/_history", "/_history"):
        assert said(whole, path) == [ours[0], *others, *ours[1:]]
    assert said(whole, f"/{here}/_history?_count=2") == ours[:2]


def said(send: Send, path: str) -> list[tuple[str, str, str]]:
    answer = send("GET", path)
    history = codec.parse(answer.get_data())
    assert validate.validate(history) == []
    return [(e["request"]["method"], e["request"]["url"], e["response"]["status"]) for e in history["entry"]]
