"""The gathered record as lines for reading: what each copy is about, what it says, from where; nothing is left out
silently, and nothing is chosen.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

from fhir_secondop.model import Resource
from fhir_secondop.opinion import conflicts, links, medicines, sourced
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.sourced import Sourced, text_of

CHAPTERS: dict[str, tuple[str, ...]] = {
    "Diagnoses": ("Condition", "ClinicalImpression"),
    "Allergies": ("AllergyIntolerance",),
    "Medicines": ("MedicationRequest", "MedicationStatement", "MedicationAdministration", "MedicationDispense"),
    "Reports": ("DiagnosticReport", "ImagingStudy"),
    "Letters and documents": ("DocumentReference", "Composition"),
    "Plans, orders and procedures": ("CarePlan", "ServiceRequest", "Procedure"),
    "Values": ("Observation",),
    "Everything else": (),
}
"""The chapters in the order of reading, each with its types."""

_CHAPTER_OF = {kind: chapter for chapter, kinds in CHAPTERS.items() for kind in kinds}
_VALUES = ("valueQuantity", "valueCodeableConcept", "valueString", "valueBoolean", "valueInteger", "valueRange",
           "valueRatio", "valueDateTime", "valuePeriod", "valueTime", "valueSampledData")  # fmt: skip
LONGEST_TEXT = 60_000


@dataclass(frozen=True, slots=True)
class File:
    """A file of a copy: its place among the copy's files, what it is called, and its content type."""

    place: int
    title: str
    kind: str


@dataclass(frozen=True, slots=True)
class Line:
    """One copy for reading. `says` is its value or conclusion, `text` a plain text that it carries in full."""

    chapter: str
    reference: str
    source: str
    about: str
    date: str
    says: str
    status: str
    text: str
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One fact: its copies, one or of several sources, the newest first."""

    copies: tuple[Line, ...]

    @property
    def chapter(self) -> str:
        """The chapter that it stands in."""
        return self.copies[0].chapter

    @property
    def about(self) -> str:
        """What it is about, in the newest copy's words."""
        return self.copies[0].about


def of_case(case: Case) -> list[Entry]:
    """The record that is about the patient, by chapter, the newest first; copies of one fact stand together.

    Every copy is there once. Needs the record loaded.
    """
    found = {copy.reference: _line(copy) for copy in sourced.of_case(case)}
    groups = [links.members(link) for link in links.of_case(case) if link["active"]]
    entries = []
    for members in [*groups, *([reference] for reference in list(found))]:
        copies = [found.pop(reference) for reference in members if reference in found]
        if copies:
            entries.append(Entry(tuple(sorted(copies, key=lambda line: line.date, reverse=True))))
    order = list(CHAPTERS)
    entries.sort(key=lambda entry: entry.copies[0].date, reverse=True)
    return sorted(entries, key=lambda entry: order.index(entry.chapter))


def _line(copy: Sourced) -> Line:
    resource = copy.resource
    usual = resource.get("status") in ("active", "final", "current", "completed", None)
    status = [*conflicts.status(copy), *([] if usual else [str(resource["status"])])]
    return Line(
        _CHAPTER_OF.get(copy.type, "Everything else"), copy.reference, copy.title,
        copy.text if copy.text != copy.type else _spaced(copy.type), copy.when[:10], says(resource),
        ", ".join(status), _text(resource), tuple(_files(resource)),
    )  # fmt: skip


def _spaced(name: str) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip().capitalize()


def says(resource: Resource) -> str:
    """What a resource says about its subject matter, in words: value, dose, reaction, conclusion, note."""
    kind = resource["resourceType"]
    parts: list[str] = []
    if kind == "Observation":
        parts += [_value(resource), *(f"{text_of(c['code'])} {_value(c)}" for c in resource.get("component", []))]
        parts += [text_of(i) for i in resource.get("interpretation", [])]
    elif kind == "AllergyIntolerance":
        parts += [text_of(m) for r in resource.get("reaction", []) for m in r.get("manifestation", [])]
        parts += [f"criticality {resource['criticality']}"] if resource.get("criticality") else []
    elif kind.startswith("Medication"):
        parts += [str(i["text"]) for i in medicines.instructions(resource) if "text" in i]
    elif kind == "Condition":
        parts += [text_of(s.get("summary", {})) for s in resource.get("stage", [])]
    parts += [str(resource[name]) for name in ("conclusion", "description") if resource.get(name)]
    parts += [str(n["text"]) for n in resource.get("note", []) if n.get("text")]
    return "; ".join(part for part in parts if part.strip())


def _value(resource: Resource) -> str:
    name = next((n for n in _VALUES if n in resource), "")
    value = resource.get(name)
    if value is None:
        return text_of(resource.get("dataAbsentReason", {}))
    if name == "valueCodeableConcept":
        return text_of(value)
    if name == "valueQuantity":
        return _quantity(value)
    if name == "valueRange":
        return f"{_quantity(value.get('low', {}))} to {_quantity(value.get('high', {}))}"
    if name == "valueRatio":
        return f"{_quantity(value.get('numerator', {}))} : {_quantity(value.get('denominator', {}))}"
    if name == "valuePeriod":
        return f"{value.get('start', '')} to {value.get('end', '')}"
    if name == "valueBoolean":
        return "yes" if value else "no"
    return str(value) if not isinstance(value, dict) else "sampled data"


def _quantity(quantity: Resource) -> str:
    unit = quantity.get("unit") or quantity.get("code") or ""
    return f"{quantity.get('comparator', '')}{quantity.get('value', '')} {unit}".strip()


def attachments(resource: Resource) -> list[Resource]:
    """The Attachments of a document or a report, in their order."""
    listed = [c.get("attachment", {}) for c in resource.get("content", []) if isinstance(c, dict)]
    return [*listed, *resource.get("presentedForm", [])]


def _files(resource: Resource) -> Iterator[File]:
    for place, one in enumerate(attachments(resource)):
        kind = str(one.get("contentType", "")).partition(";")[0]
        if one.get("data") or one.get("url") or one.get("size"):
            yield File(place, str(one.get("title") or kind or "file"), kind)


def _text(resource: Resource) -> str:
    """The plain text that a document carries inside itself."""
    for one in attachments(resource):
        if str(one.get("contentType", "")).startswith("text/plain") and one.get("data"):
            try:
                return base64.b64decode(one["data"]).decode("utf-8", "replace")[:LONGEST_TEXT]
            except (binascii.Error, ValueError):
                return ""
    return ""
