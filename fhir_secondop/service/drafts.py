"""The draft as its reviewer reads it back: its fields, its version, what is still to do, and the document it would be.

What a preview shows and what a signature makes come from the same facts and the same renderer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Forbidden, Invalid, Issue, NotFound
from fhir_secondop.model import Caller, Resource
from fhir_secondop.opinion import checklist, codes, facts, render, report, urgent
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.opinion.people import Person
from fhir_secondop.service import gather
from fhir_secondop.service.context import Context, load

Plain = dict[str, Any]
DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Opened:
    """A draft in its reviewer's hands. `version` is the stored one's, 0 when nothing was stored yet.

    `kind` and `reason` are of an amendment, "" before the first signature. `gaps` are the codes that the reviewer must
    confirm to know, `to_do` everything that stands between the draft and its signature.
    """

    case: Case
    draft: report.Draft
    version: int
    kind: str
    reason: str
    items: tuple[checklist.Item, ...]
    gaps: tuple[str, ...]
    to_do: tuple[Issue, ...]


def as_reviewer(case: Case, caller: Caller) -> Person:
    """The reviewer who has the case. Raises Forbidden unless the caller is that person."""
    person = case.reviewer
    if person is None:
        raise Conflict("Nobody has accepted this case yet.")
    if not rights.acts_as(caller, person.identifiers):
        raise Forbidden("Only the reviewer who accepted the case may write or sign its report.")
    return person


def is_signed(case: Case) -> bool:
    """Whether a version of the report was signed."""
    return case.report is not None


def of_case(case: Case) -> Resource | None:
    """The DiagnosticReport of the draft, of a case that was loaded with it."""
    return case.find("DiagnosticReport", derived_id(case.id, "report", DRAFT))


def check_version(case: Case, expected: int | None) -> None:
    """Raises Conflict unless the stored draft is of the version that the writer had read."""
    stored = version_of(case)
    if expected is not None and expected != stored:
        raise Conflict(
            f"The draft was changed elsewhere: it is at version {stored}, you had version {expected}. "
            "Nothing was overwritten; compare both.",
            path="version",
        )


def version_of(case: Case) -> int:
    """The version of the stored draft, 0 of none."""
    found = of_case(case)
    return int(found["meta"]["versionId"]) if found else 0


def kind_of(proposal: Resource) -> str:
    """What signing this draft makes of the report: final, amended, corrected, appended or entered-in-error."""
    return str(codes.extension_value(proposal, codes.AMENDMENT_KIND) or "final")


def reason_of(proposal: Resource) -> str:
    """Why the report is amended, "" of the first version."""
    return str(codes.extension_value(proposal, codes.AMENDMENT_REASON) or "")


def stated(case: Case) -> Resource | None:
    """What was found of the reviewer's independence when the case was accepted: the extension."""
    return next((e for e in case.coordination.get("extension", []) if e["url"] == codes.INDEPENDENCE), None)


def facts_of(
    case: Case, proposal: Resource, draft: report.Draft, person: Person, items: list[checklist.Item], now: str
) -> facts.Facts:
    """What the document of this draft says, were it signed now."""
    return facts.of_report(
        case, draft, status=kind_of(proposal), version=report.version_of(proposal), issued=now,
        reviewer=person.reference, items=items, stated=stated(case), before=case.report, reason=reason_of(proposal),
    )  # fmt: skip


def read(context: Context, caller: Caller, case_id: str) -> Opened:
    """The draft of the case; before the first one an empty one, after a signature the signed version.

    Raises NotFound, Conflict when nobody has accepted, Forbidden unless the caller is the reviewer.
    """
    case = _loaded(context, caller, case_id)
    as_reviewer(case, caller)
    proposal = of_case(case)
    draft: report.Draft = {"items": [], "answers": []}
    if proposal is not None:
        draft = report.from_fhir(case, DRAFT)
    elif is_signed(case):
        draft = report.from_fhir(case)
    items = gather.items(context, case)
    gaps = gather.named_gaps(case, items)
    amending = proposal is not None and is_signed(case)
    kind = kind_of(proposal) if amending and proposal else ""
    return Opened(
        case, draft, version_of(case), kind,
        reason_of(proposal) if amending and proposal else "", tuple(items), tuple(gaps),
        _to_do(case, draft, gaps, kind),
    )  # fmt: skip


def _loaded(context: Context, caller: Caller, case_id: str) -> Case:
    with context.database.reading() as connection:
        return load(connection, context.visibility(caller), case_id, gathered=True, drafts=True)


def _to_do(case: Case, draft: report.Draft, gaps: list[str], kind: str) -> tuple[Issue, ...]:
    try:
        report.check_signable(case, draft, gaps, kind, spoken=urgent.spoken(case))
    except Invalid as error:
        return error.issues
    return ()


def preview(context: Context, caller: Caller, case_id: str) -> tuple[bytes, str]:
    """The PDF and the text that signing would make of the draft now. Raises NotFound when nothing is drafted."""
    case = _loaded(context, caller, case_id)
    person = as_reviewer(case, caller)
    proposal = of_case(case)
    if proposal is None:
        raise NotFound("There is no draft to preview; write one first.")
    items = gather.items(context, case)
    said = facts_of(case, proposal, report.from_fhir(case, DRAFT), person, items, context.instant())
    return render.pdf("report", said), render.report_text(said)
