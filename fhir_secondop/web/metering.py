"""Counts each request of an application: its route template, never its address."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request

from fhir_secondop import meters
from fhir_secondop.rest import inner

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def install(app: Flask) -> None:
    """Counts from now on. An entry of a Bundle is no request of its own here: its Bundle is."""

    @app.before_request
    def begin() -> None:
        g.metered_from = time.perf_counter()

    @app.after_request
    def end(answer: Response) -> Response:
        began = g.get("metered_from")
        if began is None or inner.is_entry():
            return answer
        rule = request.url_rule.rule if request.url_rule else "-"
        method = request.method if request.method in _METHODS else "?"
        meters.requests.labels(rule, method, f"{answer.status_code // 100}xx").inc()
        meters.request_seconds.labels(rule, method).observe(time.perf_counter() - began)
        return answer
