"""Who the patient is at each EHR: found for certain, or confirmed by a person from quarantined candidates."""

from __future__ import annotations

from fhir_secondop.ehr import identity
from fhir_secondop.ehr.identity import Match
from fhir_secondop.fhir import codec
from fhir_secondop.model import Connection
from fhir_secondop.opinion import alignment
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.service.collect import put_binary
from fhir_secondop.service.context import Context, quarantine
from fhir_secondop.store.database import Transaction

NOBODY = "none"


def find(context: Context, case: Case, connection: Connection) -> Match:
    """The patient at that EHR: whom a person has confirmed, else who is found for certain."""
    client = context.client(connection.name)
    said = confirmed(case, connection.name)
    if said == NOBODY:
        return Match("", "a person said that none of the candidates there is the patient")
    if said:
        return identity.confirmed(client, said)
    return identity.find_patient(client, case.patient, connection.patient_system)


def confirmed(case: Case, name: str) -> str:
    """The patient's id at that EHR as a person confirmed it, "none", or "" when nobody has said."""
    found = ""
    for task in case.of_type("Task"):
        said = alignment.evidence(task)
        if said.get("confirmed-at") == name:
            found = said.get("confirmed-patient", "")
    return found


def quarantine_candidates(tx: Transaction, context: Context, case: Case, name: str, match: Match) -> None:
    """Keeps the candidates' pages apart from the case: only a coordinator sees them, until somebody has decided."""
    for number, page in enumerate(match.pages):
        where = page_id(case, name, number)
        put_binary(tx, context, quarantine(case.id), name, where, page.content_type, page.body, page.url)
    rows = [{"id": c.id, "agrees": list(c.agrees), "differs": list(c.differs)} for c in match.candidates]
    said = codec.dumps({"candidates": rows, "pages": len(match.pages), "because": match.because}).encode()
    put_binary(tx, context, quarantine(case.id), name, list_id(case, name), "application/json", said, "")


def list_id(case: Case, name: str) -> str:
    """The Binary that lists the candidates at one EHR."""
    return derived_id(case.id, name, "candidates")


def page_id(case: Case, name: str, number: int) -> str:
    """The Binary with one page of candidates."""
    return derived_id(case.id, name, "candidates", number)
