"""Callers by bearer token, from a file: how `--auth tokens` knows who calls.

[callers.NAME] with token_sha256 (hex) or token, and name, roles, scopes, parties, on_behalf_of.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from typing import Any

from fhir_secondop.errors import Invalid, Unauthenticated
from fhir_secondop.model import Caller

ROLES = frozenset({"coordinator", "requester", "reviewer", "provider", "patient", "system"})


def load(text: str) -> Mapping[str, Caller]:
    """Callers by the SHA-256 of their token. Raises Invalid naming the entry that is wrong."""
    try:
        entries: dict[str, Any] = tomllib.loads(text).get("callers", {})
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"The token file is not TOML: {error}") from error
    callers: dict[str, Caller] = {}
    for key, entry in entries.items():
        digest = entry.get("token_sha256") or (hash_of(entry["token"]) if "token" in entry else "")
        if not digest:
            raise Invalid(f"callers.{key} has neither token nor token_sha256.", path=f"callers.{key}")
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


def hash_of(token: str) -> str:
    """SHA-256 of a token, hex: how it is kept and looked up, so that no comparison leaks it by time."""
    return hashlib.sha256(token.encode()).hexdigest()


def caller_of(callers: Mapping[str, Caller], authorization: str) -> Caller:
    """The caller of an Authorization header. Raises Unauthenticated."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Send Authorization: Bearer with a token from the token file.")
    caller = callers.get(hash_of(token.strip()))
    if caller is None:
        raise Unauthenticated("This token is not known here.")
    return caller
