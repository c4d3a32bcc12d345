"""Rung 7: a Communication with the document attached, for EHRs that take messages and no documents."""

from __future__ import annotations

from collections.abc import Sequence

from fhir_secondop.ehr import documents
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.target import (
    Target,
    content_of,
    copies_among,
    earlier,
    first,
    is_about,
    is_of_set,
    is_version,
    named,
    of_patient,
    shown,
)
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.model import Resource


class Message:
    """Rung 7. A message can't be superseded: the next one answers it, and the board asks for an acknowledgement."""

    number = 7
    name = "Communication with attachment"
    type = "Communication"
    reads_back = True

    def as_text(self) -> bool:
        """The PDF."""
        return False

    def current(self, status: str) -> bool:
        """See Rung."""
        return status == "completed"

    def obstacle(self, capability: Capability, site: Site) -> str:
        """See Rung."""
        if not capability.offers("Communication", "create"):
            return "no create of Communication"
        if "Communication" in site.never_creates:
            return "create of Communication is declared, and not for such as us"
        if site.text_only:
            return "takes plain text only"
        if "Communication" in site.unsearchable or not capability.offers("Communication", "search-type"):
            return "a copy could not be looked for"
        parameter = capability.parameter("Communication", "patient", "subject")
        return "" if parameter else "messages can't be searched by patient"

    def unfit(self, document: Deliverable, site: Site) -> str:
        """Any document."""
        return ""

    def probe(self, target: Target) -> str:
        """Nothing that asking would tell."""
        return ""

    def parts(self, target: Target, document: Deliverable) -> list[Resource]:
        """Nothing."""
        return []

    def _all(self, target: Target) -> list[Resource]:
        parameter = target.client.capability.parameter("Communication", "patient", "subject")
        return of_patient(target, "Communication", parameter)

    def copies(self, target: Target, document: Deliverable, *, thoroughly: bool = False) -> list[Resource]:
        """See Rung."""
        found = self._all(target)
        return copies_among(target, found, lambda r: is_version(target, document, r), thoroughly=thoroughly)

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        """See Rung."""
        found = [r for r in self._all(target) if is_about(target, r) and is_of_set(document, r)]
        return [r for r in earlier(document, found) if content_of(target.client, r) != document.pdf]

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """See Rung."""
        answers = f"Communication/{older[0]['id']}" if older else ""
        sender = self._sender(target, document)
        resource = documents.communication(document, target.patient, sender, target.client.site, answers)
        written = target.client.write("POST", self.type, resource)
        return written.location or shown(lambda: first(self.copies(target, document), current=self.current))

    def _sender(self, target: Target, document: Deliverable) -> str:
        """The author as a Practitioner of that place, where one is demanded."""
        if target.client.site.communication_sender != "Practitioner":
            return ""
        for identifier in document.author.get("identifier", []):
            token = f"{identifier.get('system', '')}|{identifier.get('value', '')}"
            for found in target.client.search("Practitioner", {"identifier": token}):
                if identifier.get("value") in named(found):
                    return f"Practitioner/{found['id']}"
        raise EhrFailure("validation", "A message needs a Practitioner there as its sender; the reviewer is none.")

    def supersede(self, target: Target, old: Resource) -> None:
        """Nothing marks a message as superseded."""

    def sample(self, target: Target, document: Deliverable) -> Resource:
        """See Rung."""
        return documents.communication(document, target.patient, "", target.client.site)
