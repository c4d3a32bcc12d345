"""What a search asks (store.asked) → an SQL condition.

A chain goes through the resources that it names, so it must not find by what the caller may not see there: whoever
asks gives the condition of that (`Sees`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.fhir import query
from fhir_secondop.store import composites, tables
from fhir_secondop.store.asked import AnyOf, Asking, Chain, Composite, Condition, InElement, One, Reverse
from fhir_secondop.store.narrowing import held, listed, with_ids
from fhir_secondop.store.search_types import DATE, KINDS, PRESENT

Sees = Callable[[str, str], ColumnElement[bool]]
"""(type, parameter) → the condition on `tables.resource` of what may be found by that parameter."""
Values = Sequence[Any]
"""The values that were taken out of what is asked, or a bound parameter in place of each."""


def matching(resource_type: str, text: str) -> ColumnElement[bool]:
    """The condition of a whole query string, "category=laboratory&status=final", without chains."""
    asking = Asking("")
    asked = [asking.condition(resource_type, each) for each in query.parse(resource_type, text).criteria]
    return sa.and_(sa.true(), *(condition(resource_type, each, asking.values, _nothing) for each in asked))


def _nothing(resource_type: str, code: str) -> ColumnElement[bool]:
    return sa.false()


def condition(resource_type: str, asked: Condition, values: Values, sees: Sees) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` of one parameter of a search."""
    if isinstance(asked, Chain):
        return _chain(resource_type, asked, values, sees)
    if isinstance(asked, Reverse):
        return _reverse(resource_type, asked, values, sees)
    if isinstance(asked, AnyOf):
        # By what may not be seen of a resource it is not found, but it may be by another way.
        return sa.or_(
            *(
                sa.and_(condition(resource_type, way, values, sees), *(sees(resource_type, c) for c in way.looked_at))
                for way in asked.ways
            )
        )
    if isinstance(asked, Composite):
        return sa.or_(*(_way(resource_type, each, values) for each in asked.ways))
    return _one(resource_type, asked, values)


def _found(resource_type: str, asked: Condition, values: Values, sees: Sees) -> list[ColumnElement[bool]]:
    """The conditions on `tables.resource` of what a chain goes through, or ends at."""
    return [
        tables.resource.c.type == resource_type,
        tables.resource.c.deleted.is_(False),
        *(sees(resource_type, code) for code in asked.looked_at),
        condition(resource_type, asked, values, sees),
    ]


def _chain(resource_type: str, asked: Chain, values: Values, sees: Sees) -> ColumnElement[bool]:
    columns, resource = tables.reference.c, tables.resource.c
    # None of these selects is correlated: the same tables stand in each, and mean their own rows.
    ends = [
        sa.select(sa.literal(f"{target}/") + resource.id).where(*_found(target, inner, values, sees)).correlate(None)
        for target, inner in asked.targets
    ]
    pointing = sa.select(columns.rid).where(
        columns.type == resource_type, columns.param == asked.code, sa.or_(*(columns.target.in_(end) for end in ends))
    )
    return resource.rid.in_(pointing.correlate(None))


def _reverse(resource_type: str, asked: Reverse, values: Values, sees: Sees) -> ColumnElement[bool]:
    columns, resource = tables.reference.c, tables.resource.c
    here = f"{resource_type}/"
    pointing = (
        sa.select(sa.func.substr(columns.target, len(here) + 1))
        .select_from(tables.reference.join(tables.resource, columns.rid == resource.rid))
        .where(
            columns.type == asked.type,
            columns.param == asked.code,
            sa.func.substr(columns.target, 1, len(here)) == here,
            sees(asked.type, asked.code),
            *_found(asked.type, asked.condition, values, sees),
        )
    )
    return with_ids(resource_type, pointing.correlate(None))


def _way(resource_type: str, way: InElement | tuple[One, ...], values: Values) -> ColumnElement[bool]:
    if isinstance(way, InElement):
        return composites.in_one_element(
            resource_type, way.code, [(kind, a.form, a.of(values)) for kind, a in way.parts]
        )
    return sa.and_(*(_one(resource_type, part, values) for part in way))


def _one(resource_type: str, asked: One, values: Values) -> ColumnElement[bool]:
    resource = tables.resource.c
    code, kind = asked.code, KINDS[asked.kind]
    columns = kind.table.c
    mine = [columns.type == resource_type, columns.param == code]
    found: ColumnElement[bool]
    if asked.modifier == "missing":
        # Every resource has an id and a time of its last change.
        always = code in ("_id", "_lastUpdated")
        found = sa.true() if always else sa.or_(held(kind.table, mine), _present(resource_type, code))
        return sa.not_(found) if asked.alternatives[0].form == "true" else found
    if code == "_id":
        found = with_ids(resource_type, [value for each in asked.alternatives for value in each.of(values)])
    elif code == "_lastUpdated":
        # The versions have an index of their times, one of all resources.
        at, changed = resource.updated, tables.version.c.updated
        each_at = [(each.form, each.of(values)) for each in asked.alternatives]
        since = sa.or_(*(DATE.compare(changed, changed, *each) for each in each_at))
        now = sa.or_(*(DATE.compare(at, at, *each) for each in each_at))
        return sa.and_(now, listed(tables.version, [since]))
    else:
        alternatives = (kind.condition(columns, each.form, each.of(values)) for each in asked.alternatives)
        wanted = sa.or_(sa.false(), *alternatives)
        if asked.modifier == "not":
            return sa.not_(held(kind.table, [*mine, wanted]))
        found = listed(kind.table, [*mine, wanted])
    return sa.not_(found) if asked.modifier == "not" else found


def _present(resource_type: str, code: str) -> ColumnElement[bool]:
    """That there is a value by which nothing can be found."""
    columns = tables.token.c
    return held(tables.token, [columns.type == resource_type, columns.param == f"{code}:{PRESENT}"])
