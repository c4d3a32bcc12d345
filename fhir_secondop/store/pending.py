"""Search parameters of ours whose index is not complete yet: nothing is searched by them, for it would find a part.

R4's own are indexed before the service answers; what stands in profiles/searchparameters is indexed while it does.
`index_state` has a row of the former (number 1) and one of each of the latter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_secondop.errors import Unavailable
from fhir_secondop.fhir import criteria, definitions, query
from fhir_secondop.fhir.criteria import Condition
from fhir_secondop.fhir.query import Search
from fhir_secondop.store import tables
from fhir_secondop.store.database import Database

FORM = 2
"""Goes up when the rows of a parameter look otherwise than before."""
OF_R4 = 1
"""The number of R4's row in `index_state`."""
RETRY_S = 30.0

_complete: WeakSet[Engine] = WeakSet()
"""Of these it is known that nothing is pending: for one and the same process that stays so."""

Used = tuple[str, str]
"""(type, parameter)"""


@cache
def own() -> Mapping[str, Mapping[str, Any]]:
    """Fingerprint → SearchParameter, of ours. Another fingerprint is another index."""
    rows = definitions.own_search_parameters()
    return {
        f"{FORM}-{hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()}": row for row in rows.values()
    }


@cache
def types_of(fingerprint: str) -> frozenset[str]:
    """The types that a parameter of ours is of."""
    bases = set(own()[fingerprint]["base"])
    return frozenset(kind for kind in definitions.resource_types() if bases.intersection(definitions.ancestors(kind)))


def begin(database: Database) -> None:
    """Writes down which parameters of ours are to be indexed: to be called before anything is written by them.

    Of what is no longer ours, or is defined otherwise now, no index is kept from here on.
    """
    state = tables.index_state.c
    others = sa.select(state.id, state.fingerprint).where(state.id != OF_R4)
    with database.reading() as connection:
        if {row.fingerprint for row in connection.execute(others)} == set(own()):
            return
    with database.appending() as connection:
        connection.execute(sa.select(state.id).where(state.id == OF_R4).with_for_update())
        held = {row.fingerprint: row.id for row in connection.execute(others)}
        if gone := [number for fingerprint, number in held.items() if fingerprint not in own()]:
            connection.execute(sa.delete(tables.index_state).where(state.id.in_(gone)))
        number = max((OF_R4, *held.values()))
        is_empty = connection.execute(sa.select(tables.resource.c.rid).limit(1)).first() is None
        for fingerprint in own():
            if fingerprint not in held:
                number += 1
                values = {"id": number, "fingerprint": fingerprint, "done": 0, "complete": is_empty}
                connection.execute(sa.insert(tables.index_state).values(**values))


def unfinished(connection: Connection) -> list[tuple[str, int]]:
    """(fingerprint, how far it has come) of those parameters of ours whose index is not complete."""
    state = tables.index_state.c
    wanted = sa.select(state.fingerprint, state.done).where(state.id != OF_R4, state.complete.is_(False))
    return [(row.fingerprint, row.done) for row in connection.execute(wanted) if row.fingerprint in own()]


def refuse(connection: Connection, used: Iterable[Used]) -> None:
    """Raises Unavailable when the index of one of these is not complete."""
    if not own() or connection.engine in _complete:
        return
    missing = {(kind, own()[each]["code"]) for each, _ in unfinished(connection) for kind in types_of(each)}
    if not missing:
        _complete.add(connection.engine)
        return
    for kind, code in used:
        if (kind, code) in missing:
            said = f"The index of {code} of {kind} is being made, nothing was searched; try again later."
            refusal = Unavailable(said, path=code)
            refusal.retry_after_s = RETRY_S
            raise refusal


def refuse_restrictions(database: Database, narrowed: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """The same for what a caller's scopes restrict it to: it would see a part, or more than it may."""
    if own() and database.engine not in _complete:
        asked = [
            (kind, each) for kind, texts in narrowed for text in texts for each in query.parse(kind, text).criteria
        ]
        with database.reading() as connection:
            refuse(connection, (pair for kind, each in asked for pair in used_by(kind, each)))


def used(search: Search) -> Iterable[Used]:
    """The parameters that a search finds or orders by."""
    for kind, conditions in search.parts:
        for each in conditions:
            yield from used_by(kind, each)
        yield from ((kind, code) for code, _ in search.sort)
    yield from ((each.source, each.code) for each in search.includes if each.reverse)


def used_by(resource_type: str, condition: Condition) -> Iterable[Used]:
    """The parameters that a condition goes by, here and wherever it leads."""
    if isinstance(condition, criteria.AnyOf):
        yield from ((resource_type, way.code) for way in condition.ways)
        return
    if isinstance(condition, criteria.Reverse):
        yield condition.type, condition.code
        yield from used_by(condition.type, condition.condition)
        return
    yield from criteria.looked_at(resource_type, condition)
    if isinstance(condition, criteria.Chain):
        for target, inner in condition.targets:
            yield from used_by(target, inner)
