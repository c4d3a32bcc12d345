"""Operations on what the reviewer proposes: made, taken back, answered, and the result that arrives."""

from __future__ import annotations

from functools import partial

from fhir_secondop.model import Operation
from fhir_secondop.opinion import proposals
from fhir_secondop.service import arrivals, proposing
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.shapes import TEXT, obj, telling, with_case

_WORDS = {**TEXT, "pattern": r"\S"}
_NUMBER = {"type": "integer", "minimum": 1, "description": "its number in the case, from 1"}
_ANSWERS = (proposals.ACCEPTED, proposals.DECLINED)


def rows(context: Context) -> list[Operation]:
    """The rows."""
    act = partial(with_case, context)
    tell = partial(telling, context)
    return [
        Operation("propose", "ServiceRequest",
                  "The reviewer proposes a test or a change before the report; never an order. Delivered to everybody.",
                  act(proposing.propose),
                  obj(["kind", "text"], kind={"enum": list(proposals.KINDS)}, text=_WORDS, why=TEXT,
                          until={"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$",
                                 "description": "the day at whose end it ages out"})),
        Operation("withdraw-proposal", "ServiceRequest", "The reviewer takes an open proposal back.",
                  act(proposing.withdraw), obj(["proposal", "reason"], proposal=_NUMBER, reason=_WORDS)),
        Operation("answer-proposal", "ServiceRequest",
                  "A recipient takes a proposal up, or declines it with a reason; the reviewer is told.",
                  act(proposing.answer),
                  obj(["proposal", "outcome"], proposal=_NUMBER, outcome={"enum": list(_ANSWERS)}, reason=TEXT)),
        Operation("proposal-result", "ServiceRequest",
                  "A result in the record answers a proposal: the case goes on, or an addendum is begun.",
                  tell(arrivals.result),
                  obj(["proposal", "result"], proposal=_NUMBER,
                          result={**TEXT, "description": "its reference in the record: DiagnosticReport/…"})),
    ]  # fmt: skip
