"""What an acknowledgement says: accepted, or which failure it is.

Source: HL7 v2.5.1, chapter 2.13.8 (MSA), tables 0008 and 0357
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import SecondOpError
from fhir_secondop.hl7v2 import reading
from fhir_secondop.hl7v2.reading import Message

ACCEPTED = ("AA", "CA")
_REFUSED = ("AE", "AR", "CE", "CR")
_KIND = {
    "100": "validation", "101": "validation", "102": "validation", "103": "validation", "104": "validation",
    "200": "scope", "201": "scope", "202": "scope", "203": "scope",
    "204": "validation", "205": "duplicate", "206": "capacity", "207": "capacity",
}  # fmt: skip
_PLACE = re.compile(r"[A-Z][A-Z0-9]{2}")


@dataclass(frozen=True, slots=True)
class Answer:
    """MSA-1, and of the first error its code (table 0357) and the place in our message that it names."""

    code: str
    error: str = ""
    element: str = ""


def answer_to(data: bytes, control_id: str) -> Answer | None:
    """The answer to the message of that id; None where it answers another, or can't be read."""
    try:
        message = reading.read(data)
        said = message.first("MSA")
    except SecondOpError:
        return None
    code = said.text(1)
    if said.text(2) != control_id or code not in (*ACCEPTED, *_REFUSED):
        return None
    error, element = _error(message)
    return Answer(code, error or said.text(6), element)


def _error(message: Message) -> tuple[str, str]:
    for error in message.named("ERR"):
        old = error.value(1)  # before 2.5: segment, sequence, field, code
        segment, field = error.text(2, 1) or old.text(1), error.text(2, 3) or old.text(3)
        code = error.text(3) or old.text(4)
        place = segment if _PLACE.fullmatch(segment) else ""
        if place and field.isdecimal():
            place += f"-{field[:3]}"
        return (code if code in _KIND else ""), place
    return "", ""


def failure_of(answer: Answer, who: str) -> EhrFailure | None:
    """The failure that an answer is; None of an acceptance.

    A rejection (AR, CR) without a code is for reasons beside the content, the standard says: it may pass.
    """
    if answer.code in ACCEPTED:
        return None
    kind = _KIND.get(answer.error) or ("capacity" if answer.code in ("AR", "CR") else "validation")
    code = answer.error if answer.error in _KIND else ""
    return EhrFailure(kind, f"{who}: the message was answered with {answer.code}.", code=code, element=answer.element)
