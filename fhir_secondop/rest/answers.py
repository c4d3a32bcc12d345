"""Requests read and answers written: formats, headers, bodies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from itertools import chain
from operator import attrgetter
from uuid import uuid4

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
from fhir_secondop.fhir import codec, query, validate
from fhir_secondop.fhir.codec import Body
from fhir_secondop.fhir.xml import bundle_to_xml
from fhir_secondop.model import Resource
from fhir_secondop.rest import failures, formats, outcome
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.formats import JSON
from fhir_secondop.store.resources import Stored

_FORM = "application/x-www-form-urlencoded"
_ETAG = re.compile(r'(?:W/)?"?(\d{1,9})"?')


def check_form() -> None:
    """Raises UnsupportedMedia when a POST _search has a body that is no form: it would be searched without."""
    if request.mimetype not in ("", _FORM) or (not request.mimetype and request.content_length):
        raise UnsupportedMedia(f"Content-Type {request.mimetype}: a search takes {_FORM}.")


def check_no_parameters() -> None:
    """Raises Unsupported when a read has parameters: it would be answered as if they were not there."""
    if any(name not in query.FORMAT_ONLY for name in request.args):
        raise Unsupported("A read takes _format alone; for parts and pages, search with _id.")


def check_no_search() -> None:
    """Raises Unsupported when a write has search parameters: some clients put there what belongs in If-None-Exist."""
    if any(name not in query.FORMAT_ONLY for name in request.args):
        raise Unsupported("Parameters on a write are not offered; criteria of a create go into If-None-Exist.")


def valid(resource: Resource, text: str = "") -> None:
    """Raises Invalid with every fault of a resource, each with its place, and with line and column of the text."""
    faults = [issue for issue in validate.validate(resource) if issue.severity in ("error", "fatal")]
    if faults:
        placed = formats.in_what_was_sent(text, faults) if text else faults
        raise Invalid(f"{len(faults)} fault(s); nothing was stored.", issues=placed)


def further(endpoint: Endpoint, resource: Resource, text: str, *, is_sent: bool = True) -> list[Issue]:
    """What other validators say of a resource that is valid to us, and what was not checked; never in a transaction.

    Faults have line and column where the text `is_sent`, and not made here.
    Raises Invalid with every fault that they find, Unavailable where one had to look at it and did not.
    """
    found = list(endpoint.second_stage(resource, text))
    errors = [issue for issue in found if issue.severity in ("error", "fatal")]
    faults = [issue for issue in errors if issue.code != "transient"]
    if faults:
        placed = formats.in_what_was_sent(text, faults) if is_sent else faults
        raise Invalid(f"{len(faults)} fault(s); nothing was stored.", issues=placed)
    if errors:
        raise Unavailable("What has to be checked could not be; nothing was stored.", issues=errors)
    return found


def check_entries(resource: Resource, limit: int) -> None:
    """Raises TooLarge when a Bundle has more entries than one request may carry."""
    entries = resource.get("entry")
    if resource.get("resourceType") == "Bundle" and isinstance(entries, list) and len(entries) > limit:
        said = f"The Bundle has {len(entries)} entries; send at most {limit} at once (max_entries)."
        raise TooLarge(said, path="Bundle.entry")


@dataclass(frozen=True, slots=True)
class Sent:
    """A valid resource that shall be stored: its text, its members, and what there is to say of it."""

    body: Body
    resource: Resource
    said: Sequence[Issue] = ()


def resource_body(endpoint: Endpoint, resource_type: str, resource_id: str | None = None) -> Sent:
    """The valid resource of that type, and of that id where one is given, in the request's body."""
    text = formats.body(endpoint.limits, xml=endpoint.xml)
    body, resource = codec.split(text)
    if resource["resourceType"] != resource_type:
        raise Invalid(f"The body is not a {resource_type}, as the address says.", path="resourceType")
    valid(resource, text)
    if resource_id is not None and resource.get("id") != resource_id:
        raise Malformed(f"The body's id must be {resource_id}, as in the address.", path=f"{resource_type}.id")
    return Sent(body, resource, further(endpoint, resource, text))


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


def entries(
    base_url: str, found: Iterable[Stored], mode: str = "", text: Callable[[Stored], str] = attrgetter("text")
) -> Iterator[str]:
    """The text of a Bundle's entry of each of these; `mode` is how a search came to it, and `text` what is shown."""
    base = codec.dumps(base_url)[:-1]
    end = f',"search":{{"mode":"{mode}"}}}}' if mode else "}"
    for one in found:
        yield f'{{"fullUrl":{base}/{one.type}/{one.id}","resource":{text(one)}{end}'


def notice(issues: Iterable[Issue]) -> str:
    """The text of the entry of a searchset that says this."""
    # R4 wants each entry named; nothing is stored under this name.
    full_url = f"urn:uuid:{uuid4()}"
    return codec.dumps({"fullUrl": full_url, "resource": outcome.outcome(issues), "search": {"mode": "outcome"}})


STREAMED_BYTES = 1024 * 1024
PART_BYTES = 64 * 1024  # of a streamed answer at once: the server in front does as much for each as for a short answer


def bundle_answer(head: Resource, entries: Iterable[str]) -> Response:
    """An answer with a Bundle from its head and the texts of its entries; what is large goes out in parts.

    All that it shows must have been read and decided before: `entries` only writes it down. Where that fails on the
    way, the connection is cut, and what has been sent is no JSON yet. Raises NotAcceptable of what XML can't say, if
    that is wanted: to know it, all parts are made before the first goes out.
    """
    if not formats.is_xml_answered():
        return _in_parts(_parts(head, entries))
    try:
        return _in_parts(iter(list(bundle_to_xml(head, entries, PART_BYTES))), formats.XML_TYPE)
    except Malformed as error:
        raise formats.unsayable(error) from error


def done_answer(kind: str, entries: Sequence[str]) -> Response:
    """An answer with a Bundle that says what has been done: of that nobody is told that it can't be said."""
    head: Resource = {"resourceType": "Bundle", "type": kind}
    try:
        return bundle_answer(head, entries)
    except NotAcceptable:
        return _in_parts(_parts(head, entries))


def _in_parts(parts: Iterator[bytes], content_type: str = JSON) -> Response:
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size > STREAMED_BYTES:
            return Response(_sent(chain(held, parts)), content_type=content_type)
    return Response(b"".join(held), content_type=content_type)


def _parts(head: Resource, entries: Iterable[str]) -> Iterator[bytes]:
    """The Bundle's text, in parts that are no smaller than PART_BYTES but for the last one."""
    held, between, size = [codec.dumps(head)[:-1]], ',"entry":[', 0
    for entry in entries:
        held += (between, entry)
        between = ","
        size += len(entry)
        if size > PART_BYTES:
            yield "".join(held).encode()
            held, size = [], 0
    held.append("]}" if between == "," else "}")
    yield "".join(held).encode()


def _sent(parts: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from parts
    except Exception as error:
        # Its text may quote a patient, and the server logs what it is given.
        raise failures.unforeseen(error) from None


def wants_outcome() -> bool:
    """Whether the writer asks what there is to say of what it wrote."""
    return "return=OperationOutcome" in request.headers.get("Prefer", "")


def wants_representation() -> bool:
    """Whether the writer asks for what it wrote."""
    return "return=representation" in request.headers.get("Prefer", "")


def stored_answer(
    endpoint: Endpoint, stored: Stored, status: int = 200, said: Sequence[Issue] = ()
) -> Response:  # fmt: skip
    """An answer with a stored version, its ETag, Last-Modified and, when created, Location; as Prefer says.

    `said` is what there is to say of it beside.
    """
    writing = request.method in ("POST", "PUT", "PATCH")
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
