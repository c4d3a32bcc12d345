"""Takes a question about the signed report; the reviewer answers it by an addendum."""

from __future__ import annotations

from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Forbidden
from fhir_secondop.model import Caller, Resource
from fhir_secondop.opinion import follow_up
from fhir_secondop.opinion.case import Case
from fhir_secondop.service.context import Context, load, put, who
from fhir_secondop.service.third import may_ask

Plain = dict[str, Any]


def ask(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Stores the question with the case. Raises Forbidden, and Conflict when no signed report stands."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        if not may_ask(case, caller):
            raise Forbidden("It is asked by the requester, the decision owner, the PCP or the patient.")
        if case.report is None:
            raise Conflict("There is no signed report yet; follow-up questions are asked about a signed one.")
        if case.report["status"] == "entered-in-error":
            raise Conflict("The report was retracted; nothing is added to it any more.")
        made = follow_up.resource(case, plain["text"], _author(case, caller), context.instant())
        put(tx, context, case_id, made)
        return made


def _author(case: Case, caller: Caller) -> Resource:
    member = next((m for m in case.audience if rights.acts_as(caller, m.person.identifiers)), None)
    return {**who(caller), **({"reference": member.person.reference} if member else {})}


def about(case: Case) -> list[Plain]:
    """The follow-up questions for JSON and pages; `answeredIn` is a version of the report, None while it is open."""
    return [
        {"number": f.number, "text": f.text, "asked": f.asked, "by": f.by, "answeredIn": f.answered or None}
        for f in follow_up.of_case(case)
    ]
