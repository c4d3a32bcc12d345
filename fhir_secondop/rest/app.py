"""The routes of a FHIR endpoint: one table, from method and address to handler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache

from flask import Blueprint, Flask, Response, g, request
from werkzeug.exceptions import MethodNotAllowed

from fhir_secondop.errors import (
    NotFound,
    TooLarge,
)
from fhir_secondop.fhir import codec, definitions, times
from fhir_secondop.model import Caller
from fhir_secondop.rest import (
    answers,
    binary,
    capability,
    disclosure,
    failures,
    formats,
    histories,
    inner,
    interactions,
    operations,
    patching,
    searching,
    transaction,
)
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import resources
from fhir_secondop.store.database import now_ms

log = logging.getLogger(__name__)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

Handler = Callable[..., Response]

# (method, address, handler); <t> a resource type, <i> an id. Order does not matter, Werkzeug picks the closest.
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/", lambda e, c: transaction.submit(e, c)),
    ("GET", "/", lambda e, c: searching.search_system(e, c)),
    ("POST", "/_search", lambda e, c: searching.search_system(e, c)),
    ("GET", "/_history", lambda e, c: histories.history_of_all(e, c)),
    ("POST", "/$<code>", lambda e, c, code: operations.run(e, c, "", "", code)),
    ("GET", "/$<code>", lambda e, c, code: operations.run(e, c, "", "", code)),
    ("GET", "/<t>", lambda e, c, t: searching.search_type(e, c, t)),
    ("POST", "/<t>", lambda e, c, t: interactions.create(e, c, t)),
    ("POST", "/<t>/_search", lambda e, c, t: searching.search_type(e, c, t)),
    ("GET", "/<t>/<i>", lambda e, c, t, i: interactions.read(e, c, t, i)),
    ("PUT", "/<t>", lambda e, c, t: interactions.update_found(e, c, t)),
    ("PATCH", "/<t>", lambda e, c, t: patching.patch_found(e, c, t)),
    ("DELETE", "/<t>", lambda e, c, t: interactions.delete_found(e, c, t)),
    ("PATCH", "/<t>/<i>", lambda e, c, t, i: patching.patch_one(e, c, t, i)),
    ("PUT", "/<t>/<i>", lambda e, c, t, i: interactions.update(e, c, t, i)),
    ("DELETE", "/<t>/<i>", lambda e, c, t, i: interactions.delete(e, c, t, i)),
    ("GET", "/<t>/_history", lambda e, c, t: histories.history_of_type(e, c, t)),
    ("GET", "/<t>/<i>/_history", lambda e, c, t, i: histories.history(e, c, t, i)),
    ("GET", "/<t>/<i>/_history/<v>", lambda e, c, t, i, v: interactions.vread(e, c, t, i, v)),
    ("GET", "/<t>/<i>/<u>", lambda e, c, t, i, u: searching.search_compartment(e, c, t, i, u)),
    ("GET", "/<t>/$<code>", lambda e, c, t, code: operations.run(e, c, t, "", code)),
    ("POST", "/<t>/$<code>", lambda e, c, t, code: operations.run(e, c, t, "", code)),
    ("GET", "/<t>/<i>/$<code>", lambda e, c, t, i, code: operations.run(e, c, t, i, code)),
    ("POST", "/<t>/<i>/$<code>", lambda e, c, t, i, code: operations.run(e, c, t, i, code)),
)


def blueprint(endpoint: Endpoint, *, started: str | None = None) -> Blueprint:
    """The Flask blueprint of an endpoint, to be registered under its path."""
    routes = Blueprint("fhir", __name__)
    date = started or times.instant(now_ms())

    @cache
    def statement() -> str:
        """Made when it is first asked for: 700 KB that stay the same as long as the endpoint does."""
        return codec.dumps(capability.statement(endpoint, date))

    def metadata() -> Response:
        formats.check(xml=endpoint.xml)
        return answers.json_answer(statement())

    routes.add_url_rule("/metadata", "metadata", metadata, methods=["GET"])
    for place, (method, address, handler) in enumerate(ROUTES):
        routes.add_url_rule(
            address, f"r{place}", _view(endpoint, handler, address), methods=[method], strict_slashes=False
        )
    _add_refusals(routes)
    failures.handle(routes)
    if endpoint.xml:
        formats.write_xml(routes)
    return routes


def log_requests(app: Flask) -> None:
    """Logs each request of an application: who, method, rule, status, time. Never a query string, a body or a path's
    own words: any of them may carry a patient's name.
    """

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def end(answer: Response) -> Response:
        rule = request.url_rule.rule if request.url_rule else "-"
        kind = (request.view_args or {}).get("t", "")
        shown = rule.replace("<t>", kind) if kind in definitions.resource_types() else rule
        took_ms = (time.perf_counter() - g.began) * 1000
        caller = g.get("caller", "-")
        log.info("%s %s %s %s %.1f ms", caller, request.method, shown, answer.status_code, took_ms)
        return answer


def _add_refusals(routes: Blueprint) -> None:
    """Every other method and address below the base, so that those too are answered with an OperationOutcome."""
    offered: dict[str, list[str]] = {"/metadata": ["GET", "HEAD"]}
    for method, address, _ in ROUTES:
        offered.setdefault(address, []).extend(["GET", "HEAD"] if method == "GET" else [method])
    for place, (address, methods) in enumerate(offered.items()):
        rest = [m for m in _METHODS if m not in methods]
        if not rest:
            continue
        routes.add_url_rule(
            address, f"not{place}", _refusal(sorted(methods)), methods=rest, strict_slashes=False,
            provide_automatic_options=False,
        )  # fmt: skip
    routes.add_url_rule("/<path:rest>", "nowhere", _nowhere, methods=_METHODS, provide_automatic_options=False)


def _refusal(methods: list[str]) -> Callable[..., Response]:
    def refuse(**parts: str) -> Response:
        raise MethodNotAllowed(methods)

    return refuse


def _nowhere(rest: str) -> Response:
    raise NotFound("There is nothing at this address; see metadata.")


def _view(endpoint: Endpoint, handler: Handler, address: str) -> Callable[..., Response]:
    def view(**parts: str) -> Response:
        if address != "/<t>/<i>" or not binary.is_wanted(endpoint, parts["t"]):
            formats.check(xml=endpoint.xml)
        limit = endpoint.limits.max_body_bytes
        if (request.content_length or 0) > limit:
            raise TooLarge(formats.too_many_bytes(limit))
        request.max_content_length = limit + 1  # a chunked body says no length, and Werkzeug cuts it without a word
        if "t" in parts and parts["t"] not in definitions.resource_types():
            raise NotFound("There is no such resource type in R4, and nothing else at this address; see metadata.")
        if "i" in parts and not resources.is_id(parts["i"]):
            raise NotFound(f"There is no such {parts['t']}: that is not a FHIR id.")
        within = inner.inside()
        caller: Caller = endpoint.authenticate(request) if within is None else within.caller
        disclosure.signed_in(caller)
        return handler(endpoint if within is None else within.endpoint, caller, **parts)

    return view
