"""The ladder: the rungs in their order, and which of them an EHR allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.conditional import ConditionalCreates, Transaction
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.filing import ReportWithPdf, SearchThenCreate
from fhir_secondop.ehr.hl7_message import Hl7Message
from fhir_secondop.ehr.messages import Message
from fhir_secondop.ehr.notes import NoteOnEncounter
from fhir_secondop.ehr.rungs import Rung
from fhir_secondop.ehr.target import Target
from fhir_secondop.ehr.vendors import Site

RUNGS: tuple[Rung, ...] = (
    Transaction(), ConditionalCreates(), SearchThenCreate(), ReportWithPdf(), NoteOnEncounter(), Message(),
    Hl7Message(),
)  # fmt: skip
LINK = 10
LINK_NAME = "link with cover sheet"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rung to deliver on, None for the link; and why those above it were not possible."""

    rung: Rung | None
    not_possible: tuple[tuple[str, str], ...]

    @property
    def number(self) -> int:
        """The number of the rung in EHR.md."""
        return self.rung.number if self.rung else LINK

    @property
    def why(self) -> str:
        """The reason in words."""
        above = "; ".join(f"{name}: {because}" for name, because in self.not_possible)
        name = self.rung.name if self.rung else LINK_NAME
        return name + (f" ({above})" if above else "")


def choose(target: Target, document: Deliverable | None = None, refused: Iterable[tuple[int, str]] = ()) -> Chosen:
    """The highest rung that the EHR allows for the document; `refused` are those it has refused, with the reason."""
    known = dict(refused)
    capability, site = target.client.capability, target.client.site
    obstacles: list[tuple[str, str]] = []
    for rung in RUNGS:
        because = known.get(rung.number) or declared(rung, capability, site)
        because = because or (rung.unfit(document, site) if document else "") or rung.probe(target)
        if not because:
            return Chosen(rung, tuple(obstacles))
        obstacles.append((rung.name, because))
    return Chosen(None, tuple(obstacles))


def declared(rung: Rung, capability: Capability, site: Site) -> str:
    """Why statement and vendor facts rule a rung out; "" when they don't."""
    if rung.number in site.rungs_excluded:
        return "left out for this vendor"
    return rung.obstacle(capability, site)
