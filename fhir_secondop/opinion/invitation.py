"""The invitation of a patient, or of somebody who acts for one: a Task of the case, with what its link needs on it.

The code that goes with the link stands there only as a hash; see service.invitations.
"""

from __future__ import annotations

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose

RELATIONSHIPS = ("self", "proxy")
CODE = "invite-patient"
OPEN = frozenset({"requested", "accepted"})


def of_case(case: Case) -> list[Resource]:
    """The invitations of the case, oldest first."""
    return case.tasks_of(CODE)


def task(case: Case, relationship: str, name: str, code_hash: str, now: str) -> Resource:
    """The next invitation of the case."""
    patient = {"reference": reference(case.patient)}
    return compose(
        "Task",
        meta=profile("case-task"),
        id=derived_id(case.id, CODE, 1 + len(of_case(case))),
        partOf=[{"reference": reference(case.coordination)}],
        status="requested",
        intent="order",
        code=codes.concept(codes.TASK, "invite-patient"),
        focus={"reference": reference(case.request)},
        for_=patient,
        authoredOn=now,
        lastModified=now,
        requester=PLATFORM,
        # A proxy is somebody by name only: no record of ours says who that is.
        owner={**patient, "display": name} if relationship == "self" else {"display": name},
        input=[
            {"type": codes.concept(codes.EVIDENCE, "relationship"), "valueCode": relationship},
            {"type": codes.concept(codes.EVIDENCE, "code-hash"), "valueString": code_hash},
        ],
    )


def relationship_of(invited: Resource) -> str:
    """self or proxy."""
    return _input(invited, "relationship")


def code_hash_of(invited: Resource) -> str:
    """The hash of the code that goes with the link."""
    return _input(invited, "code-hash")


def _input(invited: Resource, code: str) -> str:
    return next(
        str(value)
        for given in invited["input"]
        if codes.has(given["type"], codes.EVIDENCE, code)
        for key, value in given.items()
        if key.startswith("value")
    )
