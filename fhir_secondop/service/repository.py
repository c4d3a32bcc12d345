"""A connection with the role `repository`: every version of every case goes there, by the first rung of the ladder.

It is ours to fill: the Patient is created there once, under an identifier of ours.
"""

from __future__ import annotations

from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Conflict
from fhir_secondop.model import Connection, Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.people import Person
from fhir_secondop.service.addresses import REPOSITORY
from fhir_secondop.service.context import Context

_PATIENT = f"{codes.CANONICAL}/patient"
_KEPT = ("name", "birthDate", "gender", "telecom", "address")


def all_of(context: Context) -> list[Connection]:
    """The repositories that are configured."""
    return [c for c in context.connections.values() if c.role == REPOSITORY]


def owner(connection: Connection) -> Resource:
    """A repository as the owner of a delivery Task."""
    return {
        "type": "Organization",
        "identifier": {"system": f"{codes.CANONICAL}/connection", "value": connection.name},
        "display": f"Repository {connection.name}",
    }


def of_task(context: Context, task: Resource) -> Connection | None:
    """The repository that a delivery Task goes to, if it is one."""
    value = task["owner"].get("identifier", {}).get("value", "")
    found = context.connections.get(value)
    return found if found is not None and found.role == REPOSITORY and "reference" not in task["owner"] else None


def person(connection: Connection) -> Person:
    """Stands for a repository where a recipient is asked for."""
    return Person(reference="", practitioner="", name=f"Repository {connection.name}")


def target(context: Context, case: Case, connection: Connection) -> Target:
    """The patient there, created where it is not yet. Raises Conflict when several have our identifier."""
    client = context.client(connection.name)
    found = patients_of(case, client)
    if len(found) > 1:
        raise Conflict("The repository has the patient several times; a person must look.")
    if found:
        return Target(client, f"Patient/{found[0]['id']}")
    ours = {"system": _PATIENT, "value": case.patient["id"]}
    made: Resource = {
        "resourceType": "Patient",
        "identifier": [ours, *({k: v for k, v in i.items() if k != "assigner"}
                               for i in case.patient.get("identifier", []))],
        "active": True,
        **{name: case.patient[name] for name in _KEPT if name in case.patient},
    }  # fmt: skip
    written = client.write("POST", "Patient", made, {"If-None-Exist": f"identifier={_token(case)}"})
    location = written.location or f"Patient/{(written.resource or {}).get('id', '')}"
    return Target(client, location)


def patients_of(case: Case, client: Client) -> list[Resource]:
    """Who is there under our identifier of the patient; only asked for, never made."""
    return [
        p
        for p in client.search("Patient", {"identifier": _token(case)})
        if any(i.get("system") == _PATIENT and i.get("value") == case.patient["id"] for i in p.get("identifier", []))
    ]


def _token(case: Case) -> str:
    return f"{_PATIENT}|{case.patient['id']}"
