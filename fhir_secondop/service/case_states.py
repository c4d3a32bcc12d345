"""The index of the cases, from the cases: it follows what is written, in the order in which it was.

Nobody who writes has to think of it, older versions of the program included; who reads it brings it up to date first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion import progress
from fhir_secondop.service import cases
from fhir_secondop.service.context import SERVICE, Context, whole_case
from fhir_secondop.service.running import is_outage
from fhir_secondop.store import case_states as rows
from fhir_secondop.store import resources, tables
from fhir_secondop.store.case_states import State

log = logging.getLogger(__name__)
NAME = "case-states"
EVERY_S = 10.0
"""Between two rounds: what was written meanwhile is what the next reader has to look at itself."""
VERSIONS = 5000  # looked at in one step
CASES = 200
ENDED = frozenset({"aligned", "closed"})
_REACHED = tables.reached.c
_MINE = _REACHED.name == NAME


def follow(context: Context) -> None:
    """Brings the index up to what is committed now. Anybody may, at any time: two at once do no harm."""
    while True:
        with context.database.reading() as connection:
            since = connection.execute(sa.select(_REACHED.at).where(_MINE)).scalar_one_or_none()
            if since is None:
                return  # it is being made, by a process that starts
            until = _until(connection, since)
            if until is None:
                return
            written = _written(connection, since, until)
            states = _states(connection, context, written)
        with context.database.appending() as connection:
            mine = sa.update(tables.reached).where(_MINE, _REACHED.at == since).values(at=until)
            # Whoever came further has looked at what was written later; these states may be older.
            if connection.execute(mine).rowcount:
                rows.write(connection, written, states)


def make(context: Context) -> int:
    """Makes it for all cases, where that was not done yet; how many. Again it looks at those that could not be read."""
    with context.database.reading() as connection:
        made = connection.execute(sa.select(_REACHED.at).where(_MINE)).first() is not None
        unreadable = rows.unreadable(connection, CASES) if made else []
    if made:
        if unreadable:
            with context.database.transaction(SERVICE) as tx:
                rows.write(tx.connection, unreadable, _states(tx.connection, context, unreadable))
        return len(unreadable)
    with context.database.reading() as connection:
        reached = int(connection.execute(sa.select(sa.func.max(tables.version.c.updated))).scalar() or 0)
    count, after = 0, 0
    while True:
        with context.database.transaction(SERVICE) as tx:
            found = tx.connection.execute(_requests(after)).all()
            ids = [row.id for row in found]
            rows.write(tx.connection, ids, _states(tx.connection, context, ids))
            count += len(found)
            if not found:
                if tx.connection.execute(sa.select(_REACHED.at).where(_MINE)).first() is None:
                    tx.connection.execute(sa.insert(tables.reached).values(name=NAME, at=reached))
                return count
            after = found[-1].rid


def _until(connection: Connection, since: int) -> int | None:
    """Up to which version the next step goes: None when there is none after `since`."""
    updated = tables.version.c.updated
    step = sa.select(updated).where(updated > since).order_by(updated).limit(VERSIONS).subquery()
    found = connection.execute(sa.select(sa.func.max(step.c.updated))).scalar()
    return int(found) if found else None


def _written(connection: Connection, since: int, until: int) -> list[str]:
    """The cases of which a version was stored in (since, until] that may say where they stand."""
    updated = tables.version.c.updated
    query = (
        sa.select(tables.resource.c.case_id)
        .select_from(tables.version.join(tables.resource, tables.resource.c.rid == tables.version.c.rid))
        .where(
            updated > since, updated <= until, tables.resource.c.case_id.is_not(None),
            tables.resource.c.type.in_([*cases.TYPES, "Binary"]), sa.not_(resources.IN_RECORD),
        )
        .distinct()
    )  # fmt: skip
    return sorted({whole_case(zone) for zone in connection.execute(query).scalars()} - {""})


def _requests(after: int) -> sa.Select[Any]:
    resource = tables.resource.c
    return (
        sa.select(resource.rid, resource.id)
        .where(resource.type == "ServiceRequest", resource.id == resource.case_id, resource.rid > after)
        .order_by(resource.rid)
        .limit(CASES)
    )


def _states(connection: Connection, context: Context, ids: Sequence[str]) -> list[State]:
    """Where they stand. One that can't be read is said in the log, and takes nobody's list away."""
    found: list[State] = []
    for start in range(0, len(ids), CASES):
        some = ids[start : start + CASES]
        try:
            found += list(_of_some(connection, context, some))  # all of them, or none
        except Exception as error:
            if is_outage(error):
                raise
            if len(some) > 1:
                found += [state for case_id in some for state in _states(connection, context, [case_id])]
            else:
                # The type only: a message may quote what it handled.
                log.error("case %s can't be read: %s", some[0], type(error).__name__)
                rids = _rids(connection, some)
                found += [State(rids[i], i, rows.UNREADABLE, False, frozenset()) for i in some if i in rids]
    return found


def _of_some(connection: Connection, context: Context, ids: Sequence[str]) -> Iterable[State]:
    rids = _rids(connection, ids)
    found = cases.read(connection, EVERYTHING, list(rids))
    waiting = cases.with_candidates(connection, context, found)
    for case in found:
        stage = progress.stage(case)
        needs = progress.needs(case, waiting.get(case.id, frozenset()))
        yield State(rids[case.id], case.id, stage, stage in ENDED, frozenset(need.kind for need in needs))


def _rids(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """Case → `rid` of its ServiceRequest."""
    resource = tables.resource.c
    requests = sa.select(resource.id, resource.rid).where(
        resource.type == "ServiceRequest", resource.id.in_(ids), resource.id == resource.case_id,
        resource.deleted.is_(False),
    )  # fmt: skip
    return {row.id: int(row.rid) for row in connection.execute(requests)}
