"""A span for each request of an application, and the trace of its caller where that is believed."""

from __future__ import annotations

from contextlib import ExitStack

from flask import Flask, Response, g, request

from fhir_secondop import tracing
from fhir_secondop.rest import disclosure, inner


def install(app: Flask, *, continues: bool) -> None:
    """Traces from now on, where there are traces. With `continues` a caller's traceparent is gone on with: whoever
    sends one joins our spans to theirs, and says whether they are kept.
    """

    @app.before_request
    def begin() -> None:
        if not tracing.is_on() or inner.is_entry():
            return
        rule = request.url_rule.rule if request.url_rule else "-"
        parent = tracing.continued(request.headers.get("traceparent", "")) if continues else None
        g.span_held = ExitStack()
        g.span_seen = g.span_held.enter_context(
            tracing.span(f"{request.method} {rule}", "SERVER", parent, http__request__method=request.method,
                         http__route=rule)
        )  # fmt: skip

    @app.after_request
    def end(answer: Response) -> Response:
        seen = g.get("span_seen")
        if seen is not None:
            noted = disclosure.access()
            seen.say(http__response__status_code=answer.status_code, secondop__request=noted.request,
                     secondop__operation=noted.operation)  # fmt: skip
            if answer.status_code >= 500:
                seen.failed("status")
        return answer

    @app.teardown_request
    def leave(error: BaseException | None) -> None:
        held = g.pop("span_held", None)
        if held is not None:
            held.close()
