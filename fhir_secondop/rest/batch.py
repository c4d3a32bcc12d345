"""A batch: each entry is the request that it says, asked by the same caller, with an answer of its own.

Each goes the way of any request, with its rights, its audit and its transaction; none depends on another, and what one
of them fails with is its own.
Source: https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Collection, Mapping
from contextvars import Context
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, request
from werkzeug.urls import iri_to_uri
from werkzeug.wrappers import Response as WSGIResponse

from fhir_secondop.errors import Invalid, SecondOpError, TooLarge, Unavailable, Unsupported, http_status
from fhir_secondop.fhir import codec, refs, times
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, failures, outcome, patching
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.formats import JSON, JSON_PATCH

_ADDRESS = re.compile(r"/?([A-Za-z0-9$_.\-/*]*)(?:\?(.*))?", re.DOTALL)
# Of the request that brought the batch: what says who asks, and from where.
_KEPT = ("HTTP_HOST", "HTTP_AUTHORIZATION", "HTTP_USER_AGENT")
_HEADERS = {"ifMatch": "HTTP_IF_MATCH", "ifNoneMatch": "HTTP_IF_NONE_MATCH", "ifNoneExist": "HTTP_IF_NONE_EXIST"}


def run(endpoint: Endpoint, caller: Caller, bundle: Resource, text: str) -> Response:
    """The batch-response: an entry for each one sent, in their order."""
    if "batch" not in endpoint.system:
        raise Unsupported("Batches are not offered here; see metadata.", path="Bundle.type")
    disclosure.access().operation = "batch"
    entries = bundle.get("entry", [])
    # What is wrong with a resource is its entry's matter.
    answers.valid({**bundle, **({"entry": [_bare(entry) for entry in entries]} if entries else {})}, text)
    texts = codec.entry_resources(text)
    known = {entry["fullUrl"] for entry in entries if entry.get("fullUrl", "").startswith("urn:")}
    limits = endpoint.limits
    ends, size, done = time.monotonic() + limits.max_batch_s, 0, []
    for place, entry in enumerate(entries):
        try:
            if time.monotonic() > ends:
                said = f"The batch has taken {limits.max_batch_s:g} seconds (max_batch_s)"
                raise Unavailable(f"{said}; nothing was done, send this entry again.")
            if size > limits.max_batch_bytes:
                said = f"The answers before this one have over {limits.max_batch_bytes} bytes (max_batch_bytes)"
                raise TooLarge(f"{said}; nothing was done, send this entry again.")
            answered = _entry(endpoint, place, entry, texts[place] if place < len(texts) else None, known)
        except SecondOpError as error:
            answered = _said(http_status(error), {"outcome": outcome.of_error(error)})
        size += len(answered)
        done.append(answered)
    return answers.json_answer(answers.with_entries({"resourceType": "Bundle", "type": "batch-response"}, done))


def _bare(entry: Resource) -> Resource:
    return {name: value for name, value in entry.items() if name != "resource"}


def _entry(endpoint: Endpoint, place: int, entry: Resource, text: str | None, known: Collection[str]) -> str:
    """Asks what an entry says; the text of its answer's entry."""
    asked, here = entry["request"], f"Bundle.entry[{place}]"
    url = asked["url"].removeprefix(f"{endpoint.base_url}/")
    match = _ADDRESS.fullmatch(url)
    if match is None:
        raise Invalid("This is no address below the base.", path=f"{here}.request.url")
    if not match[1].strip("/") and asked["method"] not in ("GET", "HEAD"):
        raise Invalid("A batch holds no other Bundle to run.", path=f"{here}.request.url")
    content = text or ""
    if asked["method"] == "PATCH":
        content = patching.sent_patch(entry.get("resource", {}), f"{here}.resource")
    elif text is not None and any(link in known for link in refs.find(entry["resource"])):
        raise Invalid(
            "In a batch no entry may refer to another; send them as a transaction.", path=f"{here}.resource"
        )  # fmt: skip
    environ = _environ(match[1], match[2] or "", asked, content.encode("utf-8"))
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    # In a context of its own: nothing of this request is the other's, nor is its audit.
    try:
        answer = Context().run(WSGIResponse.from_app, _Inner(app), environ, buffered=True)
    except Exception as error:  # in the middle of a large answer
        raise failures.unforeseen(error) from error
    is_write = asked["method"] not in ("GET", "HEAD") and "$" not in match[1]
    return _answered(endpoint, answer, is_write=is_write)


class _Inner:
    """The application without the doors around it: who asks has come through them."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return Flask.wsgi_app(self.app, environ, start_response)


def _environ(path: str, query: str, asked: Mapping[str, Any], content: bytes) -> dict[str, Any]:
    outer = request.environ
    kept = {
        name: value
        for name, value in outer.items()
        if name in _KEPT or not name.startswith(("HTTP_", "CONTENT_", "wsgi.input", "werkzeug.", "flask."))
    }
    prefer = [part for part in request.headers.get("Prefer", "").replace(";", ",").split(",") if part.strip()]
    if not any(part.strip().startswith("return=") for part in prefer):
        prefer.append("return=minimal")
    environ = {
        **kept,
        "REQUEST_METHOD": asked["method"],
        "PATH_INFO": f"{outer['PATH_INFO'].rstrip('/')}/{path.rstrip('/')}",
        "QUERY_STRING": iri_to_uri(f"?{query}")[1:],
        "HTTP_ACCEPT": JSON,
        "HTTP_PREFER": ", ".join(part.strip() for part in prefer),
        "wsgi.input": io.BytesIO(content),
        "CONTENT_LENGTH": str(len(content)),
    }
    if content:
        environ["CONTENT_TYPE"] = JSON_PATCH if asked["method"] == "PATCH" else JSON
    for name, header in _HEADERS.items():
        if name in asked:
            environ[header] = asked[name]
    if "ifModifiedSince" in asked:
        environ["HTTP_IF_MODIFIED_SINCE"] = formatdate(times.interval(asked["ifModifiedSince"]).low / 1000, usegmt=True)
    return environ


def _answered(endpoint: Endpoint, answer: WSGIResponse, *, is_write: bool) -> str:
    """The text of an answer's entry. What is said of a write is no resource of it; of an operation it is the result."""
    body = answer.get_data(as_text=True)
    facts: Resource = {}
    if "Location" in answer.headers:
        facts["location"] = answer.headers["Location"].removeprefix(f"{endpoint.base_url}/")
    if "ETag" in answer.headers:
        facts["etag"] = answer.headers["ETag"]
    if "Last-Modified" in answer.headers:
        facts["lastModified"] = times.instant(
            int(parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp() * 1000)
        )
    if not body:
        return _said(answer.status_code, facts)
    if answer.status_code >= 400 or (is_write and '"OperationOutcome"' in body[:60]):
        return _said(answer.status_code, {**facts, "outcome": codec.parse(body)})
    return f'{{"resource":{body},{_said(answer.status_code, facts)[1:]}'


def _said(status: int, facts: Resource) -> str:
    return codec.dumps({"response": {"status": f"{status} {HTTPStatus(status).phrase}", **facts}})
