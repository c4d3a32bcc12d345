"""The service put together as it is, in this process, on both databases; only its workflows wait to be run by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.model import Sender
from fhir_secondop.service import workflows
from fhir_secondop.web.app import create
from fhir_secondop.web.mllp import Listener

NPI = "http://hl7.org/fhir/sid/us-npi"
RIVERSIDE = Sender(
    name="riverside", application="", facility="RIVERSIDE", title="Riverside Sample Clinic",
    organization=f"{NPI}|9000000101", order_system="https://riverside.example/orders",
    systems={"RSMRN": "https://riverside.example/mrn", "LKMRN": "https://lakeside.example/mrn"},
    organizations={"LAKESIDE": f"{NPI}|9000000102"}, order_codes=("2NDOP",),
)  # fmt: skip
Listen = Callable[..., Listener]

TOKENS = """
[callers.desk]
name = "Desk"
token = "desk"
roles = ["coordinator", "requester"]
scopes = ["system/*.crus"]

[callers.clinic]
name = "A clinic's system"
token = "clinic"
roles = ["requester"]
scopes = ["system/*.crus"]

[callers.reviewer]
name = "Dr. Clara Standin"
token = "reviewer"
roles = ["reviewer"]
scopes = ["user/*.rus"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000190"]

[callers.pcp]
name = "Dr. Ines Placeholder"
token = "pcp"
roles = ["provider"]
scopes = ["user/*.rs", "user/ServiceRequest.u", "user/Task.u"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000111"]

[callers.stranger]
name = "Somebody else"
token = "stranger"
roles = ["provider"]
scopes = ["user/*.rs", "user/ServiceRequest.u", "user/Task.u"]
parties = ["http://hl7.org/fhir/sid/us-npi|9999999999"]
"""


@dataclass
class Bench:
    """A client of the service, and the workflows that it enqueued."""

    service: bootstrap.Service
    client: FlaskClient
    enqueued: list[tuple[Any, ...]] = field(default_factory=list)

    def call(self, method: str, path: str, body: Any = None, who: str = "desk", **headers: str) -> Any:
        """One request; a body goes as FHIR JSON below /fhir, as JSON elsewhere."""
        kind = "application/fhir+json" if path.startswith("/fhir") else "application/json"
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.client.open(
            path, method=method, json=body, content_type=kind if body is not None else None,
            headers={"Authorization": f"Bearer {who}", **named},
        )  # fmt: skip


@pytest.fixture
def bench(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    enqueued: list[tuple[Any, ...]] = []

    def recorder(_: Any) -> Any:
        def enqueue(tx: Any, workflow: str, key: str, partition: str, *args: Any, delay_s: float = 0) -> None:
            enqueued.append((workflow, key, partition, *args))

        return enqueue

    monkeypatch.setattr(workflows, "enqueuer", recorder)
    (tmp_path / "tokens.toml").write_text(TOKENS)
    settings = Settings(
        database=database_url,
        auth="tokens",
        token_file=str(tmp_path / "tokens.toml"),
        link_secret_file=str(tmp_path / "link-secret"),
        document_keys_file=str(tmp_path / "document-keys.json"),
        log_level="WARNING",
    )
    service = bootstrap.build(settings)
    yield Bench(service, create(service).test_client(), enqueued)
    service.context.database.dispose()


@pytest.fixture
def listen(bench: Bench) -> Iterator[Listen]:
    """listen(*senders) → a listener on a free port that takes their messages."""
    started: list[Listener] = []

    def begin(*senders: Sender, **options: Any) -> Listener:
        named = {sender.name: sender for sender in senders or (RIVERSIDE,)}
        settings = replace(bench.service.settings, hl7_senders=named)
        made = Listener(replace(bench.service, settings=settings), "127.0.0.1", 0, **options)
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        started.append(made)
        return made

    yield begin
    for one in started:
        one.stop()
