"""Access tokens of an external issuer: signed JWTs, checked by the keys that the issuer publishes.

Source: https://www.rfc-editor.org/rfc/rfc9068, https://www.rfc-editor.org/rfc/rfc8414 and
https://openid.net/specs/openid-connect-discovery-1_0.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from fhir_secondop.access import jwts, keysets, scopes
from fhir_secondop.access.clients import Client
from fhir_secondop.access.keysets import Fetch
from fhir_secondop.errors import Invalid, SecondOpError, Unauthenticated, Unavailable
from fhir_secondop.model import Caller

ALGORITHMS = ("RS256", "RS384", "ES256", "ES384")
_NAMES = ("client_id", "azp", "sub")  # the first that is there names the client
_REFUSED = "This access token was not accepted; ask the issuer for a new one, for this audience."


class Discovery:
    """What the issuer says of itself, kept for an hour. `now` gives ms since 1970."""

    def __init__(self, issuer: str, fetch: Fetch, now: Callable[[], int]) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._now = now
        self._lock = threading.Lock()
        self._said: dict[str, Any] = {}
        self._until_ms = 0

    def said(self) -> dict[str, Any]:
        """The issuer's metadata. Raises Unavailable where it publishes none that is its own."""
        with self._lock:
            if self._now() >= self._until_ms:
                self._said = self._read()
                kept_s = keysets.DEFAULT_S if self._said else keysets.RETRY_S // 2
                self._until_ms = self._now() + 1000 * kept_s
            if not self._said:
                raise Unavailable("The issuer of tokens can't be reached, or is not the one that is configured.")
            return self._said

    def jwks_url(self) -> str:
        """Where its keys stand. Raises Unavailable."""
        url = self.said().get("jwks_uri")
        if not isinstance(url, str) or not keysets.secure(url):
            raise Unavailable("The issuer of access tokens publishes no jwks_uri by https.")
        return url

    def _read(self) -> dict[str, Any]:
        """The metadata at the first of the two well-known places that has the issuer's; else empty."""
        parts = urlsplit(self._issuer)
        base = f"{parts.scheme}://{parts.netloc}"
        places = (
            f"{self._issuer.rstrip('/')}/.well-known/openid-configuration",
            f"{base}/.well-known/oauth-authorization-server{parts.path.rstrip('/')}",
        )
        for url in places:
            try:
                found = jwts.loads(self._fetch(url)[0])
            except (SecondOpError, ValueError):
                continue
            # Exactly ours: https://www.rfc-editor.org/rfc/rfc8414#section-3.3
            if isinstance(found, dict) and found.get("issuer") == self._issuer:
                return found
        return {}


class Issuer:
    """An external issuer. `find_client` knows our clients; `now` gives ms since 1970."""

    def __init__(
        self, issuer: str, audience: str, fetch: Fetch, find_client: Callable[[str], Client | None],
        now: Callable[[], int],
    ) -> None:  # fmt: skip
        self._issuer = issuer
        self._audience = audience
        self._find_client = find_client
        self._now = now
        self.discovery = Discovery(issuer, fetch, now)
        self._keys = keysets.FromUrl(self.discovery.jwks_url, fetch, ALGORITHMS, now)

    def caller(self, text: str) -> Caller:
        """The client that an access token names, with what the token and our registration both grant.

        Raises Unauthenticated, the same for every fault; Unavailable when the issuer's keys can't be read.
        """
        try:
            claims = self._claims(text)
            client = self._find_client(_named(claims))
            if client is None:
                raise Unauthenticated("Its client is not registered.")
            said = claims.get("scope", "")
            if not isinstance(said, str):
                raise Unauthenticated("Its scope is no text.")
        except Unauthenticated as error:
            raise Unauthenticated(_REFUSED) from error
        return client.caller(scopes.understood(tuple(said.split(" "))[: scopes.MOST]))

    def _claims(self, text: str) -> jwts.Claims:
        token = jwts.opened(text, ALGORITHMS, ("jwt", "at+jwt"))
        if token.claims.get("iss") != self._issuer:
            raise Unauthenticated("Its iss is another.")  # before its keys are looked for
        key = self._keys.key(token.kid, token.alg)
        if key is None:
            raise Unauthenticated("The issuer has no usable key with this kid and alg.")
        claims = jwts.verify(token, key)
        jwts.check_times(claims, self._now() / 1000)
        if self._audience not in jwts.audiences(claims):
            raise Unauthenticated("Its aud is another.")
        return claims


def _named(claims: jwts.Claims) -> str:
    for name in _NAMES:
        if name in claims:
            return jwts.text_of(claims, name)
    raise Unauthenticated("It names no client.")


def check(issuer: str, audience: str) -> None:
    """Raises Invalid when these settings can't be used."""
    if not keysets.secure(issuer) or urlsplit(issuer).query:
        raise Invalid(f"issuer={issuer}: it must be an https URL without a query.")
    if not audience:
        raise Invalid("audience is needed beside issuer: what the issuer's tokens for this service have as aud.")
