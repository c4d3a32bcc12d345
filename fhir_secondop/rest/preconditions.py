"""The headers that make an interaction depend on what is there. One that a write doesn't take is refused.

Source: https://hl7.org/fhir/R4/http.html#concurrency, https://www.rfc-editor.org/rfc/rfc9110#section-13
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from flask import request
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Malformed, PreconditionFailed, Unsupported
from fhir_secondop.model import EVERYTHING
from fhir_secondop.rest import answers
from fhir_secondop.store import resources
from fhir_secondop.store.resources import Stored

_OF_WRITES = ("If-Match", "If-None-Match", "If-None-Exist", "If-Unmodified-Since")


def check_taken(*taken: str) -> None:
    """Raises Unsupported when a write has a precondition that it doesn't take: it would be done without."""
    for name in _OF_WRITES:
        if name in request.headers and name not in taken:
            said = f"{name} is not taken here" + (f"; this takes {' and '.join(taken)}." if taken else ".")
            raise Unsupported(said)


def if_match() -> int | None:
    """The version that the If-Match header demands. Raises Malformed."""
    header = request.headers.get("If-Match")
    return None if header is None else answers.version_of(header, "")


def check_absent(found: Stored | None) -> None:
    """If-None-Match of a PUT: "*" demands that nothing is there, an ETag that another version is.

    Raises PreconditionFailed.
    """
    header = request.headers.get("If-None-Match")
    if header is not None and found is not None and not found.deleted and _named(header, found):
        raise PreconditionFailed(f"{found.versioned} is there, which If-None-Match rules out; nothing was stored.")


def is_unchanged(connection: Connection, found: Stored) -> bool:
    """Whether the reader has this version already, as If-None-Match or else If-Modified-Since says.

    Raises Malformed.
    """
    header = request.headers.get("If-None-Match")
    if header is not None:
        return _named(header, found)
    since = request.headers.get("If-Modified-Since")
    if since is None or found.is_cut:
        return False
    try:
        until_ms = int(parsedate_to_datetime(since).timestamp()) * 1000
    except (ValueError, OverflowError) as error:
        raise Malformed("If-Modified-Since is no HTTP date: send it as you got it in Last-Modified.") from error
    second_ms = found.updated // 1000 * 1000
    if second_ms > until_ms:
        return False
    # Last-Modified says seconds: a version that was replaced within the same one has the same date.
    return found.version == 1 or _before(connection, found).updated < second_ms


def _before(connection: Connection, found: Stored) -> Stored:
    return resources.history(connection, EVERYTHING, found.type, found.id, version=found.version - 1)[0]


def _named(header: str, found: Stored) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or found.etag.removeprefix("W/") in tags
