"""Something urgent is seen: a stat Task to a responsible clinician and a deputy, open until a conversation is recorded.

It escalates by the clock: what follows is written on the Task as evidence, and never closes it.
"""

from __future__ import annotations

from typing import Any

from fhir_secondop.errors import Invalid, NotFound
from fhir_secondop.model import Resource
from fhir_secondop.opinion import alignment, codes, workflow
from fhir_secondop.opinion.case import Case, Member, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import Person

COORDINATOR = "the coordinator"
STEPS = ("raised", "deputy", "coordinator", "unreached")
"""How far it has escalated, in order; each but the first is reached when its time is over."""
_RESPONSIBLE = ("decision-owner", "requester", "pcp")


def of_case(case: Case) -> list[Resource]:
    """The urgent contacts of the case, oldest first."""
    return [t for t in case.of_type("Task") if workflow.is_urgent(t)]


def is_open(task: Resource) -> bool:
    """Whether nobody has recorded a conversation yet."""
    return bool(task["status"] == "in-progress")


def chosen(case: Case, to: str, deputy: str) -> tuple[Person | None, Person | None]:
    """Who is called and who stands in, by their keys; else who decides, who asked, the PCP, in that order.

    A case of one physician alone has no deputy, one that a patient opened without any has neither: the coordinator
    finds somebody. Raises Invalid naming which of the two is wrong.
    """
    first = _named(case, to, "to") if to else None
    second = _named(case, deputy, "deputy") if deputy else None
    for member in _responsible(case):
        if first is None and member.person != second:
            first = member.person
        elif second is None and member.person != first:
            second = member.person
    if first is not None and first == second:
        raise Invalid("The deputy is somebody else than who is called first.", path="deputy")
    return first, second


def _responsible(case: Case) -> list[Member]:
    found = [(_RESPONSIBLE.index(role), m) for m in case.audience for role in m.roles if role in _RESPONSIBLE]
    return [member for _, member in sorted(found, key=lambda pair: pair[0])]


def _named(case: Case, key: str, path: str) -> Person:
    try:
        return case.member(key).person
    except NotFound as error:
        raise Invalid(f"{error.message} Give the NPI or the reference of a member.", path=path) from None


def task(case: Case, finding: str, to: Person | None, deputy: Person | None, reviewer: Person, now: str) -> Resource:
    """The next urgent contact of the case. It is in progress at once: from now on somebody has to call."""
    given = {"type": codes.concept(codes.EVIDENCE, "deputy"), "valueReference": _cited(deputy)} if deputy else None
    return compose(
        "Task",
        meta=profile("case-task"),
        id=derived_id(case.id, workflow.URGENT, 1 + len(of_case(case))),
        partOf=[{"reference": reference(case.coordination)}],
        status="in-progress",
        intent="order",
        priority="stat",
        code=codes.concept(codes.TASK, workflow.URGENT, "Urgent contact"),
        description=finding,
        focus={"reference": reference(case.request)},
        for_={"reference": reference(case.patient)},
        authoredOn=now,
        lastModified=now,
        requester=_cited(reviewer),
        owner=_cited(to) if to else {"display": COORDINATOR},
        input=[given] if given else None,
    )


def _cited(person: Person) -> Resource:
    return {"reference": person.reference, "display": person.name}


def deputy_of(contact: Resource) -> Resource:
    """The deputy as a Reference; {} where there is none."""
    for given in contact.get("input", []):
        if codes.has(given["type"], codes.EVIDENCE, "deputy"):
            cited: Resource = given["valueReference"]
            return cited
    return {}


def step_of(contact: Resource) -> int:
    """How far it has escalated, a place in STEPS."""
    return STEPS.index(alignment.evidence(contact).get("escalation", STEPS[0]))


def escalated(contact: Resource, step: int, now: str) -> Resource:
    """The Task when that step is reached: it says who is to be called next."""
    deputy = str(deputy_of(contact).get("display", ""))
    whom = {
        "deputy": deputy or COORDINATOR,
        "coordinator": COORDINATOR,
        "unreached": ", ".join(dict.fromkeys(filter(None, (contact["owner"]["display"], deputy, COORDINATOR)))),
    }
    name = STEPS[step]
    facts = {"escalation": name, "call-next": whom[name], "escalated-at": now}
    return alignment.with_evidence({**contact, "lastModified": now}, facts)


def next_of(contact: Resource) -> str:
    """Who is to be called now, by name."""
    return alignment.evidence(contact).get("call-next") or str(contact["owner"]["display"])


def conversation(
    case: Case, contact: Resource, *, spoke: str, spoken_to: str, at: str, read_back: str
) -> Resource:  # fmt: skip
    """The recorded conversation: who spoke with whom, when, and what was read back."""
    known = next((m.person for m in case.audience if spoken_to in (m.person.name, m.person.key)), None)
    return compose(
        "Communication",
        id=conversation_id(case, contact),
        basedOn=[{"reference": reference(case.request)}],
        partOf=[{"reference": reference(contact)}],
        status="completed",
        priority="stat",
        subject={"reference": reference(case.patient)},
        sent=at,
        received=at,
        sender={"display": spoke},
        recipient=[_cited(known) if known else {"display": spoken_to}],
        payload=[{"contentString": read_back}],
    )


def closed(contact: Resource, said: Resource, now: str) -> Resource:
    """The Task that this conversation completes."""
    kind = codes.concept(codes.EVIDENCE, "conversation")
    output = [*contact.get("output", []), {"type": kind, "valueReference": {"reference": reference(said)}}]
    return workflow.moved({**contact, "output": output}, "completed", now)


def spoken(case: Case) -> frozenset[str]:
    """The ids of the urgent contacts of which a conversation was recorded."""
    return frozenset(t["id"] for t in of_case(case) if t["status"] == "completed")


def told(case: Case) -> dict[str, Any]:
    """The urgent contacts for JSON and pages, newest first: whether one is open, and each with its step.

    What was said is there for who may read it: not for who reads blind.
    """
    calls = [
        {"task": t["id"], "open": is_open(t), "finding": t["description"], "to": t["owner"]["display"],
         "deputy": str(deputy_of(t).get("display", "")), "since": t["authoredOn"], "step": STEPS[step_of(t)],
         "callNext": next_of(t) if is_open(t) else "", "conversation": _said(case, t)}
        for t in reversed(of_case(case))
    ]  # fmt: skip
    return {"open": any(c["open"] for c in calls), "calls": calls}


def _said(case: Case, contact: Resource) -> dict[str, str] | None:
    said = case.find("Communication", conversation_id(case, contact))
    if said is None:
        return None
    return {"by": said["sender"]["display"], "with": said["recipient"][0]["display"], "at": said["sent"],
            "readBack": said["payload"][0]["contentString"]}  # fmt: skip


def conversation_id(case: Case, contact: Resource) -> str:
    """The id of the conversation that closes a contact."""
    return derived_id(case.id, workflow.URGENT, contact["id"], "conversation")
