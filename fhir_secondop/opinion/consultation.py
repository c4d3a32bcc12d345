"""How the consultation takes place: from the record, as a visit or by video; and what was booked elsewhere. Pure."""

from __future__ import annotations

from typing import Any

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose

RECORD_ONLY, VISIT, VIDEO = MODES = ("record-only", "visit", "video")
CONSULTATION, DISCUSSION = PURPOSES = ("consultation", "results-discussion")
_OFF = ("noshow", "cancelled")  # R4's app-4: only these may have a reason
STATUSES = ("booked", "fulfilled", "noshow", "cancelled")
# mode → class and type of the Encounter. R4: class is a Coding.
_VISIT = "second-opinion-visit"
_FORMS = {RECORD_ONLY: ("VR", "record-review"), VISIT: ("AMB", _VISIT), VIDEO: ("VR", _VISIT)}
_CLASSES = {"VR": "virtual", "AMB": "ambulatory"}
_WORDS = {VISIT: "visit in person", VIDEO: "visit by video"}


def formed(encounter: Resource, mode: str) -> Resource:
    """The consultation in that mode; without an appointment until it gets one."""
    code, kind = _FORMS[mode]
    without = {name: value for name, value in encounter.items() if name != "appointment"}
    return {**without, "class": _class(code), "type": _type(kind)}


def _class(code: str) -> Resource:
    return codes.coding(codes.ACT_CODE, code, _CLASSES[code])


def _type(kind: str) -> list[Resource]:
    general = codes.coding(codes.SNOMED, "11429006", "Consultation")
    return [{"coding": [general, codes.coding(codes.ENCOUNTER_TYPE, kind)]}]


def mode_of(encounter: Resource) -> str:
    """One of MODES."""
    kind = next((c for t in encounter["type"] if (c := codes.code_of(t, codes.ENCOUNTER_TYPE))), "")
    if kind == "record-review":
        return RECORD_ONLY
    return VISIT if encounter["class"]["code"] == "AMB" else VIDEO


def appointment(case: Case, number: int, plain: dict[str, Any], mode: str, status: str) -> Resource:
    """The Appointment as it was booked elsewhere: the case's `number`th for that purpose."""
    purpose = plain.get("for", CONSULTATION)
    there = {"reference": case.coordination["owner"]["reference"]}
    who: list[Resource] = [{"actor": {"reference": reference(case.patient)}}, {"actor": there}]
    if "place" in plain:
        who.append({"actor": {"display": plain["place"]}})
    kind = DISCUSSION if purpose == DISCUSSION else _VISIT
    return compose(
        "Appointment",
        id=derived_id(case.id, "appointment", purpose, number),
        identifier=[{"value": plain["booking"]}] if "booking" in plain else None,
        status=status,
        # R4's app-4 writes "no-show" where the code is "noshow", so that one may have no cancelationReason.
        cancelationReason={"text": plain["reason"]} if "reason" in plain and status == "cancelled" else None,
        comment=plain.get("reason") if status == "noshow" else None,
        serviceType=[codes.concept(codes.ENCOUNTER_TYPE, kind)],
        description=_WORDS[mode],
        start=plain["start"],
        end=plain["end"],
        basedOn=[{"reference": reference(case.request)}],
        participant=[{**one, "status": "accepted"} for one in who],
    )


def why_not(booked: Resource) -> str:
    """Why an appointment did not take place, or ""."""
    return str(booked.get("cancelationReason", {}).get("text") or booked.get("comment", ""))


def appointments(case: Case, purpose: str) -> list[Resource]:
    """What was booked for that purpose, oldest first; an Appointment of the gathered record is none of it."""
    kind = DISCUSSION if purpose == DISCUSSION else _VISIT
    return [
        a for a in case.of_type("Appointment")
        if any(codes.has(s, codes.ENCOUNTER_TYPE, kind) for s in a.get("serviceType", []))
    ]  # fmt: skip


def mode_booked(booked: Resource) -> str:
    """The mode of an Appointment of ours."""
    return next(mode for mode, words in _WORDS.items() if words == booked["description"])


def discussion(case: Case, number: int, mode: str, booked: Resource) -> Resource:
    """The Encounter of a discussion of the results with the patient, as its Appointment stands."""
    status = {"booked": "planned", "fulfilled": "finished"}.get(booked["status"], "cancelled")
    reviewer = {"reference": case.coordination["owner"]["reference"]}
    return compose(
        "Encounter",
        meta=profile("consultation-encounter"),
        id=derived_id(case.id, "encounter", DISCUSSION, number),
        status=status,
        class_=_class(_FORMS[mode][0]),
        type=_type(DISCUSSION),
        subject={"reference": reference(case.patient)},
        basedOn=[{"reference": reference(case.request)}],
        appointment=[{"reference": reference(booked)}],
        participant=[
            {"type": [codes.concept(codes.PARTICIPATION, "CON", "consultant")], "individual": reviewer},
        ],
        period=period(booked) if status == "finished" else None,
    )


def period(booked: Resource) -> Resource:
    """When it took place."""
    return {"start": booked["start"], "end": booked["end"]}


def open_visit(case: Case) -> Resource | None:
    """The visit that is booked and of which nobody has said what became of it."""
    return next((a for a in appointments(case, CONSULTATION) if a["status"] == "booked"), None)


def said(case: Case) -> str:
    """How the consultation took place, in words, with every appointment that the patient missed."""
    mode = mode_of(case.encounter)
    missed = [a["start"][:10] for a in appointments(case, CONSULTATION) if a["status"] == "noshow"]
    if mode == RECORD_ONLY:
        how = "from the record alone; the reviewer did not see the patient"
    else:
        on = case.encounter.get("period", {}).get("start", "")[:10]
        how = f"{_WORDS[mode]}{f' on {on}' if on else ''}"
    return how + "".join(f"; the patient did not come to the appointment of {day}" for day in missed)


def listed(case: Case) -> list[dict[str, Any]]:
    """Every appointment of the case, for people."""
    return [
        {"for": purpose, "mode": mode_booked(a), "status": a["status"], "start": a["start"], "end": a["end"],
         "booking": next((i["value"] for i in a.get("identifier", [])), ""),
         "place": next((d for p in a["participant"] if (d := p["actor"].get("display"))), "")}
        for purpose in PURPOSES
        for a in appointments(case, purpose)
    ]  # fmt: skip
