"""What is not done yet, per EHR, over all cases however old: counts and instants, nothing of any patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.opinion import codes, workflow
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import delivery, gather, worklist
from fhir_secondop.service.context import Context, whole_case
from fhir_secondop.store import resources, tables

LINK = "by link"
"""Stands for an EHR where a delivery goes to none."""
GATHERING, DELIVERING, HELD = "gathering", "delivering", "held"
_TYPES = ("ServiceRequest", "Task", "Practitioner", "PractitionerRole", "Organization")
_UNDER_WAY = frozenset({"requested", "accepted", "in-progress"})
_CASES_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that is open: what it is, at which EHR, and since when (ms since 1970).

    A delivery under way waits since it was ordered, what is held since it was put aside for a person, a gathering
    since anything last came of it. `task` is GATHERING or DELIVERING, also of what is held; `begun`: something may have
    been sent; `ordered` is when the Task was made.
    """

    what: str
    connection: str
    since: int
    task: str = DELIVERING
    begun: bool = False
    ordered: int = 0


def of_all(connection: SqlConnection, context: Context) -> list[Waiting]:
    """Every delivery and gathering that is open; it reads the cases that have one, and no others."""
    ids = sorted({whole_case(str(case_id)) for (case_id,) in connection.execute(_cases_with_open())})
    return [
        waiting
        for start in range(0, len(ids), _CASES_AT_ONCE)
        for case in worklist.cases(connection, EVERYTHING, ids[start : start + _CASES_AT_ONCE], _TYPES)
        for waiting in _of_case(context, case)
    ]


def _cases_with_open() -> sa.Select[tuple[Any]]:
    status, code = tables.token.alias(), tables.token.alias()
    is_open = sa.select(status.c.rid).where(
        status.c.type == "Task", status.c.param == "status", status.c.code.in_([*_UNDER_WAY, "on-hold"])
    )
    carried = sa.select(code.c.rid).where(
        code.c.type == "Task", code.c.param == "code", code.c.system == codes.TASK,
        sa.or_(code.c.code.startswith(workflow.DELIVERS, autoescape=True), code.c.code == "gather-records"),
    )  # fmt: skip
    rid = tables.resource.c.rid
    return (
        sa.select(tables.resource.c.case_id)
        .where(
            rid.in_(is_open), rid.in_(carried), tables.resource.c.case_id.is_not(None),
            tables.resource.c.deleted.is_(False), sa.not_(resources.IN_RECORD),
        )
        .distinct()
    )  # fmt: skip


def _of_case(context: Context, case: Case) -> Iterator[Waiting]:
    for task in case.tasks_of("gather-records"):
        if task["status"] in (*_UNDER_WAY, "on-hold"):
            what = HELD if task["status"] == "on-hold" else GATHERING
            yield _open(what, gather.connection_name(task), _moment(task["lastModified"]), GATHERING, task)
    for task in case.deliveries:
        if task["status"] not in (*_UNDER_WAY, "on-hold"):
            continue
        connection = delivery.connection_of(context, case, task)
        name = connection.name if connection is not None else LINK
        if task["status"] == "on-hold":
            yield _open(HELD, name, _moment(task["lastModified"]), DELIVERING, task)
        else:
            yield _open(DELIVERING, name, _moment(task["authoredOn"]), DELIVERING, task)


def _open(what: str, name: str, since: int, of: str, task: Resource) -> Waiting:
    return Waiting(what, name, since, of, task["status"] == "in-progress", _moment(task["authoredOn"]))


def _moment(instant: str) -> int:
    return times.interval(instant).low
