"""Rung 5: the text as a note on an existing encounter, for EHRs that take nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.documents import Deliverable, text_for
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.rungs import DocumentRung, document_obstacle
from fhir_secondop.ehr.target import (
    Target,
    all_documents,
    content_of,
    copies_among,
    documents_of,
    earlier,
    is_about,
    is_of_set,
    named,
)
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.fhir import refs, times
from fhir_secondop.model import Resource

_DAY_MS = 86_400_000


class NoteOnEncounter(DocumentRung):
    """Rung 5: the text as a note on an existing encounter; the version id in the text is how it is found."""

    number = 5
    name = "text note on an existing encounter"

    def as_text(self) -> bool:
        """See Rung."""
        return True

    def obstacle(self, capability: Capability, site: Site) -> str:
        """See Rung."""
        because = document_obstacle(capability, site, as_text=True)
        if because:
            return because
        if not capability.offers("DocumentReference", "search-type"):
            return "a copy could not be looked for"
        return "" if capability.offers("Encounter", "search-type") else "encounters can't be searched"

    def unfit(self, document: Deliverable, site: Site) -> str:
        """See Rung."""
        return "" if text_for(document, site) else f"takes {site.text_limit} characters, and its conclusion has more"

    def copies(self, target: Target, document: Deliverable, *, thoroughly: bool = False) -> list[Resource]:
        """See Rung."""
        return self._marked(target, document.version_id, thoroughly=thoroughly)

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        """See Rung."""
        found = {r["id"]: r for r in documents_of(target) if is_of_set(document, r)}
        if document.previous_version_id:  # where identifiers vanish, the text still tells
            found |= {r["id"]: r for r in self._marked(target, document.previous_version_id, thoroughly=False)}
        return earlier(document, found.values())

    def _marked(self, target: Target, version_id: str, *, thoroughly: bool) -> list[Resource]:
        # The head of the text names its own version; an amendment also names the one before, further down.
        marker = f"({version_id})".encode()

        # Where identifiers are kept they tell too: of a text that was changed the marker may be what is left out.
        def same(note: Resource) -> bool:
            return version_id in named(note) or marker in content_of(target.client, note)

        return copies_among(target, all_documents(target), same, thoroughly=thoroughly)

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """See Rung."""
        encounter = self.encounter(target, document)
        if not encounter:
            raise EhrFailure("validation", "There is no suitable encounter for a note.")
        resource = self.composed(target, document, older, encounter=encounter)
        written = target.client.write("POST", "DocumentReference", resource)
        return self.located(target, document, written.location)

    def encounter(self, target: Target, document: Deliverable) -> str:
        """The newest ambulatory encounter with one of the document's clinicians, within the site's days.

        Never emergency, inpatient or another specialty.
        """
        oldest = times.interval(document.issued).low - target.client.connection.encounter_days * _DAY_MS
        suitable = []
        for encounter in target.client.search("Encounter", {"patient": target.patient_id}):
            begun = encounter.get("period", {}).get("start", "")
            if (
                encounter.get("class", {}).get("code") == "AMB"
                and encounter.get("status") in ("finished", "in-progress", "arrived")
                and is_about(target, encounter)
                and begun
                and times.interval(begun).low >= oldest
            ):
                suitable.append((times.interval(begun).low, encounter["id"], encounter))
        for _, encounter_id, encounter in sorted(suitable, key=lambda row: row[:2], reverse=True):
            if self._with(target.client, encounter, document.clinicians):
                return f"Encounter/{encounter_id}"
        return ""

    def _with(self, client: Client, encounter: Resource, clinicians: frozenset[str]) -> bool:
        for participant in encounter.get("participant", []):
            individual = participant.get("individual", {})
            people = [individual, *_person(client, individual)]
            if any(_identifiers(person) & clinicians for person in people):
                return True
        return False


def _person(client: Client, individual: Resource) -> list[Resource]:
    """Who a participant is, as far as the EHR shows it to us: a role leads to its practitioner."""
    ref = refs.parse(individual.get("reference", ""))
    if ref is None or ref.base not in ("", client.base):
        return []
    try:
        found = client.read(ref.local)
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return []  # a participant that we may not see is nobody that we know
    if found["resourceType"] != "PractitionerRole":
        return [found]
    return [found, *_person(client, found.get("practitioner", {}))]


def _identifiers(person: Resource) -> set[str]:
    held = person.get("identifier", [])
    listed = held if isinstance(held, list) else [held]
    return {f"{i.get('system', '')}|{i['value']}" for i in listed if "value" in i}
