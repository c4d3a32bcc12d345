"""Which types plain FHIR writes may write: the setting `writable_types`."""

from __future__ import annotations

from fhir_secondop.ehr import plan
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import definitions
from fhir_secondop.opinion import directory

# What asks for a second opinion, answers it and says what became of it; a record has what `ehr.plan` reads. What a
# case tells of itself (AuditEvent) is written by nobody.
_CASE = (
    "Appointment", "Basic", "Bundle", "ClinicalImpression", "Communication", "CommunicationRequest", "Composition",
    "Consent", "CoverageEligibilityRequest", "CoverageEligibilityResponse", "DetectedIssue", "Endpoint", "Linkage",
    "List", "Media", "MedicationAdministration", "Provenance", "Questionnaire", "QuestionnaireResponse",
    "RelatedPerson", "RequestGroup", "RiskAssessment", "ServiceRequest", "Specimen", "Task",
)  # fmt: skip
CASE = frozenset({*_CASE, *directory.TYPES, *plan.READ})
"""Those of a case and its record."""
# Whoever has a Subscription taken counts on being told, and nobody is; an AuditEvent that somebody wrote would stand
# beside what the audit says. They are taken only where the site names them.
_UNSERVED = frozenset({"AuditEvent", "Subscription"})


def types(setting: str) -> frozenset[str]:
    """The types that a setting names: types of R4 between commas, "case" for those of a case and its record, "all"
    for all but those that would ask us for what we don't do.

    Raises Invalid.
    """
    known = definitions.resource_types()
    words = {"case": CASE, "all": frozenset(known) - _UNSERVED}
    found: set[str] = set()
    for word in filter(None, (part.strip() for part in setting.split(","))):
        if word not in words and word not in known:
            raise Invalid(f'writable_types: {word!r} is no type of R4; use types, "case" or "all".')
        found |= words.get(word, {word})
    return frozenset(found)
