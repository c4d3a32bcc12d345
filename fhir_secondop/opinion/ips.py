"""The International Patient Summary of what is stored of a patient, as a document Bundle. Pure.

The three sections that IPS demands are always there, and those of procedures and vital signs, too. One that we have
nothing for says that there is no information: that there are no problems, allergies or medicines nobody has said to us.
Of results IPS has no word for that: without any the section is left out.
Source: https://hl7.org/fhir/uv/ips/STU1.1/StructureDefinition-Composition-uv-ips.html
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fhir_secondop import __version__
from fhir_secondop.model import Resource

PROFILE = "http://hl7.org/fhir/uv/ips/StructureDefinition/Bundle-uv-ips"
LOINC = "http://loinc.org"
ABSENT = "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips"
_TERMS = "http://terminology.hl7.org/CodeSystem"
_REASON = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
# A statement that is none: what somebody has entered by mistake, or found not to be so.
_UNSAID = frozenset({"entered-in-error", "refuted"})
_OVER = frozenset({"inactive", "remission", "resolved"})
_TAKEN = frozenset({"active", "intended", "on-hold", "unknown"})
_NOT_DONE = frozenset({"entered-in-error", "not-done", "preparation"})
STATED = ("final", "amended", "corrected")
"""Of a result: others may still change, or are none."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section: which of the resources belong to it, and for those that must be there what says that there is no
    information.
    """

    code: str
    title: str
    display: str
    types: frozenset[str]
    holds: Callable[[Resource], bool]
    nothing: Callable[[str], Resource] | None = None
    about: str = ""
    is_emptied: bool = False  # without resources it is there and says that there is no information


@dataclass(frozen=True, slots=True)
class Newest:
    """Of what only the newest belong to a section, by their date; of observations one of each code.

    `code` is the section's.
    """

    code: str
    type: str
    categories: tuple[str, ...] = ()


def types() -> frozenset[str]:
    """The types that a summary is made of, beside the patient and what is prescribed or taken."""
    return frozenset(kind for section in SECTIONS for kind in section.types)


def types_of_all() -> frozenset[str]:
    """Those of which all that there is belongs to it, not the newest alone."""
    return types() - {each.type for each in NEWEST}


def newest(found: Iterable[Resource]) -> list[Resource]:
    """Of those that are newest first each report, and of the observations the first one of each code."""
    by_code: dict[str, Resource] = {}
    for each in found:
        code = next(_codings(each.get("code", {})), "") if each["resourceType"] == "Observation" else ""
        by_code.setdefault(code or f"#{each['id']}", each)
    return list(by_code.values())


def _codings(concept: Resource) -> Iterator[str]:
    yield from (f"{c.get('system', '')}|{c['code']}" for c in concept.get("coding", []) if "code" in c)
    yield from filter(None, (concept.get("text"),))


def document(
    patient: Resource,
    found: Iterable[Resource],
    beside: Iterable[Resource],
    *,
    base_url: str,
    now: str,
    new_id: Callable[[], str],
    cut: Collection[str] = (),
) -> Resource:
    """The document of a patient and what was found of it; `beside` are the medications that those name, `cut` the codes
    of the sections of which more is stored than was looked at.

    `now` is an instant; `new_id` gives UUIDs, for what is made for this document alone.
    """
    about = f"{base_url}/Patient/{patient['id']}"
    made: list[Resource] = []

    def composed(resource: Resource) -> str:
        url = f"urn:uuid:{new_id()}"
        made.append({"fullUrl": url, "resource": resource})
        return url

    author = composed(_author())
    known = [each for each in found if _is_about(each, patient["id"], base_url)]
    medications = {f"Medication/{each['id']}": each for each in beside}
    sections, shown = [], []
    for section in SECTIONS:
        of_it = [each for each in known if each["resourceType"] in section.types and section.holds(each)]
        if of_it:
            urls = [f"{base_url}/{each['resourceType']}/{each['id']}" for each in of_it]
            shown += of_it
            lines = [_words(each, medications) for each in of_it]
            lines += ["More is stored, and older: it is not in this summary."] if section.code in cut else []
            sections.append(_section(section, urls, lines))
        elif section.nothing is not None:
            url = composed(section.nothing(about))
            sections.append(_section(section, [url], [_no_information(section)]))
        elif section.is_emptied:
            sections.append(_section(section, [], [_no_information(section)]))  # IPS 1.1.0 takes no emptyReason
    composition = {
        "resourceType": "Composition",
        "status": "final",
        "type": {"coding": [{"system": LOINC, "code": "60591-5", "display": "Patient summary Document"}]},
        "subject": {"reference": about},
        "date": now,
        "author": [{"reference": author}],
        "title": "Patient summary of what is stored here",
        "section": sections,
    }
    named = {_medicine(each) for each in shown}
    stored = [_patient(patient), *map(_whole, shown), *(m for key, m in medications.items() if key in named)]
    return {
        "resourceType": "Bundle",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{new_id()}"},
        "type": "document",
        "timestamp": now,
        "entry": [
            {"fullUrl": f"urn:uuid:{new_id()}", "resource": composition},
            *({"fullUrl": f"{base_url}/{each['resourceType']}/{each['id']}", "resource": each} for each in stored),
            *made,
        ],
    }


def _section(section: Section, urls: Sequence[str], lines: Sequence[str]) -> Resource:
    items = "".join(f"<li>{escape(line, quote=False)}</li>" for line in lines)
    return {
        "title": section.title,
        "code": {"coding": [{"system": LOINC, "code": section.code, "display": section.display}]},
        "text": {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><ul>{items}</ul></div>'},
        **({"entry": [{"reference": url} for url in urls]} if urls else {}),
    }


def _no_information(section: Section) -> str:
    return f"There is no information here about {section.about}."


def _is_about(resource: Resource, patient_id: str, base_url: str) -> bool:
    """Whether the patient is whom it is about: a compartment has what it has performed or asserted of others, too."""
    said: Resource = resource.get("subject") or resource.get("patient") or {}
    return said.get("reference", "").split("/_history/")[0] in (
        f"Patient/{patient_id}",
        f"{base_url}/Patient/{patient_id}",
    )


def _author() -> Resource:
    return {
        "resourceType": "Device",
        "deviceName": [{"name": "fhir_secondop", "type": "user-friendly-name"}],
        "version": [{"value": __version__}],
    }


def _medicine(resource: Resource) -> str:
    """ "Medication/id" of the medication that an order or a statement names; "#id" of one that it contains."""
    reference: str = resource.get("medicationReference", {}).get("reference", "")
    return reference if reference.startswith("#") else "/".join(reference.split("/_history/")[0].split("/")[-2:])


def _words(resource: Resource, medications: Mapping[str, Resource]) -> str:
    """One line of a section's narrative: what it is, since when, and how it stands."""
    own = {f"#{each.get('id', '')}": each for each in resource.get("contained", [])}
    medicine: Resource = {**own, **medications}.get(_medicine(resource), {}).get("code", {})
    concepts = (resource.get(name, {}) for name in ("code", "medicationCodeableConcept", "vaccineCode"))
    said = (next(_names(concept), "") for concept in (*concepts, medicine))
    name = next(filter(None, said), "") or resource.get("medicationReference", {}).get("display", "")
    name = name or "something whose name is not here"
    since = next((str(resource[key]) for key in _SINCE if isinstance(resource.get(key), str)), "")
    since = since or next((str(resource[key]["start"]) for key in _SPANS if "start" in resource.get(key, {})), "")
    status = resource.get("status") or next(_codes(resource.get("clinicalStatus", {})), "")
    if not status and resource["resourceType"] == "Condition":
        status = "of which nobody says whether it goes on"
    value = _value(resource) if resource["resourceType"] == "Observation" else resource.get("conclusion", "")
    return ", ".join(part for part in (name, value, since, status) if part)


_SINCE = ("onsetDateTime", "onsetString", "effectiveDateTime", "effectiveInstant", "occurrenceDateTime",
          "performedDateTime", "performedString", "authoredOn", "recordedDate")  # fmt: skip
_SPANS = ("onsetPeriod", "effectivePeriod", "performedPeriod")


def _value(observation: Resource) -> str:
    """What was found, in words; of what is no number, code or text that the entry has it."""
    parts = [_one_value(observation)]
    for each in observation.get("component", []):
        name = next(_names(each.get("code", {})), "something whose name is not here")
        parts.append(f"{name} {_one_value(each)}".strip())
    if not any(parts):
        return "of which no value is here" if not any(k.startswith("value") for k in observation) else "see the entry"
    return "; ".join(filter(None, parts))


def _one_value(of: Resource) -> str:
    quantity = of.get("valueQuantity", {})
    if "value" in quantity:
        unit = quantity.get("unit", quantity.get("code", ""))
        return f"{quantity.get('comparator', '')}{quantity['value']} {unit}".strip()
    if "valueCodeableConcept" in of:
        return next(_names(of["valueCodeableConcept"]), "")
    said = next((of[key] for key in ("valueString", "valueInteger", "valueDateTime", "valueTime") if key in of), "")
    return ("yes" if of["valueBoolean"] else "no") if "valueBoolean" in of else str(said)


def _names(concept: Resource) -> Iterator[str]:
    yield from filter(None, (concept.get("text"), *(c.get("display") for c in concept.get("coding", []))))
    yield from (f"{c.get('system', '')} {c['code']}".strip() for c in concept.get("coding", []) if "code" in c)


def _codes(concept: Resource) -> Iterator[str]:
    return (coding["code"] for coding in concept.get("coding", []) if "code" in coding)


def _is_said(resource: Resource) -> bool:
    return not _UNSAID.intersection(_codes(resource.get("verificationStatus", {})))


def _is_problem(condition: Resource) -> bool:
    """Not known to be over: of which nothing is said may well go on."""
    return _is_said(condition) and not _OVER.intersection(_codes(condition.get("clinicalStatus", {})))


def _is_past(condition: Resource) -> bool:
    return _is_said(condition) and not _is_problem(condition)


def _is_taken(resource: Resource) -> bool:
    is_order = resource["resourceType"] == "MedicationRequest"
    return resource.get("status") in _TAKEN and (not is_order or not resource.get("doNotPerform", False))


def _is_given(immunization: Resource) -> bool:
    return immunization.get("status") == "completed"


def _is_done(procedure: Resource) -> bool:
    return procedure.get("status") not in _NOT_DONE


def _is_in(*categories: str) -> Callable[[Resource], bool]:
    """Whether a result is stated, and of one of these categories; a report is of any."""

    def holds(resource: Resource) -> bool:
        of_it = {code for each in resource.get("category", []) for code in _codes(each)}
        is_of = resource["resourceType"] != "Observation" or not of_it.isdisjoint(categories)
        return resource.get("status") in STATED and is_of

    return holds


def _absent(reason: str = "unknown") -> dict[str, Any]:
    return {"extension": [{"url": _REASON, "valueCode": reason}]}


def _patient(patient: Resource) -> Resource:
    """The patient with a name and a birth date, as IPS demands: where we have none, it is said that it is unknown."""
    said = [name for name in patient.get("name", []) if name.keys() & {"text", "family", "given"}]
    missing: Resource = {} if said else {"name": [{"_text": _absent()}]}
    if "birthDate" not in patient and "_birthDate" not in patient:
        missing["_birthDate"] = _absent()
    return {**patient, **missing} if missing else patient


def _whole(resource: Resource) -> Resource:
    """With what IPS demands of its type: where we have none, it is said that it is unknown.

    R4 has no code for a clinical status that is unknown, and none is invented here: that of a Condition stays absent.
    """
    kind = resource["resourceType"]
    missing: Resource = {}
    if kind == "Condition" and "code" not in resource:
        missing = {"code": _absent()}
    elif kind == "MedicationStatement" and not _has(resource, "effective"):
        missing = {"effectivePeriod": _absent()}
    elif kind == "Procedure":
        missing = {} if "code" in resource else {"code": _absent()}
        if not _has(resource, "performed"):
            missing["_performedDateTime"] = _absent()
    elif kind in ("Observation", "DiagnosticReport") and not _has(resource, "effective"):
        missing = {"_effectiveDateTime": _absent()}
    return {**resource, **missing} if missing else resource


def _has(resource: Resource, choice: str) -> bool:
    return any(name.lstrip("_").startswith(choice) for name in resource)


def _concept(code: str, display: str) -> Resource:
    return {"coding": [{"system": ABSENT, "code": code, "display": display}]}


def _no_problems(about: str) -> Resource:
    return {
        "resourceType": "Condition",
        "clinicalStatus": {"coding": [{"system": f"{_TERMS}/condition-clinical", "code": "active"}]},
        "code": _concept("no-problem-info", "No information about problems"),
        "subject": {"reference": about},
    }


def _no_allergies(about: str) -> Resource:
    return {
        "resourceType": "AllergyIntolerance",
        "clinicalStatus": {"coding": [{"system": f"{_TERMS}/allergyintolerance-clinical", "code": "active"}]},
        "code": _concept("no-allergy-info", "No information about allergies"),
        "patient": {"reference": about},
    }


def _no_medications(about: str) -> Resource:
    return {
        "resourceType": "MedicationStatement",
        "status": "unknown",
        "medicationCodeableConcept": _concept("no-medication-info", "No information about medications"),
        "subject": {"reference": about},
        "effectivePeriod": _absent("not-applicable"),
    }


def _no_procedures(about: str) -> Resource:
    return {
        "resourceType": "Procedure",
        "status": "unknown",
        "code": _concept("no-procedure-info", "No information about past history of procedures"),
        "subject": {"reference": about},
        "_performedDateTime": _absent("not-applicable"),
    }


NEWEST = (
    Newest("30954-2", "Observation", ("laboratory", "imaging")), Newest("30954-2", "DiagnosticReport"),
    Newest("8716-3", "Observation", ("vital-signs",)),
)  # fmt: skip
SECTIONS = (
    Section("11450-4", "Problems", "Problem list - Reported", frozenset({"Condition"}), _is_problem,
            _no_problems, "problems"),
    Section("48765-2", "Allergies and intolerances", "Allergies and adverse reactions Document",
            frozenset({"AllergyIntolerance"}), _is_said, _no_allergies, "allergies"),
    Section("10160-0", "Medicines", "History of Medication use Narrative",
            frozenset({"MedicationStatement", "MedicationRequest"}), _is_taken, _no_medications, "medicines"),
    Section("47519-4", "Procedures", "History of Procedures Document", frozenset({"Procedure"}), _is_done,
            _no_procedures, "procedures"),
    Section("30954-2", "Results", "Relevant diagnostic tests/laboratory data Narrative",
            frozenset({"Observation", "DiagnosticReport"}), _is_in(*NEWEST[0].categories), None, "results"),
    Section("8716-3", "Vital signs", "Vital signs", frozenset({"Observation"}), _is_in(*NEWEST[2].categories), None,
            "vital signs", is_emptied=True),
    Section("11348-0", "Past problems", "History of Past illness Narrative", frozenset({"Condition"}), _is_past),
    Section("11369-6", "Immunizations", "History of Immunization Narrative", frozenset({"Immunization"}), _is_given),
)  # fmt: skip
