"""Operations on what can't wait for the report: somebody is called, and the conversation is recorded."""

from __future__ import annotations

from functools import partial

from fhir_secondop.model import Operation
from fhir_secondop.service import urgent
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.shapes import TEXT, obj, with_case

_SAID = {**TEXT, "pattern": r"\S"}
_NAME = {"type": "string", "pattern": r"\S", "maxLength": 200}
_MEMBER = {**_NAME, "description": "NPI, key or reference of a member of the audience"}
_INSTANT = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))?$",
    "description": "with seconds and time zone, or to the minute by the clock of the site",
}


def rows(context: Context) -> list[Operation]:
    """The rows."""
    act = partial(with_case, context)
    return [
        Operation("raise-urgent", "ServiceRequest",
                  "The reviewer has seen something critical: a clinician and a deputy are to be called now.",
                  act(urgent.raise_), obj(["finding"], finding=_SAID, to=_MEMBER, deputy=_MEMBER)),
        Operation("record-call", "ServiceRequest",
                  "Records the conversation that closes an urgent contact: with whom, when, what was read back.",
                  act(urgent.record_call),
                  obj(["with", "readBack"], readBack=_SAID, by=_NAME, at=_INSTANT, task=_NAME, **{"with": _NAME})),
    ]  # fmt: skip
