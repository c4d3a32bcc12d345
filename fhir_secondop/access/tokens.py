"""Callers by bearer token, from a file: how `--auth tokens` knows who calls.

[callers.NAME] with token_sha256 (hex) or token, and name, roles, scopes, parties, on_behalf_of.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from fhir_secondop.errors import Invalid, Unauthenticated
from fhir_secondop.model import Caller

_TOKEN = re.compile(r"[!-~]+")  # what an Authorization header can carry
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
ROLES = frozenset({"auditor", "coordinator", "operator", "patient", "provider", "requester", "reviewer", "system"})


def load(text: str) -> Mapping[str, Caller]:
    """Callers by the SHA-256 of their token. Raises Invalid naming the entry that is wrong."""
    try:
        entries: dict[str, Any] = tomllib.loads(text).get("callers", {})
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"The token file is not TOML: {error}") from error
    callers: dict[str, Caller] = {}
    for key, entry in entries.items():
        digest = _digest(key, entry)
        unknown = set(entry.get("roles", [])) - ROLES
        if unknown:
            raise Invalid(f"callers.{key}.roles: unknown {sorted(unknown)}; known are {sorted(ROLES)}.")
        if digest in callers:
            raise Invalid(f"callers.{key} has the same token as {callers[digest].id}.", path=f"callers.{key}")
        callers[digest] = Caller(
            id=key,
            name=entry.get("name", key),
            roles=frozenset(entry.get("roles", [])),
            scopes=tuple(entry.get("scopes", [])),
            parties=frozenset(entry.get("parties", [])),
            on_behalf_of=entry.get("on_behalf_of", ""),
        )
    return callers


def _digest(key: str, entry: Any) -> str:
    where = f"callers.{key}"
    if not isinstance(entry, dict):
        raise Invalid(f"{where} must be a table: [callers.{key}].", path=where)
    token, digest = entry.get("token"), entry.get("token_sha256")
    if digest is not None:
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise Invalid(f"{where}.token_sha256 must be the 64 hex digits of a SHA-256.", path=where)
        return digest.lower()
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise Invalid(f"{where} needs a token without spaces, or its token_sha256.", path=where)
    return hash_of(token)


def hash_of(token: str) -> str:
    """SHA-256 of a token, hex: how it is kept and looked up, so that no comparison leaks it by time."""
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(authorization: str) -> str:
    """The token of an Authorization header. Raises Unauthenticated."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Send Authorization: Bearer with an access token.")
    return token.strip()


def caller_of(callers: Mapping[str, Caller], authorization: str) -> Caller:
    """The caller of an Authorization header. Raises Unauthenticated."""
    caller = callers.get(hash_of(bearer(authorization)))
    if caller is None:
        raise Unauthenticated("This token is not known here.")
    return caller
