"""Resource → every fault at once, each with its place.

What is checked: FHIR R4 4.0.1's elements, counts, JSON types, syntax, required codes, reference targets, contained
resources, narratives and rules of Bundles (fhir.walk, fhir.rules), and its invariants (fhir.invariants); then our own
profiles, with their constraints (fhir.profiles). Codes that no list of ours has (MIME, UCUM, currencies, LOINC, SNOMED
CT) are not looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fhir_secondop.errors import Issue
from fhir_secondop.fhir import claims, definitions
from fhir_secondop.fhir import profiles as own
from fhir_secondop.fhir.faults import Walk, root
from fhir_secondop.fhir.walk import check_resource, known_type


def validate(resource: dict[str, Any], *, profiles: Iterable[str] = (), notes: bool = False) -> list[Issue]:
    """The faults of a resource decoded by json with decimals as Decimal; none if it is valid.

    `profiles` are demanded of the resource as well as those in its meta.profile; unknown ones demand nothing. With
    `notes` what was not checked is named too, as information: code lists, profiles and extensions that are not here.
    Numbers that are float are refused: they have lost their digits already.
    """
    issues: list[Issue] = []
    place = root(known_type(resource) or "Resource")
    check_resource(resource, place, Walk(issues, {}, notes=notes))
    if definitions.profiles():
        sound = not any(issue.severity == "error" for issue in issues)
        demanded = tuple(profiles)
        for part, here in claims.resources(resource, place):
            urls = dict.fromkeys((*claims.claimed(part), *(demanded if part is resource else ())))
            for url in urls:
                if notes and claims.is_unknown(url):
                    Walk(issues, {}, notes=True).note(here, claims.not_checked(url))
                own.check(url, part, here, Walk(issues, _contained(part), part, None, here), run_constraints=sound)
    return issues


def _contained(resource: Mapping[str, Any]) -> dict[str, str]:
    parts = resource.get("contained")
    found = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return {str(part.get("id")): str(part.get("resourceType")) for part in found}
