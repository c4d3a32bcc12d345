"""What is asked for because the record lacks it: one request a gap, to the right holder, on a named channel.

No EHR lets us put a Task into it, so a request goes as its channel says, and carries an upload link of ours.
Source: https://hl7.org/fhir/us/davinci-cdex (data-request Tasks); DOMAIN section 1, gathering records
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, records
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, profile, reference
from fhir_secondop.opinion.checklist import Item
from fhir_secondop.opinion.compose import compose

CDEX = "http://hl7.org/fhir/us/davinci-cdex/CodeSystem/cdex-temp"
CODE = "data-request-code"
CHANNELS = ("direct", "fax", "email", "phone", "patient")
ASKED_FOR = frozenset({"missing", "stale"})
"""The states for which somebody is asked: what is withheld on purpose is not asked for behind its holder's back."""
_PLEASE = "Please send: "
_BY_TELECOM = {"fax": "fax", "email": "email", "phone": "phone"}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who is asked, and how: a reference of the case, a name, the channel, and the number or address for it."""

    reference: str
    name: str
    channel: str
    address: str


def of_case(case: Case) -> list[Resource]:
    """The request Tasks of the case, oldest first."""
    return [t for t in case.of_type("Task") if codes.has(t.get("code"), CDEX, CODE)]


def item_of(task: Resource) -> str:
    """The checklist item that a request asks for."""
    return _input(task, "item")


def channel_of(task: Resource) -> str:
    """The channel that it goes by, with its number or address: "fax +1 555 0100"."""
    return _input(task, "channel")


def title_of(task: Resource) -> str:
    """What a request asks for, in words."""
    return str(task["code"].get("text", "")).removeprefix(_PLEASE)


def _input(task: Resource, code: str) -> str:
    return next((i["valueString"] for i in task.get("input", []) if codes.has(i["type"], codes.EVIDENCE, code)), "")


def open_items(case: Case) -> frozenset[str]:
    """The items for which a request is open."""
    return frozenset(item_of(t) for t in of_case(case) if t["status"] in ("requested", "in-progress", "on-hold"))


def holder(case: Case, item: Item, types: Iterable[str]) -> Holder:
    """The source that most likely has it: one that refused or broke off one of its types, else the requester's place.

    Where neither is known, the patient is asked.
    """
    wanted = {*types, "*"}
    for source in case.sources:
        package = records.package_of(case, source)
        lacking = (
            [a for a in records.coverage(package) if a.type in wanted and a.outcome != "answered"] if package else []
        )
        if lacking:
            found = _of_organization(case, source)
            if found is not None:
                return found
    if case.requester is not None and case.requester.organization_ref:
        found = _of_organization(case, case.requester.organization_ref)
        if found is not None:
            return found
    return Holder(reference(case.patient), "the patient", "patient", "")


def _of_organization(case: Case, ref: str) -> Holder | None:
    organization = case.directory.resource(ref)
    return Holder(ref, organization.get("name", ""), *_channel(organization)) if organization is not None else None


def _channel(holder: Resource) -> tuple[str, str]:
    """The best way to reach somebody, and the number or address for it; the telephone where none is known."""
    telecom = {t.get("system"): t.get("value", "") for t in holder.get("telecom", []) if "value" in t}
    for t in holder.get("telecom", []):
        if t.get("system") == "email" and ".direct." in t.get("value", ""):
            return "direct", t["value"]
    return next(((c, telecom[s]) for s, c in _BY_TELECOM.items() if telecom.get(s)), ("phone", ""))


def named(case: Case, ref: str) -> Holder | None:
    """An organization, a professional or the patient of the case, by reference; None of anything else."""
    found = case.directory.resource(ref)
    if found is None:
        return None
    if found["resourceType"] == "Patient":
        return Holder(reference(found), "the patient", "patient", "")
    if found["resourceType"] == "Organization":
        return _of_organization(case, reference(found))
    person = case.directory.person(ref)
    practitioner = case.directory.resource(person.practitioner) if person else None
    return Holder(reference(found), person.name, *_channel(practitioner or found)) if person else None


def task(case: Case, code: str, title: str, to: Holder, now: str) -> Resource:
    """The request for one item: its id is the item's, so that a gap is asked for once."""
    return compose(
        "Task",
        meta=profile("case-task"),
        id=derived_id(case.id, "ask", code),
        partOf=[{"reference": reference(case.coordination)}],
        status="requested",
        intent="order",
        code={"coding": [codes.coding(CDEX, CODE)], "text": f"{_PLEASE}{title}"},
        focus={"reference": reference(case.request)},
        for_={"reference": reference(case.patient)},
        authoredOn=now,
        lastModified=now,
        requester=PLATFORM,
        owner={"reference": to.reference, "display": to.name},
        input=[
            {"type": codes.concept(codes.EVIDENCE, "item"), "valueString": code},
            {"type": codes.concept(codes.EVIDENCE, "channel"), "valueString": f"{to.channel} {to.address}".strip()},
        ],
    )


def closed(task_: Resource, evidence: Iterable[str], now: str, how: str) -> Resource:
    """The request after what it asked for has arrived: `evidence` are the references of what did."""
    outputs = [{"type": codes.concept(codes.EVIDENCE, "arrived"), "valueReference": {"reference": r}} for r in evidence]
    kept = [o for o in task_.get("output", []) if not codes.has(o["type"], codes.EVIDENCE, "arrived")]
    after = {**task_, "status": "completed", "lastModified": now, "output": [*kept, *outputs]}
    after["note"] = [*task_.get("note", []), {"text": how, "time": now}]
    return {k: v for k, v in after.items() if k != "statusReason"}


def arrived(task_: Resource) -> list[str]:
    """What came for a request, as references."""
    return [
        o["valueReference"]["reference"]
        for o in task_.get("output", [])
        if codes.has(o["type"], codes.EVIDENCE, "arrived")
    ]


def with_arrivals(case: Case, items: Iterable[Item]) -> list[Item]:
    """The items, those for which something was uploaded as present."""
    came = {item_of(t): arrived(t) for t in of_case(case) if t["status"] == "completed"}
    return [
        replace(item, state="present", evidence=tuple(came[item.code]), because="it was sent when we asked for it")
        if item.code in came and item.state not in ("present", "not-applicable")
        else item
        for item in items
    ]
