"""What is counted and traced of each request to an EHR: its connection, its kind, how long, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fhir_secondop import meters, tracing
from fhir_secondop.ehr.failures import EhrFailure


@contextmanager
def failures(name: str) -> Iterator[None]:
    """Counts by its kind the failure that leaves here."""
    try:
        yield
    except EhrFailure as failure:
        meters.ehr_failures.labels(name, failure.kind).inc()
        raise


@contextmanager
def exchange(name: str, method: str, kind: str) -> Iterator[Callable[[int], None]]:
    """One request and its answer; call what is given with the answer's status. `kind` is a type, never an address."""
    began = time.perf_counter()
    with tracing.span(
        f"{method} {kind}".strip(), "CLIENT", secondop__connection=name, http__request__method=method
    ) as seen:

        def answered(status: int) -> None:
            meters.ehr_requests.labels(name, f"{status // 100}xx").inc()
            seen.say(http__response__status_code=status)
            if status >= 400:
                seen.failed("status")

        try:
            yield answered
        finally:
            meters.ehr_request_seconds.labels(name).observe(time.perf_counter() - began)
