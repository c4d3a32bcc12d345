"""Rung 8: an HL7 v2 message, by MLLP or as a file, for EHRs that take documents no other way."""

from __future__ import annotations

from collections.abc import Sequence

from fhir_secondop.ehr import hl7_documents
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.documents import Deliverable, text_for
from fhir_secondop.ehr.target import Target
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.model import Resource


class Hl7Message:
    """Rung 8. Nothing can be looked for or read back there: what our ledger says was sent is all that is known."""

    number = 8
    name = "HL7 v2 message"
    type = ""
    reads_back = False

    def as_text(self) -> bool:
        """The text and the PDF."""
        return False

    def current(self, status: str) -> bool:
        """See Rung."""
        return True

    def obstacle(self, capability: Capability, site: Site) -> str:
        """No statement speaks of it: the operator has configured it, or not."""
        return "" if site.hl7 else "no HL7 v2 interface is configured"

    def unfit(self, document: Deliverable, site: Site) -> str:
        """See Rung."""
        return "" if text_for(document, site) else f"takes {site.text_limit} characters, and its conclusion has more"

    def probe(self, target: Target) -> str:
        """Nothing that asking would tell."""
        return ""

    def copies(self, target: Target, document: Deliverable, *, thoroughly: bool = False) -> list[Resource]:
        """Nothing: they can't be looked for."""
        return []

    def parts(self, target: Target, document: Deliverable) -> list[Resource]:
        """Nothing."""
        return []

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        """Nothing: `Target.carried` says what went there before."""
        return []

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """Sends it; how it was acknowledged. Raises EhrFailure where it was refused, or nobody answered."""
        client = target.client
        patient = target.record or client.read(target.patient)
        message = hl7_documents.outgoing(document, patient, client.connection, client.site, target.carried)
        return f"{message.event} {message.control_id}, {client.message(message.data, message.control_id)}"

    def supersede(self, target: Target, old: Resource) -> None:
        """The message itself says what it replaces."""

    def sample(self, target: Target, document: Deliverable) -> Resource:
        """Nothing: no resource is stored."""
        return {}
