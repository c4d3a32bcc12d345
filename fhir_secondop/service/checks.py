"""A person says of an item what it is: the chart diverges, or it does not contradict. The chart stays as it is."""

from __future__ import annotations

from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Forbidden, NotFound
from fhir_secondop.model import Caller, Resource
from fhir_secondop.opinion import checks
from fhir_secondop.opinion.case import Case
from fhir_secondop.service.context import Context, load, put

Plain = dict[str, Any]


def close(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Closes an item with what it is and why; said again by the same person it is the same.

    Raises Forbidden unless the caller coordinates or decides on the case, Conflict when it is closed.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        if not may_close(case, caller):
            raise Forbidden("An item to check is closed by the decision owner or by the coordinator.")
        item = next((t for t in checks.of_case(case) if t["id"] == plain["task"]), None)
        if item is None:
            raise NotFound("The case has no such item to check; its page lists them.", path="task")
        answer, reason = plain["answer"], plain["reason"]
        if not checks.is_open(item):
            if (checks.said(item, "checked"), checks.said(item, "checked-by")) == (answer, caller.name):
                return item
            raise Conflict("The item is closed already.")
        after = checks.closed(item, answer, caller.name, reason, context.instant())
        put(tx, context, case_id, after)
        return after


def may_close(case: Case, caller: Caller) -> bool:
    """Whether the caller coordinates, or decides on the case."""
    owner = case.decision_owner
    return rights.has_role(caller) or (owner is not None and rights.acts_as(caller, owner.identifiers))
