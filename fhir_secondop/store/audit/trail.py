"""Rows of the audit, read: of one case newest first, and all of them oldest first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Invalid
from fhir_secondop.store import tables

_AUDIT = tables.audit.c
_PLACE = re.compile(r"(\d{1,16})\.([0-9a-f]{16})\.(\d{1,18})")
ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first; `cursor` is where to go on, "" at the end."""

    rows: tuple[Any, ...]
    cursor: str


def of_case(
    connection: Connection,
    case_id: str,
    *,
    count: int,
    cursor: str = "",
    zone: str = "",
    operations: Sequence[str] = (),
) -> Page:
    """The newest rows of a case, or those after a cursor. Raises Invalid when the cursor is none of ours.

    Without those that name one of `operations` or a resource of that `zone` of the case, and without what else their
    requests did.
    """
    query = sa.select(tables.audit).where(_AUDIT.case_id == case_id)
    if zone:
        ids = sa.select(tables.resource.c.id).where(tables.resource.c.case_id == zone)
        named = sa.or_(_AUDIT.id.in_(ids), _AUDIT.operation.in_(operations))
        requests = sa.select(_AUDIT.request).where(_AUDIT.case_id == case_id, _AUDIT.request != "", named)
        query = query.where(sa.not_(named), _AUDIT.request.not_in(requests))
    if cursor:
        place = _PLACE.fullmatch(cursor)
        if place is None:
            raise Invalid("This cursor is not one of ours; begin again without.", path="_cursor")
        after = sa.tuple_(sa.literal(int(place[1])), sa.literal(place[2]), sa.literal(int(place[3])))
        query = query.where(sa.tuple_(_AUDIT.at, _AUDIT.chain, _AUDIT.n) < after)
    query = query.order_by(_AUDIT.at.desc(), _AUDIT.chain.desc(), _AUDIT.n.desc()).limit(count + 1)
    found = connection.execute(query).all()
    shown = tuple(found[:count])
    more = len(found) > count and bool(shown)
    return Page(shown, f"{shown[-1].at}.{shown[-1].chain}.{shown[-1].n}" if more else "")


def since(connection: Connection, at: int) -> Iterator[Any]:
    """Every row from that time on (ms since 1970), oldest first."""
    query = sa.select(tables.audit).where(_AUDIT.at >= at).order_by(_AUDIT.at, _AUDIT.chain, _AUDIT.n)
    yield from connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE))


def count_since(connection: Connection, at: int) -> int:
    """How many rows `since` gives."""
    number: int = connection.execute(
        sa.select(sa.func.count()).select_from(tables.audit).where(_AUDIT.at >= at)
    ).scalar_one()
    return number


def callers(connection: Connection, case_id: str) -> list[Any]:
    """Who touched a case: caller, behalf, reads, writes, denied, first and last (ms), the latest first."""

    def many(condition: Any) -> Any:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    denied = sa.and_(_AUDIT.status.is_not(None), _AUDIT.status >= 400)
    last = sa.func.max(_AUDIT.at).label("last")
    query = (
        sa.select(
            _AUDIT.caller, _AUDIT.behalf,
            many(sa.and_(_AUDIT.kind == "access", sa.not_(denied))).label("reads"),
            many(_AUDIT.kind == "write").label("writes"), many(denied).label("denied"),
            sa.func.min(_AUDIT.at).label("first"), last,
        )
        .where(_AUDIT.case_id == case_id)
        .group_by(_AUDIT.caller, _AUDIT.behalf)
        .order_by(last.desc())
    )  # fmt: skip
    return list(connection.execute(query))


def cases_of(connection: Connection, record: str) -> list[str]:
    """The cases of a record: a case's id, "Patient/id" or a patient's id here, or a patient's "system|value"."""
    resource, token = tables.resource.c, tables.token.c
    if "|" in record:
        system, _, code = record.partition("|")
        of = sa.select(token.rid).where(
            token.type == "Patient", token.param == "identifier", token.system == system, token.code == code
        )
        condition: Any = resource.rid.in_(of)
    else:
        kind, _, found = record.rpartition("/")
        types = [kind] if kind else ["ServiceRequest", "Patient"]
        condition = sa.and_(resource.type.in_(types), resource.id == found)
    query = sa.select(resource.case_id).where(condition, resource.case_id.is_not(None)).distinct()
    return sorted({case.partition("#")[0] for case in connection.execute(query).scalars()})
