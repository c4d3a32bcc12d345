"""What the ledger says of HL7 v2 messages: nobody can look for one there, so what may be sent is decided here.

A message that nobody answered is sent again, the same to the byte, only where the receiver recognises it; else a
person decides (docs/decisions/0038). One message goes to an EHR for each version, whoever of its people the delivery
is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Conflict
from fhir_secondop.model import Connection, Receipt, Resource
from fhir_secondop.opinion import alignment
from fhir_secondop.opinion.case import Case
from fhir_secondop.service.context import Context
from fhir_secondop.service.deliverables import NOTICE

RUNG = 8
Owner = Callable[[Resource], Connection | None]
"""The connection that a delivery Task goes to."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: the same message is under way for another recipient."""


def target(context: Context, case: Case, connection: Connection) -> Target:
    """The patient at an EHR without a FHIR endpoint: by that place's number in the request, never guessed.

    Raises Conflict where there is none, or several.
    """
    numbers = {
        i["value"]
        for i in case.patient.get("identifier", [])
        if i.get("system") == connection.patient_system and "value" in i
    }
    if len(numbers) != 1:
        said = "no number" if not numbers else "several numbers"
        raise Conflict(f"The request has {said} of the patient at {connection.name}; a person must look.")
    return Target(context.client(connection.name), "", record=case.patient)


def carried(case: Case, task: Resource, version_id: str, owner: Owner) -> tuple[str, ...]:
    """The version ids of the same document that went there by message before, or may have, newest first."""
    version = alignment.version_of(task)
    found = [
        (alignment.version_of(other), _is_notice(other), said["version-id"])
        for other in _to_same(case, task, owner)
        if _document(other) == _document(task) and alignment.version_of(other) <= version
        and went(said := alignment.evidence(other)) and said.get("version-id", version_id) != version_id
    ]  # fmt: skip
    return tuple(dict.fromkeys(version_id for *_, version_id in sorted(found, reverse=True)))


def decide(case: Case, task: Resource, connection: Connection, owner: Owner) -> Receipt | Wait | str | None:
    """Whether the message of a delivery may be sent now: None. Else the receipt of another delivery's, or why a person
    must decide.
    """
    for other in _twins(case, task, owner):
        said = alignment.evidence(other)
        if said.get("sent") == "accepted":
            evidence = {"how": "sent with another delivery", "why": "not to be read back"}
            return Receipt("accepted", "unverifiable", RUNG, said.get("location", ""), evidence)
        if other["status"] == "on-hold":
            return "The same message to this EHR waits for a person, with the delivery to another recipient."
        return Wait()
    said = alignment.evidence(task)
    if not unanswered(task) or connection.hl7_dedupes or connection.hl7_folder:
        return None
    if int(said.get("replays", "0")) > int(said.get("sent-after-replays", "0")):
        return None  # a person has decided
    return (
        "Nobody answered the message, and it can't be looked for there. Ask whether it arrived: if it did not, replay "
        "this delivery and it is sent again, with the same control id."
    )


def unanswered(task: Resource) -> bool:
    """Whether a message was sent with this Task, and nobody said what came of it."""
    said = alignment.evidence(task)
    return said.get("rung") == str(RUNG) and "send-started" in said and said.get("sent") == "unknown"


def went(said: dict[str, str]) -> bool:
    """Whether a message with this evidence arrived, or may have."""
    return said.get("rung") == str(RUNG) and said.get("sent") in ("accepted", "unknown") and "version-id" in said


def _twins(case: Case, task: Resource, owner: Owner) -> Iterator[Resource]:
    return (other for other in _same_version(case, task, owner) if went(alignment.evidence(other)))


def _same_version(case: Case, task: Resource, owner: Owner) -> Iterator[Resource]:
    return (
        other
        for other in _to_same(case, task, owner)
        if alignment.thing_of(other) == alignment.thing_of(task)
        and alignment.version_of(other) == alignment.version_of(task)
    )


def _to_same(case: Case, task: Resource, owner: Owner) -> Iterator[Resource]:
    there = owner(task)
    return (other for other in case.deliveries if other["id"] != task["id"] and owner(other) == there)


def _is_notice(task: Resource) -> bool:
    return alignment.thing_of(task)[0] == NOTICE


def _document(task: Resource) -> tuple[str, str]:
    """What a Task carries a version of; a notice is a version of the report."""
    return ("deliver-report", "") if _is_notice(task) else alignment.thing_of(task)
