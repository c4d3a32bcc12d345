"""What a process counts of itself, for Prometheus: each meter of the program stands here, with its labels.

Labels are route templates, names from the configuration, and words of this program: never a path, an id or anything of
a patient. Several server processes of one port count into files of one folder, each under its place, so that whichever
is scraped tells of all; one that is made anew goes on where its place had stopped.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    multiprocess,
    values,
)
from prometheus_client.registry import Collector

_place = ["keeper"]
# The folder is named in the environment before this is imported, by the command that starts several processes.
SHARED: bool = values.ValueClass._multiprocess
if SHARED:
    values.ValueClass = values.MultiProcessValue(lambda: _place[0])  # type: ignore[no-untyped-call]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each one, that nobody asks for
REGISTRY = CollectorRegistry()
_FAST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_EHR_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WAIT_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)

requests = Counter(
    "secondop_http_requests_total", "Requests that were answered, by route template, method and class of status.",
    ["route", "method", "status"], registry=REGISTRY,
)  # fmt: skip
request_seconds = Histogram(
    "secondop_http_request_seconds", "From the first look at a request to its answer.", ["route", "method"],
    buckets=_FAST_S, registry=REGISTRY,
)  # fmt: skip
refused = Counter(
    "secondop_http_refused_total",
    "Requests that were refused before anything was done for them: with which status, or unread.",
    ["status"], registry=REGISTRY,
)  # fmt: skip
connections = Gauge(
    "secondop_http_connections", "Open connections of clients.", ["process"], registry=REGISTRY,
    multiprocess_mode="livesum",
)  # fmt: skip
ehr_requests = Counter(
    "secondop_ehr_requests_total", "Answers of an EHR (or a validator, or a payer), by class of status.",
    ["connection", "status"], registry=REGISTRY,
)  # fmt: skip
ehr_request_seconds = Histogram(
    "secondop_ehr_request_seconds", "From sending a request to the last byte of its answer.", ["connection"],
    buckets=_EHR_S, registry=REGISTRY,
)  # fmt: skip
ehr_failures = Counter(
    "secondop_ehr_failures_total", "Requests to an EHR that failed, by kind of failure.", ["connection", "kind"],
    registry=REGISTRY,
)  # fmt: skip
delivery_attempts = Counter(
    "secondop_delivery_attempts_total", "Attempts to deliver, by what came of each.", ["connection", "outcome"],
    registry=REGISTRY,
)  # fmt: skip
steps = Counter(
    "secondop_workflow_steps_total", "Steps of workflows that ended, and how.", ["step", "outcome"], registry=REGISTRY,
)  # fmt: skip
write_wait_seconds = Histogram(
    "secondop_write_wait_seconds", "How long a transaction waited for its turn to write.", buckets=_WAIT_S,
    registry=REGISTRY,
)  # fmt: skip
audit_rows = Counter("secondop_audit_rows_total", "Audit rows that were committed.", ["chain"], registry=REGISTRY)
_OWN = ["process"]
pool_in_use = Gauge(
    "secondop_database_connections", "Connections to the database that are in use.", _OWN, registry=REGISTRY,
    multiprocess_mode="livesum",
)  # fmt: skip
memory_bytes = Gauge(
    "secondop_process_memory_bytes", "Resident memory.", _OWN, registry=REGISTRY, multiprocess_mode="livesum"
)
open_files = Gauge(
    "secondop_process_open_files", "Open files and sockets.", _OWN, registry=REGISTRY, multiprocess_mode="livesum"
)
threads = Gauge("secondop_process_threads", "Threads.", _OWN, registry=REGISTRY, multiprocess_mode="livesum")
cpu_seconds = Counter("secondop_process_cpu_seconds_total", "Processor time, user and system.", _OWN, registry=REGISTRY)
_used_s = [0.0]


def begin(place: str) -> None:
    """From now on this process counts as the one at that place; what the last one there only measured is gone."""
    if SHARED:
        multiprocess.mark_process_dead(place)  # type: ignore[no-untyped-call]
    _place[0] = place


def place() -> str:
    """Where this process stands: "0", "1" … of several, else a name."""
    return _place[0]


def collector() -> Collector:
    """What this process has counted, or all processes of this port."""
    return multiprocess.MultiProcessCollector(None) if SHARED else REGISTRY  # type: ignore[no-untyped-call]


def look_at_process(pool: int) -> None:
    """Measures this process; `pool` is how many connections to the database it uses. On Linux alone the rest."""
    own = _place[0]
    pool_in_use.labels(own).set(pool)
    used_s = time.process_time()
    cpu_seconds.labels(own).inc(max(0.0, used_s - _used_s[0]))
    _used_s[0] = used_s
    here = Path("/proc/self")
    if not here.is_dir():
        return
    memory_bytes.labels(own).set(int((here / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    open_files.labels(own).set(sum(1 for _ in (here / "fd").iterdir()))
    threads.labels(own).set(sum(1 for _ in (here / "task").iterdir()))
