"""The codes that the case is written in (DOMAIN section 3): published ones, and our own code systems."""

from __future__ import annotations

from fhir_secondop.model import Resource

CANONICAL = "https://secondop.example/fhir"
_THO = "http://terminology.hl7.org/CodeSystem"

V2_DISPOSITION = f"{_THO}/v2-0282"
V2_REFERRAL_REASON = f"{_THO}/v2-0336"
V2_IDENTIFIER_TYPE = f"{_THO}/v2-0203"
V2_DIAGNOSTIC_SERVICE = f"{_THO}/v2-0074"
ACT_CODE = f"{_THO}/v3-ActCode"
PARTICIPATION = f"{_THO}/v3-ParticipationType"
ACT_REASON = f"{_THO}/v3-ActReason"
PROVENANCE_AGENT = f"{_THO}/provenance-participant-type"
TASK_CODE = "http://hl7.org/fhir/CodeSystem/task-code"
LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
COVERAGE_CLASS = f"{_THO}/coverage-class"
LANGUAGE = "urn:ietf:bcp:47"
NPI = "http://hl7.org/fhir/sid/us-npi"


def system(name: str) -> str:
    """The canonical URL of one of our code systems."""
    return f"{CANONICAL}/CodeSystem/{name}"


def extension(name: str) -> str:
    """The canonical URL of one of our extensions."""
    return f"{CANONICAL}/StructureDefinition/{name}"


REASON = system("reason")
PATHWAY = system("pathway")
BUSINESS_STATUS = system("business-status")
STATUS_REASON = system("status-reason")
DELIVERY_STATUS = system("delivery-status")
TASK = system("task")
ENCOUNTER_TYPE = system("encounter-type")
DECISION = system("decision")
DIAGNOSIS_CONCORDANCE = system("diagnosis-concordance")
TREATMENT_CONCORDANCE = system("treatment-concordance")
OVERALL_CONCORDANCE = system("overall-concordance")
SIGNIFICANCE = system("significance")
SECTION = system("section")
OPTION_PREFERENCE = system("option-preference")
EVIDENCE = system("delivery-evidence")
RECORD_ITEM = system("record-item")
NOTICE = system("notice")

REASONS = (
    "uncertain-diagnosis", "doubt-treatment-plan", "explore-alternatives", "severity-concern",
    "seek-confirmation", "pre-procedure", "payer-required",
)  # fmt: skip
PATHWAYS = ("pcp-referral", "specialist-referral", "insurer-guided", "directory", "self", "peer-recommendation")
DIAGNOSIS_CODES = ("confirmed", "refined", "additional", "changed", "refuted", "indeterminate", "not-assessed")
TREATMENT_CODES = (
    "agreed", "agreed-modified", "additional", "deescalate", "alternative", "not-recommended", "defer", "not-assessed",
)  # fmt: skip
SIGNIFICANCES = ("none", "minor", "major", "critical")
DECISIONS = ("adopt", "adopt-in-part", "keep-current", "seek-third-opinion", "patient-declined")
OPTION_PREFERENCES = ("preferred", "acceptable", "not-advised")
STATUS_REASONS = (
    "conflict-of-interest", "wrong-specialty", "no-capacity", "reviewer-unavailable", "insufficient-records",
    "coverage-denied", "consent-withheld", "patient-withdrew", "patient-deceased", "superseded-by-event",
    "duplicate", "out-of-scope", "not-selected",
)  # fmt: skip
NOTICES = ("accepted", "due-after-deadline", "overdue", "proposal-ended", "result-arrived", "not-acknowledged")

# Extensions on the ServiceRequest and on what we write.
DECISION_UNDER_REVIEW = extension("decision-under-review")
DECISION_DEADLINE = extension("decision-deadline")
DECISION_OWNER = extension("decision-owner")
PATHWAY_EXTENSION = extension("pathway")
RECORD_SOURCE = extension("record-source")
INFORM = extension("inform")
ITEM_UNDER_REVIEW = extension("item-under-review")
INDEPENDENCE = extension("independence")
BLIND_FIRST = extension("blind-first")
BLINDNESS = extension("blindness")
OPTION = extension("option")
PROPOSAL_OUTCOME = extension("proposal-outcome")
PROPOSAL_RESULT = extension("proposal-result")
EARLIER = extension("earlier-reviewer")
REPORT_VERSION = extension("report-version")
DECISION_EXTENSION = extension("decision")
AMENDMENT_KIND = extension("amendment-kind")
AMENDMENT_REASON = extension("amendment-reason")
CITES_REPORT = extension("cites-report")
LINK_WHY = extension("link-why")
LINK_DECISION = extension("link-decision")
AUTH_TIME = extension("auth-time")
REQUEST_PROFILE = extension("second-opinion-request")
SUPERSEDES = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"


def coding(system_url: str, code: str, display: str = "") -> Resource:
    """A Coding."""
    return {"system": system_url, "code": code, **({"display": display} if display else {})}


def concept(system_url: str, code: str, display: str = "", text: str = "") -> Resource:
    """A CodeableConcept with one Coding."""
    return {"coding": [coding(system_url, code, display)], **({"text": text} if text else {})}


def has(concept_value: Resource | None, system_url: str, code: str | None = None) -> bool:
    """Whether a CodeableConcept carries a Coding of that system (and code)."""
    return code_of(concept_value, system_url) is not None and code in (None, code_of(concept_value, system_url))


def code_of(concept_value: Resource | None, system_url: str) -> str | None:
    """The code that a CodeableConcept carries in that system."""
    for candidate in (concept_value or {}).get("coding", []):
        if candidate.get("system") == system_url and "code" in candidate:
            return str(candidate["code"])
    return None


def extension_value(resource: Resource, url: str) -> Resource | str | int | None:
    """The value of the first extension with that url."""
    return next(iter(extension_values(resource, url)), None)


def extension_values(resource: Resource, url: str) -> list[Resource | str | int]:
    """The values of all extensions with that url."""
    return [
        value
        for ext in resource.get("extension", [])
        if ext.get("url") == url
        for key, value in ext.items()
        if key.startswith("value")
    ]
