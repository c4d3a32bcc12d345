"""Sign-in of systems: our own SMART Backend Services server, or an external issuer instead; each says who calls.

Source: https://hl7.org/fhir/smart-app-launch/backend-services.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from werkzeug.wrappers import Request

from fhir_secondop.access import assertions, clients, issuer, keysets, scopes, tokens
from fhir_secondop.access.clients import Client
from fhir_secondop.errors import Invalid, TokenRefused, Unauthenticated, Unavailable
from fhir_secondop.model import Caller
from fhir_secondop.store.grants import Grant, Grants

log = logging.getLogger(__name__)
_SEES_ALL = frozenset({"operator", "auditor"})  # roles that may introspect anybody's token
Form = Mapping[str, str]
Plain = dict[str, Any]


class Authority(Protocol):
    """Who knows the systems that call."""

    def caller(self, request: Request) -> Caller:
        """The system that calls. Raises Unauthenticated."""


def rings(fetch: keysets.Fetch, now: Callable[[], int]) -> clients.Rings:
    """Keyrings for client assertions. One for each place, so that a changed clients file costs no fetching anew."""

    @lru_cache(maxsize=1000)
    def from_url(url: str) -> keysets.FromUrl:
        return keysets.FromUrl(lambda: url, fetch, assertions.ALGORITHMS, now)

    @lru_cache(maxsize=1000)
    def from_file(file: Path) -> keysets.FromFile:
        return keysets.FromFile(file, assertions.ALGORITHMS)

    return clients.Rings(from_url, from_file)


@lru_cache(maxsize=1024)
def _caller(client: Client, granted: str) -> Caller:
    return client.caller(scopes.understood(granted.split(" ")))


@dataclass(frozen=True, slots=True)
class OwnAuthority:
    """Our own token endpoint. `token_url` is the audience of assertions; tokens live `token_s` seconds."""

    registry: clients.Registry
    grants: Grants
    token_url: str
    token_s: int
    now: Callable[[], int]

    def caller(self, request: Request) -> Caller:
        """The client whose access token this request has, checked against the database and the clients file."""
        client, grant = self._bearer(request.headers.get("Authorization", ""))
        return _caller(client, grant.scopes)

    def token(self, form: Form, authorization: str) -> Plain:
        """The answer of the token endpoint. Raises TokenRefused."""
        if authorization or "client_secret" in form:
            raise TokenRefused("invalid_request", "Clients sign in here by client_assertion, and by nothing beside it.")
        if not form.get("grant_type"):
            raise TokenRefused("invalid_request", "grant_type is missing: client_credentials.")
        if form["grant_type"] != "client_credentials":
            raise TokenRefused("unsupported_grant_type", "The only grant_type here is client_credentials.")
        client = self._signed_in(form)
        asked = form.get("scope", "")
        granted = _granted(client, asked)
        token = self.grants.give(client.id, client.registration, " ".join(map(str, granted)), self.token_s)
        # A client that asked in version 1 may not know how to read version 2.
        said = map(scopes.in_version_1 if scopes.is_version_1(asked) else str, granted)
        return {
            "access_token": token, "token_type": "bearer", "expires_in": self.token_s, "scope": " ".join(said),
        }  # fmt: skip

    def introspect(self, form: Form, authorization: str) -> Plain:
        """Whether a token is good, and what for: one's own, or any with the role operator or auditor.

        Raises TokenRefused, Unauthenticated. Source: https://www.rfc-editor.org/rfc/rfc7662
        """
        client, grant = self._who(form, authorization), self._named(form)
        good = grant is not None and self._client_of(grant) is not None
        if grant is None or not good or not (grant.client == client.id or client.roles & _SEES_ALL):
            return {"active": False}
        return {
            "active": True, "client_id": grant.client, "sub": grant.client, "scope": grant.scopes,
            "token_type": "bearer", "iat": grant.issued // 1000, "exp": grant.expires // 1000,
        }  # fmt: skip

    def revoke(self, form: Form, authorization: str) -> None:
        """Ends a token of the client's own; nothing happens where there is no such token.

        Raises TokenRefused, Unauthenticated. Source: https://www.rfc-editor.org/rfc/rfc7009
        """
        client, grant = self._who(form, authorization), self._named(form)
        if grant is not None and grant.client != client.id:
            raise TokenRefused("unauthorized_client", "This token was given to another client.")
        self.grants.revoke(form["token"])

    def _named(self, form: Form) -> Grant | None:
        if not form.get("token"):
            raise TokenRefused("invalid_request", "token is missing.")
        return self.grants.find(form["token"])

    def _who(self, form: Form, authorization: str) -> Client:
        """The client that asks, by an assertion or by an access token of its own."""
        if not authorization:
            return self._signed_in(form)
        if "client_assertion" in form or "client_secret" in form:
            raise TokenRefused("invalid_request", "Sign in by client_assertion or by an access token, not by both.")
        return self._bearer(authorization)[0]

    def _bearer(self, authorization: str) -> tuple[Client, Grant]:
        grant = self.grants.find(tokens.bearer(authorization))
        client = self._client_of(grant) if grant is not None else None
        if grant is None or client is None:
            raise Unauthenticated("This access token is not good, or no more; ask for another at the token endpoint.")
        return client, grant

    def _client_of(self, grant: Grant) -> Client | None:
        """The client of a token, unless it was taken out or has its keys at another place since."""
        client = self.registry.find(grant.client)
        return client if client is not None and client.registration == grant.registration else None

    def _signed_in(self, form: Form) -> Client:
        """The client whose assertion the form has; from now on that one is used up.

        One answer to whatever is wrong: who is no client must not learn which clients there are. The log has the why.
        """
        try:
            if form.get("client_assertion_type") != assertions.ASSERTION:
                raise Unauthenticated("client_assertion_type is missing or another.")
            held = assertions.check(form.get("client_assertion", ""), self.registry.find, self.token_url, self.now())
            if form.get("client_id", held.client.id) != held.client.id:
                raise Unauthenticated(f"{held.client.id}: client_id is not the assertion's.")
            if not self.grants.take(held.client.id, held.jti, held.until_ms):
                raise Unauthenticated(f"{held.client.id}: this jti was used before.")
        except (Unauthenticated, Unavailable) as error:
            log.warning("a client assertion was refused: %s", error.message)
            raise TokenRefused("invalid_client", "The client assertion was not accepted; see docs/run.md.") from error
        return held.client


def _granted(client: Client, asked: str) -> tuple[scopes.Scope, ...]:
    try:
        granted = scopes.intersect(scopes.parse_all(asked), client.scopes)
    except Invalid as error:
        raise TokenRefused("invalid_scope", error.message) from error
    if not granted:
        raise TokenRefused("invalid_scope", "None of these scopes can be granted to this client.")
    return granted


@dataclass(frozen=True, slots=True)
class ExternalAuthority:
    """Another's token endpoint: its tokens are good until they end, or their client is taken out of our file."""

    issuer: issuer.Issuer

    def caller(self, request: Request) -> Caller:
        """The client that an access token of the issuer names."""
        return self.issuer.caller(tokens.bearer(request.headers.get("Authorization", "")))
