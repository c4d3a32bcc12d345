"""What is asked of an EHR: from its CapabilityStatement, its vendor's facts and the scopes that were granted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fhir_secondop.ehr import scopes
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.vendors import Site

# What a second opinion reads, in the order of EHR.md; each by the patient.
TYPES = (
    "Condition", "AllergyIntolerance", "MedicationRequest", "MedicationStatement", "Observation", "DiagnosticReport",
    "DocumentReference", "Procedure", "Encounter", "Immunization", "FamilyMemberHistory", "CarePlan", "CareTeam",
    "Goal", "ServiceRequest", "ImagingStudy", "Device", "MedicationDispense", "Coverage",
)  # fmt: skip
# Read one by one when something cites them.
CITED = ("Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Binary")
READ = ("Patient", *TYPES, *CITED)
WRITTEN = ("DocumentReference", "DiagnosticReport", "Observation", "Communication")
# The search parameter that names the patient, by type; the first that a server declares is used.
_BY_PATIENT = {"Coverage": ("patient", "beneficiary"), "Device": ("patient",)}


@dataclass(frozen=True, slots=True)
class Ask:
    """How one type is asked for.

    `parameter` names the patient; it is "" where the type can't be asked for, and `because` says why. `first` are
    the further parameters of the searches to make ("category=laboratory"), "" for none; `demanded` those to try when
    a search is refused for want of one. `since` is whether `_lastUpdated` is understood.
    """

    type: str
    parameter: str = ""
    outcome: str = "not-offered"
    because: str = ""
    first: tuple[str, ...] = ("",)
    demanded: tuple[str, ...] = ()
    since: bool = False


def plan(capability: Capability, site: Site, granted: frozenset[str] | None = None) -> Iterator[Ask]:
    """An Ask for each type, in order."""
    for kind in TYPES:
        yield _ask(kind, capability, site, granted)


def _ask(kind: str, capability: Capability, site: Site, granted: frozenset[str] | None) -> Ask:
    if not capability.offers(kind, "search-type"):
        return Ask(kind)
    if kind in site.unsearchable:
        return Ask(kind, because="declared, but not searchable by patient there")
    parameter = capability.parameter(kind, *_BY_PATIENT.get(kind, ("patient", "subject")))
    if not parameter:
        return Ask(kind, because="no search by patient")
    if not (scopes.permits(granted, kind, "s") or scopes.permits(granted, kind, "r")):
        return Ask(kind, outcome="refused", because="the scope was not granted")
    by_category = site.categories.get(kind, []) if capability.parameter(kind, "category") else []
    return Ask(
        kind, parameter, "", "", tuple(f"category={value}" for value in by_category) or ("",),
        tuple(site.demands.get(kind, [])), bool(capability.parameter(kind, "_lastUpdated")),
    )  # fmt: skip
