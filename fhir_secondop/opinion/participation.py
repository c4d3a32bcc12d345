"""Who had a part in an item under review without being its author: a read, a tumour board, an operation."""

from __future__ import annotations

from collections.abc import Iterator

from fhir_secondop.model import Resource
from fhir_secondop.opinion.case import Case, reference

# What an item rests on or was done for: the elements that cite it, and those in which each names its people.
_RESTS_ON = ("evidence", "supportingInfo")
_PEOPLE = ("performer", "resultsInterpreter", "interpreter", "contributor", "participant", "actor", "member")


def identifiers_of(case: Case) -> frozenset[str]:
    """The identifiers of everybody who took part, as the record says; the authors themselves are compared elsewhere."""
    authors = {person.key for person in case.authors}
    people = (case.directory.person(ref) for item in case.items for ref in _people(case, item))
    return frozenset(i for p in people if p is not None and p.key not in authors for i in p.identifiers)


def _people(case: Case, item: Resource) -> Iterator[str]:
    named = [item, *_cited(case, [item.get(name) for name in (*_RESTS_ON, "careTeam")])]
    mine = reference(item)
    for done in case.of_type("Procedure", "DiagnosticReport", "ClinicalImpression"):
        reasons = [*done.get("reasonReference", []), *done.get("problem", []), *done.get("basedOn", [])]
        if any(reason.get("reference") == mine for reason in reasons):
            named.append(done)
    for resource in named:
        for name in _PEOPLE:
            yield from _references(resource.get(name))


def _cited(case: Case, value: object) -> Iterator[Resource]:
    for ref in _references(value):
        found = case.directory.resource(ref)
        if found is not None and found["resourceType"] in (
            "DiagnosticReport", "Procedure", "ImagingStudy", "CareTeam", "ClinicalImpression",
        ):  # fmt: skip
            yield found


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for child in value.values():
            yield from _references(child)
    elif isinstance(value, list):
        for child in value:
            yield from _references(child)
