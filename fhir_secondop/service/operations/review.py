"""Operations of the review: who accepts and leaves; the report drafted, signed, amended."""

from __future__ import annotations

from functools import partial

from fhir_secondop.model import Operation
from fhir_secondop.service import blinding, comparing, preliminary, review, sealing, signing
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.shapes import (
    REASON,
    TEXT,
    VERSION,
    obj,
    telling,
    with_case,
)

DECLARATION = obj(
    ["interests"],
    interests={**TEXT, "description": '"none", or what they are'},
    participated={"type": "array", "items": {"type": ["string", "integer"]}},
)


def rows(context: Context) -> list[Operation]:
    """The rows."""
    act = partial(with_case, context)
    tell = partial(telling, context)
    accepting = obj([], declaration=DECLARATION, attestation=TEXT, override=TEXT)
    leaving = obj(["reason"], reason=REASON, text=TEXT)
    draft = review.schema("report-draft")
    changes = {**draft, "required": []}
    return [
        Operation("accept", "ServiceRequest", "The reviewer takes the case.", act(review.accept), accepting),
        Operation("decline", "ServiceRequest", "A reviewer who was asked says no.", act(review.decline), leaving),
        Operation("withdraw", "ServiceRequest", "A reviewer who had accepted steps back.", act(review.withdraw),
                  leaving),
        Operation("blind-first", "ServiceRequest",
                  "The case is read blind first, or is not; said before anybody is asked.", act(blinding.switch),
                  obj(["on"], on={"type": "boolean"})),
        Operation("first-read", "ServiceRequest",
                  "Locks the blind first read, and opens the first opinion; again, with a reason, it is a change.",
                  act(blinding.first_read),
                  obj(["assessment"], assessment=TEXT, plan=TEXT, reason=TEXT,
                      diagnoses={"type": "array", "items": TEXT, "maxItems": 20})),
        Operation("break-blind", "ServiceRequest",
                  "Opens the first opinion before a first read is locked; the report says so, and why.",
                  act(blinding.break_blind), obj(["reason"], reason=TEXT)),
        Operation("compare", "ServiceRequest", "The original and the second opinion side by side, item by item.",
                  partial(telling, context)(comparing.side_by_side), reads=True, shows=("*",)),
        Operation("submit-report", "ServiceRequest", "Stores the reviewer's draft.", act(signing.submit), draft),
        Operation("show-preliminary", "ServiceRequest",
                  "Shows the draft to the clinicians of the case before it is signed; it is not delivered.",
                  act(preliminary.show)),
        Operation("sign", "ServiceRequest", "The only way to final: report, document and deliveries.",
                  act(signing.sign)),
        Operation("verify", "ServiceRequest", "Whether signature and bytes of a signed version hold, and who signed.",
                  tell(sealing.verify), obj([], version=VERSION), reads=True,
                  shows=("Binary", "Bundle", "DiagnosticReport", "Provenance")),
        Operation("amend-report", "ServiceRequest", "Drafts the next version of a signed report.",
                  act(signing.amend),
                  obj(["kind", "reason"], kind={"enum": ["amended", "corrected", "appended", "entered-in-error"]},
                          reason=TEXT, changes=changes)),
        Operation("cancel", "Task", "Cancels a Task, or asks its owner to abort it.", act(review.cancel),
                  leaving),
    ]  # fmt: skip
