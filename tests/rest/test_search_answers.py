"""What a search answers over HTTP, by GET and by POST."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from tests.rest.served import (
    NAME,
    Send,
    created,
    expressions,
    matches,
)
from tests.store.rows import BASE


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
