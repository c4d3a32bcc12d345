"""What a page offers its reader on a case: only what the operation would take. It decides nothing; operations do."""

from __future__ import annotations

from dataclasses import dataclass

from fhir_secondop.access import rights
from fhir_secondop.model import Caller
from fhir_secondop.opinion import progress
from fhir_secondop.opinion.case import Case, Member
from fhir_secondop.service import proposing, review
from fhir_secondop.service.checks import may_close
from fhir_secondop.service.drafts import is_signed
from fhir_secondop.service.third import may_ask
from fhir_secondop.service.urgent import may_record

# A case that came to one of these takes no reviewer, no record and no report any more.
_ENDED = ("completed", "rejected", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Offers:
    """`member` is the recipient that the reader is; the rest says what may be offered."""

    coordinates: bool
    asks: bool  # for records, and requests for what is missing
    was_asked: bool  # to review, and has not answered
    reviews: bool  # has the case
    may_withdraw: bool
    member: Member | None
    decides: bool  # is the decision owner
    names_reviewer: bool
    sets_blind: bool  # says, before anybody is asked, whether the case is read blind first
    reassigns: bool
    cancels: bool
    seeks_third: bool
    follows_up: bool
    shows_draft: bool  # to the other clinicians, before it is signed
    proposes: bool  # something, before the report
    schedules: bool  # may record what was booked elsewhere
    holds: bool  # may put the case on hold, and let it go on
    records_call: bool  # that closes an urgent contact
    checks: bool  # says what something is that a chart was seen to contradict


def of_case(case: Case, caller: Caller) -> Offers:
    """What to offer this caller on this case."""
    desk = "coordinator" in caller.roles
    task = case.coordination
    owner = case.reviewer
    reviews = owner is not None and rights.acts_as(caller, owner.identifiers)
    decision_owner = case.decision_owner
    placer = case.requester is not None and rights.acts_as(caller, case.requester.identifiers)
    asks_about = is_signed(case) and may_ask(case, caller)
    is_open = task["status"] not in _ENDED
    return Offers(
        coordinates=desk,
        asks=is_open and (desk or reviews or "requester" in caller.roles),
        was_asked=_was_asked(case, caller),
        reviews=reviews,
        may_withdraw=reviews and is_open,
        member=next((m for m in case.audience if rights.acts_as(caller, m.person.identifiers)), None),
        decides=decision_owner is not None and rights.acts_as(caller, decision_owner.identifiers),
        names_reviewer=desk and progress.stage(case) in ("gathering", "to-assign", "asked"),
        # A third opinion is blind to the two before it: that is no choice.
        sets_blind=desk and task["status"] == "requested" and not case.reviews and "basedOn" not in case.request,
        reassigns=desk and any(review.has_case(case, one) for one in case.reviews),
        seeks_third=asks_about,
        follows_up=asks_about and case.report is not None and case.report["status"] != "entered-in-error",
        shows_draft=reviews and task["status"] == "in-progress",
        proposes=reviews and task["status"] in proposing.TAKES,
        records_call=desk or reviews or "requester" in caller.roles or may_record(case, caller),
        checks=may_close(case, caller),
        cancels=task["status"] in ("requested", "received", "accepted", "in-progress") and (desk or placer),
        schedules=task["status"] in ("accepted", "ready", "in-progress", "completed") and (desk or reviews),
        holds=is_open and (desk or reviews),
    )


def _was_asked(case: Case, caller: Caller) -> bool:
    for task in case.reviews:
        person = case.directory.person(task.get("owner", {}).get("reference", ""))
        if person is not None and rights.acts_as(caller, person.identifiers):
            return task["status"] in ("requested", "received")
    return False
