"""Which deliveries and gatherings stand where, over all cases: the rows of `store.ledger`, from the Tasks."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.ehr import ladder
from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import alignment, codes, workflow
from fhir_secondop.opinion.case import Case
from fhir_secondop.store import batches, resources, tables
from fhir_secondop.store import ledger as rows
from fhir_secondop.store.database import Database, Transaction
from fhir_secondop.store.ledger import Entry

GATHER = "gather-records"
STATES = ("planned", "sending", "unknown", "on-hold", "done", "over")
OPEN = ("planned", "sending", "unknown", "on-hold")
LINK = "link"  # where it goes by no EHR
PEOPLE = ("Practitioner", "PractitionerRole", "Organization")
AT_ONCE = 100
_MADE = "ledger"  # the row of `reached` that says that every Task has its row


def is_kept(task: Resource) -> bool:
    """Whether this is a Task that goes to or comes from an EHR."""
    return workflow.is_delivery(task) or codes.has(task.get("code"), codes.TASK, GATHER)


def state_of(task: Resource) -> str:
    """One of STATES. "unknown": something was sent, and nobody has said whether it landed."""
    status = task["status"]
    if status in ("completed", "on-hold"):
        return "done" if status == "completed" else "on-hold"
    if status in ("failed", "cancelled", "rejected", "entered-in-error"):
        return "over"
    if workflow.business_status(task) == "unknown":
        return "unknown"
    return "sending" if status == "in-progress" else "planned"


def reason_of(task: Resource) -> str:
    """Why it is not done, as a code: a kind of an EHR's failure, a code of our status reasons, mismatch, waits …"""
    if state_of(task) in ("done", "over"):
        return ""
    if workflow.business_status(task) == "mismatch":
        return "mismatch"
    code = codes.code_of(task.get("statusReason"), codes.STATUS_REASON)
    return (code or alignment.evidence(task).get("last-failure", ""))[:64] if task.get("statusReason") else ""


def follow(tx: Transaction, case_id: str, task: Resource) -> None:
    """Puts the row of a Task in place. To be called with each version that is written."""
    rows.write(tx, entry_of(tx.connection, case_id, task))


def entry_of(connection: Connection, case_id: str, task: Resource) -> Entry:
    """The row of a Task. Where it goes stays as it was when the Task was planned: what is configured may change."""
    place = rows.place_of(connection, task["id"])
    if place is None:
        place = _place(connection, case_id, task)
    return Entry(
        task["id"], case_id, codes.code_of(task["code"], codes.TASK) or "", alignment.version_of(task), place,
        state_of(task), reason_of(task), _ms(task["authoredOn"]), _ms(task["lastModified"]), _done_at(task),
    )  # fmt: skip


def _done_at(task: Resource) -> int:
    """When the answer was stored, or the copy read back there; 0 where that is not, or it went by link.

    Of a delivery that is done the Task goes on changing: somebody acknowledges it.
    """
    if state_of(task) != "done":
        return 0
    if not workflow.is_delivery(task):
        return _ms(task["lastModified"])
    said = alignment.evidence(task)
    by_link = said.get("rung") == str(ladder.LINK)
    return 0 if by_link or not said.get("read-at") else _ms(said["read-at"])


def _ms(instant: str) -> int:
    return times.interval(instant).low


def _place(connection: Connection, case_id: str, task: Resource) -> str:
    """The organization that a delivery goes to, or the name of the connection."""
    for given in task.get("input", []):
        if codes.has(given["type"], codes.EVIDENCE, "connection"):
            return str(given["valueString"])
    owner = task["owner"]
    if "reference" not in owner:
        return str(owner.get("identifier", {}).get("value", ""))
    people = resources.in_case(connection, case_id, PEOPLE)
    person = Case(case_id, (stored.resource for stored in people)).directory.person(owner["reference"])
    return (person.organization if person else "") or LINK


def make(database: Database, caller: Any) -> int:
    """Makes the rows of all Tasks, where that was not done yet; how many. What an index is of must be there first."""
    with database.reading() as connection:
        reached = tables.reached.c
        if connection.execute(sa.select(reached.at).where(reached.name == _MADE)).first() is not None:
            return 0
    count = 0
    for rids in batches.of_rows(database, _tasks(), AT_ONCE):
        with database.transaction(caller) as tx:
            for row in tx.connection.execute(_in_cases(rids)):
                stored = resources.stored(row)
                follow(tx, str(stored.case_id), stored.resource)
                count += 1
    with database.transaction(caller) as tx:
        tx.connection.execute(sa.delete(tables.reached).where(reached.name == _MADE))
        tx.connection.execute(sa.insert(tables.reached).values(name=_MADE, at=0))
    return count


def _tasks() -> sa.Select[Any]:
    code = tables.token.c
    return sa.select(code.rid).where(
        code.type == "Task", code.param == "code", code.system == codes.TASK,
        sa.or_(code.code == GATHER, code.code.startswith(workflow.DELIVERS, autoescape=True)),
    )  # fmt: skip


def _in_cases(rids: list[int]) -> sa.Select[Any]:
    resource = tables.resource.c
    return (
        resources.rows()
        .where(resource.rid.in_(rids), resource.case_id.is_not(None), resource.deleted.is_(False),
               sa.not_(resources.IN_RECORD))
        .order_by(resource.rid)
    )  # fmt: skip
