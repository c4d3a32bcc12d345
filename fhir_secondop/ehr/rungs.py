"""What a rung of the ladder is, and what those have in common that put a DocumentReference into the chart.

Numbers are those of EHR.md. A rung looks before it sends, always: what a killed worker sent may have landed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fhir_secondop.ehr import documents
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.target import (
    Target,
    carries,
    earlier,
    first,
    honours_identifier,
    if_match,
    is_about,
    same_documents,
    shown,
    with_identifier,
)
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.model import Resource


class Rung(Protocol):
    """One way of delivering."""

    number: int
    name: str
    type: str
    """The type of resource that is the copy there; "" where it is none."""
    reads_back: bool
    """Whether a copy can be looked for there, and read."""

    def obstacle(self, capability: Capability, site: Site) -> str:
        """Why it can't be used with this EHR, as far as statement and vendor facts tell; "" when it can."""

    def unfit(self, document: Deliverable, site: Site) -> str:
        """Why it can't carry this document; "" when it can."""

    def probe(self, target: Target) -> str:
        """Why it can't be used, as far as only asking tells; "" when it can. Never by writing."""

    def copies(self, target: Target, document: Deliverable, *, thoroughly: bool = False) -> list[Resource]:
        """The copies of this version there. `thoroughly`: also those that lost what they are searched by."""

    def parts(self, target: Target, document: Deliverable) -> list[Resource]:
        """What stands beside the copy there under identifiers that we gave it: report and results, of any version."""

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        """The copies of earlier versions there, whichever arrived, newest first."""

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """Sends the document, which replaces the first of `older`. The reference of the new one there, or ""."""

    def supersede(self, target: Target, old: Resource) -> None:
        """Marks an earlier copy, where the EHR lets us."""

    def sample(self, target: Target, document: Deliverable) -> Resource:
        """What is sent, to compare with what was stored."""

    def as_text(self) -> bool:
        """Whether what is sent is the text, and not the PDF."""

    def current(self, status: str) -> bool:
        """Whether a copy with this status is the current one."""


class DocumentRung:
    """Rungs whose copy is a DocumentReference, found by its version id; earlier versions by the set id."""

    number = 0
    name = ""
    type = "DocumentReference"
    reads_back = True

    def as_text(self) -> bool:
        """The PDF."""
        return False

    def current(self, status: str) -> bool:
        """See Rung."""
        return status == "current"

    def unfit(self, document: Deliverable, site: Site) -> str:
        """Any document."""
        return ""

    def probe(self, target: Target) -> str:
        """Nothing that asking would tell."""
        return ""

    def copies(self, target: Target, document: Deliverable, *, thoroughly: bool = False) -> list[Resource]:
        """See Rung. All documents of the patient are read only where a copy may be there that lost its identifier."""
        found = with_identifier(target, self.type, documents.URI, document.version_id)
        if not thoroughly:
            return found
        known = {r["id"] for r in found}
        same = same_documents(target, document, thoroughly=not found)
        return [*found, *(r for r in same if r["id"] not in known)]

    def find(self, target: Target, document: Deliverable) -> str:
        """The reference of the copy of this version there, or ""."""
        return first(self.copies(target, document), current=self.current)

    def parts(self, target: Target, document: Deliverable) -> list[Resource]:
        """See Rung. An attempt on a higher rung may have left some of them."""
        capability, site = target.client.capability, target.client.site
        if document.report is None or not creates_conditionally(capability, site, "Observation"):
            return []
        report = document.report["identifier"][0]
        found = with_identifier(target, "DiagnosticReport", report["system"], report["value"])
        named = [(o["identifier"][0]["system"], o["identifier"][0]["value"]) for o in document.observations]
        return found + _results(target, named)

    def located(self, target: Target, document: Deliverable, location: str = "") -> str:
        """Where what was just written stands, see `shown`."""
        return location or shown(lambda: self.find(target, document))

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        """See Rung."""
        return earlier(document, with_identifier(target, self.type, documents.URI, document.set_id))

    def supersede(self, target: Target, old: Resource) -> None:
        """Sets the status of an earlier copy; where that is refused, the alignment board says so.

        By now the new version is there: a refusal here must not look like a refusal of it.
        """
        if old.get("status") != "current" or not target.client.capability.offers(self.type, "update"):
            return
        try:
            target.client.write("PUT", f"{self.type}/{old['id']}", {**old, "status": "superseded"}, if_match(old))
        except EhrFailure as failure:
            if failure.retryable:
                raise

    def composed(
        self, target: Target, document: Deliverable, older: Sequence[Resource], *, encounter: str = ""
    ) -> Resource:
        """The DocumentReference to send, which replaces the first of `older`."""
        newest = f"{older[0]['resourceType']}/{older[0]['id']}" if older else ""
        return documents.document_reference(
            document, target.patient, target.client.site, as_text=self.as_text(), encounter=encounter, replaces=newest
        )

    def sample(self, target: Target, document: Deliverable) -> Resource:
        """See Rung."""
        return self.composed(target, document, ())


def creates_conditionally(capability: Capability, site: Site, kind: str) -> bool:
    """Whether a resource of this type can be created there unless it is there already."""
    return capability.offers(kind, "create") and capability.conditional_create(kind) and kind not in site.never_creates


def _results(target: Target, named: list[tuple[str, str]]) -> list[Resource]:
    """The Observations there with these identifiers (system, value)."""
    asked = ",".join(f"{system}|{value}" for system, value in named)
    together = target.client.search("Observation", {"identifier": asked}) if named else []
    found = [r for r in together if is_about(target, r) and any(carries(r, *one) for one in named)]
    if len(found) == len(together) and all(any(carries(r, *one) for r in found) for one in named):
        return found
    # Not every server takes a list of values, and an answer with others in it was to something else.
    return [r for one in named for r in with_identifier(target, "Observation", *one)]


def document_obstacle(capability: Capability, site: Site, *, as_text: bool = False) -> str:
    """Why a DocumentReference can't be filed there, as PDF or as text."""
    if not capability.offers("DocumentReference", "create"):
        return "no create of DocumentReference"
    if "DocumentReference" in site.never_creates:
        return "create of DocumentReference is declared, and not for such as us"
    return "takes plain text only" if site.text_only and not as_text else ""


def identifier_obstacle(target: Target) -> str:
    """Why a copy could not be found by its identifier there."""
    if not target.client.site.identifier_kept:
        return "identifiers are not kept"
    return "" if honours_identifier(target) else "search by identifier is not honoured"
