"""The service with sign-in of systems, on both databases, served over real HTTP; its clock can be turned."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from werkzeug.serving import make_server

from fhir_secondop import bootstrap
from fhir_secondop.access import clients
from fhir_secondop.access.assertions import ASSERTION
from fhir_secondop.config import Settings
from fhir_secondop.ehr import published
from fhir_secondop.service import workflows
from fhir_secondop.service.authority import OwnAuthority, rings
from fhir_secondop.store.database import now_ms
from fhir_secondop.web.app import create
from tests.conftest import free_port

Plain = dict[str, Any]
RSA = RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
EC = ECKey.generate_key("P-384", {"kid": "e1"}, private=True)
OTHER = ECKey.generate_key("P-384", {"kid": "o1"}, private=True)
OPERATOR = ECKey.generate_key("P-384", {"kid": "p1"}, private=True)
CLIENTS = """
[clients.lakeside]
name = "Lakeside's system"
roles = ["coordinator"]
scopes = ["system/Patient.cruds", "system/Task.rs", "system/Observation.rs?category=laboratory"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000019"]
on_behalf_of = "Organization/1"
jwks_file = "lakeside.json"

[clients.riverside]
scopes = ["system/*.rs"]
jwks_file = "riverside.json"

[clients.desk]
roles = ["operator"]
scopes = ["system/Task.r"]
jwks_file = "desk.json"
"""


def jwks(*keys: Any, **more: Any) -> str:
    """The public halves of keys, as a JWKS."""
    return json.dumps({"keys": [{**key.as_dict(private=False), **more} for key in keys]})


@dataclass
class Clock:
    """The wall clock, turned by `ahead_s`."""

    ahead_s: float = 0

    def __call__(self) -> int:
        return now_ms() + int(self.ahead_s * 1000)


@dataclass
class Door:
    """A running service and what its clients do at it."""

    base: str
    folder: Path
    service: bootstrap.Service
    clock: Clock

    @property
    def token_url(self) -> str:
        return f"{self.base}/auth/token"

    def assertion(self, client: str = "lakeside", key: Any = EC, header: Plain | None = None, **claims: Any) -> str:
        """A client's assertion as it ought to be, but for these claims (None: without it) and header members."""
        body = {"iss": client, "sub": client, "aud": self.token_url, "exp": self.clock() // 1000 + 240,
                "jti": str(uuid.uuid4()), **claims}  # fmt: skip
        alg = "ES384" if isinstance(key, ECKey) else "RS384"
        head = {"alg": alg, "kid": key.kid, "typ": "JWT", **(header or {})}
        return jwt.encode({k: v for k, v in head.items() if v is not None},
                          {k: v for k, v in body.items() if v is not None}, key, algorithms=[alg])  # fmt: skip

    def form(self, scope: str | None = "system/Patient.rs", **more: Any) -> Plain:
        """The body of a token request, its assertion new; None leaves a parameter out."""
        held = {"grant_type": "client_credentials", "scope": scope, "client_assertion_type": ASSERTION,
                "client_assertion": self.assertion()} | more  # fmt: skip
        return {name: value for name, value in held.items() if value is not None}

    def ask(self, form: Any, path: str = "/auth/token", **headers: str) -> requests.Response:
        return requests.post(self.base + path, data=form, headers=headers, timeout=30)

    def token(self, scope: str = "system/Patient.rs", client: str = "lakeside", key: Any = EC) -> str:
        """An access token, got as a client gets it."""
        answer = self.ask(self.form(scope, client_assertion=self.assertion(client, key)))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def read(self, token: str, path: str = "/fhir/Patient", header: str | None = None) -> requests.Response:
        return requests.get(
            self.base + path, headers={"Authorization": f"Bearer {token}" if header is None else header}, timeout=30
        )


def turned(service: bootstrap.Service, clock: Clock) -> bootstrap.Service:
    """The service with this clock at its door."""
    systems = service.systems
    if not isinstance(systems, OwnAuthority):
        return service
    registry = clients.Registry(systems.registry._file, rings(published.fetch, clock))
    systems = replace(systems, now=clock, registry=registry, grants=replace(systems.grants, now=clock))
    return replace(service, systems=systems, authenticate=systems.caller,
                   endpoint=replace(service.endpoint, authenticate=systems.caller))  # fmt: skip


@pytest.fixture
def start(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """start(**settings) → a Door; two of them share the database, as two processes would."""
    monkeypatch.setattr(workflows, "enqueuer", lambda _: lambda *a, **k: None)
    for name, keys in (("lakeside", (RSA, EC)), ("riverside", (OTHER,)), ("desk", (OPERATOR,))):
        (tmp_path / f"{name}.json").write_text(jwks(*keys))
    (tmp_path / "clients.toml").write_text(CLIENTS)
    running = []

    def started(**more: Any) -> Door:
        port = free_port()
        given = {"auth": "smart", "base_url": f"http://127.0.0.1:{port}", "database": database_url,
                 "clients_file": str(tmp_path / "clients.toml"), "link_secret_file": str(tmp_path / "link-secret"),
                 "document_keys_file": str(tmp_path / "document-keys.json"),
                 "keys_file": str(tmp_path / "keys.json")}  # fmt: skip
        settings = Settings(**{**given, **more})
        clock = Clock()
        service = turned(bootstrap.build(settings), clock)
        server = make_server("127.0.0.1", port, create(service), threaded=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        running.append((server, service))
        return Door(f"http://127.0.0.1:{port}", tmp_path, service, clock)

    yield started
    for server, service in running:
        server.shutdown()
        server.server_close()
        service.context.database.dispose()


@pytest.fixture
def door(start: Any) -> Door:
    made: Door = start()
    return made
