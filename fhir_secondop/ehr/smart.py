"""SMART Backend Services: an access token for a signed assertion, kept until shortly before it ends.

Source: https://hl7.org/fhir/smart-app-launch/backend-services.html
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from joserfc import jwt
from requests import PreparedRequest
from requests.auth import AuthBase

from fhir_secondop.ehr import keys, scopes, wire
from fhir_secondop.ehr.failures import EhrFailure, Refused, of_status
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIFETIME_S = 240  # of an assertion; the specification allows 300, and clocks differ
EARLY_S = 30  # a token is renewed so long before it ends
SHORTEST_S = 60  # assumed where the server does not say how long a token lives
_MAX_ANSWER_BYTES = 1 << 20
_SLOWEST = 2  # times the time-out: all our threads wait for this answer
TOKEN = re.compile(r"[\x21-\x7e]+")  # https://www.rfc-editor.org/rfc/rfc6749#appendix-A.12


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
        self._tried = 0
        self._failed: EhrFailure | None = None
        self._configuration: dict[str, Any] = {}
        self.granted: frozenset[str] | None = None
        """The scopes of the newest token; None before there is one, or where the server does not say."""
        self.asked = ""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token()}"
        return request

    def token(self) -> str:
        """A token that is still good."""
        tried = self._tried
        with self._lock:
            if self._token and self._now() < self._ends_ms:
                return self._token
            if self._failed is not None and self._tried != tried:
                # It failed while this thread waited: asking once more, for each thread, would help nobody.
                raise copy.copy(self._failed)
            self._token, self._failed = "", None
            try:
                self._sign_in()
            except EhrFailure as failure:
                self._failed = copy.copy(failure)
                raise
            finally:
                self._tried += 1
            return self._token

    def forget(self, sent: str) -> None:
        """The server refused this Authorization header: the next request signs in again."""
        with self._lock:
            if sent == f"Bearer {self._token}":  # another thread may have renewed it meanwhile
                self._token = ""

    def configuration(self) -> dict[str, Any]:
        """The EHR's smart-configuration; empty where it publishes none, which is asked again the next time."""
        if not self._configuration:
            url = f"{self._connection.base.rstrip('/')}/.well-known/smart-configuration"
            try:
                self._configuration = self._call("GET", url)
            except EhrFailure as failure:
                if isinstance(failure, Refused) or (failure.retryable and not self._connection.token_url):
                    raise
        return self._configuration

    def token_url(self, declared: dict[str, Any]) -> str:
        """Where tokens are asked for: the configured URL, else the one that the smart-configuration declares."""
        url = (self._connection.token_url or str(declared.get("token_endpoint", ""))).strip()
        scheme = _scheme(url)
        if scheme not in ("http", "https"):
            raise EhrFailure("auth", f"{self._connection.name}: it publishes no token endpoint; configure token_url.")
        if scheme == "http" and _scheme(self._connection.base) != "http":
            raise Refused(f"{self._connection.name}: its token endpoint is not https; not asked.")
        return url

    def _sign_in(self) -> None:
        declared = self.configuration()
        url = self.token_url(declared)
        offered = _strings(declared.get("token_endpoint_auth_signing_alg_values_supported"))
        tries = [self._connection.scopes] if self._connection.scopes else self._wanted.tries(declared)
        refused: EhrFailure | None = None
        for scope in tries:
            try:
                answer = self._ask(url, scope, offered)
            except EhrFailure as failure:
                if failure.code != "invalid_scope":
                    raise
                refused = failure
                continue
            self.asked = scope
            self._keep(answer)
            if scopes.useful(self.granted):
                return  # else it leaves out what it does not know, instead of refusing it
        if not self._token:
            raise refused or EhrFailure("auth", f"{self._connection.name}: no scopes to ask for.")

    def _ask(self, url: str, scope: str, offered: Iterable[str]) -> dict[str, Any]:
        now_s = self._now() // 1000
        key = keys.signing(Path(self._connection.key_file), offered, now_s)
        client = self._connection.client_id
        # No iat: SMART asks for none, and many servers refuse one that is a second ahead of their clock.
        claims = {"iss": client, "sub": client, "aud": url, "exp": now_s + LIFETIME_S, "jti": str(uuid.uuid4())}
        header = {"alg": key.alg, "kid": key.kid, "typ": "JWT"}
        form = {
            "grant_type": "client_credentials", "scope": scope, "client_assertion_type": ASSERTION,
            "client_assertion": jwt.encode(header, claims, key.key, algorithms=[key.alg]),
        }  # fmt: skip
        return self._call("POST", url, form)

    def _keep(self, answer: dict[str, Any]) -> None:
        token = answer.get("access_token")
        # What no header can carry would be quoted by the error that says so.
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise EhrFailure("auth", f"{self._connection.name}: its token endpoint gave no access_token.")
        life_s = _lifetime_s(answer.get("expires_in"))
        self._token = token
        self._ends_ms = self._now() + 1000 * max(1, life_s - min(EARLY_S, life_s // 2))
        said = answer.get("scope")
        self.granted = frozenset(said.split()) if isinstance(said, str) and said.strip() else None

    def _call(self, method: str, url: str, form: dict[str, str] | None = None) -> dict[str, Any]:
        """One request outside the FHIR API. The answer's text is never quoted: it may hold what we sent."""
        what = f"{self._connection.name}: {'token' if form else 'smart-configuration'} request"
        try:
            longest_s = _SLOWEST * self._connection.timeout_s
            with wire.session(self._connection, longest_s=longest_s) as session, session.request(
                method, url, data=form, headers={"Accept": "application/json"},
                timeout=wire.timeout(self._connection), allow_redirects=False, stream=True,
            ) as answer:  # fmt: skip
                said = _json(wire.whole(answer, _MAX_ANSWER_BYTES))
        except wire.TooMuch:
            said = {}
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise EhrFailure("unreachable", f"{what}: no answer.") from error
        status = answer.status_code
        if status == 200:
            return said
        code = str(said.get("error", ""))
        known = code if code in _OAUTH_ERRORS else ""
        if form is not None and (status in (400, 401) or (status == 403 and known)):
            raise EhrFailure("auth", f"{what}: {known or 'refused'}.", status=status, code=known)
        raise of_status(
            status, what, writing=False, retry_after=answer.headers.get("Retry-After", ""), now=self._now()
        )  # fmt: skip


# https://www.rfc-editor.org/rfc/rfc6749#section-5.2
_OAUTH_ERRORS = frozenset(
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
     "invalid_scope"}
)  # fmt: skip


def _json(body: bytes) -> dict[str, Any]:
    try:
        loaded = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _strings(value: Any) -> list[str]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]


def _scheme(url: str) -> str:
    """The scheme of a URL that names a host, else ""."""
    try:
        parts = urlsplit(url)
        return parts.scheme if parts.hostname else ""
    except ValueError:
        return ""


def _lifetime_s(said: Any) -> int:
    """Seconds of an expires_in, which some write as text; SHORTEST_S where it makes no sense."""
    try:
        seconds = -1 if isinstance(said, bool) else int(said)
    except (TypeError, ValueError, OverflowError):
        return SHORTEST_S
    return seconds if seconds >= 0 else SHORTEST_S
