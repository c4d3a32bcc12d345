"""Anchors: rows that name the heads of all chains, chained themselves. One that is kept elsewhere fixes all before it.

The first of a process names every head there is, each later one those that have moved; so the digest of one anchor
stands for every chain up to then.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables
from fhir_secondop.store.audit import rows
from fhir_secondop.store.audit.rows import ANCHOR_FIELDS, Head
from fhir_secondop.store.database import Database

log = logging.getLogger(__name__)
EVERY_MS = 60_000
_SKEW_MS = 120_000  # other machines' clocks, and rows that waited for their commit
_LINE = re.compile(r"audit anchor ([0-9a-f]{16}) ([0-9]{1,18}) ([0-9a-f]{64})")


class Anchors:
    """The anchor chain of this process. `heads` gives the heads of its own chains, `now` ms since 1970."""

    def __init__(self, database: Database, now: Callable[[], int], heads: Callable[[], list[Head]]) -> None:
        self._database = database
        self._now = now
        self._heads = heads
        self._head = rows.new_head()
        self._known: dict[str, int] = {}
        self._last: int | None = None

    def due(self, ending: bool) -> None:
        """Writes an anchor at the first call, a minute after the last one, and when `ending`; if any head has moved."""
        now = self._now()
        if self._last is not None and now - self._last < EVERY_MS and not ending:
            return
        since = 0 if self._last is None else self._last - _SKEW_MS
        # Own heads first: what is committed after them waits for the next anchor.
        own = {head.chain: head for head in self._heads()}
        with self._database.reading() as connection:
            seen = {head.chain: head for head in _newest(connection, since)}
        seen.pop(self._head.chain, None)
        moved = [head for head in {**seen, **own}.values() if head.n > self._known.get(head.chain, 0)]
        self._last = now
        if not moved:
            return
        listed = json.dumps(sorted([head.chain, head.n, head.digest] for head in moved), separators=(",", ":"))
        anchor, made = rows.append(self._head, [{"at": now, "heads": listed}], ANCHOR_FIELDS)
        try:
            with self._database.appending() as connection:
                connection.execute(sa.insert(tables.audit_anchor), made)
        except BaseException:
            self._head = rows.new_head()  # it may be there all the same: its number must not be taken twice
            raise
        self._head = anchor
        self._known |= {head.chain: head.n for head in moved}
        log.info("%s", line(anchor))


def line(anchor: Head) -> str:
    """An anchor as one line for a log or a file: no more than this has to be kept elsewhere."""
    return f"audit anchor {anchor.chain} {anchor.n} {anchor.digest}"


def of_lines(text: str) -> list[Head]:
    """The anchors in a file of such lines, or in a log that holds them among others."""
    return [Head(match[1], int(match[2]), match[3]) for match in _LINE.finditer(text)]


def newest(connection: Connection) -> list[Head]:
    """The newest anchor of each process."""
    return list(_heads_of(connection, tables.audit_anchor, 0))


def _newest(connection: Connection, since: int) -> Iterator[Head]:
    yield from _heads_of(connection, tables.audit, since)
    yield from _heads_of(connection, tables.audit_anchor, since)


def _heads_of(connection: Connection, table: sa.Table, since: int) -> Iterator[Head]:
    """The heads of the chains with rows since then (ms); all with 0."""
    newest_ = sa.select(table.c.chain, sa.func.max(table.c.n).label("n")).group_by(table.c.chain)
    if since:
        newest_ = newest_.where(table.c.at > since)
    top = newest_.subquery()
    query = sa.select(table.c.chain, table.c.n, table.c.digest).join(
        top, sa.and_(table.c.chain == top.c.chain, table.c.n == top.c.n)
    )
    for row in connection.execute(query):
        yield Head(row.chain, row.n, row.digest)
