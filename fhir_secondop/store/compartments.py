"""What belongs to a patient, in the order of its creation: the compartment of one Patient, or of all that may be seen.

Pages go by the creation number, bounded by the highest one at the first page, as those of a search (store.search).
Source: https://hl7.org/fhir/R4/compartmentdefinition-patient.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import starmap
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.times import Interval
from fhir_secondop.model import Visibility
from fhir_secondop.store import tables
from fhir_secondop.store.prepared import Prepared, Ready, Row, each, ready
from fhir_secondop.store.readers import Reader, bound, reader_of
from fhir_secondop.store.resources import Stored, rows, stored, visible

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


@dataclass(frozen=True, slots=True)
class Record:
    """What is looked at: the compartment of one patient, or of all that may be seen (""), what of it has to do with
    care in a time, and without resources of some types, but for that patient.
    """

    patient_id: str = ""
    period: Interval | None = None
    left_out: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """By the names that they have in a statement."""
        low, high = (self.period.low, self.period.high) if self.period else (0, 0)
        return {"id": self.patient_id, "local": f"Patient/{self.patient_id}", "low": low, "high": high}


def record(
    connection: Connection, of: Record, visibility: Visibility, place: Place | None, limit: int
) -> Iterator[Stored]:
    """At most `limit` resources of a record that may be seen and are not deleted, oldest first.

    The rows come as they are asked for.
    """
    reader, values = reader_of(visibility)
    after, last = (place.after, place.last) if place else (0, _LAST)
    statement = _record(
        connection.dialect, reader, of.left_out, of_all=not of.patient_id, in_time=of.period is not None
    )
    values |= {**of.values, "after": after, "last": last, "most": limit}
    return _seen(each(connection, statement, values, at_once=_FETCHED), visibility)


def _seen(found: Iterable[Row], visibility: Visibility) -> Iterator[Stored]:
    if visibility.everything:
        return starmap(Stored, found)
    return (stored(row, visibility) for row in found)


_LAST = 2**62
_KEPT = 500  # statements


@lru_cache(maxsize=_KEPT)
def _record(dialect: Dialect, reader: Reader, left_out: tuple[str, ...], *, of_all: bool, in_time: bool) -> Ready:
    visibility = reader.visibility()
    conditions = [_members(visibility, of_all=of_all)]
    if in_time:
        conditions.append(in_care(Interval(bound("low", sa.BigInteger), bound("high", sa.BigInteger))))
    if left_out:
        conditions.append(is_none_of(left_out, but_patient=bound("id", sa.Text)))
    # With the sum no index on the number is used: what is in the compartment is found first, and then put in order.
    # Of all patients most resources are in it: those are gone through in their order.
    resource = tables.resource.c
    number = resource.rid if of_all else resource.rid + 0
    given = [resource.deleted.is_(False), visible(visibility), number > bound("after", sa.BigInteger),
             number <= bound("last", sa.BigInteger)]  # fmt: skip
    if of_all and not visibility.everything:
        # What is seen makes a list, and only of a page of it is it asked whether it is in a compartment.
        given = [resource.rid.in_(sa.select(resource.rid).where(*given).correlate(None))]
    query = rows(visibility).where(*given, *conditions)
    return ready(query.order_by(resource.rid).limit(bound("most", sa.Integer)), dialect)


def _members(visibility: Visibility, *, of_all: bool) -> ColumnElement[bool]:
    return of_patients(visibility) if of_all else _belongs(bound("local", sa.Text), bound("id", sa.Text))


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


def is_none_of(kinds: Iterable[str], *, but_patient: Any = "") -> ColumnElement[bool]:
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
) -> Iterator[Stored]:
    """At most `limit` resources of which these conditions hold, that may be seen and are not deleted, oldest first."""
    resource = tables.resource.c
    query = rows(visibility).where(*conditions, resource.deleted.is_(False), visible(visibility))
    if place is not None:
        query = query.where(resource.rid + 0 > place.after, resource.rid + 0 <= place.last)  # as in _record
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
    among: Record | None = None,
) -> Iterator[Stored]:
    """Those of these (type, id) that are there and may be seen, and that are members of that patient's or those
    patients' compartment, whatever of it is left out.
    """
    pairs = list(wanted)
    reader, values = reader_of(visibility)
    if among is not None:
        values |= among.values
    statement = _named(connection.dialect, reader, None if among is None else not among.patient_id)
    for start in range(0, len(pairs), _SLOTS):
        some = _slots(pairs[start : start + _SLOTS])
        yield from _seen(each(connection, statement, {**values, **some}, at_once=_FETCHED), visibility)


_SLOTS = 32


@lru_cache(maxsize=_KEPT)
def _named(dialect: Dialect, reader: Reader, of_all: bool | None) -> Ready:
    """The statement of `named` for so many pairs; slots that are not needed name nothing."""
    visibility, resource = reader.visibility(), tables.resource.c
    pairs = [(bound(f"t{n}", sa.Text), bound(f"i{n}", sa.Text)) for n in range(_SLOTS)]
    named_so = sa.or_(*(sa.and_(resource.type == kind, resource.id == id_) for kind, id_ in pairs))
    query = rows(visibility).where(named_so, resource.deleted.is_(False), visible(visibility))
    if of_all is not None:
        query = query.where(_members(visibility, of_all=of_all))
    return ready(query.order_by(resource.rid), dialect)


def _slots(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    filled = [*pairs, *[("", "")] * (_SLOTS - len(pairs))]
    return {f"{letter}{n}": value for n, pair in enumerate(filled) for letter, value in zip("ti", pair, strict=True)}
