"""What the domain adds to plain FHIR writes: a transaction that asks for a second opinion opens a case, and nobody
moves a Task or finishes a report around the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Forbidden
from fhir_secondop.fhir import refs, times
from fhir_secondop.model import EVERYTHING, Caller, Ready, Resource
from fhir_secondop.opinion import intake, workflow
from fhir_secondop.opinion.intake import Sent
from fhir_secondop.service import audience, clocks, holds, ledger, review
from fhir_secondop.service.context import Context, load, was_only_asked, whole_case
from fhir_secondop.service.intake import Opened, open_case
from fhir_secondop.store import resources
from fhir_secondop.store.bundles import Entry
from fhir_secondop.store.database import Change, Transaction


@dataclass(frozen=True, slots=True)
class CaseHooks:
    """The hooks of the service's own endpoint."""

    context: Context

    def before(self, caller: Caller, entries: Sequence[Entry], key: str) -> Sequence[Entry] | Ready:
        """A transaction that creates a second-opinion request is an intake; any other goes on as it is."""
        if not any(e.method == "POST" and intake.is_second_opinion(e.resource) for e in entries):
            return entries
        others = [e for e in entries if e.method != "POST" or e.if_none_exist is not None]
        if others:
            raise Conflict(
                "A transaction that opens a case only creates; send the rest on its own.",
                path=f"Bundle.entry[{others[0].place}].request",
            )
        sent = [
            Sent(e.full_url or f"#{e.place}", e.resource, f"Bundle.entry[{e.place}].resource.ofType({e.type})")
            for e in entries
        ]
        opened = open_case(self.context, caller, sent, [e.body for e in entries], key)
        return Ready(200, transaction_response(opened), f"ServiceRequest/{opened.case_id}")

    def within(self, transaction: Transaction) -> None:
        """Refuses what would go around the case's rules, whatever the caller's scopes are."""
        changes = list(transaction.changes)
        # What refers to these needs no look at what is stored: most references of a Bundle are within it.
        outside = {(change.type, change.id) for change in changes if change.case_id is None}
        for change in changes:
            _check(self.context, transaction, change, outside)


def transaction_response(opened: Opened) -> Resource:
    """The transaction-response of an intake: 201 for what it created, 200 for what a repeat found."""
    status = "201 Created" if opened.created else "200 OK"
    entries = [
        {
            "response": {
                "status": status,
                "location": stored.versioned,
                "etag": stored.etag,
                "lastModified": times.instant(stored.updated),
            }
        }
        for stored in opened.stored
    ]
    return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}


def _check(context: Context, tx: Transaction, change: Change, outside: set[tuple[str, str]]) -> None:
    if change.case_id is None:
        _outside(context, tx, change, outside)
        return
    versions = resources.history(tx.connection, EVERYTHING, change.type, change.id)
    case_id = whole_case(change.case_id)
    if change.interaction == "delete":
        raise Forbidden(f"{change.type}/{change.id} belongs to a case; nothing of a case is deleted.")
    if change.type == "Consent":
        if not _asks_for_patient(context, tx, case_id):
            raise Forbidden("A consent is changed by the requester or by the coordinator.")
        return
    if change.type != "Task":
        # Nor is the placer's request edited: a change of content is a new request that replaces it.
        raise Forbidden(f"A {change.type} of a case is changed by the operations of the case only.")
    before, after = versions[1].resource, versions[0].resource
    _check_owner(tx, case_id, before)
    if workflow.is_urgent(before) and before["status"] != after["status"]:
        raise Forbidden(
            "An urgent contact is closed by a recorded conversation only: $record-call.", path="Task.status"
        )
    if workflow.is_check(before) and before["status"] != after["status"]:
        raise Forbidden("An item to check is closed by saying what it is: $close-check.", path="Task.status")
    held_from = review.held_from_of(versions)
    workflow.check_move(before, after, held_from=held_from)
    _check_kept(before, after)
    if ledger.is_kept(after):
        ledger.follow(tx, case_id, after)
    if before["status"] == after["status"]:
        return
    if workflow.is_review(after):
        _review_moved(context, tx, case_id, before, after)
    elif workflow.is_coordination(after) and after["status"] not in ("received", "rejected", "on-hold", held_from):
        raise Forbidden(
            "Accepting, carrying on and cancelling a case are operations: $accept, $cancel.", path="Task.status"
        )
    elif workflow.is_coordination(after):
        holds.follow(tx, context, case_id, after)
        clocks.attend(tx, context, case_id)


def _asks_for_patient(context: Context, tx: Transaction, case_id: str) -> bool:
    """Whether the caller may say what the patient wants: it coordinates, or requests and sees this case's record."""
    has_part = resources.sees_record(tx.connection, context.visibility(tx.caller), case_id)
    if not has_part or not rights.has_role(tx.caller, "requester"):
        return False
    return not was_only_asked(load(tx.connection, EVERYTHING, case_id), tx.caller)


def _outside(context: Context, tx: Transaction, change: Change, outside: set[tuple[str, str]]) -> None:
    """A resource that belongs to no case: a Consent of a case's patient becomes part of it, anything else may not
    refer to a case, or it would stand in a search beside what the case itself says. Nor do those `outside`.
    """
    for text in dict.fromkeys(refs.find(change.resource)):
        ref = refs.parse(text)
        if ref is None or (ref.type, ref.id) in outside:
            continue
        if resources.case_of(tx.connection, ref.type, ref.id) is None:
            continue
        # What the caller can't see is treated like what isn't there: the answer must not tell the two apart.
        target = resources.find(tx.connection, context.visibility(tx.caller), ref.type, ref.id)
        if target is None or target.case_id is None:
            continue
        if change.type != "Consent" or not _asks_for_patient(context, tx, target.case_id):
            raise Forbidden(f"It refers to {target.type}/{target.id} of a case; use the operations of the case.")
        stored = resources.find(tx.connection, EVERYTHING, change.type, change.id)
        assert stored is not None
        resources.adopt(tx, stored, target.case_id)
        outside.discard((change.type, change.id))
        return


def _review_moved(context: Context, tx: Transaction, case_id: str, before: Resource, after: Resource) -> None:
    """A reviewer who answers by updating its Task: the same as $accept and $decline. A note is the attestation."""
    case = load(tx.connection, EVERYTHING, case_id)
    person = case.directory.person(after.get("owner", {}).get("reference", ""))
    if person is None or not rights.acts_as(tx.caller, person.identifiers):
        raise Forbidden("Only the reviewer who was asked may answer.", path="Task.status")
    if after["status"] == "accepted":
        attestation = " ".join(note.get("text", "") for note in after.get("note", []))
        review.take(tx, context, case, after, None, attestation, "")
    elif after["status"] == "rejected":
        audience.dismiss(tx, case, person.identifiers)
    elif after["status"] != "received":
        raise Forbidden("A review under way is moved by the operations of the case.", path="Task.status")


def _check_owner(tx: Transaction, case_id: str, task: Resource) -> None:
    """Raises Forbidden unless the caller coordinates, or the Task is its own."""
    if rights.has_role(tx.caller):
        return
    owner = task.get("owner", {}).get("reference", "")
    person = load(tx.connection, EVERYTHING, case_id).directory.person(owner) if owner else None
    if person is None or not rights.acts_as(tx.caller, person.identifiers):
        raise Forbidden("A Task is changed by its owner or by the coordinator.", path="Task.owner")


_CHANGING = frozenset({"status", "statusReason", "businessStatus", "note", "lastModified", "executionPeriod", "meta"})


def _check_kept(before: Resource, after: Resource) -> None:
    changing = _CHANGING
    carried = workflow.is_carried(before)
    if carried or workflow.is_coordination(before):
        changing = changing - {"businessStatus"}  # how far it has come is what was done, and not what somebody says
    if carried:
        given_up = workflow.is_delivery(before) and after["status"] == "failed"
        if after["status"] != before["status"] and not given_up:
            raise Forbidden("Its workflow moves this Task; a delivery may be given up (failed).", path="Task.status")
    if set(before.get("meta", {}).get("profile", [])) - set(after.get("meta", {}).get("profile", [])):
        raise Forbidden("A Task of a case keeps the profile that it claims.", path="Task.meta.profile")
    for element in sorted({*before, *after} - changing):
        if before.get(element) != after.get(element):
            raise Forbidden("Only status, reason and notes of a Task may be changed here.", path=f"Task.{element}")
