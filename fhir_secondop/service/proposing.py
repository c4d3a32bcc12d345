"""Proposals from the reviewer's word to their end: made, delivered, answered, aged out, taken back.

What a signed report recommends reaches everybody with the report. What is proposed before that is delivered by itself.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Forbidden, Invalid, NotFound
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import notices, proposals, records, report
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.opinion.people import Person
from fhir_secondop.service import blinding, drafts
from fhir_secondop.service.context import SERVICE, Context, load, put
from fhir_secondop.service.delivering import orders
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
WORKFLOW = "age-proposal"
TAKES = ("accepted", "ready", "in-progress", "on-hold")
"""The states of a case in which something may be proposed before the report."""


def propose(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The reviewer proposes a test or a change before the report; every recipient gets it. Repeated it is the same.

    Raises Conflict once the report is signed: its recommendations are the proposals then.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        reviewer = drafts.as_reviewer(case, caller)
        if case.coordination["status"] not in TAKES:
            raise Conflict("The report is signed: what else is proposed stands in its next version ($amend-report).")
        wanted = (plain["kind"], plain["text"])
        for known in proposals.of_case(case):
            if proposals.is_open(known) and proposals.stated(known) == wanted:
                return known
        # Who reads blind does not see everybody of the case; they get it all the same.
        made = _make(tx, context, load(tx.connection, EVERYTHING, case_id), reviewer, *wanted,
                     why=plain.get("why", ""), until=plain.get("until", ""))  # fmt: skip
        _deliver(tx, context, case_id, made, proposals.PROPOSED)
        return made


def _make(
    tx: Transaction, context: Context, case: Case, reviewer: Person, kind: str, text: str, *, why: str = "",
    until: str = "", carried_by: str = "",
) -> Resource:  # fmt: skip
    day = context.clocks.calendar.day(context.now())
    until = until or (day + timedelta(days=context.proposal_days)).isoformat()
    if times.interval(until).high <= context.now():
        raise Invalid("That day has passed; name one on which it may still be answered.", path="until")
    made = proposals.resource(case, kind=kind, text=text, why=why, reviewer=reviewer.reference, now=context.instant(),
                              until=until, carried_by=carried_by)  # fmt: skip
    put(tx, context, case.id, records.labelled(case, made))
    enqueue(tx, context, made)
    return made


def _deliver(tx: Transaction, context: Context, case_id: str, proposal: Resource, version: int) -> None:
    stored = resources.read(tx.connection, EVERYTHING, "ServiceRequest", proposal["id"])
    case = load(tx.connection, EVERYTHING, case_id)
    orders.plan(tx, context, case, "proposal", version, stored.versioned)


def signed(tx: Transaction, context: Context, case: Case, draft: report.Draft, reviewer: Person, *, kind: str) -> None:
    """What the report that was just signed proposes; what it no longer does is taken back, all of a retracted one."""
    given = [] if kind == "entered-in-error" else draft.get("recommendations", [])
    wanted = [(r["kind"], r["text"]) for r in given if r.get("kind") in proposals.KINDS]
    known = [one for one in proposals.of_case(case) if proposals.outcome(one).get("outcome") != proposals.WITHDRAWN]
    for one in known:
        dropped = proposals.is_carried(one) or kind == "entered-in-error"
        if proposals.is_open(one) and dropped and proposals.stated(one) not in wanted:
            _take_back(tx, context, case.id, one, reviewer.name, f"the report is {kind} and no longer proposes it")
    there = {proposals.stated(one) for one in known}
    carried_by = reference(case.report) if case.report else ""
    for one_kind, text in dict.fromkeys(wanted):
        if (one_kind, text) not in there:
            case = load(tx.connection, EVERYTHING, case.id)
            _make(tx, context, case, reviewer, one_kind, text, carried_by=carried_by)


def _take_back(tx: Transaction, context: Context, case_id: str, proposal: Resource, by: str, reason: str) -> None:
    after = proposals.ended(proposal, proposals.WITHDRAWN, by=by, at=context.instant(), reason=reason)
    put(tx, context, case_id, after)
    if not proposals.is_carried(proposal):  # else the report's own next version says it
        _deliver(tx, context, case_id, after, proposals.TAKEN_BACK)


def withdraw(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The reviewer takes an open proposal back; who got it is told. Raises Conflict when it has ended."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        reviewer = drafts.as_reviewer(case, caller)
        one = named(case, plain["proposal"])
        if proposals.is_carried(one):
            raise Conflict("The signed report proposes it; take it back with $amend-report.")
        if not proposals.is_open(one):
            raise Conflict(f"The proposal has ended: it is {proposals.outcome(one)['outcome']}.")
        _take_back(tx, context, case_id, one, reviewer.name, plain["reason"])
        return resources.read(tx.connection, EVERYTHING, "ServiceRequest", one["id"]).resource


def named(case: Case, number: int) -> Resource:
    """The proposal with that number. Raises NotFound."""
    for one in proposals.of_case(case):
        if proposals.number_of(one) == number:
            return one
    raise NotFound(f"The case has no proposal {number}; its page lists them.", path="proposal")


def answer(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """A recipient takes a proposal up, or not and says why; only who decides may say otherwise later.

    Raises Forbidden unless the caller is a recipient of the case, Conflict when it has ended.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        member = next((m for m in case.audience if rights.acts_as(caller, m.person.identifiers)), None)
        if member is None:
            raise Forbidden("A proposal is answered by a recipient of the case.")
        one = named(case, plain["proposal"])
        chosen, reason = plain["outcome"], plain.get("reason", "")
        if chosen == proposals.DECLINED and not reason:
            raise Invalid("Say why it is not taken up; the reviewer learns it.", path="reason")
        before = proposals.outcome(one)
        if (before.get("outcome"), before.get("reason", ""), before.get("by")) == (chosen, reason, member.person.name):
            return one
        decides = "decision-owner" in member.roles and before.get("outcome") in (proposals.ACCEPTED, proposals.DECLINED)
        if before and not decides:
            raise Conflict(f"The proposal has ended: {before['by']} said {before['outcome']} on {before['at'][:10]}.")
        return _end(tx, context, case, one, chosen, member.person.name, reason)


def _end(
    tx: Transaction, context: Context, case: Case, proposal: Resource, outcome: str, by: str, reason: str = ""
) -> Resource:  # fmt: skip
    """What became of it, and the reviewer is told."""
    after = proposals.ended(proposal, outcome, by=by, at=context.instant(), reason=reason)
    put(tx, context, case.id, after)
    put(tx, context, case.id, notices.proposal_ended(case, after, context.instant()))
    blinding.mark_again(tx, case)
    return after


def enqueue(tx: Transaction, context: Context, proposal: Resource, number: int = 1) -> None:
    """The workflow that looks when the day of a proposal is over; one that is there already stays the only one."""
    ends = times.interval(proposals.until(proposal)).high
    wait = max(0.0, (ends - context.now()) / 1000)
    key = f"{WORKFLOW}-{proposal['id']}-{number}"
    context.enqueue(tx, WORKFLOW, key, WORKFLOW, proposal["id"], number, delay_s=wait)


def age_out(context: Context, proposal_id: str, number: int) -> str:
    """Nobody has answered in time. Run again it changes nothing."""
    with context.database.transaction(SERVICE) as tx:
        stored = resources.read(tx.connection, EVERYTHING, "ServiceRequest", proposal_id)
        one = stored.resource
        if not proposals.is_open(one) or stored.case_id is None:
            return "ended"
        if times.interval(proposals.until(one)).high > context.now():  # another machine's clock is ahead of ours
            enqueue(tx, context, one, number + 1)
            return "later"
        case = load(tx.connection, EVERYTHING, stored.case_id)
        _end(tx, context, case, one, proposals.AGED_OUT, "nobody", f"nobody answered by {proposals.until(one)}")
        return proposals.AGED_OUT
