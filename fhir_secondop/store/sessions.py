"""Sessions of browsers and counted tries, in the database: every process that shares it knows them.

A session ends `idle_ms` after it was last seen and `longest_ms` after it began, whatever happens in between.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from fhir_secondop.model import Caller
from fhir_secondop.store import lookup, tables
from fhir_secondop.store.database import Database

SEEN_EVERY_MS = 60_000
"""How often a session's last use is written at most: a page is a read, not a write."""
_KEEPER = Caller("sign-in", "Sign-in", frozenset({"system"}))
_S, _A = tables.session, tables.attempt
# Built once: every page runs it.
_FIND = sa.select(_S.c.person, _S.c.way, _S.c.proof, _S.c.csrf, _S.c.auth_time, _S.c.started, _S.c.seen).where(
    _S.c.id == sa.bindparam("hash")
)


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's session, as stored. `way` is oidc, demo or link; the rest as in the table."""

    person: str
    way: str
    proof: str
    csrf: str
    auth_time: int
    started: int
    seen: int


@dataclass(frozen=True, slots=True)
class Sessions:
    """All sessions of a database. `now` gives ms since 1970."""

    database: Database
    now: Callable[[], int]
    idle_ms: int
    longest_ms: int

    def begin(self, person: str, way: str, proof: str, auth_time: int, *, instead_of: str = "", csrf: str = "") -> str:
        """Starts a session and gives its cookie: 256 random bits that nothing before knew.

        The browser's session before, by its cookie, ends. `csrf` is kept where the same person proved itself again,
        so that what stands open in another window can still be sent.
        """
        cookie, now = secrets.token_urlsafe(32), self.now()
        with self.database.transaction(_KEEPER) as tx:
            over = sa.or_(_S.c.seen <= now - self.idle_ms, _S.c.started <= now - self.longest_ms)
            tx.connection.execute(sa.delete(_S).where(sa.or_(_S.c.id == hash_of(instead_of), over)))
            tx.connection.execute(
                sa.insert(_S).values(
                    id=hash_of(cookie), person=person, way=way, proof=proof, csrf=csrf or secrets.token_urlsafe(32),
                    auth_time=auth_time, started=now, seen=now,
                )
            )  # fmt: skip
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie, noted as seen; None when there is none or it has ended."""
        if not cookie:
            return None
        key = hash_of(cookie)
        row = lookup.one_row(self.database, _FIND, hash=key)
        if row is None:
            return None
        found, now = Session(*row), self.now()
        if found.seen <= now - self.idle_ms or found.started <= now - self.longest_ms:
            return None
        if found.seen <= now - SEEN_EVERY_MS:
            with self.database.transaction(_KEEPER) as tx:
                tx.connection.execute(sa.update(_S).where(_S.c.id == key, _S.c.seen < now).values(seen=now))
        return found

    def end(self, cookie: str) -> None:
        """Ends the session of a cookie."""
        with self.database.transaction(_KEEPER) as tx:
            tx.connection.execute(sa.delete(_S).where(_S.c.id == hash_of(cookie)))

    def end_of(self, person: str) -> None:
        """Ends every session of somebody."""
        with self.database.transaction(_KEEPER) as tx:
            tx.connection.execute(sa.delete(_S).where(_S.c.person == person))

    def keep_only(self, proofs: Iterable[tuple[str, str]]) -> None:
        """Ends the sessions of all who are not among these, as (person, proof); those by link are no concern of it."""
        wanted = set(proofs)
        with self.database.reading() as connection:
            held = connection.execute(sa.select(_S.c.id, _S.c.person, _S.c.proof).where(_S.c.way != "link")).all()
        gone = [row.id for row in held if (row.person, row.proof) not in wanted]
        if gone:
            with self.database.transaction(_KEEPER) as tx:
                tx.connection.execute(sa.delete(_S).where(_S.c.id.in_(gone)))

    def tried(self, what: str, within_ms: int) -> int:
        """Counts one try of something; how many there were within that time, this one included.

        Counted before it is known whether it succeeds, so that tries at the same time count too.
        """
        key, now = hash_of(what), self.now()
        with self.database.transaction(_KEEPER) as tx:
            row = tx.connection.execute(sa.select(_A).where(_A.c.key == key)).one_or_none()
            if row is not None and row.since > now - within_ms:
                tx.connection.execute(sa.update(_A).where(_A.c.key == key).values(tries=row.tries + 1))
                return int(row.tries) + 1
            tx.connection.execute(sa.delete(_A).where(sa.or_(_A.c.key == key, _A.c.since <= now - self.longest_ms)))
            tx.connection.execute(sa.insert(_A).values(key=key, since=now, tries=1))
        return 1

    def forget_tries(self, what: str) -> None:
        """Takes back what was counted: it has succeeded."""
        with self.database.transaction(_KEEPER) as tx:
            tx.connection.execute(sa.delete(_A).where(_A.c.key == hash_of(what)))


def hash_of(text: str) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(text.encode()).hexdigest()
