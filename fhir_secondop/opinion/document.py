"""The document Bundle of a version of the report: what is signed, byte for byte."""

from __future__ import annotations

from fhir_secondop.model import Resource
from fhir_secondop.opinion import records
from fhir_secondop.opinion.case import Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import Person

_URI = "urn:ietf:rfc3986"


def bundle(case: Case, composed: list[Resource], person: Person, version: int, now: str, base_url: str) -> Resource:
    """The Composition first, then what it cites, whom it is by, and the report. `composed` is of report.to_fhir."""
    *parts, composition, report = composed
    cited = [composition, case.patient, case.encounter, case.request, *case.items, *parts, report]
    by = (person.reference, person.practitioner, person.organization_ref)
    professionals = [found for ref in by if (found := case.directory.resource(ref))]
    made = compose(
        "Bundle",
        meta=profile("second-opinion-document"),
        id=derived_id(case.id, "bundle", version),
        identifier={"system": _URI, "value": f"urn:uuid:{derived_id(case.id, 'report', version)}"},
        type="document",
        timestamp=now,
        entry=[{"fullUrl": f"{base_url}/{reference(r)}", "resource": r} for r in [*cited, *professionals]],
    )
    return records.labelled(case, made)
