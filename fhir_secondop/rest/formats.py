"""JSON and XML: which one a request is in, and which one its answer shall be.

Everything inside is JSON. XML is converted as it comes in and as it goes out, without loss (docs/xml.md).
Source: https://hl7.org/fhir/R4/http.html#mime-type
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from fhir_secondop.errors import Issue, Malformed, NotAcceptable, TooLarge, UnsupportedMedia
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.locations import located, located_xml
from fhir_secondop.fhir.xml import from_xml, to_xml
from fhir_secondop.limits import Limits
from fhir_secondop.rest import outcome

JSON, XML = "application/fhir+json", "application/fhir+xml"
JSON_PATCH = "application/json-patch+json"
_JSON = (JSON, "application/json", "text/json")
_XML = (XML, "application/xml", "text/xml")


def offers() -> list[str]:
    """The media types of the Accept header."""
    return list(_offered(request.headers.get("Accept", "")))


@lru_cache(maxsize=64)  # a client says the same with each request
def _offered(accept: str) -> tuple[str, ...]:
    return tuple(part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip())


def is_fhir_taken(*, xml: bool) -> bool:
    """Whether the Accept header names a form of resources that is written here, or anything."""
    return any(offer in (*_JSON, *(_XML if xml else ()), "application/*", "*/*") for offer in offers())


def check(*, xml: bool) -> None:
    """Raises NotAcceptable unless the answer can be in a form that is wanted. `_format` wins over Accept."""
    written = f"{JSON} and {XML}" if xml else JSON
    wanted = request.args.get("_format", "")
    if wanted:
        if _named(wanted) not in (*_JSON, "json", *((*_XML, "xml") if xml else ())):
            raise NotAcceptable(f"This _format is not written here; ask for {written}.")
    elif offers() and not is_fhir_taken(xml=xml):
        raise NotAcceptable(f"Accept: {request.headers['Accept']}: this endpoint writes {written}.")


def _named(wanted: str) -> str:
    # A plus that nobody has escaped is a space in a query.
    return wanted.partition(";")[0].strip().lower().replace(" ", "+")


def is_xml_wanted() -> bool:
    """Whether the answer shall be in XML."""
    wanted = request.args.get("_format", "")
    if wanted:
        return _named(wanted) in (*_XML, "xml")
    return _is_xml_best(request.headers.get("Accept", ""))


@lru_cache(maxsize=64)
def _is_xml_best(accept: str) -> bool:
    # The best first; what stands behind a semicolon (fhirVersion) makes no other form.
    best = (offer.partition(";")[0].strip().lower() for offer, _ in parse_accept_header(accept, MIMEAccept))
    return next((offer in _XML for offer in best if offer in (*_JSON, *_XML, "application/*", "*/*")), False)


def too_many_bytes(limit: int) -> str:
    """What to say of a body that is larger."""
    return f"The body is larger than {limit} bytes (max_body_bytes); send it in parts."


def body(limits: Limits, *, xml: bool) -> str:
    """The request's body as JSON text. Raises UnsupportedMedia, TooLarge, Malformed."""
    sent = request.mimetype
    is_xml = xml and sent in _XML
    if sent and sent not in _JSON and not is_xml:
        raise UnsupportedMedia(f"Content-Type {sent}: this endpoint reads {f'{JSON} and {XML}' if xml else JSON}.")
    data = _sent(limits)
    if is_xml:
        g.sent_xml = data
        check_values(data, limits, [b"<"])
        return _not_too_deep(from_xml(data), limits)
    check_values(data, limits)
    return _not_too_deep(codec.text_of(data), limits)


def patch_body(limits: Limits) -> str:
    """The request's body as the text of a JSON Patch. Raises UnsupportedMedia, TooLarge, Malformed."""
    if request.mimetype != JSON_PATCH:
        raise UnsupportedMedia(f"Content-Type {request.mimetype or 'not given'}: a PATCH takes {JSON_PATCH}.")
    data = _sent(limits)
    check_values(data, limits)
    return _not_too_deep(codec.text_of(data), limits)


def _not_too_deep(text: str, limits: Limits) -> str:
    if limits.max_depth < codec.MAX_DEPTH:  # that one is the parser's own
        codec.check_depth(text, limits.max_depth)
    return text


def _sent(limits: Limits) -> bytes:
    data = request.get_data()
    if len(data) > limits.max_body_bytes:
        raise TooLarge(too_many_bytes(limits.max_body_bytes))
    if not data.strip():
        raise Malformed("The body is empty.")
    return data


def check_values(data: bytes, limits: Limits, signs: Iterable[bytes] = (b",", b"[", b"{")) -> None:
    """Raises TooLarge when a body has more values than any record of its size, by the signs that go before one.

    Parsed, each "[]," takes seventy bytes: twenty times its own.
    """
    found = sum(map(data.count, signs))
    if found > limits.max_values:
        raise TooLarge(f"The body has about {found} values; send at most {limits.max_values} at once (max_values).")


def in_what_was_sent(text: str, faults: Iterable[Issue]) -> list[Issue]:
    """The faults with line and column in the body: in XML where it was sent so, else in its JSON text."""
    sent: bytes | None = g.get("sent_xml")
    return located(text, faults) if sent is None else located_xml(sent, faults)


XML_TYPE = f"{XML}; charset=utf-8"


def is_xml_answered() -> bool:
    """Whether the answer will be in XML: where it is wanted, and written here."""
    return g.get("writes_xml", False) and is_xml_wanted()


def unsayable(error: Malformed) -> NotAcceptable:
    """What to say of an answer that has in JSON what XML can't have."""
    said = f"This can't be said in XML; ask for {JSON}."
    return NotAcceptable(said, issues=[Issue("error", "not-supported", i.expression, said) for i in error.issues])


def write_xml(routes: Blueprint) -> None:
    """Answers of these routes are in XML where that is wanted."""

    @routes.before_request
    def note() -> None:
        g.writes_xml = True

    @routes.after_request
    def convert(answer: Response) -> Response:
        if "Vary" in answer.headers:
            answer.vary.add("Accept")
        else:
            answer.headers["Vary"] = "Accept"
        if answer.mimetype != JSON or not is_xml_wanted():
            return answer
        try:
            written = to_xml(text) if (text := answer.get_data(as_text=True)) else b""
        except Malformed as error:
            # A copy of what an EHR gave may say in JSON what XML can't. Of what has been done nobody is told that it
            # is not: that answer stays as it is.
            if request.method not in ("GET", "HEAD"):
                return answer
            answer, written = Response(status=406), to_xml(codec.dumps(outcome.of_error(unsayable(error))))
        answer.set_data(written)
        answer.content_type = XML_TYPE
        return answer
