"""Whose trace a request belongs to, who is told of ours, and what a log line says."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, jsonify
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop import config, tracing
from fhir_secondop.ehr.client import Client
from fhir_secondop.model import Connection
from fhir_secondop.service import logs
from fhir_secondop.store.audit import origin
from fhir_secondop.store.audit.rows import Access
from fhir_secondop.store.database import now_ms
from fhir_secondop.web import spans

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def traced(httpserver: HTTPServer) -> Iterator[None]:
    httpserver.expect_request("/v1/traces").respond_with_data(b"", 200, content_type="application/x-protobuf")
    tracing.start(httpserver.url_for("/v1/traces"), "test", 1.0)
    yield
    tracing.stop()


def app(*, continues: bool) -> Any:
    made = Flask("x")
    spans.install(made, continues=continues)

    @made.get("/trace")
    def trace() -> Any:
        return jsonify(tracing.trace_id())

    return made.test_client()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("sent", [PARENT, PARENT.replace("00-", "ff-", 1), "nonsense", PARENT + "\u00e9", "0" * 9000])
def test_a_callers_trace_is_gone_on_with_only_where_that_is_configured(sent: str) -> None:
    theirs = "0af7651916cd43dd8448eb211c80319c"
    asked = {"traceparent": sent}
    assert app(continues=False).get("/trace", headers=asked).get_json() not in ("", theirs)
    assert (app(continues=True).get("/trace", headers=asked).get_json() == theirs) == (sent == PARENT)


@pytest.mark.usefixtures("traced")
def test_requests_of_one_thread_do_not_share_a_trace() -> None:
    client = app(continues=False)
    assert len({client.get("/trace").get_json() for _ in range(5)}) == 5
    assert tracing.trace_id() == "", "and nothing is left of them"


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("told", [False, True])
def test_an_ehr_is_told_of_our_trace_only_where_that_is_configured(httpserver: HTTPServer, told: bool) -> None:
    seen: list[str | None] = []

    def answer(request: Request) -> Response:
        seen.append(request.headers.get("traceparent"))
        return Response('{"resourceType": "Patient", "id": "x"}', 200, mimetype="application/fhir+json")

    httpserver.expect_request("/fhir/Patient/x").respond_with_handler(answer)
    client = Client(Connection("there", httpserver.url_for("/fhir"), traceparent=told), now=now_ms)
    with tracing.span("something"):
        trace = tracing.trace_id()
        client.read("Patient/x")
    assert [header is not None and trace in header for header in seen] == [told]


def test_without_an_endpoint_nothing_is_traced() -> None:
    with tracing.span("something") as seen:
        seen.say(x=1)
        seen.failed("y")
        assert (tracing.trace_id(), tracing.headers(), tracing.current()) == ("", {}, None)


def line(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(logs.formatter("json").format(record))
    return found


def test_a_json_line_says_where_it_belongs_and_of_an_error_not_its_text() -> None:
    try:
        raise ValueError("Ada Placeholder, born 1970")
    except ValueError as error:
        raised = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("fhir_secondop.x", logging.ERROR, __file__, 1, "line\nbreak %s", ("\u2028",), raised)
    origin.begin(Access(request="abc", route="/fhir/<t>"))
    try:
        said = line(record)
    finally:
        origin.begin(None)
    assert "\n" not in logs.formatter("json").format(record)
    assert (said["level"], said["logger"], said["request"], said["error"]) == (
        "ERROR", "fhir_secondop.x", "abc", "ValueError",
    )  # fmt: skip
    assert said["message"] == "line\nbreak \u2028"
    assert "Placeholder" not in json.dumps(said)
    with origin.workflow("deliver.attempt"):
        assert line(record)["workflow"] == "deliver.attempt"
    assert "workflow" not in line(record)


def test_the_settings_know_what_there_is() -> None:
    assert config.LOG_FORMATS == logs.FORMATS
