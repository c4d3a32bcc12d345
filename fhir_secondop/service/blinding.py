"""Blind-first: what the reviewer does not see yet, the first read that is locked, and the case that is opened early."""

from __future__ import annotations

from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Forbidden, Invalid
from fhir_secondop.model import BLIND, EVERYTHING, Caller, Resource
from fhir_secondop.opinion import blinding, codes
from fhir_secondop.opinion.blinding import Blindness
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import Person
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import audience, copies
from fhir_secondop.service.context import Context, draft_case, load, put, who
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]


def is_blind(case: Case) -> bool:
    """Whether the case is, or was, to be read blind first."""
    return blinding.of_case(case) is not None


def begun(task: Resource) -> Resource:
    """A coordination Task of a round that is read blind first."""
    return blinding.stated(task, Blindness(blinding.ASKED))


def mark(tx: Transaction, case: Case) -> None:
    """Says anew what is withheld; the case must have been loaded with its record, in this transaction."""
    resources.withhold(tx, case.id, blinding.withheld(case))


def mark_again(tx: Transaction, case: Case) -> None:
    """Says anew what is withheld, after something of the case was written, if it is to be read blind."""
    if is_blind(case):
        mark(tx, load(tx.connection, EVERYTHING, case.id, gathered=True))


def admit(tx: Transaction, case: Case, reviewer: Person) -> None:
    """A reviewer who is asked: the first opinion is withheld from that person, if the case is to be read blind."""
    found = blinding.of_case(case)
    if found is not None and found.state == blinding.ASKED:
        audience.admit(tx, case.id, reviewer.identifiers, part=BLIND)


def require_blindable(caller: Caller, case: Case) -> None:
    """Raises Conflict where somebody who sees everything would read blind."""
    if blinding.of_case(case) is not None and rights.visibility(caller, 0).everything:
        raise Conflict("This case is read blind first, and you see every case; somebody else must review it.")


def require_opened(tx: Transaction, context: Context, case_id: str) -> None:
    """Raises Conflict while the first opinion is withheld from the caller: no report is written about it yet."""
    if resources.is_blind(tx.connection, context.visibility(tx.caller), case_id):
        raise Conflict("Lock your first read with $first-read before you write the report, or open with $break-blind.")


def switch(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The coordinator says that the case is read blind first, or that it is not; before anybody was asked."""
    rights.require_role(caller)
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id, gathered=True)
        if case.coordination["status"] != "requested" or case.reviews:
            raise Conflict("A reviewer was asked already; what was shown can't be taken back.")
        wanted = Blindness(blinding.ASKED) if plain["on"] else None
        task = blinding.stated({**case.coordination, "lastModified": context.instant()}, wanted)
        put(tx, context, case_id, task)
        case = load(tx.connection, context.visibility(caller), case_id, gathered=True)
        if wanted:
            copies.set_pages_aside(tx, case_id)
        resources.withhold(tx, case_id, blinding.withheld(case) if wanted else ())
        return case.coordination


def first_read(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Locks the first read, and opens the first opinion; once more, with a reason, it is a change that is kept beside.

    Nobody changes a first read that is locked, its author neither.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id, drafts=True)
        person = _reviewer(case, caller)
        found = blinding.of_case(case)
        if found is None:
            raise Conflict("This case is not read blind first; write the report with $submit-report.")
        if found.state == blinding.OPENED:
            raise Conflict("The first opinion was opened early; there is no blind first read any more.")
        earlier = blinding.first_reads(case)
        if earlier and not plain.get("reason"):
            raise Invalid("Your first read is locked. To change it, say why: both are kept.", path="reason")
        made = _composed(case, person, plain, earlier, context.instant())
        put(tx, context, draft_case(case_id), made)
        _say(tx, context, case, made, "UPDATE" if earlier else "CREATE", plain.get("reason", ""))
        if not earlier:
            _open(tx, context, case, person, Blindness(blinding.LOCKED, context.instant()))
        return made


def break_blind(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Opens the first opinion before a first read is locked. It always works, and the report says so."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        person = _reviewer(case, caller)
        found = blinding.of_case(case)
        if found is None or found.state != blinding.ASKED:
            return case.coordination  # it is open
        task = _open(tx, context, case, person, Blindness(blinding.OPENED, context.instant(), plain["reason"]))
        _say(tx, context, case, task, "UPDATE", plain["reason"])
        return task


def publish(tx: Transaction, case_id: str) -> None:
    """The report is signed: its reviewer's first reads become part of the case, with what says who locked them."""
    for stored in resources.in_case(tx.connection, draft_case(case_id), ["ClinicalImpression", "Provenance"]):
        resources.move(tx, stored, case_id)


def _reviewer(case: Case, caller: Caller) -> Person:
    """The reviewer who has accepted. Raises Conflict, Forbidden."""
    person = case.reviewer
    if person is None or not rights.acts_as(caller, person.identifiers):
        raise Forbidden("This is for the reviewer who has accepted the case.")
    if case.coordination["status"] not in ("accepted", "ready", "in-progress", "on-hold"):
        raise Conflict(f"The review has ended: its Task is {case.coordination['status']}.")
    return person


def _open(tx: Transaction, context: Context, case: Case, person: Person, blindness: Blindness) -> Resource:
    task = blinding.stated({**case.coordination, "lastModified": context.instant()}, blindness)
    put(tx, context, case.id, task)
    audience.take_away(tx, case.id, person.identifiers, part=BLIND)
    return task


def _composed(case: Case, person: Person, plain: Plain, earlier: list[Resource], now: str) -> Resource:
    return compose(
        "ClinicalImpression",
        id=blinding.first_read_id(case, len(earlier)),
        status="completed",
        code=codes.concept(codes.SECTION, "first-read", "Blind first read"),
        subject={"reference": reference(case.patient)},
        encounter={"reference": reference(case.encounter)},
        date=now,
        assessor={"reference": person.practitioner or person.reference},
        previous={"reference": reference(earlier[-1])} if earlier else None,
        summary=plain["assessment"],
        finding=[{"itemCodeableConcept": {"text": text}} for text in plain.get("diagnoses", [])],
        note=[{"text": plain["plan"]}] if "plan" in plain else None,
        description=plain.get("reason"),
    )


def _say(tx: Transaction, context: Context, case: Case, what: Resource, activity: str, reason: str) -> None:
    now = context.instant()
    made = provenance(
        derived_id(case.id, "provenance", "blind", reference(what), now), [reference(what)], now, activity=activity,
        author=who(tx.caller), reason=reason,
    )  # fmt: skip
    put(tx, context, draft_case(case.id) if what["resourceType"] == "ClinicalImpression" else case.id, made)
