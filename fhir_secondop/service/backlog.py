"""What is not done yet towards each EHR, over all cases: open deliveries and gatherings, counted from their Tasks.

Only open Tasks are read, and of their cases only who the people are: what is done costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.access import rights
from fhir_secondop.fhir import times
from fhir_secondop.model import Caller, Resource
from fhir_secondop.opinion import codes, workflow
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import delivery, gather
from fhir_secondop.service.context import Context, whole_case
from fhir_secondop.store import resources, tables

LINK = "link"  # stands for all that have no EHR of ours
# Status of the Task → how we say it.
DELIVERING = {"requested": "waiting", "accepted": "waiting", "in-progress": "sending", "on-hold": "on-hold"}
GATHERING = {"requested": "under-way", "accepted": "under-way", "in-progress": "under-way", "on-hold": "on-hold"}
_PEOPLE = ("Practitioner", "PractitionerRole", "Organization")
_AT_ONCE = 500  # cases in one query


@dataclass(slots=True)
class Backlog:
    """Of one EHR: how many by state, and when (ms since 1970) the oldest delivery that is not there yet was planned."""

    deliveries: Counter[str] = field(default_factory=Counter)
    gatherings: Counter[str] = field(default_factory=Counter)
    oldest: int | None = None


def of_connections(context: Context, caller: Caller) -> dict[str, Backlog]:
    """The backlog of each configured connection, and of what goes by LINK. Raises Forbidden unless the caller operates.

    Counts only: no content of a case leaves here.
    """
    rights.require_role(caller, "operator")
    found: dict[str, Backlog] = {name: Backlog() for name in (*context.connections, LINK)}
    with context.database.reading() as connection:
        for case in _cases(connection):
            for task in case.tasks_of("gather-records"):
                # What is no connection any more has no name of its own: labels come from the configuration alone.
                of = found.get(gather.connection_name(task), found[LINK])
                of.gatherings[GATHERING[task["status"]]] += 1
            for task in case.deliveries:
                to = delivery.connection_of(context, case, task)
                of = found[to.name if to else LINK]
                of.deliveries[DELIVERING[task["status"]]] += 1
                planned = times.interval(task["authoredOn"]).low
                of.oldest = planned if of.oldest is None else min(of.oldest, planned)
    return found


def _cases(connection: SqlConnection) -> Iterator[Case]:
    """Each case that has such Tasks, with these and with its people, and nothing else."""
    tasks: dict[str, list[Resource]] = {}
    for row in connection.execute(_open_tasks()):
        stored = resources.stored(row)
        tasks.setdefault(whole_case(str(stored.case_id)), []).append(stored.resource)
    ids = list(tasks)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        people = _people(connection, some)
        yield from (Case(case_id, [*people.get(case_id, ()), *tasks[case_id]]) for case_id in some)


def _people(connection: SqlConnection, case_ids: Iterable[str]) -> dict[str, list[Resource]]:
    query = resources.rows().where(
        tables.resource.c.case_id.in_(list(case_ids)),
        tables.resource.c.type.in_(_PEOPLE),
        tables.resource.c.deleted.is_(False),
        sa.not_(resources.IN_RECORD),
    )
    found: dict[str, list[Resource]] = {}
    for row in connection.execute(query):
        stored = resources.stored(row)
        found.setdefault(str(stored.case_id), []).append(stored.resource)
    return found


def _open_tasks() -> sa.Select[tuple[object, ...]]:
    status, code = tables.token.alias(), tables.token.alias()
    is_open = sa.select(status.c.rid).where(
        status.c.type == "Task", status.c.param == "status", status.c.code.in_(sorted({*DELIVERING, *GATHERING}))
    )
    asks = sa.select(code.c.rid).where(
        code.c.type == "Task", code.c.param == "code", code.c.system == codes.TASK,
        sa.or_(code.c.code == "gather-records", code.c.code.startswith(workflow.DELIVERS, autoescape=True)),
    )  # fmt: skip
    rid = tables.resource.c.rid
    return resources.rows().where(
        rid.in_(is_open), rid.in_(asks), tables.resource.c.case_id.is_not(None), tables.resource.c.deleted.is_(False),
        sa.not_(resources.IN_RECORD),
    )  # fmt: skip
