"""The reviewer's draft shown before it is signed: a preliminary report, for the clinicians of the case alone.

It has the ids that the signed report will have, so that the final report is its next version. Until then it stands in a
zone of its own, where no patient reads it. It is shown, and never delivered: what is not signed does not leave.
"""

from __future__ import annotations

from typing import Any

from fhir_secondop.errors import Conflict
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import report, workflow
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.concordance import overall
from fhir_secondop.service import audience, blinding, drafts
from fhir_secondop.service.context import Context, load, preliminary_zone, put
from fhir_secondop.service.signing import replace_parts
from fhir_secondop.store import resources

Plain = dict[str, Any]
_SHOWN = "preliminary-outcome"  # the business status


def show(context: Context, caller: Caller, case_id: str, _: Plain) -> Resource:
    """Shows the stored draft as it is now; shown again, the next version takes its place.

    Raises Conflict without a draft and once the report is signed, Invalid while the draft has no conclusion or
    judgement.
    """
    with context.database.transaction(caller) as tx:
        seen = load(tx.connection, context.visibility(caller), case_id, drafts=True)
        person = drafts.as_reviewer(seen, caller)
        blinding.require_opened(tx, context, case_id)
        if drafts.is_signed(seen):
            raise Conflict("The report is signed; what follows is an amendment ($amend-report).")
        if drafts.of_case(seen) is None:
            raise Conflict("There is no draft to show; write one with $submit-report.")
        draft = report.from_fhir(seen, drafts.DRAFT)
        report.check_showable(draft)
        case = load(tx.connection, EVERYTHING, case_id)
        composed = report.to_fhir(
            case, draft, status="preliminary", version=1, reviewer=person.reference, now=context.instant(),
            started=case.encounter.get("period", {}).get("start", ""), stated=drafts.stated(case),
        )  # fmt: skip
        request = resources.read(tx.connection, EVERYTHING, "ServiceRequest", case_id)
        zone = preliminary_zone(case_id)
        audience.admit_clinicians(tx, case, request.owner, zone)
        audience.admit(tx, zone, person.identifiers)
        replace_parts(tx, context, case, composed, zone)
        task = case.coordination
        put(tx, context, case_id, workflow.moved(task, task["status"], context.instant(), business=_SHOWN))
        return composed[-1]


def told(case: Case) -> Plain | None:
    """The preliminary report for JSON and pages; None when there is none, or when it has become the final one."""
    found = case.preliminary
    if found is None:
        return None
    draft = report.from_fhir(case)
    total = overall(report.judgements(draft))
    return {
        "shown": found["issued"],
        "conclusion": draft["conclusion"],
        "overall": total.code if total else "",
        "items": [{name: item[name] for name in ("item", "axis", "concordance")} for item in draft["items"]],
        "options": [{name: one[name] for name in ("text", "preference")} for one in draft.get("options", [])],
        "recommendations": [r["text"] for r in draft.get("recommendations", [])],
    }
