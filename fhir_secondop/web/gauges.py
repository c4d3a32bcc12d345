"""What the database says for /metrics: the same at whichever process is asked, counted anew every few seconds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fhir_secondop.service import jobs, ledger, waiting
from fhir_secondop.service.context import Context
from fhir_secondop.store import executors, measures

KEPT_MS = 10_000  # two scrapers, or a short interval, do not count all of it twice


class Gauges(Collector):
    """What is open towards each EHR, workflows by queue, and the database."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._at: int | None = None
        self._found: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        with self._lock:
            now = self._context.now()
            if self._at is None or not 0 <= now - self._at < KEPT_MS:
                self._found = [*self._waiting(now), *self._stored(now)]
                self._at = now
            return self._found

    def _waiting(self, now: int) -> Iterator[Metric]:
        deliveries = GaugeMetricFamily(
            "secondop_deliveries", "Open deliveries, by EHR and state.", labels=["connection", "state"]
        )
        oldest = GaugeMetricFamily(
            "secondop_oldest_undelivered_seconds",
            "Since the oldest delivery that is not there yet was planned; 0 for none.",
            labels=["connection"],
        )
        gatherings = GaugeMetricFamily(
            "secondop_gatherings", "Records that are being gathered, by EHR and state.", labels=["connection", "state"]
        )
        # Labels come from the configuration alone: what was a connection once is counted with those by link.
        known = (*self._context.connections, ledger.LINK)
        with self._context.database.reading() as connection:
            found = waiting.of_all(connection, self._context)
        counts: Counter[tuple[str, str, str]] = Counter()
        since: dict[str, int] = {}
        for one in found:
            name = one.connection if one.connection in known else ledger.LINK
            counts[one.task, name, _state(one)] += 1
            if one.task == waiting.DELIVERING:
                since[name] = min(since.get(name, now), one.ordered)
        for name in known:
            for state in ("waiting", "sending", "on-hold"):
                deliveries.add_metric([name, state], counts[waiting.DELIVERING, name, state])
            for state in ("under-way", "on-hold"):
                gatherings.add_metric([name, state], counts[waiting.GATHERING, name, state])
            oldest.add_metric([name], (now - since.get(name, now)) / 1000)
        yield from (deliveries, oldest, gatherings)

    def _stored(self, now: int) -> Iterator[Metric]:
        database = self._context.database
        with database.reading() as connection:
            queued = jobs.counts(connection)
            size = measures.size_bytes(database, connection)
            anchored = measures.newest_anchor(connection)
            workers = executors.living(connection)
        workflows = GaugeMetricFamily(
            "secondop_workflows", "Workflows that wait, are for later, or run, by queue.", labels=["queue", "state"]
        )
        for (queue, state), number in sorted(queued.items()):
            workflows.add_metric([queue, state], number)
        yield workflows
        alive = GaugeMetricFamily("secondop_workers", "Workers that are not gone, by state.", labels=["state"])
        for state in (executors.WORKING, executors.DRAINING):
            alive.add_metric([state], sum(1 for worker in workers if worker.state == state))
        yield alive
        yield GaugeMetricFamily(
            "secondop_oldest_beat_seconds",
            "Since the worker of these that has been silent longest has beaten, by its clock and ours; 0 without one.",
            value=max((now - worker.seen for worker in workers), default=0) / 1000,
        )
        yield GaugeMetricFamily("secondop_database_bytes", "Size of the database.", value=size)
        yield GaugeMetricFamily(
            "secondop_audit_anchor_age_seconds",
            "Since the newest audit anchor was written; 0 before the first.",
            value=max(0, now - anchored) / 1000 if anchored else 0,
        )


def _state(one: waiting.Waiting) -> str:
    if one.what == waiting.HELD:
        return "on-hold"
    if one.task == waiting.GATHERING:
        return "under-way"
    return "sending" if one.begun else "waiting"
