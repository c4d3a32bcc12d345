"""Every failure as an OperationOutcome: ours, HTTP's own, and those that nobody foresaw."""

from __future__ import annotations

import logging
import math
import uuid
from http import HTTPStatus

from flask import Blueprint, Flask, Response
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from fhir_secondop.errors import (
    STATUS,
    Issue,
    Malformed,
    NotFound,
    SecondOpError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
    UnsupportedMedia,
    http_status,
)
from fhir_secondop.fhir import codec
from fhir_secondop.rest import outcome
from fhir_secondop.rest.formats import JSON
from fhir_secondop.store.database import is_away

log = logging.getLogger(__name__)
_KINDS: dict[int, type[SecondOpError]] = {404: NotFound, 405: Unsupported, 413: TooLarge, 415: UnsupportedMedia}


def handle(routes: Blueprint | Flask, mimetype: str = JSON) -> None:
    """Answers every failure of these routes with an OperationOutcome of that media type."""

    def failed(error: SecondOpError) -> ResponseReturnValue:
        return answer(error, mimetype)

    def of_http(error: HTTPException) -> ResponseReturnValue:
        code = error.code or 500
        said = _answer(_KINDS.get(code, Malformed)(error.name + "."), code, mimetype)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            said.headers["Allow"] = ", ".join(error.valid_methods)
        return said

    def broken(error: Exception) -> ResponseReturnValue:
        return answer(unforeseen(error), mimetype)

    routes.register_error_handler(SecondOpError, failed)
    routes.register_error_handler(HTTPException, of_http)
    routes.register_error_handler(Exception, broken)


def unforeseen(error: Exception) -> SecondOpError:
    """What to say of a failure that nobody foresaw; it is logged under the number that the message gives."""
    number = uuid.uuid4().hex[:12]
    # Its text and the traceback's locals may quote a row: only the type and the place are logged.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else "?"
    log.error("failure %s: %s at %s", number, type(error).__name__, where)
    if is_away(error):
        return Unavailable(f"The database does not answer, nothing was stored; try again. Quote number {number}.")
    return SecondOpError(f"This failed on our side; nothing was stored. Quote number {number} to the operator.")


def of_answer(status: int, body: bytes, path: str) -> SecondOpError:
    """The failure of which an answer tells, at that place of what was sent. What answers a HEAD has no body."""
    kind = next((kind for kind, (number, _) in STATUS.items() if number == status), SecondOpError)
    if not body:
        return kind(f"{HTTPStatus(status).phrase}.", path=path)
    issues = [
        Issue(each["severity"], each["code"], path, each.get("diagnostics", "")) for each in codec.parse(body)["issue"]
    ]
    return kind(issues[0].diagnostics, path=path, issues=issues)


def answer(error: SecondOpError, mimetype: str = JSON) -> Response:
    """The answer to a failure: its OperationOutcome, and the headers that belong to its kind."""
    said = _answer(error, http_status(error), mimetype)
    if isinstance(error, Unauthenticated):
        said.headers["WWW-Authenticate"] = "Bearer"
    if said.status_code in (429, 503):
        said.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return said


def _answer(error: SecondOpError, status: int, mimetype: str) -> Response:
    return Response(codec.dumps(outcome.of_error(error)), status, mimetype=mimetype)
