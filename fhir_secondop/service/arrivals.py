"""A result arrives for what the reviewer proposed: the case goes on, or the signed report gets an addendum."""

from __future__ import annotations

from typing import Any

from fhir_secondop.errors import Conflict, NotFound
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import notices, proposals, report
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.service import blinding, drafts, holds, signing
from fhir_secondop.service.context import Context, load, put, require_hand
from fhir_secondop.service.proposing import named
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
_RESULTS = ("DiagnosticReport", "DocumentReference", "ImagingStudy", "Media", "Observation", "Procedure")
_REASON_CHARACTERS = 500


def result(context: Context, caller: Caller, case_id: str, plain: Plain) -> Plain:
    """A result in the record answers a proposal: the case goes on, or an addendum to the signed report is begun.

    Answers what it brought about: "noted", "resumed" or "addendum". Raises NotFound when the record has no such
    resource, Conflict when it was taken back.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id, gathered=True)
        require_hand(tx, context, case)
        one, cited = named(case, plain["proposal"]), plain["result"]
        kind, _, resource_id = cited.partition("/")
        if not is_result(cited) or case.find(kind, resource_id) is None:
            raise NotFound(f"The record has no {cited}; a result is one of {', '.join(_RESULTS)}.", path="result")
        if cited in proposals.results(one):
            return _brought(one, "noted")
        if proposals.outcome(one).get("outcome") == proposals.WITHDRAWN:
            raise Conflict("The proposal was taken back; its result is in the record all the same.")
        if proposals.is_open(one):
            one = proposals.ended(one, proposals.ACCEPTED, by=caller.name, at=context.instant(),
                                  reason="its result is in the record")  # fmt: skip
        after = proposals.with_result(one, cited)
        put(tx, context, case_id, after)
        # Also who reads blind is told: what was found for the reviewer is not the opinion under review.
        whole = load(tx.connection, EVERYTHING, case_id, drafts=True)
        put(tx, context, case_id, notices.result_arrived(whole, after, cited, context.instant()))
        blinding.mark_again(tx, whole)
        return _brought(after, _carry_on(tx, context, whole, after))


def is_result(cited: str) -> bool:
    """Whether a reference is to something that a result may be."""
    return cited.partition("/")[0] in _RESULTS


def _brought(proposal: Resource, what: str) -> Plain:
    return {"proposal": reference(proposal), "status": proposal["status"], "brought": what}


def _carry_on(tx: Transaction, context: Context, case: Case, proposal: Resource) -> str:
    if holds.awaits_tests(case):
        holds.go_on(tx, context, case)
        return "resumed"
    standing = case.report is not None and case.report["status"] != "entered-in-error"
    if standing and case.reviewer is not None and drafts.of_case(case) is None:
        reason = f"A result arrived for: {proposals.stated(proposal)[1]}"[:_REASON_CHARACTERS]
        signing.stage(tx, context, case, case.reviewer, "appended", reason, report.from_fhir(case))
        return "addendum"
    return "noted"
