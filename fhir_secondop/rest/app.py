"""The routes of a FHIR endpoint: one table, from method and address to handler."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from fhir_secondop.errors import (
    Malformed,
    NotFound,
    SecondOpError,
    Unauthenticated,
    Unsupported,
    http_status,
)
from fhir_secondop.fhir import definitions, times
from fhir_secondop.model import Caller
from fhir_secondop.rest import answers, capability, interactions, operations, outcome, transaction
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store.database import now_ms

log = logging.getLogger(__name__)
MAX_BODY_BYTES = 64 * 1024 * 1024

Handler = Callable[..., Response]

# (method, address, handler); <t> a resource type, <i> an id. Order does not matter, Werkzeug picks the closest.
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/", lambda e, c: transaction.transaction(e, c)),
    ("POST", "/$<code>", lambda e, c, code: operations.run(e, c, "", "", code)),
    ("GET", "/$<code>", lambda e, c, code: operations.run(e, c, "", "", code)),
    ("GET", "/<t>", lambda e, c, t: interactions.search_type(e, c, t)),
    ("POST", "/<t>", lambda e, c, t: interactions.create(e, c, t)),
    ("POST", "/<t>/_search", lambda e, c, t: interactions.search_type(e, c, t)),
    ("GET", "/<t>/<i>", lambda e, c, t, i: interactions.read(e, c, t, i)),
    ("PUT", "/<t>/<i>", lambda e, c, t, i: interactions.update(e, c, t, i)),
    ("DELETE", "/<t>/<i>", lambda e, c, t, i: interactions.delete(e, c, t, i)),
    ("GET", "/<t>/<i>/_history", lambda e, c, t, i: interactions.history(e, c, t, i)),
    ("GET", "/<t>/<i>/_history/<v>", lambda e, c, t, i, v: interactions.vread(e, c, t, i, v)),
    ("GET", "/<t>/<i>/$<code>", lambda e, c, t, i, code: operations.run(e, c, t, i, code)),
    ("POST", "/<t>/<i>/$<code>", lambda e, c, t, i, code: operations.run(e, c, t, i, code)),
)


def blueprint(endpoint: Endpoint, *, started: str | None = None) -> Blueprint:
    """The Flask blueprint of an endpoint, to be registered under its path."""
    routes = Blueprint("fhir", __name__)
    date = started or times.instant(now_ms())

    def metadata() -> Response:
        answers.check_accept()
        return answers.json_answer(capability.statement(endpoint, date))

    routes.add_url_rule("/metadata", "metadata", metadata, methods=["GET"])
    for place, (method, address, handler) in enumerate(ROUTES):
        routes.add_url_rule(address, f"r{place}", _view(endpoint, handler), methods=[method], strict_slashes=False)
    routes.register_error_handler(SecondOpError, _failed)
    routes.register_error_handler(HTTPException, _http_failed)
    routes.register_error_handler(Exception, _broken)
    return routes


def _view(endpoint: Endpoint, handler: Handler) -> Callable[..., Response]:
    def view(**parts: str) -> Response:
        began = time.perf_counter()
        answers.check_accept()
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise Malformed(f"The body is larger than {MAX_BODY_BYTES} bytes.")
        if "t" in parts and parts["t"] not in definitions.resource_types():
            raise NotFound(f"{parts['t'][:64]!r} is not an R4 resource type.")
        caller: Caller = endpoint.authenticate(request)
        answer = handler(endpoint, caller, **parts)
        # Only names of ours: never a query string, which may carry a patient's name.
        log.info("%s %s %s %s %.1f ms", caller.id, request.method, parts.get("t", "-"), answer.status_code,
                 (time.perf_counter() - began) * 1000)  # fmt: skip
        return answer

    return view


def _failed(error: SecondOpError) -> Response:
    answer = answers.json_answer(outcome.of_error(error), http_status(error))
    if isinstance(error, Unauthenticated):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _http_failed(error: HTTPException) -> Response:
    code = error.code or 500
    kind = NotFound if code == 404 else Unsupported if code == 405 else Malformed
    answer = answers.json_answer(outcome.of_error(kind(error.name + ".")), code)
    return answer


def _broken(error: Exception) -> Response:
    number = uuid.uuid4().hex[:12]
    # The traceback's locals are not logged, and its message may quote a row: only the type and the place.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else "?"
    log.error("failure %s: %s at %s", number, type(error).__name__, where)
    failure = SecondOpError(f"This failed on our side; nothing was stored. Quote number {number} to the operator.")
    return answers.json_answer(outcome.of_error(failure), 500)
