"""Many cases at once, each with what says where it stands, and not with its whole record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.model import Resource, Visibility
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import gather, patients
from fhir_secondop.service.context import Context, quarantine, urgent_zone, whole_case
from fhir_secondop.service.delivering import orders
from fhir_secondop.store import resources, tables

# What says where a case stands; the pulled record, its groups and every act's Provenance stay where they are.
TYPES = (
    "ServiceRequest", "Patient", "Task", "DiagnosticReport", "Observation", "CarePlan", "Condition",
    "MedicationRequest", "QuestionnaireResponse", "Communication", "Practitioner", "PractitionerRole", "Organization",
)  # fmt: skip
_AT_ONCE = 500  # ids in one query


def read(
    connection: SqlConnection, visibility: Visibility, ids: Sequence[str], types: Sequence[str] = TYPES
) -> list[Case]:
    """These cases, which may be seen, with their own resources of these types, and nothing of the pulled record."""
    by_case: dict[str, list[tuple[int, Resource]]] = {case_id: [] for case_id in ids}
    for some in _lots(ids):
        zones = tables.resource.c.case_id.in_([urgent_zone(case_id) for case_id in some])
        urgent = sa.and_(zones, resources.admitted(visibility))
        query = resources.rows(visibility).where(
            sa.or_(tables.resource.c.case_id.in_(some), urgent),
            sa.not_(resources.hidden(visibility)),
            tables.resource.c.type.in_(types),
            tables.resource.c.deleted.is_(False),
            sa.not_(resources.IN_RECORD),
        )
        for row in connection.execute(query).all():  # at once: one by one each would be a call of its own
            stored = resources.stored(row, visibility)
            by_case[whole_case(str(stored.case_id))].append((stored.rid, stored.resource))
    return [Case(key, (r for _, r in sorted(rows, key=lambda row: row[0]))) for key, rows in by_case.items()]


def _lots(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE))


def candidates(context: Context, case: Case) -> frozenset[str]:
    """The ids of the case's Tasks for which a person must say who the patient is."""
    with context.database.reading() as connection:
        return with_candidates(connection, context, [case]).get(case.id, frozenset())


def with_candidates(connection: SqlConnection, context: Context, cases: Iterable[Case]) -> dict[str, frozenset[str]]:
    """Case → its Tasks on hold for which candidates were put aside; a case without is left out."""
    lists: dict[str, list[tuple[str, str]]] = {}
    for case in cases:
        for task, name in _held(context, case):
            lists.setdefault(patients.list_id(case, name), []).append((case.id, task))
    found: dict[str, frozenset[str]] = {}
    for some in _lots(list(lists)):
        query = sa.select(tables.resource.c.id).where(
            tables.resource.c.type == "Binary",
            tables.resource.c.id.in_(some),
            tables.resource.c.case_id.in_({quarantine(case_id) for one in some for case_id, _ in lists[one]}),
            tables.resource.c.deleted.is_(False),
        )
        for list_id in connection.execute(query).scalars():
            for case_id, task in lists[list_id]:
                found[case_id] = found.get(case_id, frozenset()) | {task}
    return found


def _held(context: Context, case: Case) -> Iterable[tuple[str, str]]:
    """The gathering and delivery Tasks on hold, each with the name of its connection."""
    for task in case.tasks_of("gather-records"):
        if task["status"] == "on-hold":
            yield task["id"], gather.connection_name(task)
    for task in case.deliveries:
        connection = orders.connection_of(context, case, task) if task["status"] == "on-hold" else None
        if connection is not None:
            yield task["id"], connection.name
