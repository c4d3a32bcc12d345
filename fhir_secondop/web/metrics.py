"""/metrics in Prometheus' text format: what the processes count, what the database says, and what was learned.

There is no open door on loopback: behind a proxy on the same machine every request comes from there. A scraper that
can't sign in by SMART has a token of its own, in a file that the operator names.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flask import Blueprint, Flask, Response, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fhir_secondop import meters
from fhir_secondop.access import rights
from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Unavailable
from fhir_secondop.model import Caller
from fhir_secondop.opinion.learned import Group, rows
from fhir_secondop.rest import disclosure, failures
from fhir_secondop.rest.app import log_requests
from fhir_secondop.service.learned import Learned
from fhir_secondop.web import audit, inbound, listener, vitals
from fhir_secondop.web.gauges import Gauges
from fhir_secondop.web.throttle import Throttle, remembering

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PER_S, BURST = 2.0, 20  # requests of one address at a worker's own port
SCRAPER = Caller("metrics", "Metrics scraper", frozenset({"operator"}))


def blueprint(service: Service) -> Blueprint:
    """Route /metrics."""
    routes = Blueprint("metrics", __name__)
    learned = Learned(service.context)
    gauges = Gauges(service.context)

    @routes.get("/metrics")
    def metrics() -> Response:
        caller = _caller(service)
        disclosure.signed_in(caller)
        return _answer(service, gauges, _Numbers(learned.groups(caller)))

    failures.handle(routes, "application/json")
    return routes


@contextmanager
def beside(service: Service, host: str, port: int) -> Iterator[None]:
    """/metrics of a process that serves nothing else: what it counts itself; of the database its service tells.

    Raises Unavailable when the address is taken.
    """
    service = remembering(service)
    app = Flask("fhir_secondop.worker", static_folder=None)
    log_requests(app)
    failures.handle(app, "application/json")

    @app.get("/metrics")
    def metrics() -> Response:
        caller = _caller(service)
        rights.require_role(caller, "operator", "auditor")
        disclosure.signed_in(caller)
        return _answer(service)

    audit.install(app, service)
    # Behind the doors of a server, which let little in here: a scraper asks a few times a minute, without a body.
    settings = replace(service.settings, host=host, port=port, max_body_bytes=0, requests_per_s=PER_S, burst=BURST)
    recorded = service.context.database.audit
    behind = inbound.complete(
        app.wsgi_app, Throttle(service, settings), "", refused=recorded.refused if recorded else inbound.uncounted
    )
    try:
        server = listener.listening(behind, settings)
    except OSError as error:
        raise Unavailable(f"{host}:{port} can't be listened on ({error.strerror}); choose another port.") from error
    thread = threading.Thread(target=server.run, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.close()


def _answer(service: Service, *found: Collector) -> Response:
    """What the processes of this port have counted, and these."""
    vitals.measure(service.context.database)
    registry = CollectorRegistry(auto_describe=False)
    for collector in (meters.collector(), *found):
        registry.register(collector)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})


def _caller(service: Service) -> Caller:
    """Who asks: the scraper by its token, else whoever signs in. Raises Unauthenticated."""
    file = service.settings.metrics_token_file
    if file:
        # Read at each request: a token that was changed counts from now on.
        known = f"Bearer {Path(file).read_text('utf-8').strip()}"
        if hmac.compare_digest(known.encode(), request.headers.get("Authorization", "").encode()):
            return SCRAPER
    return service.authenticate(request)


class _Numbers(Collector):
    """Every number that may be shown; one that is withheld has no sample."""

    def __init__(self, groups: tuple[Group, ...]) -> None:
        self._groups = groups

    def collect(self) -> Iterator[Metric]:
        cases = GaugeMetricFamily(
            "secondop_signed_cases",
            "Cases whose report is signed, by group, measure and category.",
            labels=["breakdown", "group", "measure", "category"],
        )
        days = GaugeMetricFamily(
            "secondop_turnaround_business_days",
            "Business days from each clock's start to the first signature.",
            labels=["breakdown", "group", "clock", "quantile"],
        )
        for breakdown, name, measure, category, number in rows(self._groups):
            if not isinstance(number, int):
                continue
            if measure.startswith("business-days-"):
                quantile = {"median": "0.5", "90th-percentile": "0.9"}[category]
                days.add_metric([breakdown, name, measure.removeprefix("business-days-"), quantile], number)
            else:
                cases.add_metric([breakdown, name, measure, category], number)
        yield cases
        yield days
