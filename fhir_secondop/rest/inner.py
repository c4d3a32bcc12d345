"""An entry of a Bundle as the request that it says: asked by the same caller, with an answer of its own.

It goes the way of any request, with its rights, its limits and its audit. In a transaction it reads what that has
written, and what it fails with ends it.
Source: https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from flask import Flask, current_app, request
from werkzeug.urls import iri_to_uri
from werkzeug.wrappers import Response as WSGIResponse

from fhir_secondop.fhir import codec, times
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import failures
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.formats import JSON, JSON_PATCH
from fhir_secondop.store.audit.rows import Access

_ADDRESS = re.compile(r"/?([A-Za-z0-9$_.\-/*]*)(?:\?(.*))?", re.DOTALL)
# Of the request that brought the Bundle: what says who asks, and from where.
_KEPT = ("HTTP_HOST", "HTTP_AUTHORIZATION", "HTTP_USER_AGENT")
_HEADERS = {"ifMatch": "HTTP_IF_MATCH", "ifNoneMatch": "HTTP_IF_NONE_MATCH", "ifNoneExist": "HTTP_IF_NONE_EXIST"}
_INSIDE = "fhir_secondop.inside"  # no header can have such a name
_ENTRY = "fhir_secondop.entry"


@dataclass(frozen=True, slots=True)
class Inside:
    """The transaction that a request reads in: `endpoint` is the one on its connection. `noted` is what the audit is
    to say of each, with its status: not before it is known whether the transaction stands.
    """

    endpoint: Endpoint
    caller: Caller
    noted: list[tuple[Access, int]] = field(default_factory=list)


def inside() -> Inside | None:
    """The transaction that the request under way is in."""
    found: Inside | None = request.environ.get(_INSIDE)
    return found


def is_entry() -> bool:
    """Whether the request under way is an entry of a Bundle."""
    return _ENTRY in request.environ


def address(url: str, base_url: str) -> tuple[str, str] | None:
    """Path and query of an entry's url, below the base; None where it is no such address."""
    match = _ADDRESS.fullmatch(url.removeprefix(f"{base_url}/") if base_url else url)
    return None if match is None else (match[1].strip("/"), match[2] or "")


def ask(
    path: str, query: str, asked: Mapping[str, Any], content: str = "", within: Inside | None = None
) -> WSGIResponse:
    """The answer to Bundle.entry.request `asked`, of the application without the doors around it."""
    environ = _environ(path, query, asked, content.encode("utf-8"))
    if within is not None:
        environ[_INSIDE] = within
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    # In a context of its own: nothing of this request is the other's, nor is its audit.
    try:
        return Context().run(WSGIResponse.from_app, _Inner(app), environ, buffered=True)
    except Exception as error:  # in the middle of a large answer
        raise failures.unforeseen(error) from error


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
        _ENTRY: True,
        "REQUEST_METHOD": asked["method"],
        "PATH_INFO": f"{outer['PATH_INFO'].rstrip('/')}/{path}",
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


def entry_of(endpoint: Endpoint, answer: WSGIResponse, *, is_write: bool) -> str:
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
        return said(answer.status_code, facts)
    if answer.status_code >= 400 or (is_write and '"OperationOutcome"' in body[:60]):
        return said(answer.status_code, {**facts, "outcome": codec.parse(body)})
    return f'{{"resource":{body},{said(answer.status_code, facts)[1:]}'


def said(status: int, facts: Resource) -> str:
    """The text of an entry of a response with these facts and no resource."""
    return codec.dumps({"response": {"status": f"{status} {HTTPStatus(status).phrase}", **facts}})
