"""One delivery with what its workflow needs around it."""

from __future__ import annotations

from dataclasses import dataclass

from fhir_secondop.ehr import push
from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Conflict
from fhir_secondop.model import EVERYTHING, Connection, Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.people import Person
from fhir_secondop.service import addresses, deliverables, messaging, patients, repository, sensitivity
from fhir_secondop.service.context import SERVICE, Context, case_of_task, load
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.tries import Try

_SETTLED = ("completed", "failed", "cancelled", "on-hold", "entered-in-error")


@dataclass(frozen=True, slots=True)
class Job:
    """A delivery Task with what its workflow needs around it."""

    case: Case
    task: Resource
    person: Person
    connection: Connection | None
    try_: Try

    @property
    def key(self) -> str:
        """Under which name it asks an EHR that is asked by one alone."""
        return f"{orders.WORKFLOW}-{self.task['id']}"


def job_of(context: Context, task_id: str, number: int) -> Job | None:
    """The delivery of that Task as it stands now; None when it has settled, or waits for a person. Raises Conflict."""
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
    task = stored.resource
    if task["status"] in _SETTLED:
        return None
    connection_ = orders.connection_of(context, case, task)
    person = case.directory.person(task["owner"].get("reference", ""))
    if person is None and connection_ is not None:
        person = repository.person(connection_)
    if person is None:
        raise Conflict(f"Task/{task_id} has an owner that the case does not know.")
    return Job(case, task, person, connection_, Try.of(number))


def denial(context: Context, job: Job, case: Case) -> str:
    """Why it must not be sent, by the consents of the case as it was read; "" when it may be.

    A notice has no content that a consent could be about.
    """
    if codes.has(job.task["code"], codes.TASK, deliverables.NOTICE):
        return ""
    decision = sensitivity.may_send(context, case, actors(job.person))
    return "" if decision.permitted else decision.because


def actors(person: Person) -> frozenset[str]:
    """The references under which a consent may name a recipient."""
    return frozenset({person.reference, person.practitioner, person.organization_ref})


def target_of(context: Context, case: Case, connection: Connection) -> Target:
    """The patient at that EHR, matched anew. Raises Conflict when it is not certain who that is."""
    if connection.role == addresses.REPOSITORY:
        return repository.target(context, case, connection)
    if not connection.base:
        return messaging.target(context, case, connection)
    client = context.client(connection.name)
    match = patients.find(context, case, connection)
    if not match.id:
        if match.candidates:
            with context.database.transaction(SERVICE) as tx:
                patients.quarantine_candidates(tx, context, case, connection.name, match)
        raise Conflict(f"The patient was not matched there: {match.because}.")
    target = Target(client, f"Patient/{match.id}")
    push.check_patient(target)
    return target
