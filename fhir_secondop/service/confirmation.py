"""A person says who the patient is at an EHR, from candidates that nobody else sees; the Task that waited goes on."""

from __future__ import annotations

import base64
from typing import Any

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Invalid, NotFound
from fhir_secondop.fhir import codec
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import alignment, codes, workflow
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.opinion.people import display_name
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import gather, patients
from fhir_secondop.service.context import Context, load, put, who
from fhir_secondop.service.delivering import orders
from fhir_secondop.store import resources
from fhir_secondop.store.resources import Stored

Plain = dict[str, Any]


def candidates(context: Context, caller: Caller, case_id: str, plain: Plain) -> Plain:
    """Those who may be the patient at a source, side by side with ours: for the coordinator alone."""
    rights.require_role(caller)
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
        name = _connection(context, case, _waiting(case, plain["task"]))
        listed = _content(_listed(connection, case, name).resource)
        people: dict[str, Resource] = {}
        for page in _pages(connection, case, name, listed):
            content = _content(page.resource)
            entries = [e.get("resource", {}) for e in content.get("entry", [])] or [content]
            people |= {p["id"]: p for p in entries if p.get("resourceType") == "Patient"}
    rows = [{**row, **_shown(people.get(row["id"], {}))} for row in listed["candidates"]]
    return {"source": name, "because": listed["because"], "ours": _shown(case.patient), "candidates": rows}


def confirm(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """A person says which candidate is the patient there, or "none"; the Task goes on with that."""
    rights.require_role(caller)
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        task = _waiting(case, plain["task"])
        name = _connection(context, case, task)
        stored = _listed(tx.connection, case, name)
        listed = _content(stored.resource)
        chosen = plain["patient"]
        if chosen != patients.NOBODY and chosen not in [row["id"] for row in listed["candidates"]]:
            raise Invalid(f"Choose one of the candidates, or {patients.NOBODY!r}.", path="patient")
        said = {"confirmed-at": name, "confirmed-patient": chosen, "confirmed-by": caller.name}
        now = context.instant()
        marked = alignment.with_evidence(task, said)
        put(
            tx, context, case_id,
            provenance(
                derived_id(case_id, "provenance", "confirmed", task["id"]), [f"Task/{task['id']}"], now,
                activity="UPDATE", author=who(caller), reason="a person said who the patient is there",
            ),
        )  # fmt: skip
        # The candidates are nobody's business any more.
        for page in _pages(tx.connection, case, name, listed):
            resources.delete(tx, page)
        resources.delete(tx, stored)
        if workflow.is_delivery(task):
            return orders.replay(tx, context, case, marked, f"{caller.name}: the patient there was confirmed")
        return gather.resume(tx, context, case, marked)


def _waiting(case: Case, task_id: str) -> Resource:
    task = case.find("Task", task_id.removeprefix("Task/"))
    if task is None or not (workflow.is_delivery(task) or codes.has(task["code"], codes.TASK, "gather-records")):
        raise NotFound(f"The case has no gathering or delivery Task/{task_id.removeprefix('Task/')}.")
    if task["status"] != "on-hold":
        raise Conflict(f"This Task waits for nobody: it is {task['status']}.")
    return task


def _connection(context: Context, case: Case, task: Resource) -> str:
    if not workflow.is_delivery(task):
        return gather.connection_name(task)
    connection = orders.connection_of(context, case, task)
    if connection is None:
        raise Conflict("This delivery goes to no EHR.")
    return connection.name


def _listed(connection: SqlConnection, case: Case, name: str) -> Stored:
    stored = resources.find(connection, EVERYTHING, "Binary", patients.list_id(case, name))
    if stored is None or stored.deleted:
        raise Conflict("Nobody has to be confirmed for this Task.")
    return stored


def _pages(connection: SqlConnection, case: Case, name: str, listed: Plain) -> list[Stored]:
    ids = [patients.page_id(case, name, number) for number in range(listed["pages"])]
    found = [resources.find(connection, EVERYTHING, "Binary", page) for page in ids]
    return [page for page in found if page is not None and not page.deleted]


def _content(binary: Resource) -> Plain:
    return codec.parse(base64.b64decode(binary.get("data", "")))


def _shown(patient: Resource) -> Plain:
    return {
        "name": display_name(patient),
        "birthDate": patient.get("birthDate", ""),
        "gender": patient.get("gender", ""),
        "identifiers": [f"{i.get('system', '')}|{i.get('value', '')}" for i in patient.get("identifier", [])],
        "telecom": [t.get("value", "") for t in patient.get("telecom", [])],
        "address": [" ".join([*a.get("line", []), a.get("postalCode", ""), a.get("city", "")]).strip()
                    for a in patient.get("address", [])],
        "active": patient.get("active", True),
    }  # fmt: skip
