"""What a search demands → an SQL condition.

A chain goes through the resources that it names, so it must not find by what the caller may not see there: whoever
asks gives the condition of that (`Sees`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import criteria, definitions, query
from fhir_secondop.fhir.criteria import AnyOf, Chain, Condition, Criterion, Reverse
from fhir_secondop.store import composites, tables
from fhir_secondop.store.narrowing import held, listed, with_ids
from fhir_secondop.store.search_text import parted, unescape
from fhir_secondop.store.search_types import DATE, KINDS, PRESENT, STRING, TOKEN

Sees = Callable[[str, str], ColumnElement[bool]]
"""(type, parameter) → the condition on `tables.resource` of what may be found by that parameter."""


def matching(resource_type: str, text: str) -> ColumnElement[bool]:
    """The condition of a whole query string, "category=laboratory&status=final", without chains."""
    wanted = query.parse(resource_type, text).criteria
    return sa.and_(sa.true(), *(condition(resource_type, each, "", _nothing) for each in wanted))


def _nothing(resource_type: str, code: str) -> ColumnElement[bool]:
    return sa.false()


def condition(resource_type: str, wanted: Condition, base_url: str, sees: Sees) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` of one parameter of a search. Raises Invalid."""
    if isinstance(wanted, Chain):
        return _chain(resource_type, wanted, base_url, sees)
    if isinstance(wanted, Reverse):
        return _reverse(resource_type, wanted, base_url, sees)
    if isinstance(wanted, AnyOf):
        # By what may not be seen of a resource it is not found, but it may be by another way.
        ways = ((_criterion(resource_type, way, base_url), sees(resource_type, way.code)) for way in wanted.ways)
        return sa.or_(*(sa.and_(found, seen) for found, seen in ways))
    return _criterion(resource_type, wanted, base_url)


def _found(resource_type: str, wanted: Condition, base_url: str, sees: Sees) -> list[ColumnElement[bool]]:
    """The conditions on `tables.resource` of what a chain goes through, or ends at."""
    return [
        tables.resource.c.type == resource_type,
        tables.resource.c.deleted.is_(False),
        *(sees(of, code) for of, code in criteria.looked_at(resource_type, wanted)),
        condition(resource_type, wanted, base_url, sees),
    ]


def _chain(resource_type: str, wanted: Chain, base_url: str, sees: Sees) -> ColumnElement[bool]:
    columns, resource = tables.reference.c, tables.resource.c
    # None of these selects is correlated: the same tables stand in each, and mean their own rows.
    ends = [
        sa.select(sa.literal(f"{target}/") + resource.id).where(*_found(target, inner, base_url, sees)).correlate(None)
        for target, inner in wanted.targets
    ]
    pointing = sa.select(columns.rid).where(
        columns.type == resource_type, columns.param == wanted.code, sa.or_(*(columns.target.in_(end) for end in ends))
    )
    return resource.rid.in_(pointing.correlate(None))


def _reverse(resource_type: str, wanted: Reverse, base_url: str, sees: Sees) -> ColumnElement[bool]:
    columns, resource = tables.reference.c, tables.resource.c
    here = f"{resource_type}/"
    pointing = (
        sa.select(sa.func.substr(columns.target, len(here) + 1))
        .select_from(tables.reference.join(tables.resource, columns.rid == resource.rid))
        .where(
            columns.type == wanted.type,
            columns.param == wanted.code,
            sa.func.substr(columns.target, 1, len(here)) == here,
            sees(wanted.type, wanted.code),
            *_found(wanted.type, wanted.condition, base_url, sees),
        )
    )
    return with_ids(resource_type, pointing.correlate(None))


def _criterion(resource_type: str, criterion: Criterion, base_url: str) -> ColumnElement[bool]:
    resource = tables.resource.c
    code, modifier = criterion.code, criterion.modifier
    values = [value for value in criterion.values if value]
    if criterion.kind == "token" and modifier in ("", "not"):
        values += list(_of_implied_system(resource_type, code, values))
    if any("\0" in value for value in values):
        raise Invalid("A value to search for holds a NUL.", path=code)
    if criterion.kind == "composite":
        parameter = definitions.search_parameters(resource_type)[code]
        return sa.or_(
            *(composites.condition(resource_type, parameter, value, base_url, _part(resource_type, base_url))
              for value in values)
        )  # fmt: skip
    kind = KINDS[criterion.kind]
    if modifier in ("text", "of-type", "identifier"):
        kind, code = (STRING if modifier == "text" else TOKEN), f"{code}:{modifier}"
    columns = kind.table.c
    mine = [columns.type == resource_type, columns.param == code]
    found: ColumnElement[bool]
    if modifier == "missing":
        if values not in (["true"], ["false"]):
            raise Invalid(f"{code}:missing is true or false.", path=code)
        # Every resource has an id and a time of its last change.
        always = code in ("_id", "_lastUpdated")
        found = sa.true() if always else sa.or_(held(kind.table, mine), _present(resource_type, code))
        return sa.not_(found) if values == ["true"] else found
    if code == "_id":
        found = with_ids(resource_type, [value.rpartition("|")[2] for value in values])
    elif code == "_lastUpdated":
        # An instant, one millisecond wide. The versions have an index of their times, one of all resources.
        at, changed = resource.updated, tables.version.c
        since = sa.or_(*(DATE.compare(value, changed.updated, changed.updated, wide_ms=1) for value in values))
        now = sa.or_(*(DATE.compare(value, at, at, wide_ms=1) for value in values))
        return sa.and_(now, listed(tables.version, [since]))
    else:
        wanted = sa.or_(sa.false(), *(kind.condition(columns, value, modifier, base_url) for value in values))
        if modifier == "not":
            return sa.not_(held(kind.table, [*mine, wanted]))
        found = listed(kind.table, [*mine, wanted])
    return sa.not_(found) if modifier == "not" else found


def _present(resource_type: str, code: str) -> ColumnElement[bool]:
    """That there is a value by which nothing can be found."""
    columns = tables.token.c
    return held(tables.token, [columns.type == resource_type, columns.param == f"{code}:{PRESENT}"])


def _of_implied_system(resource_type: str, parameter: str, values: list[str]) -> Iterator[str]:
    """`|male` for `http://hl7.org/fhir/administrative-gender|male`: a plain code is sent without its system, which is
    that of its value set.

    Source: https://hl7.org/fhir/R4/search.html#token
    """
    implied = definitions.implied_systems(resource_type, parameter)
    for value in values if implied else ():
        system, *code = parted(value, "|")
        if code and unescape(system) in implied:
            yield "|" + "|".join(code)


def _part(resource_type: str, base_url: str) -> composites.OfPart:
    """A part of a composite of the resource itself: a parameter of its own."""

    def of_part(code: str, text: str) -> ColumnElement[bool]:
        kind = definitions.search_parameters(resource_type)[code].type
        return _criterion(resource_type, Criterion(code, kind, "", (text,)), base_url)

    return of_part
