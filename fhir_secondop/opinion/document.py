"""The document Bundle of a version of the report: what is signed, byte for byte."""

from __future__ import annotations

import re
from typing import Any

from fhir_secondop.model import Resource
from fhir_secondop.opinion import records
from fhir_secondop.opinion.case import Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import Person

_URI = "urn:ietf:rfc3986"
_VERSION = re.compile(r"[A-Za-z]+/[^/]+/_history/[^/]+")


def bundle(case: Case, composed: list[Resource], person: Person, version: int, now: str, base_url: str) -> Resource:
    """The Composition first, then what it cites, whom it is by, and the report. `composed` is of report.to_fhir."""
    *parts, composition, report = composed
    cited = [composition, case.patient, case.encounter, case.request, *case.items, *parts, report]
    cited += _of_sections(case, composition, {reference(r) for r in cited})
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


def citing_abroad(value: Any, base_url: str) -> Any:
    """With references to versions absolute: the version that a report or Composition replaces is not in the document.

    HL7's validator looks for a relative one in there, finds the same resource in another version, and refuses it.
    """
    if isinstance(value, list):
        return [citing_abroad(part, base_url) for part in value]
    if not isinstance(value, dict):
        return value
    made = {key: citing_abroad(part, base_url) for key, part in value.items()}
    if _VERSION.fullmatch(str(made.get("reference", ""))):
        made["reference"] = f"{base_url}/{made['reference']}"
    return made


def _of_sections(case: Case, composition: Resource, there: set[str]) -> list[Resource]:
    """What the sections cite beside the report's own parts: the first reads of a blind review.

    Source: https://hl7.org/fhir/R4/documents.html#content
    """
    named = (entry["reference"] for section in composition["section"] for entry in section.get("entry", ()))
    missing = [each for each in dict.fromkeys(named) if each not in there]
    return [found for each in missing if (found := case.find(*each.split("/", 1)))]
