"""Rungs 3 and 4: a document, or a report, filed after a search that found none."""

from __future__ import annotations

from collections.abc import Sequence

from fhir_secondop.ehr import documents
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.rungs import DocumentRung, document_obstacle
from fhir_secondop.ehr.target import (
    Target,
    content_of,
    copies_among,
    documents_of,
    earlier,
    first,
    if_match,
    is_about,
    is_of_set,
    of_patient,
    same_documents,
    shown,
)
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.fhir import times
from fhir_secondop.model import Resource

_NO_LOOK = "a copy could not be looked for"
_FINAL = ("final", "amended", "corrected", "appended")


class SearchThenCreate(DocumentRung):
    """Rung 3: a DocumentReference with the PDF, after a search that found none."""

    number = 3
    name = "DocumentReference with PDF"

    def obstacle(self, capability: Capability, site: Site) -> str:
        """See Rung."""
        because = document_obstacle(capability, site)
        if because:
            return because
        return "" if capability.offers("DocumentReference", "search-type") else _NO_LOOK

    def copies(self, target: Target, document: Deliverable, *, thoroughly: bool = False) -> list[Resource]:
        """See Rung."""
        return same_documents(target, document, thoroughly=thoroughly)

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        """See Rung."""
        found = [r for r in documents_of(target) if is_of_set(document, r)]
        return [r for r in earlier(document, found) if content_of(target.client, r) != document.pdf]

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """See Rung."""
        written = target.client.write("POST", "DocumentReference", self.composed(target, document, older))
        return self.located(target, document, written.location)


class ReportWithPdf:
    """Rung 4: a DiagnosticReport with the PDF, where its category is taken. A later version updates the same one."""

    number = 4
    name = "DiagnosticReport with PDF"
    type = "DiagnosticReport"
    reads_back = True

    def as_text(self) -> bool:
        """The PDF."""
        return False

    def current(self, status: str) -> bool:
        """See Rung."""
        return status in _FINAL

    def obstacle(self, capability: Capability, site: Site) -> str:
        """See Rung."""
        if not capability.offers("DiagnosticReport", "create"):
            return "no create of DiagnosticReport"
        if "DiagnosticReport" in site.never_creates:
            return "create of DiagnosticReport is declared, and not for such as us"
        if site.text_only:
            return "takes plain text only"
        return "" if capability.offers("DiagnosticReport", "search-type") else _NO_LOOK

    def unfit(self, document: Deliverable, site: Site) -> str:
        """See Rung."""
        if document.report is None:
            return "this document is no report"
        coded = {c.get("code") for category in document.report.get("category", []) for c in category.get("coding", [])}
        if site.report_categories and not coded & set(site.report_categories):
            return f"takes only reports of the categories {', '.join(site.report_categories)}"
        return ""

    def probe(self, target: Target) -> str:
        """Nothing that asking would tell."""
        return ""

    def parts(self, target: Target, document: Deliverable) -> list[Resource]:
        """Nothing."""
        return []

    def _all(self, target: Target) -> list[Resource]:
        return of_patient(target, "DiagnosticReport")

    def _reports(self, target: Target, document: Deliverable) -> list[Resource]:
        return [r for r in self._all(target) if is_about(target, r) and is_of_set(document, r)]

    def copies(self, target: Target, document: Deliverable, *, thoroughly: bool = False) -> list[Resource]:
        """See Rung. It is this version when its bytes are."""

        def same(report: Resource) -> bool:
            return is_of_set(document, report) and content_of(target.client, report) == document.pdf

        return copies_among(target, self._all(target), same, thoroughly=thoroughly)

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        """See Rung."""
        issued = times.interval(document.issued).low
        others = [r for r in self._reports(target, document) if content_of(target.client, r) != document.pdf]
        newer = [r for r in others if "issued" in r and times.interval(r["issued"]).low > issued]
        if newer:
            raise EhrFailure("conflict", "A newer version of the report is there; this one must not replace it.")
        return sorted(others, key=lambda r: str(r.get("issued", "")), reverse=True)

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """See Rung."""
        resource = self.sample(target, document)
        if not older:
            written = target.client.write("POST", self.type, resource)
            return written.location or shown(lambda: first(self.copies(target, document), current=self.current))
        reference = f"{self.type}/{older[0]['id']}"
        target.client.write("PUT", reference, {**resource, "id": older[0]["id"]}, if_match(older[0]))
        return reference

    def supersede(self, target: Target, old: Resource) -> None:
        """The update replaced it."""

    def sample(self, target: Target, document: Deliverable) -> Resource:
        """See Rung."""
        sent = documents.report_for(document, target.patient, [])
        form = documents.attachment(document.pdf, "application/pdf", document.title, document.issued)
        return {**{k: v for k, v in sent.items() if k != "result"}, "presentedForm": [form]}
