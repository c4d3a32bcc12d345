"""HL7 v2 REF^I12 and OMG^O19 → the plain request that a JSON sender would post, and where each member came from.

From there on the doors are one. docs/hl7v2.md has the tables.
Source: HL7 v2.5.1, chapters 11 (REF), 4 (OMG) and 3 (PID)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_secondop.errors import Invalid, Issue, Unsupported
from fhir_secondop.hl7v2 import times
from fhir_secondop.hl7v2.reading import Message, Segment, Value
from fhir_secondop.model import Sender
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.hl7_people import People

Plain = dict[str, Any]
PRIORITY = {"S": "stat", "A": "asap", "R": "routine", "T": "urgent", "P": "routine"}
GENDER = {"M": "male", "F": "female", "O": "other", "A": "other", "N": "other", "U": "unknown", "": "unknown"}
SYSTEMS = {
    "I10": "http://hl7.org/fhir/sid/icd-10-cm", "I10C": "http://hl7.org/fhir/sid/icd-10-cm",
    "ICD10": "http://hl7.org/fhir/sid/icd-10-cm", "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "I9": "http://hl7.org/fhir/sid/icd-9-cm", "SCT": codes.SNOMED, "SNM": codes.SNOMED, "LN": codes.LOINC,
    "C4": "http://www.ama-assn.org/go/cpt", "CPT": "http://www.ama-assn.org/go/cpt",
    "HPC": "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets",
}  # fmt: skip
"""Table 0396: how a CE names its system. Any other system is text alone."""
NUMBER_TYPES = ("", "MR", "PI", "PT", "PN", "NI", "SS")
"""Table 0203: what is a number of a person's, and not of an account, a visit or a card."""


class Mapping:
    """A plain request in the making. `places` says of each of its members where it stood in the message."""

    def __init__(self, message: Message, sender: Sender, today: str) -> None:
        self.message = message
        self.sender = sender
        self.today = today
        self.people = People(sender, self.fault)
        self.plain: Plain = {"organizations": self.people.organizations, "providers": self.people.providers}
        self.places: dict[str, str] = {}
        self.issues: list[Issue] = []

    def fault(self, place: str, message: str, code: str = "required") -> None:
        """One more fault, at its place in the message."""
        self.issues.append(Issue("error", code, place, message))

    def put(self, member: str, value: Any, place: str) -> None:
        """A member of the request, unless it says nothing."""
        if value:
            self.plain[member] = value
            self.places[member] = place


def to_plain(message: Message, sender: Sender, today: str) -> tuple[Plain, dict[str, str]]:
    """The plain request of a message, and the place of each of its members; `today` (YYYY-MM-DD) says what is expired.

    Raises Invalid with every fault, each at its segment and field; Unsupported of another kind of message.
    """
    reader = _READERS.get(message.kind)
    if reader is None:
        raise Unsupported("Send REF^I12 or OMG^O19.", path="MSH[1]-9")
    found = Mapping(message, sender, today)
    reader(found)
    _patient(found)
    _insurance(found)
    _questions(found)
    found.put("sources", [found.people.home], "MSH[1]-4")
    if found.issues:
        raise Invalid(f"{len(found.issues)} fault(s); nothing was stored.", issues=found.issues)
    return found.plain, found.places


def _referral(found: Mapping) -> None:
    referral = _first(found, "RF1", "RF1-6 is your own number of the referral")
    if referral is None:
        return
    reasons = referral.all(10)
    if referral.text(4) != "SO" and not any(r.text() == "S" for r in reasons):
        found.fault(referral.place(4), "This takes second opinions alone: send SO here, or S in RF1-10.",
                    "business-rule")  # fmt: skip
    _placer(found, referral.value(6))
    _priority(found, referral, 2)
    _reasons(found, [r for r in reasons if r.text() != "S"], referral.place(10))
    for segment in found.message.named("PRD"):
        _provider(found, segment)
    if "requester" not in found.plain:
        found.fault("PRD[1]-1", "One PRD must be the referring provider: RP.")
    _under_review(found)


def _provider(found: Mapping, segment: Segment) -> None:
    """A provider of a referral: RP refers, PP is primary care, RT is asked; anybody else is informed."""
    roles = {v.text() for v in segment.all(1)}
    if not roles:
        found.fault(segment.place(1), "Say what this provider is: RP, PP, RT, CP.")
        return
    key = found.people.of_prd(segment)
    if not key:
        return
    for role, member in (("RP", "requester"), ("PP", "pcp"), ("RT", "reviewer")):
        if role not in roles:
            continue
        if member in found.plain and found.plain[member] != key:
            found.fault(segment.place(1), f"There are several {role}; send one.", "business-rule")
        found.put(member, key, segment.place(1))
    if not roles & {"RP", "PP", "RT"}:
        _inform(found, key, segment.place(1))


def _order(found: Mapping) -> None:
    orders = found.message.named("ORC")
    order, asked = _first(found, "ORC", "ORC-2 is your own number"), _first(found, "OBR", "OBR-4 is what is asked for")
    if order is None or asked is None:
        return
    if len(orders) > 1:
        found.fault("ORC[2]", "Send one order in a message.", "business-rule")
    if order.text(1) != "NW":
        found.fault(order.place(1), "This takes new orders alone (NW); withdraw one by telephone.", "not-supported")
    service = asked.value(4)
    if service.text() not in found.sender.order_codes:
        found.fault(service.place, "This code is not configured as the order of a second opinion.", "code-invalid")
    _placer(found, order.value(2) if order.all(2) else asked.value(2))
    quantity = next(iter(found.message.named("TQ1")), None)
    if quantity is not None:
        _priority(found, quantity, 9)
    reasons = [*asked.all(31), *asked.all(13)]
    _reasons(found, reasons, asked.place(31))
    who = order.value(12) if order.all(12) else asked.value(16)
    key = found.people.of_xcn(who)
    if key:
        found.put("requester", key, who.place)
    for profile in found.message.named("PD1"):
        for value in profile.all(4)[:1]:
            found.put("pcp", found.people.of_xcn(value), value.place)
    for value in asked.all(28):
        _inform(found, found.people.of_xcn(value), value.place)
    _under_review(found)


def _inform(found: Mapping, key: str, place: str) -> None:
    if key and key not in found.plain.get("inform", []):
        found.put("inform", [*found.plain.get("inform", []), key], place)


def _first(found: Mapping, name: str, why: str) -> Segment | None:
    segments = found.message.named(name)
    if not segments:
        found.fault(f"{name}[1]", f"The segment {name} is missing: {why}.")
        return None
    return segments[0]


def _placer(found: Mapping, number: Value) -> None:
    """An EI; of an authority that nobody configured only the configured system of the sender's own numbers is left."""
    if not number.text():
        found.fault(number.place, "Send your own number: by it a repeat is recognised.")
        return
    system = found.people.system_of(number.text(2), number.text(3), number.text(4)) or found.sender.order_system
    found.put("placer", {"system": system, "value": number.text()}, number.place)


def _priority(found: Mapping, segment: Segment, field: int) -> None:
    said = segment.text(field)
    if said and said not in PRIORITY:
        found.fault(segment.place(field), "Use S, A, R, T or P (tables 0280, 0485).", "code-invalid")
    found.put("priority", PRIORITY.get(said), segment.place(field))


def _reasons(found: Mapping, values: list[Value], place: str) -> None:
    reasons: list[Plain] = []
    for value in values:
        text = value.text(2) or value.text(1)
        coded = value.text(1) if value.text(1) in codes.REASONS else ""
        reasons.append({**({"code": coded} if coded else {}), **({"text": text} if text != coded else {})})
    if not reasons:
        found.fault(place, "Say why a second opinion is asked for.")
    found.put("reasons", reasons, place)


def _under_review(found: Mapping) -> None:
    items: list[Plain] = []
    for segment in found.message.named("DG1"):
        item = _item(found, "diagnosis", segment)
        if item and segment.all(16):
            item["author"] = found.people.of_xcn(segment.value(16))
        items.append(item)
    items += [_item(found, "plan", segment) for segment in found.message.named("PR1")]
    if not items:
        found.fault("DG1[1]", "Name the diagnosis (DG1) or the procedure planned (PR1) that is under review.")
    for place, item in enumerate(items):
        found.places[f"underReview[{place}]"] = item.pop("place", "DG1[1]")
    found.plain["underReview"] = [{k: v for k, v in item.items() if v} for item in items]


def _item(found: Mapping, kind: str, segment: Segment) -> Plain:
    code = segment.value(3)
    text = segment.text(4) or code.text(2) or code.text(1)
    if not text:
        found.fault(segment.place(3), "Name it, by code or in words.")
        return {}
    item: Plain = {"kind": kind, "text": text, "place": segment.place(3)}
    system = SYSTEMS.get(code.text(3))
    if system and code.text(1):
        item["code"] = {"system": system, "code": code.text(1), **({"display": code.text(2)} if code.text(2) else {})}
    if kind == "diagnosis" and segment.text(5):
        item["recorded"] = _day(found, segment.text(5), segment.place(5))
    return item


def _day(found: Mapping, text: str, place: str) -> str:
    """The day that a text says; "" where it says none, with a fault where it should."""
    try:
        return times.day(text, place) if text else ""
    except Invalid as error:
        found.fault(place, error.message, "value")
        return ""


def _patient(found: Mapping) -> None:
    people = found.message.named("PID")
    if len(people) != 1:
        place = f"PID[{min(len(people), 1) + 1}]"
        found.fault(place, "Send one patient." if people else "The segment PID is missing: say who the patient is.")
        return
    pid = people[0]
    numbers = [number for value in pid.all(3) if (number := _number(found, value))]
    if not numbers:
        found.fault(pid.place(3), "No number of the patient is by an authority that is configured for this sender.")
    name = pid.value(5)
    given = [part for part in (name.text(2), *name.text(3).split()) if part]
    if not name.text():
        found.fault(pid.place(5), "Send the family name.")
    if not pid.text(7):
        found.fault(pid.place(7), "Send the date of birth.")
    if pid.text(8) not in GENDER:
        found.fault(pid.place(8), "Use M, F, O, A, N or U (table 0001).", "code-invalid")
    address = pid.value(11)
    lines = [line for line in (address.text(1), address.text(2)) if line]
    home = {"line": lines, "city": address.text(3), "state": address.text(4), "postalCode": address.text(5),
            "country": address.text(6)}  # fmt: skip
    patient: Plain = {
        "identifier": numbers, "family": name.text(), "given": given,
        "birthDate": _day(found, pid.text(7), pid.place(7)), "gender": GENDER.get(pid.text(8), ""),
        **found.people.telecom(pid.all(13)), "language": pid.text(15),
        "address": {k: v for k, v in home.items() if v},
    }  # fmt: skip
    found.put("patient", {k: v for k, v in patient.items() if v}, "PID[1]")


def _number(found: Mapping, value: Value) -> Plain:
    """A CX as an identifier; {} of one that is not the patient's for us: of an authority that nobody configured for
    this sender (what a message says of it proves nothing), of an account or a visit, not valid today.
    """
    system = found.people.configured(*value.authority(4)[:2])
    if not system or not value.text() or value.text(5) not in NUMBER_TYPES:
        return {}
    begins, ends = (_day(found, value.text(n), value.at(n)) for n in (7, 8))
    if begins > found.today or (ends and ends < found.today):
        return {}
    return {"system": system, "value": value.text()}


def _insurance(found: Mapping) -> None:
    policies = []
    for segment in found.message.named("IN1"):
        key = found.people.payer(segment)
        if key:
            plan = segment.text(2, 2) or segment.text(2)
            policy = {"payer": key, "memberId": segment.text(36), "plan": plan}
            policies.append({k: v for k, v in policy.items() if v})
    found.put("insurance", policies, "IN1[1]")


def _questions(found: Mapping) -> None:
    """Each NTE is a question; what repeats in one is its lines."""
    asked = ["\n".join(v.text() for v in note.all(3)) for note in found.message.named("NTE") if note.all(3)]
    found.put("questions", asked, "NTE[1]-3")


_READERS: dict[tuple[str, str], Callable[[Mapping], None]] = {("REF", "I12"): _referral, ("OMG", "O19"): _order}
KINDS = tuple(_READERS)
