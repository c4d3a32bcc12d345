"""composite: several parts that must match in the same element, `code-value-quantity=8480-6$gt140`.

Where the element is the resource itself, its parts are parameters of their own, and nothing is indexed twice. A union
of such elements and others is a union of composites. Else each part has its row, with the number of its element.
Source: https://hl7.org/fhir/R4/search.html#composite
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.fhir import definitions, path
from fhir_secondop.fhir.definitions import SearchParameter
from fhir_secondop.model import Resource
from fhir_secondop.store import tables
from fhir_secondop.store.search_types import KINDS, Row

_OF_RESOURCE = "%resource."


@cache
def parts(resource_type: str, parameter: SearchParameter) -> tuple[SearchParameter, ...]:
    """The composites of which this one is the union; itself alone if it is none."""
    expressions = [each.strip() for each in parameter.expression.split("|")]
    if resource_type not in expressions or len(expressions) == 1:
        return (parameter,)
    below = [expression for _, expression in parameter.components]
    return tuple(
        next(
            other
            for other in definitions.search_parameters(resource_type).values()
            if other.expression == expression and [each for _, each in other.components] == below
        )
        for expression in expressions
    )


def rows(resource: Resource, base_url: str) -> Iterator[tuple[sa.Table, Row]]:
    """The index rows of a resource's composites, each with its table, without rid and type."""
    for parameter, keys in _with_rows(resource["resourceType"]):
        if keys is not None and keys.isdisjoint(resource):
            continue
        for place, (value_type, value) in enumerate(path.select(parameter, resource), 1):
            found = [
                [(kind.table, row) for of, each in values for row in kind.rows(of, each, base_url)]
                for kind, values in _values(parameter, resource, value_type, value)
            ]
            if all(found):
                for number, of_part in enumerate(found):
                    for table, row in of_part:
                        yield table, {"param": f"{parameter.code}${number}", "place": place, **row}


@cache
def _with_rows(resource_type: str) -> tuple[tuple[SearchParameter, frozenset[str] | None], ...]:
    """Each with the members of which a resource has one wherever it finds something; None: that can't be told."""
    found = []
    for each in definitions.search_parameters(resource_type).values():
        if each.type == "composite" and each.expression != resource_type and parts(resource_type, each) == (each,):
            keys = [of_branch for _, of_branch in path.branches(each.expression, resource_type)]
            found.append((each, None if None in keys else frozenset().union(*filter(None, keys))))
    return tuple(found)


def _values(parameter: SearchParameter, resource: Resource, value_type: str, value: Any) -> Iterator[tuple[Any, Any]]:
    for part, expression in definitions.components(parameter):
        kind = KINDS[part.type]
        if expression.startswith(_OF_RESOURCE):
            yield kind, path.select(expression.removeprefix(_OF_RESOURCE), resource)
        else:
            yield kind, path.select(expression, value, value_type)


def in_one_element(
    resource_type: str, code: str, parts: Sequence[tuple[str, str, Sequence[Any]]]
) -> ColumnElement[bool]:
    """The condition on tables.resource that all of these parts (kind, form and values of each) match in one element."""
    found: sa.Select[Any] | None = None
    for number, (name, form, values) in enumerate(parts):
        kind = KINDS[name]
        columns = kind.table.c
        conditions = [
            columns.type == resource_type,
            columns.param == f"{code}${number}",
            kind.condition(columns, form, values),
        ]
        if found is not None:
            conditions.append(sa.tuple_(columns.rid, columns.place).in_(found))
        # Not correlated: two parts may stand in one table.
        found = sa.select(columns.rid, columns.place).where(*conditions).correlate(None)
    assert found is not None
    return tables.resource.c.rid.in_(sa.select(found.subquery().c.rid))
