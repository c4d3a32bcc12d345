"""A trace from the request that signs to the last byte at an EHR, over two processes, at a collector that is real OTLP.

The service serves and does not work; another process works. What they share is the database alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from fhir_secondop import tracing
from fhir_secondop.sandbox import demo
from fhir_secondop.sandbox.story import Story
from tests.conftest import wait_for

SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT


@dataclass
class Seen:
    """A span as it arrived."""

    instance: str
    span: Span

    @property
    def said(self) -> dict[str, Any]:
        return {a.key: a.value.string_value or a.value.int_value for a in self.span.attributes}


@dataclass
class Collector:
    """Takes what an OTLP exporter sends over HTTP."""

    spans: list[Seen] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector.take(body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def take(self, body: bytes) -> None:
        self.raw.append(body)
        for of in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {a.key: a.value.string_value for a in of.resource.attributes}
            assert named["service.name"] == "fhir-secondop"
            for scope in of.scope_spans:
                self.spans += [Seen(named["service.instance.id"], span) for span in scope.spans]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


class Told:
    """A demo's case, up to its deliveries, served by one process and worked on by another."""

    def __init__(self, folder: Path, collector: Collector) -> None:
        case = folder / "case"
        with demo.case_folder("breast-treatment-plan") as found:
            shutil.copytree(found, case)
        self.layout = demo.lay_out(folder / "demo", case)
        self.folder = folder / "demo"
        config = self.folder / "secondop.toml"
        config.write_text(f'otlp_endpoint = "{collector.url}"\nlog_format = "json"\n{config.read_text()}')
        self.ehrs = demo.Processes(self.layout)
        self.ehrs.start_ehrs()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.story = Story(case, demo.people(self.layout), lambda _: None)

    def start(self, name: str, *words: str) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            command = [sys.executable, "-m", "fhir_secondop.cli", *words, "--config", "secondop.toml"]
            self.processes.append(subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log))

    def lines(self, name: str) -> list[dict[str, Any]]:
        text = (self.folder / f"{name}.log").read_text("utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60)


def test_a_delivery_of_another_process_is_in_the_trace_of_the_request_that_signed(
    tmp_path: Path, collector: Collector
) -> None:
    told = Told(tmp_path, collector)
    try:
        told.start("work", "work", "--name", "worker-1")
        ends = time.monotonic() + 60
        while "worker-1 works" not in (told.folder / "work.log").read_text("utf-8"):
            assert time.monotonic() < ends, (told.folder / "work.log").read_text("utf-8")
            time.sleep(0.05)
        told.start("serve", "serve", "--no-work")
        wait_for(f"{told.layout.url}/healthz", told.processes[1])
        for act in (told.story.request, told.story.gathered, told.story.review):
            act()
        told.story.delivered("report")
    finally:
        told.stop()  # which sends what is left
        told.ehrs.stop()

    spans = collector.spans
    (signed,) = [s for s in spans if s.span.kind == SERVER and s.said.get("secondop.operation") == "$sign"]
    assert signed.instance == "serve"
    assert signed.said["http.response.status_code"] == 200
    by_id = {s.span.span_id: s for s in spans}
    delivered = [s for s in spans if s.span.name == "deliver"]
    assert len(delivered) >= 4
    for one in delivered:
        assert one.instance == "work"
        assert one.span.trace_id == signed.span.trace_id
    sent = [s for s in spans if s.span.kind == CLIENT and s.said["http.request.method"] == "POST"
            and s.said["secondop.connection"] == "lakeside" and s.span.trace_id == signed.span.trace_id]  # fmt: skip
    assert sent
    for one in sent:
        line = []
        while one.span.parent_span_id:
            line.append((one.instance, one.span.name))
            one = by_id[one.span.parent_span_id]
        assert [name for _, name in line[1:]] == ["deliver.attempt", "deliver"], line
        assert one is signed, "from the bytes at the EHR up to the request"

    # What gathered the record belongs to the request that opened the case.
    (opened,) = [s for s in spans if s.span.kind == SERVER and s.span.name == "POST /api/second-opinions"]
    gathered = [s for s in spans if s.span.name == "gather"]
    assert len(gathered) == 2
    assert {s.span.trace_id for s in gathered} == {opened.span.trace_id}

    # Nothing of anybody, whatever somebody else's code puts into a span.
    assert {key for s in spans for key in s.said} <= tracing.ATTRIBUTES
    assert not any(s.span.events or s.span.status.message for s in spans)
    patient = json.loads((tmp_path / "case/request.json").read_text("utf-8"))["patient"]
    for name in (patient["family"], patient["email"], *(each["value"] for each in patient["identifier"])):
        assert not any(name.encode() in body for body in collector.raw), name

    # Its log lines say the trace and the request; the worker's say the trace and the step.
    (line,) = [one for one in told.lines("serve") if one.get("request") == signed.said["secondop.request"]]
    assert line["trace"] == signed.span.trace_id.hex()
    assert line["message"].split()[1:4] == ["POST", signed.said["http.route"], "200"]
    assert all({"time", "level", "logger", "message", "process"} <= set(one) for one in told.lines("work"))
