"""Looks at a chart again after something was delivered there: what of it contradicts opens an item for a person.

What was seen is judged by the case as it stands when that is written, so that what we did ourselves meanwhile is no
contradiction; items, the Task and the next look are one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fhir_secondop.ehr import ladder, push
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.rereading import Reread, reread
from fhir_secondop.ehr.rungs import Rung
from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Conflict
from fhir_secondop.model import EVERYTHING, Connection, Resource
from fhir_secondop.opinion import alignment, checks, codes, watches
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.checks import Finding
from fhir_secondop.opinion.people import Person
from fhir_secondop.opinion.watches import Look
from fhir_secondop.service import (
    addresses,
    circuits,
    deliverables,
    patients,
    planning,
    repository,
    sensitivity,
)
from fhir_secondop.service.context import SERVICE, Context, case_of_task, load, put
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.delivering.job import actors
from fhir_secondop.service.watches import due_in, enqueue, hours, name_of
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

PATIENT = "Patient"
_RUNGS = {str(rung.number): rung for rung in ladder.RUNGS}


@dataclass(frozen=True, slots=True)
class Copy:
    """A verified copy of the newest version of something, and the delivery Tasks that it serves."""

    location: str
    rung: Rung
    tasks: tuple[Resource, ...]

    @property
    def what(self) -> str:
        """What it is, in words."""
        kind = (codes.code_of(self.tasks[0]["code"], codes.TASK) or "").removeprefix("deliver-")
        return f"{kind.replace('plan', 'plan of record')}, version {alignment.version_of(self.tasks[0])}"

    @property
    def focus(self) -> str:
        """Versioned reference to what was delivered."""
        return str(self.tasks[0]["focus"]["reference"])


def look(context: Context, task_id: str, number: int) -> str:
    """One look at the chart of a watch; answers what came of it. Run again it opens nothing twice."""
    with context.database.reading() as reading:
        case_id, stored = case_of_task(reading, EVERYTHING, task_id)
        case = load(reading, EVERYTHING, case_id)
    watch = stored.resource
    if watch["status"] != "in-progress" or watches.number_of(watch) != number:
        return "looked before"
    connection = context.connections.get(name_of(watch))
    why = _ends(context, case, connection)
    if why or connection is None:
        with context.database.transaction(SERVICE) as tx:
            if _is_current(tx, watch):
                put(tx, context, case_id, watches.ended(watch, why, context.instant()))
        return f"ended: {why}"
    wait_s = due_in(context, watch)
    if wait_s > 0:  # another machine's clock is ahead of ours, or the hours were made longer
        return _again(context, case_id, watch, watches.put_off(watch, "not due yet"), wait_s)
    wait = circuits.standing(context, connection.name, f"watch-{task_id}")
    if wait is not None:
        return _again(
            context, case_id, watch, watches.put_off(watch, wait.why), _pause_s(context, connection, wait.seconds)
        )
    try:
        found = _looked(context, case, connection)
    except EhrFailure as failure:
        after = watches.failed(watch, failure.kind, context.instant())
        return _again(context, case_id, watch, after, _pause_s(context, connection, failure.retry_after_s))
    except Conflict as error:
        after = watches.failed(watch, error.message, context.instant())
        return _again(context, case_id, watch, after, _pause_s(context, connection))
    return _settle(context, case_id, watch, connection, found)


def _ends(context: Context, case: Case, connection: Connection | None) -> str:
    if connection is None:
        return "there is no such connection any more"
    if hours(context, connection) <= 0:
        return "charts are not looked at there"
    return watches.over(case, context.drift_days, context.now())


def _pause_s(context: Context, connection: Connection, at_least_s: float = 0.0) -> float:
    return max(3600.0 * hours(context, connection), at_least_s)


def _is_current(tx: Transaction, watch: Resource) -> bool:
    """Whether nobody has carried the watch on since it was read."""
    current = resources.read(tx.connection, EVERYTHING, "Task", watch["id"])
    return str(current.version) == str(watch["meta"]["versionId"])


def _again(context: Context, case_id: str, watch: Resource, after: Resource, wait_s: float) -> str:
    """Nothing was seen: the next look, in the transaction that says why."""
    with context.database.transaction(SERVICE) as tx:
        if not _is_current(tx, watch):
            return "looked before"
        put(tx, context, case_id, after)
        enqueue(tx, context, after, wait_s)
    return f"again: {alignment.evidence(after)['last-failure']}"


def put_off(context: Context, task_id: str, why: str, number: int = 0) -> str:
    """A look that failed on our side, the one of that number: the chart is looked at again when the next one is due."""
    with context.database.reading() as reading:
        case_id, stored = case_of_task(reading, EVERYTHING, task_id)
    watch = stored.resource
    if watch["status"] != "in-progress" or number not in (0, watches.number_of(watch)):
        return "looked before"
    connection = context.connections.get(name_of(watch))
    wait_s = _pause_s(context, connection) if connection else 0.0
    return _again(context, case_id, watch, watches.failed(watch, why, context.instant()), wait_s)


def _settle(context: Context, case_id: str, watch: Resource, connection: Connection, found: Look) -> str:
    """Items opened and closed, the Task carried on, the next look: one transaction."""
    now = context.instant()
    with context.database.transaction(SERVICE) as tx:
        if not _is_current(tx, watch):
            return "looked before"
        case = load(tx.connection, EVERYTHING, case_id)
        known = _as_it_stands(context, case, connection, found)
        followed = watches.outcome(case, watch, connection.name, known, now)
        for item in followed.items:
            put(tx, context, case_id, item)
        after = watches.looked(watch, found, followed.suspected, now)
        put(tx, context, case_id, after)
        enqueue(tx, context, after, _pause_s(context, connection))
    opened = sum(map(checks.is_open, followed.items))
    return f"{opened} opened, {len(followed.items) - opened} closed"


def _as_it_stands(context: Context, case: Case, connection: Connection, found: Look) -> Look:
    """The look without what we have changed ourselves since: a copy that a newer version supersedes is no finding."""
    current = frozenset(copy.focus for copy in copies(context, case, connection)) | planning.current(case)
    kept = tuple(f for f in found.findings if f.where == PATIENT or f.focus in current)
    return replace(found, findings=kept, current=current)


# ---- what stands there


def copies(context: Context, case: Case, connection: Connection) -> list[Copy]:
    """The verified copies there of the newest version of each thing.

    Where a newer one is under way or waits for a person nothing is looked at: it may land, and supersede, at any time.
    """
    there = [t for t in case.deliveries if t["status"] != "cancelled" and _is_copy(t)
             and orders.connection_of(context, case, t) == connection]  # fmt: skip
    newest: dict[tuple[str, str], int] = {}
    for task in there:
        thing = alignment.thing_of(task)
        newest[thing] = max(newest.get(thing, 0), alignment.version_of(task))
    found: dict[str, list[Resource]] = {}
    for task in there:
        known = alignment.evidence(task)
        if (
            alignment.version_of(task) == newest[alignment.thing_of(task)]
            and (task["status"], known.get("copy")) == ("completed", "verified")
            and known.get("address") == connection.base and known.get("rung") in _RUNGS and known.get("location")
        ):  # fmt: skip
            found.setdefault(known["location"], []).append(task)
    return [
        Copy(location, _RUNGS[alignment.evidence(tasks[0])["rung"]], tuple(tasks)) for location, tasks in found.items()
    ]


def _is_copy(task: Resource) -> bool:
    """A notice has no content that a chart could contradict."""
    return not codes.has(task["code"], codes.TASK, deliverables.NOTICE)


def _looked(context: Context, case: Case, connection: Connection) -> Look:
    """What the chart shows now. Raises EhrFailure and Conflict where it can't be seen."""
    readable = [(copy, person) for copy in copies(context, case, connection)
                if (person := _permitted(context, case, connection, copy)) is not None]  # fmt: skip
    if not readable:
        return Look(why="nothing there may be looked at: no newest version is verified there, or consent is withheld")
    addresses.require(context, connection)
    target, unsure = _target(context, case, connection)
    concerned = _people(context, case, connection)
    if target is None:
        focus = readable[0][0].focus
        lost = Finding("patient-unsure", PATIENT, "unsure", f"{_place(connection, concerned)}: {unsure}", focus,
                       certain=False, concerns=tuple(p.reference for p in concerned))  # fmt: skip
        return Look((lost,), frozenset({PATIENT}), why=unsure)
    findings: list[Finding] = []
    covered = {PATIENT}
    unread = ""
    for copy, person in readable:
        document = deliverables.deliverable(context, case, copy.tasks[0], person)
        seen = reread(target, copy.rung, document, copy.location)
        if seen.state == "unread":
            unread = f"{copy.location}: {seen.why}"
            continue
        covered.add(copy.location)
        findings += _of_copy(copy, seen, _place(connection, concerned))
    chart = planning.look(context, case, connection, target, concerned)
    why = "; ".join(filter(None, (unread, chart.why)))
    return Look((*findings, *chart.findings), frozenset(covered) | chart.covered, why=why)


def _permitted(context: Context, case: Case, connection: Connection, copy: Copy) -> Person | None:
    """Somebody whose copy it is and to whom it might be sent now; None where consent is withheld from all of them."""
    for task in copy.tasks:
        person = case.directory.person(task["owner"].get("reference", ""))
        if person is None and connection.role == addresses.REPOSITORY:
            person = repository.person(connection)
        if person is not None and sensitivity.may_send(context, case, actors(person)).permitted:
            return person
    return None


def _target(context: Context, case: Case, connection: Connection) -> tuple[Target | None, str]:
    """The patient there as of now, else why that is not certain any more. Nothing is kept of anybody else."""
    client = context.client(connection.name)
    if connection.role == addresses.REPOSITORY:
        found = repository.patients_of(case, client)
        if len(found) != 1:
            return None, "our patient is there no more" if not found else "our patient is there several times"
        return Target(client, f"Patient/{found[0]['id']}"), ""
    try:
        match = patients.find(context, case, connection)
        if not match.id:
            return None, f"it is not certain any more who the patient is there ({match.because})"
        target = Target(client, f"Patient/{match.id}")
        push.check_patient(target)
    except Conflict as error:
        return None, error.message
    except EhrFailure as failure:
        if failure.kind != "not-found":
            raise
        return None, "the patient's record is there no more"
    return target, ""


def _people(context: Context, case: Case, connection: Connection) -> list[Person]:
    """Whose chart it is: the recipients of the case at that organization."""
    if connection.role == addresses.REPOSITORY:
        return []
    everybody = (member.person for member in case.audience)
    return [p for p in everybody if context.connection_of(p.organization) == connection]


def _place(connection: Connection, people: Iterable[Person]) -> str:
    return next((p.organization_name for p in people if p.organization_name), connection.name)


def _of_copy(copy: Copy, seen: Reread, name: str) -> Iterator[Finding]:
    """What speaks against a copy, a finding each: never who the other patient is, nor what stands there instead."""
    owners = (task["owner"].get("reference", "") for task in copy.tasks)
    concerns = tuple(sorted(ref for ref in owners if ref))
    where = f"at {name} the copy of the {copy.what} ({copy.location})"
    if seen.state == "gone":
        yield Finding("gone", copy.location, seen.why, f"{where} is gone", copy.focus, certain=False,
                      concerns=concerns)  # fmt: skip
    says = {
        "patient": ("patient", f"{where} stands at another patient"),
        "status": (seen.status, f"{where} has the status {seen.status}"),
        "content": (seen.sha256, f"{where} has another content than was delivered"),
    }
    for kind in seen.differs:
        mark, words = says[kind]
        yield Finding(kind, copy.location, mark, words, copy.focus, version=seen.version, concerns=concerns)
