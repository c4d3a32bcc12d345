"""What was booked elsewhere is recorded: the Appointment, its Encounter, and how far the case has come."""

from __future__ import annotations

from typing import Any

from fhir_secondop.errors import Conflict, Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import consultation, workflow
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.opinion.consultation import CONSULTATION, DISCUSSION, RECORD_ONLY
from fhir_secondop.service import drafts, review
from fhir_secondop.service.context import Context, load, put, require_hand
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
_BUSINESS = {"booked": "visit-scheduled", "fulfilled": "visit-complete", "noshow": "visit-unattended"}
_WHY_NOT = {
    "on-hold": "resume it first", "requested": "nobody has accepted it yet", "received": "nobody has accepted it yet",
}  # fmt: skip


def schedule(context: Context, caller: Caller, case_id: str, plain: Plain) -> Plain:
    """Records a booking, or what became of it; the references of what was written. Repeated it changes nothing.

    Raises Conflict on a move that is not possible, Invalid where something is missing.
    """
    purpose = plain.get("for", CONSULTATION)
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        require_hand(tx, context, case)
        _require_time_for(case, purpose)
        if plain.get("mode") == RECORD_ONLY:
            return _without_visit(tx, context, case, purpose)
        known = consultation.appointments(case, purpose)
        number, booked = _booking(context, case, purpose, known, plain)
        if known and number <= len(known) and _same(known[number - 1], booked):
            encounter = _encounter_of(case, purpose, number, booked)
        else:
            _require_unfinished(case, purpose)
            put(tx, context, case_id, booked)
            encounter = _encounter_of(case, purpose, number, booked)
            if purpose == CONSULTATION:
                _carry_on(tx, context, case, booked, encounter)
            else:
                put(tx, context, case_id, encounter)
        task = resources.read(tx.connection, EVERYTHING, "Task", case.coordination["id"]).resource
        return {
            "appointment": reference(booked),
            "encounter": reference(encounter),
            "status": booked["status"],
            "businessStatus": workflow.business_status(task),
        }


def _require_time_for(case: Case, purpose: str) -> None:
    """Raises Conflict unless the case is where that can be booked or take place."""
    status = case.coordination["status"]
    if purpose == DISCUSSION:
        if not drafts.is_signed(case):
            raise Conflict("There is no signed report yet whose results could be discussed.")
        return
    if status not in ("accepted", "ready", "in-progress"):
        why = _WHY_NOT.get(status, "it has ended")
        raise Conflict(f"No consultation takes place in a case that is {status}: {why}.")


def _require_unfinished(case: Case, purpose: str) -> None:
    if purpose == CONSULTATION and case.encounter["status"] == "finished":
        raise Conflict("The consultation has taken place: it is finished, and nothing of it changes any more.")


def _booking(
    context: Context, case: Case, purpose: str, known: list[Resource], plain: Plain
) -> tuple[int, Resource]:  # fmt: skip
    """Which appointment of that purpose is meant, by its number, and how it stands from now on."""
    status = plain.get("status", "booked")
    last = known[-1] if known else None
    named = next((a for a in known if _booked_as(a) == plain.get("booking")), None) if "booking" in plain else last
    again = named is not None and (named["status"] == "booked" or named["status"] == status != "booked")
    if again and named is not None:
        before = {**consultation.period(named), **_kept(named)}
        number = known.index(named) + 1
    else:
        if named is not None and ("booking" in plain or "start" not in plain):
            raise Conflict(f"The appointment can't go from {named['status']} to {status}.", path="status")
        if last is not None and last["status"] == "booked":
            raise Conflict("Another appointment is booked; say first what became of it.", path="booking")
        if status == "cancelled":
            raise Conflict("There is no booking that could be cancelled.", path="status")
        before, number = {}, len(known) + 1
    whole = {**before, **plain}
    mode = plain.get("mode") or (consultation.mode_booked(named) if again and named else "")
    missing = [name for name in ("mode", "start", "end") if not {**whole, "mode": mode}.get(name)]
    if missing:
        raise Invalid("Say how it takes place, and from when to when.", path=missing[0])
    for name in ("start", "end"):
        whole[name] = context.clocks.calendar.instant(whole[name], name)
    if times.interval(whole["end"]).low <= times.interval(whole["start"]).low:
        raise Invalid("It ends before it begins.", path="end")
    if status in ("fulfilled", "noshow") and times.interval(whole["start"]).low > context.now():
        raise Invalid(f"It has not begun yet; it can't be {status}.", path="start")
    return number, consultation.appointment(case, number, whole, mode, status)


def _booked_as(appointment: Resource) -> str:
    return next((str(i["value"]) for i in appointment.get("identifier", [])), "")


def _kept(named: Resource) -> Plain:
    """What a later word on the same appointment need not say again."""
    place = next((d for p in named["participant"] if (d := p["actor"].get("display"))), "")
    found = {"booking": _booked_as(named), "place": place, "reason": consultation.why_not(named)}
    return {name: value for name, value in found.items() if value}


def _same(known: Resource, booked: Resource) -> bool:
    return {k: v for k, v in known.items() if k != "meta"} == {k: v for k, v in booked.items() if k != "meta"}


def _encounter_of(case: Case, purpose: str, number: int, booked: Resource) -> Resource:
    """The Encounter that an appointment is for, as it stands with it."""
    mode = consultation.mode_booked(booked)
    if purpose == DISCUSSION:
        return consultation.discussion(case, number, mode, booked)
    if booked["status"] not in ("booked", "fulfilled"):
        return consultation.formed(case.encounter, RECORD_ONLY)
    encounter = {**consultation.formed(case.encounter, mode), "appointment": [{"reference": reference(booked)}]}
    if booked["status"] == "fulfilled":
        encounter |= {"status": "finished", "period": consultation.period(booked)}
    return encounter


def _carry_on(tx: Transaction, context: Context, case: Case, booked: Resource, encounter: Resource) -> None:
    """What a booking of the consultation, or its end, means for Encounter and Tasks."""
    now, status = context.instant(), booked["status"]
    task = case.coordination
    business = _BUSINESS.get(status) or _business_without_visit(tx, task)
    if status == "fulfilled":
        if case.encounter["status"] == "planned":
            put(tx, context, case.id, {**encounter, "status": "in-progress", "period": {"start": booked["start"]}})
        if task["status"] != "in-progress":
            review.begin(tx, context, case, business)
            put(tx, context, case.id, encounter)
            return
    elif status != "booked" and task["status"] == "in-progress" and encounter["status"] == "planned":
        # The reviewer is at work on the record already: now that is the consultation.
        encounter = {**encounter, "status": "in-progress", "period": {"start": now}}
    put(tx, context, case.id, encounter)
    put(tx, context, case.id, workflow.moved(task, task["status"], now, business=business))


def _business_without_visit(tx: Transaction, task: Resource) -> str:
    """How far the case had come before anybody spoke of a visit."""
    if task["status"] == "in-progress":
        return "record-review"
    versions = resources.history(tx.connection, EVERYTHING, "Task", task["id"])
    stood = (workflow.business_status(v.resource) for v in versions)
    return next((business for business in stood if not business.startswith("visit-")), "records-requested")


def _without_visit(tx: Transaction, context: Context, case: Case, purpose: str) -> Plain:
    """The consultation is from the record alone."""
    if purpose == DISCUSSION:
        raise Invalid("A discussion with the patient is a visit, or by video.", path="mode")
    _require_unfinished(case, purpose)
    if consultation.open_visit(case) is not None:
        raise Conflict("A visit is booked; say first that it is cancelled, or what became of it.", path="mode")
    task, encounter = case.coordination, consultation.formed(case.encounter, RECORD_ONLY)
    put(tx, context, case.id, encounter)
    if workflow.business_status(task).startswith("visit-"):
        business = _business_without_visit(tx, task)
        task = workflow.moved(task, task["status"], context.instant(), business=business)
        put(tx, context, case.id, task)
    return {"encounter": reference(encounter), "businessStatus": workflow.business_status(task)}


def check_taken_place(case: Case) -> None:
    """Raises Conflict while a visit is booked of which nobody has said what became of it: the report has to say it."""
    visit = consultation.open_visit(case)
    if visit is not None:
        raise Conflict(
            f"A {visit['description']} is booked for {visit['start'][:16]}Z: record with $schedule what became of it, "
            "then sign."
        )
