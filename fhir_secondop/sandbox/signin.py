"""Signing in at a simulated EHR: nobody asks, a password, a fixed token, or SMART Backend Services.

Source: https://hl7.org/fhir/smart-app-launch/backend-services.html
"""

from __future__ import annotations

import base64
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask, jsonify, request
from flask import Response as FlaskResponse
from werkzeug.wrappers import Request, Response

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Caller
from fhir_secondop.sandbox import assertions, scopes
from fhir_secondop.sandbox.answers import put_resource, refusal, resource_in
from fhir_secondop.sandbox.assertions import OAuthError
from fhir_secondop.sandbox.traffic import Around, Asked, GoOn, Times, number

WAYS = ("none", "basic", "bearer", "smart")
VISITOR = Caller("visitor", "Visitor", frozenset({"system"}), ("system/*.cruds",))
TOKEN_LIFETIME_S = 300.0
_CALLER = "secondop.caller"
_SERVICE = "http://terminology.hl7.org/CodeSystem/restful-security-service"


@dataclass(frozen=True, slots=True)
class Rules:
    """How one signs in: `secret` is user:password or the token; `clients` id → JWKS file or URL; `quirks` with their
    values."""

    way: str = "none"
    secret: str = ""
    clients: Mapping[str, str] = field(default_factory=dict)
    quirks: tuple[tuple[str, str], ...] = ()

    def quirk(self, name: str) -> list[str]:
        """The values of a quirk, one for each time that it was asked for."""
        return [value for known, value in self.quirks if known == name]


def rules(way: str, secret_file: str, clients: Iterable[str]) -> Rules:
    """The rules that the command line's options give; each client is "ID=JWKS". Raises Invalid."""
    known = {name: keys for name, _, keys in (client.partition("=") for client in clients)}
    if way in ("basic", "bearer") and not secret_file:
        raise Invalid(f"Signing in by {way} needs a secret file.")
    if way == "smart" and not (known and all(known.values())):
        raise Invalid("Signing in by smart needs a client: ID=JWKS, a file or a URL.")
    return Rules(way, Path(secret_file).read_text("utf-8").strip() if secret_file else "", known)


class Door:
    """Who comes in, and the token endpoint. Tokens are forgotten when the process ends."""

    def __init__(self, rules: Rules, base_url: str, types: Iterable[str]) -> None:
        self._rules = rules
        self._types = tuple(types)
        self._home = base_url.removesuffix("/fhir")
        self.token_url = f"{self._home}/auth/token"
        self._seen = assertions.Seen()
        self._tokens: dict[str, tuple[Caller, float]] = {}
        self._lock = threading.Lock()
        self._lifetime_s = number(next(iter(rules.quirk("token-lifetime")), ""), TOKEN_LIFETIME_S)

    @property
    def asks(self) -> bool:
        """Whether one has to sign in at all."""
        return self._rules.way != "none"

    def authenticate(self, asked: Request) -> Caller:
        """Who was let in."""
        caller: Caller = asked.environ.get(_CALLER, VISITOR)
        return caller

    def ask(self, asked: Asked, go_on: GoOn) -> Response:
        """Lets in whoever may; /metadata is for everybody."""
        if not self.asks or asked.kind == "open":
            return go_on(asked)
        caller = self._caller(asked.header("Authorization") or "")
        if caller is None:
            return unauthorized(self._rules.way)
        asked.environ[_CALLER] = caller
        return go_on(asked)

    def _caller(self, header: str) -> Caller | None:
        if self._rules.way == "smart":
            kind, _, token = header.partition(" ")
            caller, ends = self._tokens.get(token, (None, 0.0))
            return caller if kind.lower() == "bearer" and ends > time.time() else None
        secret = self._rules.secret
        expected = {
            "basic": "Basic " + base64.b64encode(secret.encode()).decode(),
            "bearer": f"Bearer {secret}",
        }[self._rules.way]
        return VISITOR if secrets.compare_digest(header.encode(), expected.encode()) else None

    def serve(self, app: Flask) -> None:
        """Adds the token endpoint and the SMART configuration to an application."""
        if self._rules.way != "smart":
            return
        app.add_url_rule("/auth/token", "token", self._token, methods=["POST"])
        app.add_url_rule("/fhir/.well-known/smart-configuration", "smart", self._configuration)

    def _configuration(self) -> FlaskResponse:
        kind = "v1" if self._rules.quirk("scopes-v1") else "v2"
        return jsonify({
            "token_endpoint": self.token_url,
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": list(assertions.ALGORITHMS),
            "scopes_supported": ["system/*.read" if kind == "v1" else "system/*.rs"],
            "capabilities": ["client-confidential-asymmetric", f"permission-{kind}"],
        })  # fmt: skip

    def _token(self) -> FlaskResponse:
        try:
            client = assertions.client_of(request.form, self._rules.clients, self.token_url, self._seen, time.time())
            if self._rules.quirk("refuses-clients"):
                raise OAuthError("unauthorized_client", "This client may not use client_credentials.")
            granted = scopes.grant(
                request.form.get("scope", ""),
                v1=bool(self._rules.quirk("scopes-v1")),
                denied=frozenset(self._rules.quirk("partial-grant")),
                types=self._types,
            )
        except OAuthError as error:
            answer = jsonify({"error": error.code, "error_description": error.text})
            answer.status_code = 401 if error.code == "invalid_client" else 400
            return answer
        token = secrets.token_urlsafe(32)
        with self._lock:
            caller = Caller(client, client, frozenset({"system"}), granted.v2)
            self._tokens[token] = (caller, time.time() + self._lifetime_s)
        said = {"access_token": token, "token_type": "bearer", "expires_in": int(self._lifetime_s),
                "scope": " ".join(granted.said)}  # fmt: skip
        answer = jsonify(said)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    def declare(self, asked: Asked, go_on: GoOn) -> Response:
        """Says in the CapabilityStatement how one signs in."""
        answer = go_on(asked)
        statement = resource_in(answer) if asked.parts == ["metadata"] and asked.method == "GET" else None
        if statement is not None and self._rules.way in _DECLARED:
            code = _DECLARED[self._rules.way]
            security: dict[str, Any] = {"service": [{"coding": [{"system": _SERVICE, "code": code}]}]}
            statement["rest"][0]["security"] = security
            put_resource(answer, statement)
        return answer


_DECLARED = {"basic": "Basic", "smart": "SMART-on-FHIR"}


def unauthorized(way: str = "bearer") -> Response:
    """401, with how one signs in."""
    answer = refusal(401, "login", "Sign in first.")
    answer.headers["WWW-Authenticate"] = 'Basic realm="EHR"' if way == "basic" else "Bearer"
    return answer


def expired_token(value: str) -> Around:
    """The n-th request with a token is refused, although the token is still good."""
    place = int(number(value, 2))
    before, this = Times(place - 1), Times(1)

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.header("Authorization") and not before.take() and this.take():
            return unauthorized()
        return go_on(asked)

    return around


def forgets_tokens(value: str) -> Around:
    """Each token is refused once, at its n-th use."""
    uses: dict[str, int] = {}
    place = int(number(value, 2))
    lock = threading.Lock()

    def around(asked: Asked, go_on: GoOn) -> Response:
        if token := asked.header("Authorization"):
            with lock:
                uses[token] = uses.get(token, 0) + 1
                forgotten = uses[token] == place
            if forgotten:
                return unauthorized()
        return go_on(asked)

    return around
