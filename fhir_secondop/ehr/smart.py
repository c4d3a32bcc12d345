"""SMART Backend Services: an access token for a signed assertion, kept until shortly before it ends.

Source: https://hl7.org/fhir/smart-app-launch/backend-services.html
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import requests
from joserfc import jwt
from requests import PreparedRequest
from requests.auth import AuthBase

from fhir_secondop.ehr import keys, scopes, wire
from fhir_secondop.ehr.failures import EhrFailure, of_status
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIFETIME_S = 240  # of an assertion; the specification allows 300, and clocks differ
EARLY_S = 30  # a token is renewed so long before it ends
SHORTEST_S = 60  # assumed where the server does not say how long a token lives
_MAX_ANSWER_BYTES = 1 << 20


class BackendServices(AuthBase):
    """One client's sign-in at one EHR; all its threads share the token. `now` gives ms since 1970."""

    def __init__(self, connection: Connection, wanted: scopes.Wanted, *, now: Callable[[], int]) -> None:
        if not connection.client_id or not connection.key_file:
            raise Invalid(f"The connection {connection.name} needs client_id and key_file for auth=smart.")
        self._connection = connection
        self._wanted = wanted
        self._now = now
        self._lock = threading.Lock()
        self._token = ""
        self._ends_ms = 0
        self._configuration: dict[str, Any] | None = None
        self.granted: frozenset[str] | None = None
        """The scopes of the newest token; None before there is one, or where the server does not say."""
        self.asked = ""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token()}"
        return request

    def token(self) -> str:
        """A token that is still good."""
        with self._lock:
            if not self._token or self._now() >= self._ends_ms:
                self._sign_in()
            return self._token

    def forget(self, sent: str) -> None:
        """The server refused this Authorization header: the next request signs in again."""
        with self._lock:
            if sent == f"Bearer {self._token}":  # another thread may have renewed it meanwhile
                self._token = ""

    def configuration(self) -> dict[str, Any]:
        """The EHR's smart-configuration; empty where it publishes none."""
        if self._configuration is None:
            url = f"{self._connection.base.rstrip('/')}/.well-known/smart-configuration"
            try:
                self._configuration = self._call("GET", url)
            except EhrFailure as failure:
                if failure.retryable:
                    raise
                self._configuration = {}
        return self._configuration

    def token_url(self) -> str:
        """Where tokens are asked for: the configured URL, else the published one."""
        url = self._connection.token_url or str(self.configuration().get("token_endpoint", ""))
        if not url:
            raise EhrFailure("auth", f"{self._connection.name}: it publishes no token endpoint; configure token_url.")
        if url.startswith("http://") and not self._connection.base.startswith("http://"):
            raise EhrFailure("policy", f"{self._connection.name}: its token endpoint is not https; not asked.")
        return url

    def _sign_in(self) -> None:
        declared = self.configuration()
        offered = declared.get("token_endpoint_auth_signing_alg_values_supported") or ()
        tries = [self._connection.scopes] if self._connection.scopes else self._wanted.tries(declared)
        refused: EhrFailure | None = None
        for scope in tries:
            try:
                answer = self._ask(scope, offered)
            except EhrFailure as failure:
                if failure.code != "invalid_scope":
                    raise
                refused = failure
                continue
            self.asked = scope
            self._keep(answer)
            return
        raise refused or EhrFailure("auth", f"{self._connection.name}: no scopes to ask for.")

    def _ask(self, scope: str, offered: Iterable[str]) -> dict[str, Any]:
        url = self.token_url()
        now_s = self._now() // 1000
        key = keys.signing(Path(self._connection.key_file), offered, now_s)
        client = self._connection.client_id
        claims = {"iss": client, "sub": client, "aud": url, "iat": now_s, "exp": now_s + LIFETIME_S,
                  "jti": str(uuid.uuid4())}  # fmt: skip
        header = {"alg": key.alg, "kid": key.kid, "typ": "JWT"}
        form = {
            "grant_type": "client_credentials", "scope": scope, "client_assertion_type": ASSERTION,
            "client_assertion": jwt.encode(header, claims, key.key, algorithms=[key.alg]),
        }  # fmt: skip
        return self._call("POST", url, form)

    def _keep(self, answer: dict[str, Any]) -> None:
        token = answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise EhrFailure("auth", f"{self._connection.name}: its token endpoint gave no access_token.")
        life_s = answer.get("expires_in", SHORTEST_S)
        life_s = int(life_s) if isinstance(life_s, int | float | str) and str(life_s).isdigit() else SHORTEST_S
        self._token = token
        self._ends_ms = self._now() + 1000 * max(1, life_s - min(EARLY_S, life_s // 2))
        said = answer.get("scope")
        self.granted = frozenset(said.split()) if isinstance(said, str) and said.strip() else None

    def _call(self, method: str, url: str, form: dict[str, str] | None = None) -> dict[str, Any]:
        """One request outside the FHIR API. The answer's text is never quoted: it may hold what we sent."""
        what = f"{self._connection.name}: {'token' if form else 'smart-configuration'} request"
        try:
            with wire.session(self._connection) as session:
                answer = session.request(
                    method, url, data=form, headers={"Accept": "application/json"},
                    timeout=wire.timeout(self._connection), allow_redirects=False, stream=True,
                )  # fmt: skip
                body = answer.raw.read(_MAX_ANSWER_BYTES, decode_content=True)
        except requests.RequestException as error:
            raise EhrFailure("unreachable", f"{what}: no answer.") from error
        said = _json(body)
        if answer.status_code != 200:
            code = str(said.get("error", ""))
            known = code if code in _OAUTH_ERRORS else ""
            failure = of_status(answer.status_code, what, writing=False, now=self._now())
            if form is not None and answer.status_code in (400, 401):
                raise EhrFailure("auth", f"{what}: {known or 'refused'}.", status=answer.status_code, code=known)
            raise failure
        return said


# https://www.rfc-editor.org/rfc/rfc6749#section-5.2
_OAUTH_ERRORS = frozenset(
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
     "invalid_scope"}
)  # fmt: skip


def _json(body: bytes) -> dict[str, Any]:
    try:
        loaded = json.loads(body)
    except ValueError:
        return {}
    return loaded if isinstance(loaded, dict) else {}
