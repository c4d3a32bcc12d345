"""Messages that we write: put together from fields, and held against the structure that v2.5.1 gives them.

hl7apy builds the segments and knows the structures; what it would say of a value is never repeated, it may name a
patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.hl7v2.er7 import OURS

VERSION = "2.5.1"
CHARSET = "UNICODE UTF-8"
_LONGEST_CHECKED = 60  # hl7apy takes a base64 of any size for too long a string

Fields = Mapping[int, str | Sequence[str]]
"""The fields of a segment by number: text that is escaped already, or several such, which repeat."""


@dataclass(frozen=True, slots=True)
class Head:
    """Who sends a message to whom, and what it is. `at` is a DTM; applications and facilities are escaped HDs."""

    code: str  # "MDM"
    event: str  # "T02"
    structure: str  # "MDM_T02"
    control_id: str
    at: str
    sending: tuple[str, str]  # application, facility
    receiving: tuple[str, str]


def compose(head: Head, segments: Sequence[tuple[str, Fields]]) -> str:
    """The message, each segment ended by a carriage return. Raises Invalid where it would not conform."""
    whole = [("MSH", _msh(head)), *segments]
    checked = [(name, {n: _shortened(v) for n, v in fields.items()}) for name, fields in whole]
    try:
        _check("".join(f"{_segment(name, fields)}\r" for name, fields in checked))
        return "".join(f"{_segment(name, fields)}\r" for name, fields in whole)
    except (_hl7apy().HL7apyException, ValueError) as error:  # a ValueError of what is no date, say
        # The name of the rule alone: its words may hold a value.
        what = f"{head.code}^{head.event} of ours does not conform to {head.structure} ({type(error).__name__})."
        raise Invalid(what) from None


def unchecked(head: Head, segments: Sequence[tuple[str, Fields]]) -> str:
    """The same message, held against nothing: for what must be said whatever somebody else's names look like."""
    return "".join(f"{_line(name, fields)}\r" for name, fields in (("MSH", _msh(head)), *segments))


def _line(name: str, fields: Fields) -> str:
    said = [fields.get(n, "") for n in range(1, max(fields) + 1)]
    if name == "MSH":  # MSH-1 is the delimiter that stands there anyway
        del said[0]
    return OURS.field.join([name, *(v if isinstance(v, str) else OURS.repetition.join(v) for v in said)])


def _msh(head: Head) -> Fields:
    return {
        1: OURS.field, 2: "^~\\&", 3: head.sending[0], 4: head.sending[1], 5: head.receiving[0],
        6: head.receiving[1], 7: head.at, 9: f"{head.code}^{head.event}^{head.structure}",
        10: head.control_id, 11: "P", 12: VERSION, 18: CHARSET,
    }  # fmt: skip


def _segment(name: str, fields: Fields) -> str:
    core = _hl7apy()
    segment = core.Segment(name, version=VERSION, validation_level=core.TOLERANT)
    for number, value in sorted(fields.items()):
        field = f"{name}_{number}".lower()
        if isinstance(value, str):
            if value:
                setattr(segment, field, value)
            continue
        for one in value:
            segment.add_field(field).value = one
    text: str = segment.to_er7()
    return text


def _shortened(value: str | Sequence[str]) -> str | Sequence[str]:
    if not isinstance(value, str):
        return [_cut(one) for one in value]
    return _cut(value)


def _cut(value: str) -> str:
    return "^".join(part if len(part) <= _LONGEST_CHECKED or "\\" in part else part[:_LONGEST_CHECKED]
                    for part in value.split("^"))  # fmt: skip


def _check(text: str) -> None:
    core = _hl7apy()
    core.parse_message(text, validation_level=core.STRICT, find_groups=True).validate()


@cache
def _hl7apy() -> Any:
    """What we use of the library, imported when the first message is written."""
    from types import SimpleNamespace

    from hl7apy.consts import VALIDATION_LEVEL
    from hl7apy.core import Segment
    from hl7apy.exceptions import HL7apyException
    from hl7apy.parser import parse_message

    return SimpleNamespace(
        Segment=Segment, parse_message=parse_message, HL7apyException=HL7apyException,
        STRICT=VALIDATION_LEVEL.STRICT, TOLERANT=VALIDATION_LEVEL.TOLERANT,
    )  # fmt: skip
