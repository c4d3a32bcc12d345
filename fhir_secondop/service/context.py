"""What a use case works with, and how the resources of a case are loaded and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.access import rights
from fhir_secondop.alert_settings import Alerts
from fhir_secondop.ehr.client import Client
from fhir_secondop.errors import Forbidden, Invalid, NotFound
from fhir_secondop.fhir import attachments, codec, times, validate
from fhir_secondop.fhir.codec import Body
from fhir_secondop.model import EVERYTHING, Caller, Connection, Resource, Visibility
from fhir_secondop.opinion import checklist, clock_file
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.clocks import Policy
from fhir_secondop.service import breaker, ledger
from fhir_secondop.service.settling import Settling
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Database, Transaction
from fhir_secondop.store.resources import Stored

# Who acts when a workflow runs: it may see every case, and what it does carries this name in Provenance.
SERVICE = Caller("service", "Second opinion platform", frozenset({"system"}), ("system/*.cruds",))
LARGE_CHARACTERS = 50_000
ROWS_AT_ONCE = 4  # of which each may hold a file of several MB


class Enqueue(Protocol):
    """Puts a workflow into the transaction: it runs once the transaction is committed, and never without it."""

    def __call__(
        self, tx: Transaction, workflow: str, key: str, partition: str, *args: str | int, delay_s: float = 0
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """The real parts, chosen in `bootstrap`. `document_keys` is the file of the keys that sign. `now` gives ms since
    1970; `contact` says whom a recipient calls."""

    database: Database
    base_url: str
    public_url: str
    connections: Mapping[str, Connection]
    client: Callable[[str], Client]
    enqueue: Enqueue
    consent_policy: str
    blocked_labels: frozenset[str]
    link_secret: bytes
    document_keys: Path
    now: Callable[[], int]
    settling: Settling
    checklists: Path | None = None
    contact: str = ""
    proposal_days: int = 60  # in which a proposal is answered
    urgent_minutes: tuple[int, ...] = (15, 30, 60)  # after which an urgent contact escalates
    drift_hours: int = 24  # between two looks at a chart to which something was delivered; 0 for never
    drift_days: int = 90  # for which it is looked at after the last thing that was done
    same_organization: str = "warn"  # what independence takes that for
    clocks: Policy = field(default_factory=clock_file.shipped)
    alerts: Alerts = field(default_factory=Alerts)
    circuit: breaker.Policy = field(default_factory=breaker.Policy)

    def instant(self) -> str:
        """Now, as a FHIR instant."""
        return times.instant(self.now())

    def visibility(self, caller: Caller) -> Visibility:
        """What the caller may see now."""
        return rights.visibility(caller, self.now())

    def checklist(self, case: Case) -> checklist.Checklist:
        """The checklist for what is under review: the site's own, else ours."""
        return checklist.choose(case.items, self.checklists)

    def connection_of(self, organization: str) -> Connection | None:
        """The connection to the EHR of this organization ("system|value")."""
        ehrs = (c for c in self.connections.values() if c.role == "ehr")
        return next((c for c in ehrs if organization and c.organization == organization), None)


def who(caller: Caller) -> Resource:
    """A caller as a Reference: by its identifier where it has one, else by its id here."""
    system, _, value = min(caller.parties, default=f"urn:secondop:caller|{caller.id}").rpartition("|")
    return {"identifier": {"system": system, "value": value}, "display": caller.name}


def draft_case(case_id: str) -> str:
    """What a draft's rows belong to until it is signed: the reviewer sees them, the case's audience does not."""
    return f"{case_id}#draft"


def quarantine(case_id: str) -> str:
    """What somebody else's data that came along belongs to: the coordinator may look, the case's audience may not."""
    return f"{case_id}#quarantine"


def urgent_zone(case_id: str) -> str:
    """What an urgent contact and its conversation belong to: clinicians of the case see it, the patient does not."""
    return f"{case_id}#urgent"


def preliminary_zone(case_id: str) -> str:
    """What a preliminary report belongs to until it is signed: clinicians of the case see it, the patient does not."""
    return f"{case_id}#preliminary"


def whole_case(zone: str) -> str:
    """The case that a zone is of."""
    return zone.partition("#")[0]


# What the directory of reviewers belongs to: coordinators see it, no case's audience does.
DIRECTORY = "#directory"


def load(
    connection: SqlConnection, visibility: Visibility, case_id: str, *, gathered: bool = False, drafts: bool = False,
    files: bool = False,
) -> Case:  # fmt: skip
    """The case with its own resources, with the pulled ones when `gathered`, with an unsigned draft when `drafts`.

    Its urgent contacts and a preliminary report are there for who stands in their audience.

    Large files inside the pulled ones are left out, unless `files`: their size and hash stand for them. Raises
    NotFound, and Forbidden when `gathered` is asked for by somebody who sees the case without its record: what is
    counted or compared over a part of it would be false.
    """
    seen = resources.find(connection, visibility, "ServiceRequest", case_id)
    if seen is None or seen.deleted or seen.case_id != case_id:
        raise NotFound(f"There is no case {case_id}.")
    whole = resources.sees_record(connection, visibility, case_id)
    if gathered and not whole:
        raise Forbidden("The record gathered for this case is for its requester, its reviewer and the coordinator.")
    wanted = [case_id, draft_case(case_id)] if drafts else [case_id]
    zones = [urgent_zone(case_id), preliminary_zone(case_id)]
    others = sa.and_(tables.resource.c.case_id.in_(zones), resources.admitted(visibility))
    query = resources.rows(visibility).where(
        sa.or_(tables.resource.c.case_id.in_(wanted), others),
        tables.resource.c.deleted.is_(False),
        sa.not_(resources.hidden(visibility)),
    )
    if not whole:
        query = query.where(sa.not_(resources.IN_RECORD))
    pulled = tables.resource.c.owner.startswith(resources.SOURCE)
    # The pages that the pulled ones came in are evidence, not content.
    query = query.where(sa.not_(sa.and_(tables.resource.c.type == "Binary", pulled) if gathered else pulled))
    found: list[tuple[int, Resource]] = []
    for row in connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE) if gathered else query):
        stored = resources.stored(row, visibility)
        resource = stored.resource
        if _is_large(stored) and not files:  # a record of many scanned letters does not fit into memory
            resource = attachments.without_data(resource, LARGE_CHARACTERS)
        found.append((stored.rid, resource))
    # Oldest first. Sorted here: a database would sort the whole rows, and hold every file at once.
    return Case(case_id, (resource for _, resource in sorted(found, key=itemgetter(0))))


def require_record(tx: Transaction, context: Context, case_id: str) -> None:
    """Raises Forbidden unless the caller sees the record of the case, too: who gets its report asks for nothing."""
    if not resources.sees_record(tx.connection, context.visibility(tx.caller), case_id):
        raise Forbidden("This is for the requester of the case, its reviewer and the coordinator.")


def require_hand(tx: Transaction, context: Context, case: Case) -> None:
    """Raises Forbidden unless the caller has the case in hand: it coordinates, asked for the opinion, or reviews it.

    A reviewer who was asked and has not accepted reads the record, and changes nothing of it yet.
    """
    if rights.has_role(tx.caller, "requester"):
        require_record(tx, context, case.id)
        if was_only_asked(case, tx.caller):
            raise Forbidden("You were asked to review this case; accept it first.")
        return
    if case.reviewer is None or not rights.acts_as(tx.caller, case.reviewer.identifiers):
        raise Forbidden("This is for the requester of the case, the reviewer who has accepted it, and the coordinator.")


def was_only_asked(case: Case, caller: Caller) -> bool:
    """Whether the caller was asked to review the case, has not answered, and is nothing else to it.

    Who asks for opinions elsewhere does not ask for this one by that.
    """
    asked = (t["owner"]["reference"] for t in case.reviews if t["status"] in ("requested", "received"))
    people = [person for ref in asked if (person := case.directory.person(ref)) is not None]
    mine = any(rights.acts_as(caller, person.identifiers) for person in people)
    return mine and not (
        rights.has_role(caller) or any(rights.acts_as(caller, m.person.identifiers) for m in case.audience)
    )


def _is_large(stored: Stored) -> bool:
    return stored.owner.startswith(resources.SOURCE) and len(stored.body.text) > LARGE_CHARACTERS


def case_of_task(connection: SqlConnection, visibility: Visibility, task_id: str) -> tuple[str, Stored]:
    """The case that a Task belongs to, and the Task. Raises NotFound."""
    task = resources.read(connection, visibility, "Task", task_id)
    if task.case_id is None:
        raise NotFound(f"Task/{task_id} belongs to no case.")
    return whole_case(task.case_id), task


@dataclass(frozen=True, slots=True)
class Checked:
    """A resource of ours that was found valid, with its text: ready for the store."""

    resource: Resource
    body: Body


def checked(resource: Resource) -> Checked:
    """Validates what we composed, like everything else. Before a transaction, so that nobody waits for it meanwhile.

    Raises Invalid.
    """
    resource = _in_order(resource)
    faults = [issue for issue in validate.validate(resource) if issue.severity in ("error", "fatal")]
    if faults:
        raise Invalid(f"A {resource['resourceType']} of ours is not valid.", issues=faults)
    return Checked(resource, codec.compose(resource))


def _in_order(resource: Resource) -> Resource:
    """A Task that was not modified before it was authored (invariant inv-1): the clock of the machine that authored it
    may be ahead of ours, and ours may have been set back.
    """
    authored, modified = resource.get("authoredOn"), resource.get("lastModified")
    if resource["resourceType"] != "Task" or not authored or not modified:
        return resource
    if times.interval(modified).low >= times.interval(authored).low:
        return resource
    return {**resource, "lastModified": authored}


def put(
    tx: Transaction, context: Context, case_id: str, what: Resource | Checked, *, owner: str | None = None
) -> Stored:
    """Stores a resource of the case: the next version of it, or its first."""
    ready = what if isinstance(what, Checked) else checked(what)
    resource = ready.resource
    if resource["resourceType"] == "Task" and ledger.is_kept(resource):
        ledger.follow(tx, case_id, resource)
    before = resources.find(tx.connection, EVERYTHING, resource["resourceType"], resource["id"])
    if before is None:
        return resources.create(
            tx, ready.body, resource, base_url=context.base_url, resource_id=resource["id"], case_id=case_id,
            owner=owner,
        )  # fmt: skip
    return resources.update(tx, before, ready.body, resource, base_url=context.base_url)


def drop_draft(tx: Transaction, case_id: str) -> None:
    """Deletes what is unsigned: it was signed, or its reviewer left and the next one begins anew."""
    for zone in (draft_case(case_id), preliminary_zone(case_id)):
        for stored in resources.in_case(tx.connection, zone):
            resources.delete(tx, stored)


def put_all(tx: Transaction, context: Context, case_id: str, composed: Iterable[Resource]) -> None:
    """`put` for each."""
    for resource in composed:
        put(tx, context, case_id, resource)
