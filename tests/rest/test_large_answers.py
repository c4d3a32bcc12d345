"""Large answers: a page ends at its bytes with a link to the rest; what goes out is whole, or cut for all to see."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest
import requests

from fhir_secondop.config import Settings
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.xml import from_xml
from fhir_secondop.limits import Limits
from fhir_secondop.model import Caller
from fhir_secondop.rest import answers, searching
from fhir_secondop.store.database import Database
from fhir_secondop.web import listener
from tests.conftest import free_port
from tests.rest.served import client_of
from tests.store.rows import named, put, update

NAME = "Wolkenstein"
CALLER = Caller("them", "Them", frozenset({"coordinator"}), ("system/*.cruds",))


def large(number: int, size: int) -> tuple[str, dict[str, Any]]:
    return f"b{number}", {"contentType": "text/plain", "data": "QUFB" * (size // 4)}


def client(database: Database, **limits: Any) -> Any:
    return client_of(database, lambda request: CALLER, xml=True, limits=Limits(**limits))


def pages(
    client: Any, asked: str, shown: Callable[[Any], str] = lambda entry: str(entry["resource"]["id"])
) -> list[list[str]]:
    """The ids on each page, or what else, following the links."""
    found, following = [], f"/fhir/{asked}"
    while following:
        answer = client.get(following)
        assert answer.status_code == 200, answer.text[:500]
        page = answer.get_json()
        found.append([shown(entry) for entry in page["entry"]])
        links = {link["relation"]: link["url"] for link in page["link"]}
        following = links.get("next", "").removeprefix("https://secondop.example.org")
        assert len(found) < 50
    return found


SIZES = (1000, 5000, 1000, 1000, 30_000, 1000, 9000, 9000, 400, 400)


@pytest.mark.parametrize("order", ["", "_sort=_id", "_sort=-_id"])
def test_a_page_ends_at_its_bytes_and_each_match_is_on_one(database: Database, order: str) -> None:
    named(database, "Binary", [large(number, size) for number, size in enumerate(SIZES)])
    found = pages(client(database, max_page_bytes=10_000), f"Binary?{order}")
    ids = [f"b{number}" for number in range(len(SIZES))]
    assert list(chain(*found)) == (ids if order != "_sort=-_id" else ids[::-1])
    assert ["b4"] in found  # one that is larger than a page has one for itself
    for page in found:
        assert len(page) == 1 or sum(SIZES[int(name[1:])] for name in page) <= 10_000
    assert len(found) == 6
    assert len(pages(client(database), f"Binary?{order}")) == 1


def test_a_history_ends_at_its_bytes_and_each_version_is_on_one_page(database: Database) -> None:
    named(database, "Binary", [large(number, size) for number, size in enumerate(SIZES)])
    found = pages(client(database, max_page_bytes=10_000), "Binary/_history")
    assert list(chain(*found)) == [f"b{number}" for number in reversed(range(len(SIZES)))]
    assert len(found) == 6


def test_the_versions_of_one_resource_come_in_pages_too(database: Database) -> None:
    name, rest = large(0, 1000)
    stored = put(database, {"resourceType": "Binary", **rest}, resource_id=name)
    for size in SIZES[1:]:
        stored = update(database, stored, {"resourceType": "Binary", "id": name, **large(0, size)[1]})
    whole = client(database).get("/fhir/Binary/b0/_history").get_json()
    assert (whole["total"], len(whole["entry"])) == (10, 10)
    for asked, limits, number in (("", {"max_page_bytes": 10_000}, 6), ("?_count=3", {}, 4)):
        found = versions(client(database, **limits), f"Binary/b0/_history{asked}")
        assert list(chain(*found)) == [str(number) for number in range(10, 0, -1)]
        assert len(found) == number
    since = whole["entry"][2]["response"]["lastModified"].replace("+", "%2B")
    recent = client(database).get(f"/fhir/Binary/b0/_history?_since={since}").get_json()
    assert [entry["response"]["etag"] for entry in recent["entry"]] == ['W/"10"', 'W/"9"', 'W/"8"']
    assert "total" not in recent
    assert client(database).get("/fhir/Binary/nobody/_history").status_code == 404
    for wrong in ("_page=x", "_count=x", "colour=red"):
        assert client(database).get(f"/fhir/Binary/b0/_history?{wrong}").status_code in (400, 422)


def versions(client: Any, asked: str) -> list[list[str]]:
    return pages(client, asked, lambda entry: entry["resource"]["meta"]["versionId"])


def test_a_large_answer_is_streamed_and_the_same_as_a_small_one(database: Database) -> None:
    named(database, "Binary", [large(number, 400_000) for number in range(4)])
    many = client(database)
    answer = many.get("/fhir/Binary?_count=4")
    assert answer.content_length is None
    page = codec.parse(answer.get_data())
    assert [entry["resource"]["id"] for entry in page["entry"]] == ["b0", "b1", "b2", "b3"]
    few = many.get("/fhir/Binary?_count=1")
    assert few.content_length == len(few.get_data())
    head = many.head("/fhir/Binary?_count=4")
    assert (head.status_code, head.get_data(), head.content_length) == (200, b"", None)
    xml = many.get("/fhir/Binary?_count=4&_format=xml")
    assert xml.content_length is None
    assert xml.headers["Content-Type"] == "application/fhir+xml; charset=utf-8"
    assert codec.parse(from_xml(xml.get_data()))["entry"] == page["entry"]
    few = many.get("/fhir/Binary?_count=1&_format=xml")
    assert few.content_length == len(few.get_data())


@pytest.mark.parametrize("kind", ["transaction", "batch"])
def test_what_a_large_bundle_has_done_is_streamed_too(database: Database, kind: str) -> None:
    sent = [{"resource": {"resourceType": "Binary", **large(number, 400_000)[1]},
             "request": {"method": "POST", "url": "Binary"}} for number in range(4)]  # fmt: skip
    body = {"resourceType": "Bundle", "type": kind, "entry": sent}
    one = client(database)
    for form in ("json", "xml"):
        answer = one.post(f"/fhir/?_format={form}", json=body, headers={"Prefer": "return=representation"},
                          content_type="application/fhir+json")  # fmt: skip
        assert (answer.status_code, answer.content_length) == (200, None)
        told = codec.parse(answer.get_data() if form == "json" else from_xml(answer.get_data()))
        assert told["type"] == f"{kind}-response"
        assert [entry["response"]["status"] for entry in told["entry"]] == ["201 Created"] * 4
        assert [entry["resource"]["data"] for entry in told["entry"]] == [each["resource"]["data"] for each in sent]
    small = one.post("/fhir/", json={**body, "entry": sent[:1]}, content_type="application/fhir+json")
    assert small.content_length == len(small.get_data())


def test_a_bundle_of_none_one_and_many_is_json() -> None:
    for number in (0, 1, 3):
        text = b"".join(answers._parts({"resourceType": "Bundle", "type": "searchset"}, iter(["{}"] * number)))
        assert len(json.loads(text).get("entry", [])) == number


def test_what_is_streamed_goes_out_in_parts_that_are_worth_it() -> None:
    entries = (json.dumps({"resource": {"id": str(number), "x": "ä" * 500}}) for number in range(3000))
    parts = list(answers._parts({"resourceType": "Bundle", "type": "searchset"}, entries))
    assert len(parts) > 10
    assert all(len(part) >= answers.PART_BYTES for part in parts[:-1])
    assert [entry["resource"]["id"] for entry in json.loads(b"".join(parts))["entry"]] == [*map(str, range(3000))]


@contextmanager
def listening(app: Any) -> Iterator[int]:
    port = free_port()
    server = listener.listening(app, Settings(port=port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        server.task_dispatcher.shutdown()
        server._map.clear()  # its loop ends when there is nothing left to look after
        thread.join(20)
        server.socket.close()


def test_an_answer_that_fails_on_the_way_is_cut_and_looks_like_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    named(database, "Binary", [large(number, 400_000) for number in range(6)])
    app = client(database).application
    shown = searching._shown

    def failing(match: Any, wanted: Any) -> str:
        if match.id == "b4":
            raise RuntimeError(NAME)
        return shown(match, wanted)

    with listening(app) as port:
        url = f"http://127.0.0.1:{port}/fhir/Binary"
        assert len(requests.get(url, timeout=30).json()["entry"]) == 6
        monkeypatch.setattr(searching, "_shown", failing)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            requests.get(url, timeout=30)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(b"GET /fhir/Binary HTTP/1.1\r\nHost: x\r\n\r\n")
            got = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        assert got.startswith(b"HTTP/1.1 200")
        assert b'"id":"b3"' in got
        assert not got.endswith((b"]}", b"0\r\n\r\n"))
        # Before the first byte is out it is an error like any other.
        assert requests.get(f"{url}?_id=b4", timeout=30).status_code == 500
    assert NAME not in caplog.text
