"""Whether the audit is what it was: chains without a hole, digests that follow, every anchored head in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables
from fhir_secondop.store.audit import rows
from fhir_secondop.store.audit.rows import ANCHOR_FIELDS, FIELDS, Head

ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `bad` says in words what the first fault is; "" when there is none. `exported` are the anchors
    kept elsewhere that were compared.
    """

    chains: int
    rows: int
    anchors: int
    exported: int
    bad: str


def size(connection: Connection) -> int:
    """How many rows there are to verify."""
    return sum(
        connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for table in (tables.audit, tables.audit_anchor)
    )


def verify(
    connection: Connection, exported: Iterable[Head] = (), step: Callable[[int], None] = lambda n: None
) -> Verdict:
    """Reads everything once, in one snapshot; `step(n)` is called when n more rows are done.

    `exported` are anchors kept elsewhere: what they stand for must still be there.
    """
    kept = list(exported)
    walks = [_Walk(connection, tables.audit, FIELDS, step), _Walk(connection, tables.audit_anchor, ANCHOR_FIELDS, step)]
    faults: list[str] = []
    for walk in walks:
        faults += walk.faults()
    faults += _missing(connection, kept, tables.audit_anchor, "the exported anchor")
    faults += _missing(connection, _anchored(connection), None, "the row that an anchor names,")
    return Verdict(walks[0].chains, walks[0].rows, walks[1].rows, len(kept), faults[0] if faults else "")


class _Walk:
    """One table, chain by chain."""

    def __init__(
        self, connection: Connection, table: sa.Table, fields: tuple[str, ...], step: Callable[[int], None]
    ) -> None:
        self._connection = connection
        self._table = table
        self._fields = fields
        self._step = step
        self.chains = 0
        self.rows = 0

    def faults(self) -> list[str]:
        """The first fault of each chain."""
        table = self._table
        query = sa.select(table).order_by(table.c.chain, table.c.n).execution_options(yield_per=ROWS_AT_ONCE)
        found: dict[str, str] = {}
        head = Head("", 0, "")
        for row in self._connection.execute(query).mappings():
            if row["chain"] != head.chain:
                head = Head(row["chain"], 0, "")
                self.chains += 1
            place = f"{table.name} {row['chain']} {row['n']}"
            if row["n"] != head.n + 1:
                found.setdefault(head.chain, f"{place}: the rows before it, from {head.n + 1} on, are missing")
            elif rows.digest(dict(row), head.digest, self._fields) != row["digest"]:
                found.setdefault(head.chain, f"{place}: it is not the row that was written, or does not follow its own")
            head = Head(head.chain, row["n"], row["digest"])
            self.rows += 1
            if self.rows % ROWS_AT_ONCE == 0:
                self._step(ROWS_AT_ONCE)
        self._step(self.rows % ROWS_AT_ONCE)
        return list(found.values())


def _anchored(connection: Connection) -> Iterator[Head]:
    """Every head that an anchor names."""
    anchor = tables.audit_anchor.c
    query = sa.select(anchor.heads).order_by(anchor.chain, anchor.n)
    for heads in connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)).scalars():
        try:
            yield from (Head(chain, n, digest) for chain, n, digest in json.loads(heads))
        except ValueError:
            continue  # not what was written: its digest has told


def _missing(connection: Connection, heads: Iterable[Head], only: sa.Table | None, what: str) -> Iterator[str]:
    """Those that are not where they were, or are others now; looked for in one table, or in both."""
    looked = [
        sa.select(t.c.digest).where(t.c.chain == sa.bindparam("chain"), t.c.n == sa.bindparam("n"))
        for t in ([only] if only is not None else [tables.audit, tables.audit_anchor])
    ]
    for head in heads:
        values = {"chain": head.chain, "n": head.n}
        found = next(
            (d for query in looked if (d := connection.execute(query, values).scalar_one_or_none()) is not None), None
        )
        if found != head.digest:
            state = "is missing" if found is None else "is another one now"
            yield f"{what} {head.chain} {head.n} {state}"
