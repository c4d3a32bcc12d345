"""The original and the second opinion side by side, for whoever may read both."""

from __future__ import annotations

from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, NotFound
from fhir_secondop.model import Caller
from fhir_secondop.opinion import compare, report
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import drafts
from fhir_secondop.service.context import Context, load
from fhir_secondop.store import resources

Plain = dict[str, Any]


def side_by_side(context: Context, caller: Caller, case_id: str, _: Plain) -> Plain:
    """The pairs of the newest opinion that the caller may read: the reviewer's draft, else the signed report.

    Raises Conflict while the first opinion is withheld, NotFound before there is a second one.
    """
    visibility = context.visibility(caller)
    with context.database.reading() as connection:
        if resources.is_blind(connection, visibility, case_id):
            raise Conflict("The first opinion is withheld until your first read is locked ($first-read).")
        case = load(connection, visibility, case_id, drafts=True)
    drafted = drafts.of_case(case)
    if drafted is not None and _is_reviewer(case, caller):
        draft, version = report.from_fhir(case, drafts.DRAFT), report.version_of(drafted)
    elif case.report is not None:
        drafted, draft, version = None, report.from_fhir(case), report.version_of(case.report)
    else:
        raise NotFound("There is no second opinion to compare with yet.")
    return {
        "version": version,
        "draft": drafted is not None,
        "items": [_row(pair) for pair in compare.side_by_side(case, draft)],
    }


def _is_reviewer(case: Case, caller: Caller) -> bool:
    return case.reviewer is not None and rights.acts_as(caller, case.reviewer.identifiers)


def _row(pair: compare.Pair) -> Plain:
    return {
        "item": pair.item, "axis": pair.axis, "judgement": pair.judgement, "verdict": pair.verdict, "why": pair.why,
        "original": _side(pair.original), "second": _side(pair.second),
    }  # fmt: skip


def _side(side: compare.Side) -> Plain:
    codes = [f"{system}|{code}" for system, code in sorted(side.codes)]
    return {"text": side.text, "codes": codes, "by": side.by, "date": side.date}
