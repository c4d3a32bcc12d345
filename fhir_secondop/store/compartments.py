"""What belongs to a patient, in the order of its creation: the compartment of one Patient, or of all that may be seen.

Pages go by the creation number, bounded by the highest one at the first page, as those of a search (store.search).
Source: https://hl7.org/fhir/R4/compartmentdefinition-patient.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import starmap
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.times import Interval
from fhir_secondop.model import EVERYTHING, Visibility
from fhir_secondop.store import lookup, tables
from fhir_secondop.store.prepared import Prepared
from fhir_secondop.store.resources import Stored, rows, stored, visible

_AT_ONCE = 300  # pairs in one statement
_FETCHED = 100  # rows
# Dates that say nothing of when somebody was cared for.
_NO_CARE = frozenset({"_lastUpdated", "birthdate", "death-date", "value-date"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins and where the last one ends: creation numbers, `after` exclusive and `last` inclusive."""

    after: int
    last: int


@cache
def ways() -> tuple[tuple[str, str], ...]:
    """(type, reference parameter) by which a resource is in a patient's compartment."""
    members = definitions.compartment("Patient")
    return tuple(
        (kind, code)
        for kind, codes in sorted(members.items())
        for code in codes
        if code in definitions.search_parameters(kind)
    )


@cache
def types() -> frozenset[str]:
    """The types that are in a patient's compartment; itself among them."""
    return frozenset({"Patient", *(kind for kind, _ in ways())})


@cache
def _is_way() -> str:
    # One piece of text: two hundred bound values of a statement that never changes took longer than the statement.
    pairs = ", ".join(f"('{kind}', '{code}')" for kind, code in ways())
    return f"(ix_reference.type, ix_reference.param) IN (VALUES {pairs})"


@cache
def _is_care_date() -> str:
    codes = {p.code for kind in types() for p in definitions.search_parameters(kind).values() if p.type == "date"}
    return f"ix_date.param IN ({', '.join(repr(code) for code in sorted(codes - _NO_CARE))})"


def of_patient(patient_id: str) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` of what is in the compartment of that patient, who is in it, too."""
    return _belongs(f"Patient/{patient_id}", patient_id)


def _belongs(local: Any, patient_id: Any) -> ColumnElement[bool]:
    reference, resource = tables.reference.c, tables.resource.c
    pointing = sa.select(reference.rid).where(reference.target == local, sa.text(_is_way()))
    itself = sa.select(resource.rid).where(resource.type == "Patient", resource.id == patient_id)
    return resource.rid.in_(sa.union_all(pointing, itself.correlate(None)))


def whole(connection: Connection, patient_id: str, place: Place | None, limit: int) -> Iterator[Stored]:
    """At most `limit` resources of a patient's compartment, oldest first, to somebody who may see everything.

    What `page` gives of `of_patient`: most callers are systems that may, and to them it takes half as long. The rows
    come as they are asked for only on SQLite.
    """
    found = lookup.each_row(
        connection, _whole(), id=patient_id, local=f"Patient/{patient_id}", most=limit,
        after=place.after if place else 0, last=place.last if place else _LAST,
    )  # fmt: skip
    return starmap(Stored, found)


_LAST = 2**62


@cache
def _whole() -> sa.Select[Any]:
    resource = tables.resource.c
    query = rows(EVERYTHING).where(
        _belongs(sa.bindparam("local", type_=sa.Text), sa.bindparam("id", type_=sa.Text)),
        resource.deleted.is_(False),
        resource.rid + 0 > sa.bindparam("after", type_=sa.BigInteger),
        resource.rid + 0 <= sa.bindparam("last", type_=sa.BigInteger),
    )
    return query.order_by(resource.rid).limit(sa.bindparam("most", type_=sa.Integer))


def of_patients(visibility: Visibility) -> ColumnElement[bool]:
    """The same of all patients that may be seen. Asked of each resource in its order, so that a page ends early."""
    reference, resource = tables.reference.c, tables.resource.c
    patients = sa.select(sa.literal("Patient/") + resource.id).where(
        resource.type == "Patient", resource.deleted.is_(False), visible(visibility)
    )
    belongs = sa.exists().where(
        reference.rid == resource.rid,
        sa.text(_is_way()),
        reference.target.in_(patients.correlate(None)),
    )
    return sa.or_(resource.type == "Patient", belongs.correlate(tables.resource))


def in_care(period: Interval) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` of what has to do with care in that time: from the first of its dates to
    the last; what has no such date always has. A condition that has not abated and an allergy go on.
    """
    date, resource = tables.date.c, tables.resource.c
    own: list[Any] = [date.rid == resource.rid, sa.text(_is_care_date())]

    def one(value: Any, *more: ColumnElement[bool]) -> Any:
        return sa.select(value).where(*own, *more).correlate(tables.resource).scalar_subquery()

    goes_on = sa.or_(
        resource.type == "AllergyIntolerance",
        sa.and_(
            resource.type == "Condition",
            one(sa.func.count(), date.param == "abatement-date") == 0,
        ),
    )
    begun = sa.func.coalesce(one(sa.func.min(date.low)) < period.high, sa.true())
    not_over = sa.func.coalesce(one(sa.func.max(date.high)) > period.low, sa.true())
    return sa.and_(begun, sa.or_(goes_on, not_over))


def is_none_of(kinds: Iterable[str], *, but_patient: str = "") -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` of what is of none of these types, or is that patient."""
    resource = tables.resource.c
    of_others = resource.type.not_in(list(kinds))
    return sa.or_(of_others, sa.and_(resource.type == "Patient", resource.id == but_patient))


def page(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    visibility: Visibility,
    place: Place | None,
    limit: int,
    *,
    of_all: bool = False,
) -> Iterator[Stored]:
    """At most `limit` resources of which these conditions hold, that may be seen and are not deleted, oldest first.

    `of_all`: the conditions are those of all patients, and most resources keep them.
    """
    resource = tables.resource.c
    query = rows(visibility).where(*conditions, resource.deleted.is_(False), visible(visibility))
    if place is not None:
        # With the sum no index on the number is used: what is in the compartment is found first, and then put in order.
        number = resource.rid if of_all else resource.rid + 0
        query = query.where(number > place.after, number <= place.last)
    query = query.order_by(resource.rid).limit(limit)
    if connection.dialect.name == "postgresql":  # whose client takes all of them at once, unless it is told
        query = query.execution_options(yield_per=_FETCHED)
    with connection.execute(query) as result:
        for row in result:
            yield stored(row, visibility)


_NEWEST = Prepared(sa.select(sa.func.max(tables.resource.c.rid)))


def newest(connection: Connection) -> int:
    """The number of whatever was created last: to that the pages go whose first one is made now. There is one."""
    (number,) = _NEWEST.all(connection)[0]
    return int(number)


def local_of(one: Stored) -> str:
    """ "Type/id"."""
    return f"{one.type}/{one.id}"


def named(
    connection: Connection,
    wanted: Iterable[tuple[str, str]],
    visibility: Visibility,
    among: ColumnElement[bool] | None = None,
) -> Iterator[Stored]:
    """Those of these (type, id) that are there and may be seen, and that `among` holds for, too."""
    resource = tables.resource.c
    pairs = list(wanted)
    if sees_all(visibility) and among is None:
        for start in range(0, len(pairs), _SLOTS):
            some = _slots(pairs[start : start + _SLOTS])
            yield from starmap(Stored, lookup.each_row(connection, _of_slots(), **some))
        return
    for start in range(0, len(pairs), _AT_ONCE):
        of_these = sa.tuple_(resource.type, resource.id).in_(pairs[start : start + _AT_ONCE])
        query = rows(visibility).where(of_these, resource.deleted.is_(False), visible(visibility))
        if among is not None:
            query = query.where(among)
        yield from (stored(row, visibility) for row in connection.execute(query.order_by(resource.rid)))


def sees_all(visibility: Visibility) -> bool:
    """Whether nothing is kept back from who sees so."""
    return visibility.everything and not visibility.narrowed


_SLOTS = 32


@cache
def _of_slots() -> sa.Select[Any]:
    """The statement of `named` for so many pairs; slots that are not needed name nothing."""
    resource = tables.resource.c
    pairs = [(sa.bindparam(f"t{n}", type_=sa.Text), sa.bindparam(f"i{n}", type_=sa.Text)) for n in range(_SLOTS)]
    named_so = sa.or_(*(sa.and_(resource.type == kind, resource.id == id_) for kind, id_ in pairs))
    return rows(EVERYTHING).where(named_so, resource.deleted.is_(False)).order_by(resource.rid)


def _slots(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    filled = [*pairs, *[("", "")] * (_SLOTS - len(pairs))]
    return {f"{letter}{n}": value for n, pair in enumerate(filled) for letter, value in zip("ti", pair, strict=True)}
