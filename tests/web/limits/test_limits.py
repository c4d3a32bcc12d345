"""What is too long, too deep, too many or of the wrong form is refused with its status, over a real socket.

After each row the same service answers the next one; the planted name is in no refusal.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
import requests

from fhir_secondop.limits import Limits
from fhir_secondop.web import inbound, listener
from tests.web.limits.conftest import NAME, Dial, Said, Served

MAX_BODY_BYTES = Limits().max_body_bytes
FHIR = "application/fhir+json"
FORM = "application/x-www-form-urlencoded"
PATIENT = json.dumps({"resourceType": "Patient", "name": [{"family": NAME}]})


def raw(
    method: str = "GET",
    target: str = "/fhir/Patient",
    body: str | bytes = b"",
    more: Mapping[str, str | None] | None = None,
    *,
    kind: str = FHIR,
    version: str = "HTTP/1.1",
) -> bytes:
    """A request's bytes; a header of `more` that is None is left out."""
    data = body.encode() if isinstance(body, str) else body
    headers: dict[str, str | None] = {"Host": "localhost", "Authorization": "Bearer desk"}
    if data or method in ("POST", "PUT"):
        headers |= {"Content-Type": kind, "Content-Length": str(len(data))}
    headers |= more or {}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode("latin-1") + data


def post(body: str | bytes, target: str = "/fhir/Patient", **more: Any) -> bytes:
    return raw("POST", target, body, **more)


def bundle(count: int, kind: str = "transaction") -> str:
    entry = {"resource": {"resourceType": "Patient"}, "request": {"method": "POST", "url": "Patient"}}
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": [entry] * count})


def nested(depth: int, opening: str = '{"extension":[', closing: str = "]}") -> str:
    return '{"resourceType":"Patient","extension":[' + opening * depth + closing * depth + "]}"


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = raw("POST", "/fhir/Patient", "", {"Content-Length": None, "Transfer-Encoding": "chunked"})
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


def lines(*text: str, body: str = "") -> bytes:
    return ("\r\n".join([*text, "", ""]) + body).encode("latin-1")


HEAD = ("Host: localhost", "Authorization: Bearer desk")
LONG = "a" * (inbound.MAX_TARGET_BYTES + 1)
BIG = "b" * listener.HEADER_BYTES
IDS = ",".join(map(str, range(1001)))

# What it is → (bytes, status, issue code)
ROWS: dict[str, tuple[bytes, int, str]] = {
    # request line
    "path too long": (raw(target=f"/fhir/{LONG}"), 414, "too-long"),
    "query too long": (raw(target=f"/fhir/Patient?name={LONG}"), 414, "too-long"),
    "query of escapes too long": (raw(target=f"/fhir/Patient?name={'%41' * 3000}"), 414, "too-long"),
    "path too long outside FHIR": (raw(target=f"/api/{LONG}"), 414, "too-long"),
    "request line longer than all headers may be": (raw(target=f"/fhir/{BIG}"), 431, "too-long"),
    "no version": (lines("GET /fhir/Patient", *HEAD), 400, "structure"),
    "two spaces": (lines("GET  /fhir/Patient HTTP/1.1", *HEAD), 400, "structure"),
    "space in the path": (lines("GET /fhir/Pat ient HTTP/1.1", *HEAD), 400, "structure"),
    "method in small letters": (lines("get /fhir/Patient HTTP/1.1", *HEAD), 400, "structure"),
    "bare line feed": (b"GET /fhir/Patient HTTP/1.1\nHost: localhost\r\n\r\n", 400, "structure"),
    "TLS where HTTP is spoken": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "structure"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "structure"),
    "unknown method": (raw("BREW"), 405, "not-supported"),
    "TRACE": (raw("TRACE"), 405, "not-supported"),
    "CONNECT": (raw("CONNECT", "/fhir/Patient"), 405, "not-supported"),
    "PATCH that is no JSON Patch": (raw("PATCH", "/fhir/Patient/1", "[]"), 415, "not-supported"),
    "up and out": (raw(target="/fhir/../../etc/passwd"), 404, "not-found"),
    "up and out, escaped": (raw(target="/fhir/%2e%2e/%2e%2e/etc/passwd"), 404, "not-found"),
    "NUL in an id": (raw(target="/fhir/Patient/%00"), 400, "structure"),
    "NUL in the id of a case": (raw(target="/api/second-opinions/%00"), 400, "structure"),
    "NUL in a query": (raw(target="/fhir/Patient?name=a%00"), 400, "structure"),
    "NUL in a form": (post("name=a%00", "/fhir/Patient/_search", kind=FORM), 422, "invalid"),
    "NUL in If-None-Exist": (post(PATIENT, more={"If-None-Exist": "identifier=a%00"}), 422, "invalid"),
    "not UTF-8 in an id": (raw(target="/fhir/Patient/%ff%fe"), 404, "not-found"),
    "id of 65 characters": (raw(target=f"/fhir/Patient/{'i' * 65}"), 404, "not-found"),
    "version of ten digits": (raw(target="/fhir/Patient/1/_history/9999999999"), 404, "not-found"),
    # headers
    "one header too large": (raw(more={"X-Note": BIG}), 431, "too-long"),
    "many headers too large": (raw(more={f"X-Note-{n}": "n" * 100 for n in range(400)}), 431, "too-long"),
    "headers without an end": (f"GET / HTTP/1.1\r\nX-Note: {BIG}".encode(), 431, "too-long"),
    "header without a colon": (lines("GET / HTTP/1.1", *HEAD, NAME), 400, "structure"),
    "space before the colon": (lines("GET / HTTP/1.1", *HEAD, f"X-Note : {NAME}"), 400, "structure"),
    "NUL in a header": (lines("GET / HTTP/1.1", *HEAD, f"X-Note: {NAME}\0"), 400, "structure"),
    "bare carriage return in a header": (lines("GET / HTTP/1.1", *HEAD, f"X-Note: a\rb{NAME}"), 400, "structure"),
    "continued line first": (lines("GET / HTTP/1.1", f" {NAME}", *HEAD), 400, "structure"),
    "two tokens": (raw(more={"authorization": "Bearer other"}), 401, "login"),
    "token of the wrong kind": (raw(more={"Authorization": "Basic ZGVzazo="}), 401, "login"),
    "token outside ASCII": (raw(more={"Authorization": "Bearer d\xe9sk"}), 401, "login"),
    "empty token": (raw(more={"Authorization": "Bearer "}), 401, "login"),
    "If-Match is no version": (raw("PUT", "/fhir/Patient/1", PATIENT.replace("{", '{"id":"1",', 1),
                                   {"If-Match": "W/x"}), 400, "structure"),
    "Accept of what is not written": (raw(more={"Accept": "text/csv"}), 406, "not-supported"),
    "_format of what is not written": (raw(target="/fhir/Patient?_format=ttl"), 406, "not-supported"),
    # length and transfer of a body
    "length over the limit": (raw("POST", more={"Content-Length": str(MAX_BODY_BYTES + 1)}), 413, "too-costly"),
    "length beyond all measure": (raw("POST", more={"Content-Length": "9" * 30}), 413, "too-costly"),
    "negative length": (raw("POST", more={"Content-Length": "-1"}), 400, "structure"),
    "length in hex": (raw("POST", more={"Content-Length": "0x10"}), 400, "structure"),
    "length with a plus": (raw("POST", more={"Content-Length": "+5"}), 400, "structure"),
    "two lengths": (raw("POST", more={"content-length": "3"}), 400, "structure"),
    "a length and chunks": (lines("GET /healthz HTTP/1.1", *HEAD, "Content-Length: 3", "Transfer-Encoding: chunked",
                                  body="0\r\n\r\n"), 400, "structure"),
    "chunks in HTTP/1.0": (lines("GET /healthz HTTP/1.0", *HEAD, "Transfer-Encoding: chunked"), 400, "structure"),
    "transfer coding gzip": (raw("POST", more={"Transfer-Encoding": "gzip, chunked", "Content-Length": None}),
                             501, "not-supported"),
    "transfer coding hidden behind a tab": (raw("POST", more={"Transfer-Encoding": "\x0bchunked",
                                                              "Content-Length": None}), 400, "structure"),
    "chunk size is no number": (chunked(end=b"zz\r\n\r\n"), 400, "structure"),
    "chunk size negative": (chunked(end=b"-5\r\n\r\n"), 400, "structure"),
    "chunk longer than it says": (chunked(end=b"2\r\nabcdef\r\n0\r\n\r\n"), 400, "structure"),
    "chunks of nothing": (chunked(), 400, "structure"),
    # content coding
    "gzip": (post(gzip.compress(PATIENT.encode()), more={"Content-Encoding": "gzip"}), 415, "not-supported"),
    "gzip bomb": (post(gzip.compress(b" " * 10_000_000), more={"Content-Encoding": "gzip"}), 415, "not-supported"),
    "deflate": (post(zlib.compress(PATIENT.encode()), more={"Content-Encoding": "deflate"}), 415, "not-supported"),
    "br": (post(PATIENT, more={"Content-Encoding": "br"}), 415, "not-supported"),
    "identity, then gzip": (post(PATIENT, more={"Content-Encoding": "identity, gzip"}), 415, "not-supported"),
    "gzip outside FHIR": (post(gzip.compress(b"{}"), "/api/second-opinions", kind="application/json",
                               more={"Content-Encoding": "GZIP"}), 415, "not-supported"),
    "gzip without saying so": (post(gzip.compress(PATIENT.encode())), 400, "structure"),
    # what is in a body
    "no body": (post(""), 400, "structure"),
    "only space": (post(" \n\t"), 400, "structure"),
    "UTF-16": (post(PATIENT.encode("utf-16")), 400, "structure"),
    "Latin-1": (post('{"resourceType":"Patient","name":[{"family":"M\xfcller"}]}'.encode("latin-1")), 400, "structure"),
    "byte order mark": (post("\ufeff" + PATIENT), 400, "structure"),
    "cut off": (post(PATIENT[:-5]), 400, "structure"),
    "two resources": (post(PATIENT + PATIENT), 400, "structure"),
    "a list": (post(f"[{PATIENT}]"), 400, "structure"),
    "a member twice": (post('{"resourceType":"Patient","active":true,"active":false}'), 400, "structure"),
    "NaN": (post('{"resourceType":"Observation","valueQuantity":{"value":NaN}}'), 400, "structure"),
    "number of 5,000 digits": (post('{"resourceType":"Patient","multipleBirthInteger":' + "9" * 5000 + "}"),
                               400, "structure"),
    "lone surrogate": (post('{"resourceType":"Patient","name":[{"family":"\\ud800"}]}'), 400, "structure"),
    "NUL in a string": (post('{"resourceType":"Patient","name":[{"family":"\\u0000"}]}'), 400, "structure"),
    "101 levels": (post(nested(50)), 400, "structure"),
    "100,000 levels": (post(nested(50_000)), 400, "structure"),
    "100,000 opened lists": (post("[" * 100_000), 400, "structure"),
    "100,000 closed lists": (post("]" * 100_000), 400, "structure"),
    "levels outside FHIR": (post('{"a":' * 200 + "1" + "}" * 200, "/api/second-opinions", kind="application/json"),
                            400, "structure"),
    "Turtle": (post("<Patient>", kind="text/turtle"), 415, "not-supported"),
    "XML with entities": (post("<!DOCTYPE x [<!ENTITY a 'b'>]><Patient>&a;</Patient>", kind="text/xml"),
                          400, "structure"),
    "a form where a resource is due": (post("name=x", kind=FORM), 415, "not-supported"),
    "a resource as text": (post(PATIENT, kind="text/plain"), 415, "not-supported"),
    "FHIR JSON at the plain door": (post("{}", "/api/second-opinions"), 415, "not-supported"),
    "21 entries": (post(bundle(21), "/fhir"), 413, "too-costly"),
    "21 entries to an operation": (post(bundle(21), "/fhir/$request-second-opinion"), 413, "too-costly"),
    "entries that are no list": (post('{"resourceType":"Bundle","type":"transaction","entry":{}}', "/fhir"),
                                 422, "structure"),
    # searches
    "101 parameters": (raw(target="/fhir/Patient?" + "&".join(["name=a"] * 101)), 422, "too-costly"),
    "1,001 values": (post(f"_id={IDS}", "/fhir/Patient/_search", kind=FORM), 422, "too-costly"),
    "1,001 values in two": (post(f"_id={IDS[:3000]}&name={IDS[3000:]}", "/fhir/Patient/_search", kind=FORM),
                            422, "too-costly"),
    "1,001 values in If-None-Exist": (post(PATIENT, more={"If-None-Exist": f"identifier={IDS}"}), 422, "too-costly"),
    "form over its limit": (post("name=" + "a" * inbound.MAX_FORM_BYTES, "/fhir/Patient/_search", kind=FORM),
                            413, "too-costly"),
    "JSON to _search": (post("{}", "/fhir/Patient/_search"), 415, "not-supported"),
    "multipart to _search": (post("--x--", "/fhir/Patient/_search", kind="multipart/form-data; boundary=x"),
                             415, "not-supported"),
    "_count is no number": (raw(target="/fhir/Patient?_count=1e9"), 422, "invalid"),
    "_page of ours, changed": (raw(target="/fhir/Patient?_page=zzz"), 422, "invalid"),
    "unknown parameter": (raw(target="/fhir/Patient?surname=" + NAME), 422, "not-supported"),
}  # fmt: skip


def refused(said: Said, status: int, code: str) -> None:
    assert (said.status, said.body[:300]) == (status, said.body[:300])
    assert said.issue()["code"] == code
    assert said.headers["content-type"] in (FHIR, "application/json")
    assert said.headers["x-content-type-options"] == "nosniff"
    assert "server" not in said.headers
    assert NAME.lower().encode() not in said.body.lower()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_what_goes_beyond_a_limit_is_refused(dial: Dial, row: tuple[bytes, int, str]) -> None:
    sent, status, code = row
    wire = dial()
    wire.send(sent)
    refused(wire.answer(), status, code)
    # Whatever a proxy would have taken the rest for: the next connection is served.
    again = dial()
    again.send(raw(target="/healthz"))
    assert again.answer().status == 200


def test_there_are_at_least_sixty_rows() -> None:
    assert len(ROWS) >= 60
    print(f"\n{len(ROWS)} requests beyond a limit, each refused")


WITHIN: dict[str, tuple[bytes, int]] = {
    "path and query of 8,192": (raw(target="/fhir/Patient?name=" + "a" * (inbound.MAX_TARGET_BYTES - 19)), 200),
    "headers just within": (raw(more={"X-Note": "b" * (listener.HEADER_BYTES - 200)}), 200),
    "100 levels": (post(nested(49)), 422),  # not a valid Patient, but read
    "20 entries": (post(bundle(20), "/fhir"), 200),
    "100 parameters": (raw(target="/fhir/Patient?" + "&".join(["name=a"] * 100)), 200),
    "1,000 values": (post(f"_id={IDS[:-5]}", "/fhir/Patient/_search", kind=FORM), 200),
    "identity": (post(PATIENT, more={"Content-Encoding": "identity"}), 201),
    "chunked": (chunked(PATIENT[:9].encode(), PATIENT[9:].encode()), 201),
    "HTTP/1.0": (raw(version="HTTP/1.0"), 200),
    "expected first": (post(PATIENT, more={"Expect": "200-ok"}), 201),
}


@pytest.mark.parametrize("row", WITHIN.values(), ids=WITHIN.keys())
def test_what_stays_within_the_limits_is_served(dial: Dial, row: tuple[bytes, int]) -> None:
    wire = dial()
    wire.send(row[0])
    said = wire.answer()
    assert said.status == row[1], said.body[:500]


def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(dial: Dial) -> None:
    wire = dial()
    wire.send(raw("POST", more={"Content-Length": None, "Transfer-Encoding": "chunked"}))
    block = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20))
    try:
        for _ in range(MAX_BODY_BYTES // (1 << 20) + 8):
            wire.send(block)
    except OSError:
        pass  # it hangs up while we go on sending, as it should
    said = wire.answer()
    assert said.status in (413, 0)


def test_requests_in_one_packet_are_answered_in_order(dial: Dial) -> None:
    wire = dial()
    wire.send(raw(target="/healthz") + post(PATIENT) + raw(target="/nowhere") + raw(target="/healthz"))
    assert [wire.answer().status for _ in range(4)] == [200, 201, 404, 200]


def test_a_refused_body_is_not_taken_for_the_next_request(dial: Dial) -> None:
    smuggled = raw(target="/healthz").decode()
    wire = dial()
    wire.send(post(smuggled, more={"Content-Encoding": "gzip"}) + raw(target="/nowhere"))
    assert [wire.answer().status for _ in range(2)] == [415, 404]


ANSWERS = ("/healthz", "/readyz", "/fhir/metadata", "/fhir/Patient", "/fhir/Nothing", "/api/second-opinions",
           "/nowhere", "/api/openapi.json", "/.well-known/jwks.json", "/docs", "/ack/x", "/upload/x")  # fmt: skip


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize("token", ["desk", "wrong"])
def test_every_answer_has_the_headers_that_keep_it_private(served: Served, path: str, token: str) -> None:
    answer = requests.get(served.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in answer.headers
    public = path == "/.well-known/jwks.json"
    assert answer.headers["Cache-Control"] == ("public, max-age=3600" if public else "no-store")
    if "html" not in answer.headers["Content-Type"]:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_415_says_what_would_be_taken(served: Served) -> None:
    answer = requests.post(f"{served.url}/fhir/Patient", PATIENT, headers={"Content-Encoding": "gzip"}, timeout=30)
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "identity")


def test_nothing_of_what_was_refused_is_in_the_log(served: Served) -> None:
    assert NAME.lower() not in served.log.read_text().lower()
