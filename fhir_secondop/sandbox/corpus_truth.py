"""What is true of an invented record: which cases need an item, how new it must be, and how a record is handed on.

Said here once more, from what specialists ask for, and not read from the checklists: those are measured by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fhir_secondop.model import Answer, Resource

KINDS = ("breast", "spine", "generic")
SOURCES = ("Riverbend Clinic", "Harbor Hospital", "Quarry Imaging")
TYPES = ("Condition", "AllergyIntolerance", "MedicationRequest", "MedicationStatement", "Observation",
         "DiagnosticReport", "DocumentReference", "Procedure", "Encounter", "Immunization", "FamilyMemberHistory",
         "CarePlan", "ServiceRequest", "ImagingStudy")  # fmt: skip
# Item → what makes it needed, where it is not always.
NEEDED_WHEN = {
    ("breast", "operative-report"): "operated", ("breast", "genetics"): "familial",
    ("spine", "operative-report"): "operated", ("spine", "flexion-extension-report"): "slip",
    ("spine", "bone-density"): "fusion", ("generic", "pathology-report"): "tumour",
}  # fmt: skip
# Days after which it says too little.
KEEPS_DAYS = {
    ("breast", "mammography-report"): 365, ("breast", "breast-ultrasound-or-mri-report"): 365,
    ("breast", "images"): 365, ("spine", "spine-mri-report"): 365, ("spine", "images"): 365,
    ("spine", "flexion-extension-report"): 365, ("spine", "conservative-treatment"): 365,
    ("spine", "neurological-examination"): 365, ("spine", "bone-density"): 730,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """A record, what is under review, what the sources said, and the true state of each item."""

    number: int
    kind: str
    today: str
    reviewed: list[Resource]
    resources: list[Resource]
    said: list[tuple[str, Answer]]
    requested: frozenset[str]
    truth: dict[str, str]
    planted: dict[str, str]
