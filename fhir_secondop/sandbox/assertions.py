"""Who asks for a token: the client's signed assertion (private_key_jwt), checked as SMART asks.

Source: https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

ALGORITHMS = ("RS384", "ES384")
MAX_LIFETIME_S = 300
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class OAuthError(Exception):
    """What the token endpoint answers: RFC 6749's code, and a text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Seen:
    """The assertions used so far: none is good twice."""

    def __init__(self) -> None:
        self._ends: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def take(self, client: str, jti: str, ends: float, now: float) -> bool:
        """True the first time."""
        with self._lock:
            self._ends = {key: end for key, end in self._ends.items() if end > now}
            first = (client, jti) not in self._ends
            self._ends[client, jti] = ends
            return first


def client_of(
    form: Mapping[str, str], clients: Mapping[str, str], token_url: str, seen: Seen, now: float
) -> str:  # fmt: skip
    """The id of the client whose assertion is in a token request. `now` in s since 1970. Raises OAuthError."""
    if form.get("grant_type") != "client_credentials":
        raise OAuthError("unsupported_grant_type", "Only client_credentials is offered.")
    if form.get("client_assertion_type") != _ASSERTION or not form.get("client_assertion"):
        raise OAuthError("invalid_request", f"Send a client_assertion of the type {_ASSERTION}.")
    client, claims = _signed(form["client_assertion"], clients)
    expires = claims.get("exp")
    audience = claims.get("aud")
    faults = (
        (claims.get("iss") != client or claims.get("sub") != client, "iss and sub must be the client's id."),
        (token_url not in (audience if isinstance(audience, list) else [audience]), f"aud must be {token_url}."),
        (not isinstance(expires, int | float), "exp must be a number."),
        (isinstance(expires, int | float) and expires <= now, "exp is past."),
        (isinstance(expires, int | float) and expires > now + MAX_LIFETIME_S, "exp is more than five minutes ahead."),
        (not isinstance(claims.get("jti"), str), "jti must be a string."),
    )
    for broken, text in faults:
        if broken:
            raise OAuthError("invalid_client", text)
    if not seen.take(client, claims["jti"], float(claims["exp"]), now):
        raise OAuthError("invalid_client", "This jti was used before.")
    return client


def _signed(assertion: str, clients: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The client that an assertion names, and its claims, when the signature is that client's."""
    try:
        unverified = jws.extract_compact(assertion.encode())
        header = unverified.headers()
        client = str(json.loads(unverified.payload or b"{}").get("iss", ""))
    except (JoseError, ValueError) as error:
        raise OAuthError("invalid_client", "The assertion is no JWT.") from error
    if client not in clients:
        raise OAuthError("invalid_client", "This client is not registered.")
    keys = [key for key in _keys(clients[client]) if key.get("kid") == header.get("kid")]
    if header.get("kid") is None or not keys:
        raise OAuthError("invalid_client", "The client's JWKS has no key with this kid.")
    try:
        token = jwt.decode(assertion, KeySet.import_key_set({"keys": keys}), algorithms=list(ALGORITHMS))
    except (JoseError, ValueError) as error:
        raise OAuthError("invalid_client", "The signature does not hold.") from error
    return client, dict(token.claims)


def _keys(place: str) -> list[dict[str, Any]]:
    """The keys of a JWKS in a file or at a URL, read anew each time: keys rotate."""
    try:
        text = requests.get(place, timeout=5).text if "://" in place else Path(place).read_text("utf-8")
        keys: list[dict[str, Any]] = json.loads(text)["keys"]
    except (OSError, ValueError, KeyError, requests.RequestException) as error:
        raise OAuthError("invalid_client", "The client's JWKS can't be read.") from error
    return keys
