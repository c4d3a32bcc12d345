"""Writes the parts of an invented record as EHRs would: four dialects, from the forms of profiles/corpus/forms.json.

A form is what a thing is called in one EHR (profiles/corpus/README.md). Neither this module nor the forms know the
checklists: what a checklist does not find here is a gap of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from fhir_secondop.model import Resource

Form = Mapping[str, Any]

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
_THO = "http://terminology.hl7.org/CodeSystem"
_SYSTEMS = {
    "loinc": LOINC,
    "snomed": SNOMED,
    "icd10": "http://hl7.org/fhir/sid/icd-10-cm",
    "dicom": "http://dicom.nema.org/resources/ontology/DCM",
    "ips": "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips",
}
# full: codes, displays and texts. bare: codes without a word. words: no code at all. old: STU3's URLs, periods.
DIALECTS = ("full", "bare", "words", "old")
_US_NOTE = "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category"
_US_PLAN = "http://hl7.org/fhir/us/core/CodeSystem/careplan-category"
_US_REPORT = {"radiology": "LP29684-5", "pathology": "LP7839-6", "cardiology": "LP29708-2"}
_V2 = {"radiology": "RAD", "pathology": "SP", "laboratory": "LAB", "cardiology": "CUS", "genetics": "GE"}
_ORDERS = {"surgery": "387713003", "laboratory": "108252007", "radiology": "363679005"}
_IN_WORDS = {"radiology": "Imaging", "pathology": "Pathology and Cytology", "laboratory": "Lab"}
_SUBJECT = {"reference": "Patient/1"}


@cache
def forms() -> Mapping[str, Any]:
    """The table of forms, as it stands in the file."""
    text = (files("fhir_secondop.profiles") / "corpus" / "forms.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


@dataclass(frozen=True, slots=True)
class _Part:
    """What a body is made of. `stamp` dates what it tells of, in the dialect's way."""

    form: Form
    dialect: str
    concept: Resource
    category: list[Resource]
    stamp: str
    indexed: str

    def moment(self, name: str) -> Resource:
        """A choice of times: a period in the old dialect."""
        if self.dialect == "old":
            return {f"{name}Period": {"start": self.stamp, "end": self.stamp}}
        return {f"{name}DateTime": self.stamp}


def write(form: Form, dialect: str, resource_id: str, when: date, indexed: date) -> Resource:
    """The resource; `when` is what it tells of, `indexed` when a document came into the EHR (not before)."""
    kind = form["type"]
    category = _category(kind, form.get("category", ""), dialect)
    part = _Part(form, dialect, _concept(form, dialect), category, _stamp(when, dialect), f"{indexed}T12:00:00Z")
    body = {key: value for key, value in _BODIES[kind](part).items() if value not in ("", [])}
    return {"resourceType": kind, "id": resource_id, **body}


def _concept(form: Form, dialect: str) -> Resource:
    name, _, code = form.get("code", "").partition("|")
    if not code or dialect == "words":
        return {"text": form["text"]}
    coding = {"system": _SYSTEMS[name], "code": code}
    if dialect == "bare" and not form.get("vague"):
        return {"coding": [coding]}
    return {"coding": [coding | ({"display": form["display"]} if "display" in form else {})], "text": form["text"]}


def _category(kind: str, category: str, dialect: str) -> list[Resource]:
    if not category or (category == "note" and dialect in ("bare", "old")):
        return []
    if dialect == "words":
        return [{"text": _IN_WORDS.get(category, category.capitalize())}]
    if kind == "Observation":
        system = f"{_THO}/observation-category" if dialect != "old" else "http://hl7.org/fhir/observation-category"
        return [{"coding": [{"system": system, "code": category}]}]
    if kind == "ServiceRequest":
        return [{"coding": [{"system": SNOMED, "code": _ORDERS[category]}]}]
    if category == "note":
        return [{"coding": [{"system": _US_NOTE, "code": "clinical-note", "display": "Clinical Note"}]}]
    if dialect == "full" and category in _US_REPORT:
        return [{"coding": [{"system": LOINC, "code": _US_REPORT[category]}]}]
    system = "http://hl7.org/fhir/v2/0074" if dialect == "old" else f"{_THO}/v2-0074"
    return [{"coding": [{"system": system, "code": _V2[category]}]}]


def _stamp(when: date, dialect: str) -> str:
    clock = {"full": "T10:15:00-05:00", "old": "T10:15:00Z", "bare": "", "words": ""}[dialect]
    return f"{when:%Y-%m}" if dialect == "words" else f"{when}{clock}"


def _report(part: _Part) -> Resource:
    return {"status": "final", "category": part.category, "code": part.concept, "subject": _SUBJECT,
            **part.moment("effective")}  # fmt: skip


def _observation(part: _Part) -> Resource:
    return _report(part) | {"valueString": "see report"}


def _document(part: _Part) -> Resource:
    return {"status": "current", "type": part.concept, "category": part.category, "subject": _SUBJECT,
            "date": part.indexed, "content": [{"attachment": {"contentType": "text/plain", "data": "SW52ZW50ZWQu"}}],
            "context": {"period": {"start": part.stamp, "end": part.stamp}}}  # fmt: skip


def _condition(part: _Part) -> Resource:
    return {"code": part.concept, "subject": _SUBJECT, "recordedDate": part.stamp}


def _study(part: _Part) -> Resource:
    modality = {"system": _SYSTEMS["dicom"], "code": part.form["code"].partition("|")[2]}
    return {"status": "available", "modality": [modality], "subject": _SUBJECT, "started": part.stamp,
            "description": part.form["text"]}  # fmt: skip


def _procedure(part: _Part) -> Resource:
    return {"status": "completed", "code": part.concept, "subject": _SUBJECT, **part.moment("performed")}


def _plan(part: _Part) -> Resource:
    category = [{"coding": [{"system": _US_PLAN, "code": "assess-plan"}]}] if part.dialect == "full" else []
    return {"status": "active", "intent": "plan", "category": category, "title": part.form["text"], "subject": _SUBJECT,
            "created": part.stamp}  # fmt: skip


def _order(part: _Part) -> Resource:
    return {"status": "active", "intent": "order", "category": part.category, "code": part.concept,
            "subject": _SUBJECT, "authoredOn": part.stamp}  # fmt: skip


def _prescription(part: _Part) -> Resource:
    return {"status": "active", "intent": "order", "medicationCodeableConcept": part.concept, "subject": _SUBJECT,
            "authoredOn": part.stamp}  # fmt: skip


def _medicine(part: _Part) -> Resource:
    return {"status": "active", "medicationCodeableConcept": part.concept, "subject": _SUBJECT,
            "dateAsserted": part.stamp}  # fmt: skip


def _allergy(part: _Part) -> Resource:
    active = {"system": f"{_THO}/allergyintolerance-clinical", "code": "active"}
    return {
        "clinicalStatus": {"coding": [active]},
        "code": part.concept,
        "patient": _SUBJECT,
        "recordedDate": part.stamp,
    }


def _family(part: _Part) -> Resource:
    return {"status": "completed", "patient": _SUBJECT, "date": part.stamp, "relationship": {"text": "aunt"},
            "condition": [{"code": part.concept}]}  # fmt: skip


def _vaccination(part: _Part) -> Resource:
    return {"status": "completed", "vaccineCode": part.concept, "patient": _SUBJECT, "occurrenceDateTime": part.stamp}


def _visit(part: _Part) -> Resource:
    return {"status": "finished", "class": {"system": f"{_THO}/v3-ActCode", "code": "AMB"}, "type": [part.concept],
            "subject": _SUBJECT, "period": {"start": part.stamp}}  # fmt: skip


_BODIES: Mapping[str, Callable[[_Part], Resource]] = {
    "DiagnosticReport": _report, "DocumentReference": _document, "Observation": _observation, "Condition": _condition,
    "ImagingStudy": _study, "Procedure": _procedure, "CarePlan": _plan, "ServiceRequest": _order,
    "MedicationRequest": _prescription, "MedicationStatement": _medicine, "AllergyIntolerance": _allergy,
    "FamilyMemberHistory": _family, "Immunization": _vaccination, "Encounter": _visit,
}  # fmt: skip
