"""The table of operations: a row gives the FHIR route, the JSON route, OpenAPI and the command.

A module for each topic, with its rows and what only they need.
"""

from __future__ import annotations

from fhir_secondop.model import Operation
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations import (
    case,
    delivery,
    finding,
    insurance,
    opening,
    proposing,
    record,
    review,
    urgent,
)

_TOPICS = (opening, record, finding, insurance, review, urgent, proposing, delivery, case)


def table(context: Context) -> tuple[Operation, ...]:
    """Every row."""
    return tuple(row for topic in _TOPICS for row in topic.rows(context))
