"""Operations of the review: who accepts and leaves; the report drafted, signed, amended."""

from __future__ import annotations

from functools import partial

from fhir_secondop.model import Operation
from fhir_secondop.service import review, signing
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.shapes import REASON, TEXT, obj, with_case

DECLARATION = obj(
    ["interests"],
    interests={**TEXT, "description": '"none", or what they are'},
    participated={"type": "array", "items": {"type": ["string", "integer"]}},
)


def rows(context: Context) -> list[Operation]:
    """The rows."""
    act = partial(with_case, context)
    accepting = obj([], declaration=DECLARATION, attestation=TEXT, override=TEXT)
    leaving = obj(["reason"], reason=REASON, text=TEXT)
    draft = review.schema("report-draft")
    changes = {**draft, "required": []}
    return [
        Operation("accept", "ServiceRequest", "The reviewer takes the case.", act(review.accept), accepting),
        Operation("decline", "ServiceRequest", "A reviewer who was asked says no.", act(review.decline), leaving),
        Operation("withdraw", "ServiceRequest", "A reviewer who had accepted steps back.", act(review.withdraw),
                  leaving),
        Operation("submit-report", "ServiceRequest", "Stores the reviewer's draft.", act(signing.submit), draft),
        Operation("sign", "ServiceRequest", "The only way to final: report, document and deliveries.",
                  act(signing.sign)),
        Operation("amend-report", "ServiceRequest", "Drafts the next version of a signed report.",
                  act(signing.amend),
                  obj(["kind", "reason"], kind={"enum": ["amended", "corrected", "appended", "entered-in-error"]},
                          reason=TEXT, changes=changes)),
        Operation("cancel", "Task", "Cancels a Task, or asks its owner to abort it.", act(review.cancel),
                  leaving),
    ]  # fmt: skip
