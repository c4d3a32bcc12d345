"""A parameter of a search → an SQL condition."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import query
from fhir_secondop.fhir.query import Criterion
from fhir_secondop.store import tables
from fhir_secondop.store.search_types import DATE, KINDS


def matching(resource_type: str, text: str) -> ColumnElement[bool]:
    """The condition of a whole query string, "category=laboratory&status=final"."""
    criteria = query.parse(resource_type, text).criteria
    return sa.and_(sa.true(), *(condition(resource_type, criterion, "") for criterion in criteria))


def condition(resource_type: str, criterion: Criterion, base_url: str) -> ColumnElement[bool]:
    """The SQL condition on `tables.resource` of one parameter of a search. Raises Invalid."""
    resource = tables.resource.c
    values = [value for value in criterion.values if value]
    if any("\0" in value for value in values):
        raise Invalid("A value to search for holds a NUL.", path=criterion.code)
    kind = KINDS[criterion.kind]
    columns = kind.table.c
    mine = [columns.type == resource_type, columns.param == criterion.code]
    matching: ColumnElement[bool]
    if criterion.modifier == "missing":
        if values not in (["true"], ["false"]):
            raise Invalid(f"{criterion.code}:missing is true or false.", path=criterion.code)
        # Every resource has an id and a time of its last change.
        always = criterion.code in ("_id", "_lastUpdated")
        matching = sa.true() if always else resource.rid.in_(sa.select(columns.rid).where(*mine))
        return sa.not_(matching) if values == ["true"] else matching
    if criterion.code == "_id":
        matching = resource.id.in_([value.rpartition("|")[2] for value in values])
    elif criterion.code == "_lastUpdated":
        # An instant, one millisecond wide.
        return sa.or_(*(DATE.compare(value, resource.updated, resource.updated + 1) for value in values))
    else:
        wanted = sa.or_(sa.false(), *(kind.condition(value, criterion.modifier, base_url) for value in values))
        matching = resource.rid.in_(sa.select(columns.rid).where(*mine, wanted))
    return sa.not_(matching) if criterion.modifier == "not" else matching
