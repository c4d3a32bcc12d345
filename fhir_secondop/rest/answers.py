"""Requests read and answers written: formats, headers, bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate

from flask import Response, request

from fhir_secondop.errors import (
    Invalid,
    Issue,
    Malformed,
    NotAcceptable,
    TooLarge,
    Unavailable,
    Unsupported,
    UnsupportedMedia,
)
from fhir_secondop.fhir import codec, validate
from fhir_secondop.fhir.codec import Body
from fhir_secondop.fhir.locations import located
from fhir_secondop.model import Resource
from fhir_secondop.rest import outcome
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store.resources import Stored

JSON = "application/fhir+json"
_READ = ("application/fhir+json", "application/json", "text/json")
_WRITTEN = (*_READ, "application/*", "*/*", "json")
MAX_MEMBERS = 3_000_000  # of a body of 64 MB; Synthea's records have 24,000 a megabyte
_FORM = "application/x-www-form-urlencoded"
_ETAG = re.compile(r'(?:W/)?"?(\d{1,9})"?')


def check_accept() -> None:
    """Raises NotAcceptable unless JSON will do. `_format` wins over Accept."""
    wanted = request.args.get("_format", "")
    if wanted:
        if wanted.partition(";")[0].strip().replace(" ", "+") not in _WRITTEN:
            raise NotAcceptable(f"_format={wanted}: this endpoint writes {JSON}.")
        return
    if offers() and not takes_json():
        raise NotAcceptable(f"Accept: {request.headers['Accept']}: this endpoint writes {JSON}.")


def offers() -> list[str]:
    """The media types of the Accept header."""
    accept = request.headers.get("Accept", "")
    return [part.partition(";")[0].strip() for part in accept.split(",") if part.strip()]


def takes_json() -> bool:
    """Whether the Accept header names JSON, or anything."""
    return any(offer in _WRITTEN for offer in offers())


def json_body() -> str:
    """The request's body as JSON text. Raises UnsupportedMedia, Malformed."""
    sent = request.mimetype
    if sent and sent not in _READ:
        raise UnsupportedMedia(f"Content-Type {sent}: this endpoint reads {JSON}.")
    data = request.get_data()
    limit = request.max_content_length
    if limit is not None and len(data) >= limit:
        # Werkzeug cuts a chunked body at its limit without a word.
        raise TooLarge(f"The body is larger than {limit} bytes.")
    check_members(data)
    text = codec.text_of(data)
    if not text.strip():
        raise Malformed("The body is empty.")
    return text


def check_form() -> None:
    """Raises UnsupportedMedia when a POST _search has a body that is no form: it would be searched without."""
    if request.mimetype not in ("", _FORM) or (not request.mimetype and request.content_length):
        raise UnsupportedMedia(f"Content-Type {request.mimetype}: a search takes {_FORM}.")


def check_no_search() -> None:
    """Raises Unsupported when a write has search parameters: some clients put there what belongs in If-None-Exist."""
    extra = [name for name in request.args if name not in ("_format", "_pretty")]
    if extra:
        raise Unsupported("Parameters on a write are not offered; criteria of a create go into If-None-Exist.")


def valid(resource: Resource, text: str = "") -> None:
    """Raises Invalid with every fault of a resource, each with its place, and with line and column of the text."""
    faults = [issue for issue in validate.validate(resource) if issue.severity in ("error", "fatal")]
    if faults:
        raise Invalid(f"{len(faults)} fault(s); nothing was stored.", issues=located(text, faults) if text else faults)


def further(endpoint: Endpoint, resource: Resource, text: str) -> list[Issue]:
    """What other validators say of a resource that is valid to us, and what was not checked; never in a transaction.

    Raises Invalid with every fault that they find, Unavailable where one had to look at it and did not.
    """
    found = list(endpoint.second_stage(resource, text))
    errors = [issue for issue in found if issue.severity in ("error", "fatal")]
    faults = [issue for issue in errors if issue.code != "transient"]
    if faults:
        raise Invalid(f"{len(faults)} fault(s); nothing was stored.", issues=located(text, faults))
    if errors:
        raise Unavailable("What has to be checked could not be; nothing was stored.", issues=errors)
    return found


def check_members(data: bytes) -> None:
    """Raises TooLarge when a JSON body has more values than any record of its size.

    Parsed, each "[]," takes seventy bytes: twenty times its own.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_MEMBERS:
        raise TooLarge(f"The body has over {MAX_MEMBERS} values; send it in parts.")


def check_entries(resource: Resource, limit: int) -> None:
    """Raises TooLarge when a Bundle has more entries than one request may carry."""
    entries = resource.get("entry")
    if resource.get("resourceType") == "Bundle" and isinstance(entries, list) and len(entries) > limit:
        raise TooLarge(f"The Bundle has {len(entries)} entries; send at most {limit} at once.", path="Bundle.entry")


def resource_body(
    endpoint: Endpoint, resource_type: str, resource_id: str | None = None
) -> tuple[Body, Resource, list[Issue]]:
    """The valid resource of that type, and of that id where one is given, in the request's body: its text, its members,
    and what there is to say of it.
    """
    text = json_body()
    body, resource = codec.split(text)
    if resource["resourceType"] != resource_type:
        raise Invalid(f"The body is not a {resource_type}, as the address says.", path="resourceType")
    valid(resource, text)
    if resource_id is not None and resource.get("id") != resource_id:
        raise Malformed(f"The body's id must be {resource_id}, as in the address.", path=f"{resource_type}.id")
    return body, resource, further(endpoint, resource, text)


def if_match() -> int | None:
    """The version that the If-Match header demands."""
    header = request.headers.get("If-Match")
    return None if header is None else version_of(header, "")


def version_of(etag: str, path: str) -> int:
    """The version that an ETag of ours names. Raises Malformed."""
    match = _ETAG.fullmatch(etag.strip())
    if match is None:
        raise Malformed('If-Match is not an ETag of ours: send it as you got it, W/"3" say.', path=path)
    return int(match[1])


def json_answer(resource: Resource | str, status: int = 200) -> Response:
    """An answer with this resource (or its text) as body."""
    text = resource if isinstance(resource, str) else codec.dumps(resource)
    return Response(text, status, mimetype=JSON)


def with_entries(head: Resource, entries: list[str]) -> str:
    """A Bundle's text from its head and the texts of its entries, which are not parsed again."""
    text = codec.dumps(head)
    return f'{text[:-1]},"entry":[{",".join(entries)}]}}' if entries else text


def wants_outcome() -> bool:
    """Whether the writer asks what there is to say of what it wrote."""
    return "return=OperationOutcome" in request.headers.get("Prefer", "")


def stored_answer(
    endpoint: Endpoint, stored: Stored, status: int = 200, said: Sequence[Issue] = ()
) -> Response:  # fmt: skip
    """An answer with a stored version, its ETag, Last-Modified and, when created, Location; as Prefer says.

    `said` is what there is to say of it beside.
    """
    writing = request.method in ("POST", "PUT")
    prefer = request.headers.get("Prefer", "") if writing else ""
    if "return=minimal" in prefer:
        answer = Response("", status, mimetype=JSON)
    elif writing and wants_outcome():
        well = Issue("information", "informational", "", f"Stored as {stored.versioned}.")
        answer = json_answer(outcome.outcome([well, *said]), status)
    else:
        answer = json_answer(stored.text, status)
    answer.headers["ETag"] = stored.etag
    answer.headers["Last-Modified"] = formatdate(stored.updated / 1000, usegmt=True)
    if writing:
        answer.headers["Location"] = f"{endpoint.base_url}/{stored.versioned}"
    return answer
