"""The service with people: a real provider of somebody else, and one of ours that can lie, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask, jsonify, request
from flask.testing import FlaskClient
from joserfc import jwt
from joserfc.jwk import RSAKey
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.service import workflows
from fhir_secondop.store.database import now_ms
from fhir_secondop.web import app
from fhir_secondop.web.signin import SignIn
from tests.service.conftest import TOKENS

CLIENT = "second-opinion"
PROVIDERS_KEY = RSAKey.generate_key(2048, private=True, auto_kid=True)
PEOPLE = """
[people.reviewer]
subject = "{issuer}|clara"
name = "Dr. Clara Standin"
roles = ["reviewer"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000190"]

[people.desk]
email = "Desk@Hospital.example"
name = "Desk"
roles = ["coordinator", "requester"]

[people.ops]
subject = "{issuer}|ops"
name = "Operator"
roles = ["operator"]
"""


@dataclass
class Clock:
    """The service's clock, as far ahead of the real one as a test wants it."""

    ahead_ms: int = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead_ms

    def forward(self, seconds: float) -> None:
        self.ahead_ms += int(1000 * seconds)


@dataclass
class Site:
    """The service as a browser meets it. `pages` is a page that needs a person, and one that takes a POST."""

    service: bootstrap.Service
    flask: Flask
    sign_in: SignIn
    clock: Clock

    def browser(self) -> FlaskClient:
        return self.flask.test_client()

    def begin(
        self, browser: FlaskClient, next_path: str = "/who", path: str = "/sign-in?at=provider&next="
    ) -> dict[str, str]:
        """Goes to the provider: what the browser is sent there with."""
        answer = browser.get(path + next_path)
        assert answer.status_code == 303, answer.text
        return {k: v[0] for k, v in parse_qs(urlsplit(answer.location).query).items()}


Start = Callable[..., Site]


@pytest.fixture
def start(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """start(issuer, people=…, **settings) → the service; once more is another process's view of the same database."""
    made: list[Site] = []
    clock = Clock()
    monkeypatch.setattr(workflows, "enqueuer", lambda database: lambda *args, **more: None)
    monkeypatch.setattr(bootstrap, "now_ms", clock)

    def build(issuer: str = "", people: str = PEOPLE, **settings: Any) -> Site:
        (tmp_path / "tokens.toml").write_text(TOKENS)
        if not (tmp_path / "people.toml").exists():
            (tmp_path / "people.toml").write_text(people.replace("{issuer}", issuer or "https://id.example"))
        oidc = {"oidc_issuer": issuer, "oidc_client_id": CLIENT, "oidc_client_auth": "none"} if issuer else {}
        whole = {
            "database": database_url, "auth": "tokens", "token_file": str(tmp_path / "tokens.toml"),
            "log_level": "WARNING",
            "link_secret_file": str(tmp_path / "link-secret"),
            "document_keys_file": str(tmp_path / "document-keys.json"), "people_file": str(tmp_path / "people.toml"),
            **oidc, **settings,
        }  # fmt: skip
        service = bootstrap.build(Settings(**whole))
        flask = app.create(service)
        sign_in = SignIn(service.context, service.settings)

        @flask.get("/who")
        def who() -> Any:
            signed = sign_in.current(request)  # type: ignore[arg-type]
            if signed is None:
                return jsonify({"id": ""}), 401
            caller = signed.caller
            return jsonify({
                "id": caller.id, "name": caller.name, "roles": sorted(caller.roles), "scopes": caller.scopes,
                "behalf": caller.on_behalf_of, "auth_time": signed.auth_time, "caller_auth_time": caller.auth_time,
                "csrf": signed.csrf, "recent": sign_in.recent(signed),
            })  # fmt: skip

        @flask.post("/act")
        def act() -> Any:
            sign_in.check_csrf(request)  # type: ignore[arg-type]
            return jsonify({"done": True})

        site = Site(service, flask, sign_in, clock)
        made.append(site)
        return site

    yield build
    for site in made:
        site.service.context.database.dispose()


@dataclass
class Liar:
    """A provider of ours that says what a test wants. It checks PKCE, and gives a code once.

    `claims` replaces claims of the id_token (None leaves one out); `answer` gets the token answer and may change it.
    """

    server: HTTPServer
    key: RSAKey = field(default_factory=lambda: PROVIDERS_KEY)
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    sign: Callable[[dict[str, Any], dict[str, Any]], str] | None = None
    answer: Callable[[dict[str, Any]], Any] = lambda token: token
    metadata: dict[str, Any] = field(default_factory=dict)
    published: list[Any] | None = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    clock: Callable[[], int] = now_ms
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def issuer(self) -> str:
        return self.server.url_for("").rstrip("/")

    def serve(self) -> None:
        self.server.expect_request("/.well-known/openid-configuration").respond_with_handler(self._configuration)
        self.server.expect_request("/jwks").respond_with_handler(
            lambda _: _json({"keys": [self.key.as_dict(private=False)] if self.published is None else self.published})
        )
        self.server.expect_request("/token", method="POST").respond_with_handler(self._token)

    def _configuration(self, _: Request) -> Response:
        said = {"issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/jwks"}  # fmt: skip
        return _json({k: v for k, v in {**said, **self.metadata}.items() if v is not None})

    def code(self, sent: dict[str, str]) -> str:
        """The person said yes: a code for what the browser was sent with."""
        code = f"code-{len(self.codes)}-{len(self.asked)}"
        self.codes[code] = sent
        return code

    def _token(self, asked: Request) -> Response:
        form = asked.form.to_dict()
        self.asked.append(form)
        self.headers.append(dict(asked.headers))
        sent = self.codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if sent is None or challenge.decode().rstrip("=") != sent["code_challenge"]:
            return _json({"error": "invalid_grant"}, 400)
        now = self.clock() // 1000
        claims = {"iss": self.issuer, "sub": "clara", "aud": CLIENT, "exp": now + 300, "iat": now,
                  "nonce": sent["nonce"], "auth_time": now, **self.claims}  # fmt: skip
        claims = {k: v for k, v in claims.items() if v is not None}
        header = {"alg": "RS256", "kid": self.key.kid, **self.header}
        signed = (self.sign or self.signed)(header, claims)
        return _json(self.answer({"access_token": "at", "token_type": "Bearer", "id_token": signed}))

    def signed(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        return jwt.encode(header, claims, self.key, algorithms=[header["alg"]])


def _json(value: Any, status: int = 200) -> Response:
    if isinstance(value, Response):
        return value
    return Response(json.dumps(value), status, mimetype="application/json")


@pytest.fixture
def liar(httpserver: HTTPServer) -> Liar:
    made = Liar(httpserver)
    made.serve()
    return made
