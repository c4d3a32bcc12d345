"""Traces by OpenTelemetry: off, and nothing of it imported, until `start`.

A span holds names of this program, of the configuration and of routes, ids of workflows, and numbers. What else
somebody puts into one, the texts of errors above all, does not leave the process: `Allowed` is the only way out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fhir_secondop.errors import Invalid

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.trace import Span

NAME = "fhir-secondop"
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# What may leave: ours, and those of DBOS that are names and ids.
ATTRIBUTES = frozenset({
    "http.request.method", "http.route", "http.response.status_code", "secondop.request", "secondop.operation",
    "secondop.connection", "secondop.failure",
    "dbos.operation.workflow_id", "dbos.operation.type", "dbos.queue.name", "dbos.executor.id",
    "dbos.application.version",
})  # fmt: skip
_provider: list[TracerProvider] = []


def is_on() -> bool:
    """Whether there are traces."""
    return bool(_provider)


def start(endpoint: str, process: str, ratio: float) -> None:
    """Sends spans of this process to a collector, by OTLP over HTTP; of `ratio` (0 to 1) of the traces that begin here.

    To be called in the process that works, after any fork. Raises Invalid where the library is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise Invalid("otlp_endpoint: install it with traces: pip install 'fhir-secondop[otel]'.") from error
    if _provider:
        return
    resource = Resource({"service.name": NAME, "service.instance.id": process})
    made = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource)
    made.add_span_processor(BatchSpanProcessor(_allowed(OTLPSpanExporter(endpoint=endpoint))))
    trace.set_tracer_provider(made)  # DBOS asks for the one of the process
    _provider.append(made)


def stop() -> None:
    """Sends what is left."""
    for made in _provider:
        made.shutdown()
    _provider.clear()


@contextmanager
def span(name: str, kind: str = "INTERNAL", parent: Context | None = None, **said: str | int) -> Iterator[Seen]:
    """A span around what is inside; its attributes are `said`, with "__" for ".". `kind` is OpenTelemetry's."""
    if not _provider:
        yield _NOBODY
        return
    from opentelemetry import trace

    tracer = trace.get_tracer(NAME, tracer_provider=_provider[0])
    attributes = {key.replace("__", "."): value for key, value in said.items()}
    with tracer.start_as_current_span(
        name, parent, trace.SpanKind[kind], attributes, record_exception=False, set_status_on_exception=False
    ) as begun:
        seen = Seen(begun)
        try:
            yield seen
        except Exception as error:
            seen.failed(type(error).__name__)
            raise


class Seen:
    """The span that is open, or nobody who looks."""

    def __init__(self, begun: Span | None) -> None:
        self._span = begun

    def say(self, **said: str | int) -> None:
        """Adds attributes, with "__" for "."."""
        if self._span is not None:
            for key, value in said.items():
                self._span.set_attribute(key.replace("__", "."), value)

    def failed(self, kind: str) -> None:
        """Says that it failed, and with what kind of error; never with its text."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR))
            self._span.set_attribute("secondop.failure", kind)


_NOBODY = Seen(None)


def current() -> Context | None:
    """The context under way, for what goes on elsewhere; None without traces."""
    if not _provider:
        return None
    from opentelemetry import context

    return context.get_current()


def continued(traceparent: str) -> Context | None:
    """The context that a caller's header names; None of what is no such header, and without traces."""
    if not _provider or not _TRACEPARENT.fullmatch(traceparent):
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def headers() -> dict[str, str]:
    """The header that lets others go on with this trace; none without traces."""
    carrier: dict[str, str] = {}
    if _provider:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
        carrier.pop("tracestate", None)
    return carrier


def trace_id() -> str:
    """The trace under way, 32 hex digits; "" where there is none."""
    if not _provider:
        return ""
    from opentelemetry import trace

    found = trace.get_current_span().get_span_context()
    return trace.format_trace_id(found.trace_id) if found.is_valid else ""


def _allowed(exporter: Any) -> Any:
    """An exporter that lets out what may leave: names, times, and the attributes that are listed."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Status

    class Allowed(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result: SpanExportResult = exporter.export([shown(one) for one in spans])
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return bool(exporter.force_flush(timeout_millis))

    def shown(one: ReadableSpan) -> ReadableSpan:
        kept = {key: value for key, value in (one.attributes or {}).items() if key in ATTRIBUTES}
        return ReadableSpan(
            one.name, one.context, one.parent, one.resource, kept, kind=one.kind, start_time=one.start_time,
            end_time=one.end_time, status=Status(one.status.status_code),
            instrumentation_scope=one.instrumentation_scope,
        )  # fmt: skip

    return Allowed()
