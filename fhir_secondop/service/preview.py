"""What a delivery would do, without doing it: the rung and why, and the exact bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.ehr import ladder, push
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.rehearsal import Rehearsal
from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Conflict, NotFound, SecondOpError
from fhir_secondop.model import Caller, Connection, Resource
from fhir_secondop.opinion import alignment, codes
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import addresses, circuits, deliverables, messaging, patients, repository
from fhir_secondop.service.context import Context, load
from fhir_secondop.service.delivering import orders

Plain = dict[str, Any]


def preview(context: Context, caller: Caller, case_id: str, plain: Plain) -> Plain:
    """A row for each newest delivery, or for the one recipient that `to` names: rung, why, requests, copy there."""
    rights.require_role(caller)
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
    newest = _newest(case)
    wanted = plain.get("to", "").casefold()
    chosen = [t for t in newest if wanted in t["owner"].get("display", "").casefold()]
    if not chosen:
        raise NotFound("Nothing is to be delivered to anybody of that name." if newest else "No report is signed yet.")
    return {"deliveries": [rehearsed(context, case, task) for task in chosen]}


def _newest(case: Case) -> list[Resource]:
    """The newest version of each thing for each recipient."""
    found: dict[tuple[str, ...], Resource] = {}
    for task in case.deliveries:
        key = (*alignment.thing_of(task), str(task["owner"]))
        if key not in found or alignment.version_of(task) > alignment.version_of(found[key]):
            found[key] = task
    return list(found.values())


def rehearsed(context: Context, case: Case, task: Resource) -> Plain:
    """What one delivery would do now; where it can't be done, why."""
    row: Plain = {
        "task": task["id"],
        "what": (codes.code_of(task["code"], codes.TASK) or "").removeprefix("deliver-"),
        "version": alignment.version_of(task),
        "to": task["owner"].get("display", ""),
        "status": task["status"],
    }
    connection = orders.connection_of(context, case, task)
    if connection is None:
        return {**row, "rung": ladder.LINK, "why": "no EHR connection to this organization", "requests": []}
    try:
        return {**row, **_rehearsed(context, case, task, connection)}
    except EhrFailure as failure:
        return {**row, "rung": None, "why": f"{failure.kind}: {failure.message}", "requests": []}
    except SecondOpError as error:
        return {**row, "rung": None, "why": error.message, "requests": []}


def _rehearsed(context: Context, case: Case, task: Resource, connection: Connection) -> Plain:
    circuits.require_asked(context, connection)
    addresses.tested(context, connection)
    client = Rehearsal(connection, now=context.now)
    person = case.directory.person(task["owner"].get("reference", "")) or repository.person(connection)
    document = deliverables.deliverable(context, case, task, person)
    target = _target(context, case, connection, client)
    owner = partial(orders.connection_of, context, case)
    target = replace(target, carried=messaging.carried(case, task, document.version_id, owner))
    choice = ladder.choose(target, document)
    facts: Plain = {
        "rung": choice.number,
        "why": choice.why,
        "notPossible": [{"way": way, "why": why} for way, why in choice.not_possible],
        "requests": [],
    }
    if choice.rung is None:
        return facts
    receipt = push.look(replace(target, client=client), choice.rung, document)
    if receipt is not None:
        client.requests.clear()
        return {**facts, "there": receipt.location, "copy": receipt.copy}
    older = choice.rung.older(target, document) if document.version > 1 else []
    choice.rung.send(target, document, older)
    requests = [{"method": r.method, "url": r.url, "headers": dict(r.headers), "body": r.body.decode()}
                for r in client.requests]  # fmt: skip
    return {**facts, "requests": requests}


def _target(context: Context, case: Case, connection: Connection, client: Rehearsal) -> Target:
    """As `target_of`, but nobody is put into a repository."""
    if connection.role == addresses.REPOSITORY:
        return Target(client, "Patient/the-id-that-it-gives")
    if not connection.base:
        return replace(messaging.target(context, case, connection), client=client)
    match = patients.find(context, case, connection)
    if not match.id:
        raise Conflict(f"The patient was not matched there: {match.because}.")
    target = Target(client, f"Patient/{match.id}")
    push.check_patient(target)
    return target
