"""The profiles that a resource, and each resource in it, says of itself that it satisfies (meta.profile)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fhir_secondop.errors import Issue
from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.faults import Place, child, expression, root
from fhir_secondop.fhir.walk import known_type
from fhir_secondop.model import Resource

_OF_R4 = frozenset(f"http://hl7.org/fhir/StructureDefinition/{name}" for name in definitions.resource_types())
"""Whoever claims one of these claims R4."""


def unknown(resource: Mapping[str, Any], demanded: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(place, profile) of each claim of a profile that is not known here; `demanded` counts as claimed by the whole."""
    found = []
    for part, here in resources(resource, root(known_type(resource) or "Resource")):
        urls = dict.fromkeys((*claimed(part), *(demanded if part is resource else ())))
        found += [(expression(here), url) for url in urls if is_unknown(url)]
    return found


def is_unknown(url: str) -> bool:
    """Whether a canonical URL, with or without |version, is of a profile that is neither R4's nor ours."""
    return definitions.profile(url.partition("|")[0]) is None and url not in _OF_R4


def unchecked(resource: Resource, text: str, demanded: Iterable[str] = ()) -> list[Issue]:
    """That nobody looks at the profiles which are not known here, each where it is claimed: what is said of a resource
    where no other validator is configured (`text` is looked at by those).
    """
    return [of_nobody(place, url) for place, url in unknown(resource, demanded)]


def of_nobody(place: str, url: str) -> Issue:
    """That nobody looks at a profile."""
    return Issue("information", "not-supported", place, not_checked(url))


def not_checked(url: str) -> str:
    """What is said of a profile that nobody here looks at."""
    return f"The profile {url} is not known here: only R4's own rules were checked."


def resources(resource: Any, place: Place) -> Iterator[tuple[Mapping[str, Any], Place]]:
    """The resource and those in a Bundle or Parameters, as far as they are resources at all."""
    if not known_type(resource):
        return
    yield resource, place
    name = {"Bundle": "entry", "Parameters": "parameter"}.get(resource["resourceType"], "")
    yield from _parts(resource.get(name), place, name)


def _parts(items: Any, place: Place, name: str) -> Iterator[tuple[Mapping[str, Any], Place]]:
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            here = child(place, name, index)
            yield from resources(item.get("resource"), child(here, "resource"))
            yield from _parts(item.get("part"), here, "part")


def claimed(resource: Mapping[str, Any]) -> list[str]:
    """The canonical URLs in its meta.profile, as far as it has that."""
    meta = resource.get("meta")
    urls = meta.get("profile") if isinstance(meta, dict) else ()
    return [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []
