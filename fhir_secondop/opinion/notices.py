"""What somebody in the case is told, once: a Communication of the case. Pure."""

from __future__ import annotations

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, proposals
from fhir_secondop.opinion.calendar import Calendar
from fhir_secondop.opinion.case import Case, derived_id, profile, reference
from fhir_secondop.opinion.clocks import Clock, Clocks
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import Person

ACCEPTED, LATE, OVERDUE, PROPOSAL_ENDED, RESULT, NOT_ACKNOWLEDGED = codes.NOTICES
CLOCKS = {"request": "since the request", "record": "since the record was complete"}
_FREE = "Nothing here holds your decision back: decide when you must."


def accepted(case: Case, reviewer: str, clocks: Clocks, calendar: Calendar, now: str) -> Resource | None:
    """To the decision owner: who has accepted, and when we are due. None where nobody is named to decide."""
    due = clocks.due_day(calendar)
    said = f"{reviewer} has accepted the second opinion on your decision."
    said += f" It is due on {due} ({calendar.zone.key})." if due else " No date has been promised."
    if is_late(case, clocks, calendar):
        said += f" That is after your deadline, {deadline(case)}."
    return _to_owner(case, ACCEPTED, f"{said} {_FREE}", now)


def late(case: Case, clocks: Clocks, calendar: Calendar, now: str) -> Resource | None:
    """To the decision owner: our due date is after the deadline now. None where nobody is named to decide."""
    paused = f" The case is on hold ({clocks.pause}), and the date moves on while it is." if clocks.pause else ""
    due = f"{clocks.due_day(calendar)} ({calendar.zone.key})"
    said = f"The second opinion is due on {due}, after your deadline, {deadline(case)}."
    return _to_owner(case, LATE, f"{said}{paused} {_FREE}", now)


def overdue(case: Case, name: str, clock: Clock, calendar: Calendar, now: str) -> Resource:
    """A clock has passed its target: said once a case and clock, to the reviewer who has the case, if one has."""
    owner = case.coordination.get("owner")
    target = clock.target.words(clock.target.ms) if clock.target else ""
    said = f"The second opinion was due on {calendar.local(clock.due or 0)}: {target} {CLOCKS[name]}."
    recipient = [{"reference": owner["reference"]}] if owner else None
    return _notice(case, OVERDUE, said, now, derived_id(case.id, "notice", OVERDUE, name), recipient)


def proposal_ended(case: Case, proposal: Resource, now: str) -> Resource:
    """To the reviewer: what became of what was proposed."""
    found = proposals.outcome(proposal)
    said = f"“{proposals.stated(proposal)[1]}”: {found['outcome']}, by {found['by']}."
    said += f" Reason: {found['reason']}" if "reason" in found else ""
    # A later word of whoever decides is news again.
    key = derived_id(case.id, "notice", PROPOSAL_ENDED, proposal["id"], found["at"])
    return _notice(case, PROPOSAL_ENDED, said, now, key, [proposal["requester"]])


def result_arrived(case: Case, proposal: Resource, cited: str, now: str) -> Resource:
    """To the reviewer: a result of what was proposed is in the record."""
    said = f"“{proposals.stated(proposal)[1]}”: a result is in the record, {cited}."
    key = derived_id(case.id, "notice", RESULT, proposal["id"], cited)
    return _notice(case, RESULT, said, now, key, [proposal["requester"]])


def not_acknowledged(case: Case, person: Person, version: int, since: str, now: str) -> Resource:
    """To a provider who has a version, or a link to it, and has not acknowledged it; `since` is the day of that."""
    said = f"Version {version} of the second opinion report has been ready for you since {since}. "
    said += "Please read it and acknowledge it."
    key = reminder_id(case, person, version)
    return _notice(case, NOT_ACKNOWLEDGED, said, now, key, [{"reference": person.reference}])


def reminder_id(case: Case, person: Person, version: int) -> str:
    """The id of the one reminder of a version that a provider gets."""
    return derived_id(case.id, "notice", NOT_ACKNOWLEDGED, version, person.key)


def is_late(case: Case, clocks: Clocks, calendar: Calendar) -> bool:
    """Whether our due date is after the decision's deadline."""
    due, until = clocks.due_day(calendar), deadline(case)
    # A deadline may be a month or a year: it ends with its last day.
    return due is not None and bool(until) and times.interval(due.isoformat()).low >= times.interval(until).high


def deadline(case: Case) -> str:
    """The date by which the decision is made, or ""."""
    return str(codes.extension_value(case.request, codes.DECISION_DEADLINE) or "")


def _to_owner(case: Case, topic: str, text: str, now: str) -> Resource | None:
    owner = case.decision_owner
    if owner is None:
        return None
    # Once for each coordination Task: the next reviewer's acceptance is news again.
    key = derived_id(case.id, "notice", topic, case.coordination["id"])
    return _notice(case, topic, text, now, key, [{"reference": owner.reference}])


def _notice(
    case: Case, topic: str, text: str, now: str, resource_id: str, recipient: list[Resource] | None
) -> Resource:  # fmt: skip
    return compose(
        "Communication",
        meta=profile("case-notice"),
        id=resource_id,
        basedOn=[{"reference": reference(case.request)}],
        status="completed",
        topic=codes.concept(codes.NOTICE, topic),
        subject={"reference": reference(case.patient)},
        about=[{"reference": reference(case.coordination)}],
        recipient=recipient,
        sent=now,
        payload=[{"contentString": text}],
    )


def of_case(case: Case, *topics: str) -> list[Resource]:
    """The notices of the case on these topics, or all, oldest first."""
    return [c for c in case.of_type("Communication") if topic_of(c) and (not topics or topic_of(c) in topics)]


def topic_of(communication: Resource) -> str:
    """What a notice of ours is about; "" of any other Communication."""
    return codes.code_of(communication.get("topic"), codes.NOTICE) or ""


def text_of(notice: Resource) -> str:
    """What a notice says."""
    return " ".join(part["contentString"] for part in notice["payload"])


def is_for(notice: Resource, person: Person) -> bool:
    """Whether a notice is addressed to that person."""
    named = {r.get("reference") for r in notice.get("recipient", [])}
    return bool(named & {person.reference, person.practitioner})
