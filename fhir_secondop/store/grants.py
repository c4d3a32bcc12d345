"""Access tokens that were given, and assertions that were used: known to all workers, by hash only."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from fhir_secondop.model import Caller
from fhir_secondop.store import lookup, tables
from fhir_secondop.store.database import Database

_DOOR = Caller("sign-in", "Sign-in of systems", frozenset({"system"}))
_TOKEN = tables.access_token.c
_USED = tables.used_assertion.c
# Built once: every request runs it.
_FIND = sa.select(_TOKEN.client, _TOKEN.registration, _TOKEN.scopes, _TOKEN.issued, _TOKEN.expires).where(
    _TOKEN.digest == sa.bindparam("hash"), _TOKEN.expires > sa.bindparam("now")
)


@dataclass(frozen=True, slots=True)
class Grant:
    """What an access token stands for. `registration` is the client's at that time; times are ms since 1970."""

    client: str
    registration: str
    scopes: str
    issued: int
    expires: int


@dataclass(frozen=True, slots=True)
class Grants:
    """The tokens of all workers. `now` gives ms since 1970."""

    database: Database
    now: Callable[[], int]

    def take(self, client: str, jti: str, until_ms: int) -> bool:
        """Uses up an assertion; False when it was used before. Rows of those that are too old anyway are removed."""
        digest = _hash(f"{len(client)}:{client}:{jti}")
        with self.database.transaction(_DOOR) as tx:
            # Writers are one after another, so nobody comes between; the primary key would refuse a second row.
            if tx.connection.execute(sa.select(_USED.digest).where(_USED.digest == digest)).first() is not None:
                return False
            tx.connection.execute(sa.delete(tables.used_assertion).where(_USED.until < self.now()))
            tx.connection.execute(sa.insert(tables.used_assertion).values(digest=digest, until=until_ms))
        return True

    def give(self, client: str, registration: str, scopes: str, life_s: int) -> str:
        """A new access token of 256 bits; it is kept nowhere, only its hash."""
        token = secrets.token_urlsafe(32)
        now = self.now()
        with self.database.transaction(_DOOR) as tx:
            tx.connection.execute(sa.delete(tables.access_token).where(_TOKEN.expires <= now))
            tx.connection.execute(
                sa.insert(tables.access_token).values(
                    digest=_hash(token), client=client, registration=registration, scopes=scopes, issued=now,
                    expires=now + 1000 * life_s,
                )
            )  # fmt: skip
        return token

    def find(self, token: str) -> Grant | None:
        """What a token stands for, as long as it is good."""
        row = lookup.one_row(self.database, _FIND, hash=_hash(token), now=self.now())
        return None if row is None else Grant(*row)

    def revoke(self, token: str) -> None:
        """The token is good no more, at any worker, from the end of this call on."""
        with self.database.transaction(_DOOR) as tx:
            tx.connection.execute(sa.delete(tables.access_token).where(_TOKEN.digest == _hash(token)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
