"""/metrics in Prometheus' text format: what was learned, for who operates, audits or coordinates.

There is no open door on loopback: behind a proxy on the same machine every request comes from there. A scraper that
can't sign in by SMART has a token of its own, in a file that the operator names.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fhir_secondop.bootstrap import Service
from fhir_secondop.model import Caller
from fhir_secondop.opinion.learned import Group, rows
from fhir_secondop.rest import disclosure, failures
from fhir_secondop.service.learned import Learned

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SCRAPER = Caller("metrics", "Metrics scraper", frozenset({"operator"}))


def blueprint(service: Service) -> Blueprint:
    """Route /metrics."""
    routes = Blueprint("metrics", __name__)
    learned = Learned(service.context)

    @routes.get("/metrics")
    def metrics() -> Response:
        caller = _caller(service)
        disclosure.signed_in(caller)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Numbers(learned.groups(caller)))
        return Response(generate_latest(registry), content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    failures.handle(routes, "application/json")
    return routes


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
