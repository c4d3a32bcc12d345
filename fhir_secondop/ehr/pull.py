"""One patient's record from one EHR: who it is there, what is asked, and what came back for each type.

Nothing here stores: pages are handed back as they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fhir_secondop.ehr.client import Capability, Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import Answer, Page, Resource

# What a second opinion reads, in the order of EHR.md; each by the patient.
TYPES = (
    "Condition", "AllergyIntolerance", "MedicationRequest", "MedicationStatement", "Observation", "DiagnosticReport",
    "DocumentReference", "Procedure", "Encounter", "Immunization", "FamilyMemberHistory", "CarePlan", "CareTeam",
    "Goal", "ServiceRequest", "ImagingStudy", "Device",
)  # fmt: skip
# Read one by one when something cites them.
CITED = frozenset({"Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Binary"})
MAX_CITED = 500


@dataclass(frozen=True, slots=True)
class Match:
    """Who the patient is there. `id` is empty when nobody, or nobody for certain, was found; `because` says why."""

    id: str
    because: str
    page: Page | None = None


def find_patient(client: Client, identifiers: Iterable[tuple[str, str]], birth_date: str) -> Match:
    """The patient with one of these identifiers of that place. Anything less than certain is left to a person."""
    asked = False
    for system, value in identifiers:
        asked = True
        page = next(client.pages("Patient", {"identifier": f"{system}|{value}"}))
        found = [r for r in _matches(page, "Patient") if _has(r, system, value)]
        if len(found) > 1:
            return Match("", "several patients there have this identifier; a person must choose")
        if found and found[0].get("birthDate") != birth_date:
            return Match("", "the patient with this identifier has another date of birth; a person must look")
        if found:
            return Match(found[0]["id"], "by identifier, same date of birth", page)
    return Match("", "no patient with this identifier" if asked else "no identifier of that place is known")


def _matches(page: Page, resource_type: str) -> list[Resource]:
    entries = codec.parse(page.body).get("entry", [])
    resources = [entry.get("resource", {}) for entry in entries]
    return [r for r in resources if r.get("resourceType") == resource_type]


def _has(resource: Resource, system: str, value: str) -> bool:
    return any(i.get("system") == system and i.get("value") == value for i in resource.get("identifier", []))


def plan(capability: Capability) -> Iterator[tuple[str, str]]:
    """(type, search parameter) of each type; the parameter is "" where the EHR does not offer the search."""
    for kind in TYPES:
        offered = capability.offers(kind, "search-type")
        yield kind, (capability.parameter(kind, "patient", "subject") if offered else "")


def fetch(client: Client, resource_type: str, parameter: str, patient_id: str) -> tuple[list[Page], Answer]:
    """Every page of one type, and what to write into the manifest.

    A refusal is an answer too; only what trying again may mend is raised.
    """
    if not parameter:
        return [], Answer(resource_type, "not-offered")
    asked = f"{resource_type}?{parameter}="
    value = patient_id if parameter == "patient" else f"Patient/{patient_id}"
    pages, failure = _pages(client, resource_type, {parameter: value, "_count": "100"})
    if failure is not None and failure.retryable and pages:
        # Pages expire, and servers hiccup: once from the beginning, before the manifest says that it was cut off.
        again, failure = _pages(client, resource_type, {parameter: value, "_count": "100"})
        pages = again if failure is None or len(again) > len(pages) else pages
    if failure is None:
        return pages, Answer(resource_type, "answered", asked, _count(pages), detail=_notices(pages))
    if failure.retryable and not pages:
        raise failure
    outcome = "truncated" if pages else "refused"
    return pages, Answer(resource_type, outcome, asked, _count(pages), detail=f"{failure.kind}: {failure.message}")


def _pages(client: Client, resource_type: str, params: Mapping[str, str]) -> tuple[list[Page], EhrFailure | None]:
    """The pages that came, and the failure that ended them early."""
    pages: list[Page] = []
    try:
        for page in client.pages(resource_type, params):
            pages.append(page)
    except EhrFailure as failure:
        return pages, failure
    return pages, None


def _count(pages: list[Page]) -> int:
    resources = [e.get("resource", {}) for page in pages for e in codec.parse(page.body).get("entry", [])]
    return sum(1 for r in resources if r.get("resourceType", "OperationOutcome") != "OperationOutcome")


def _notices(pages: list[Page]) -> str:
    """An OperationOutcome among the entries may say that data is withheld: its codes go into the manifest."""
    found = [
        issue.get("code", "")
        for page in pages
        for outcome in _matches(page, "OperationOutcome")
        for issue in outcome.get("issue", [])
    ]
    return ("the source added: " + ", ".join(sorted(set(found)))) if found else ""


def resource_texts(page: Page) -> list[str]:
    """The text of each resource in a page, byte for byte: a Bundle's entries, or the one resource that it is."""
    text = codec.text_of(page.body)
    if codec.parse(text).get("resourceType") == "Bundle":
        return [t for t in codec.entry_resources(text) if t is not None]
    return [text]


def cited(texts: Iterable[str], base: str) -> list[str]:
    """What the resources cite and should be read by itself, sorted: "Practitioner/1", "Binary/2"."""
    have: set[str] = set()
    wanted: set[str] = set()
    for text in texts:
        resource = codec.parse(text)
        have.add(f"{resource['resourceType']}/{resource.get('id', '')}")
        wanted.update(_literal(reference, base) for reference in [*refs.find(resource), *_attachment_urls(resource)])
    return sorted(r for r in wanted - have if r.partition("/")[0] in CITED)


def _literal(text: str, base: str) -> str:
    ref = refs.parse(text)
    return ref.local if ref is not None and ref.base in ("", base) else ""


def _attachment_urls(resource: Resource) -> Iterator[str]:
    for content in resource.get("content", []) if isinstance(resource.get("content"), list) else []:
        if isinstance(content, dict) and "url" in content.get("attachment", {}):
            yield content["attachment"]["url"]
    for form in resource.get("presentedForm", []):
        if "url" in form:
            yield form["url"]


def read_cited(client: Client, reference: str) -> tuple[Page | None, str]:
    """A cited resource, or why it could not be read. Raises what trying again may mend."""
    try:
        page = client.get(reference)
        cited_kind = codec.parse(page.body).get("resourceType")
    except Malformed:
        return None, "validation"  # a file's raw bytes, or a page for people
    except EhrFailure as failure:
        # Some servers answer 500 for a record that is missing; one such must not cost the whole record.
        if failure.retryable and failure.status != 500:
            raise
        return None, failure.kind
    return (page, "") if cited_kind == reference.partition("/")[0] else (None, "validation")
