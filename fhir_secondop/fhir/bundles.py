"""What R4 demands of Bundles: which entries have what, identities, and that documents and messages are whole.

Source: https://hl7.org/fhir/R4/bundle.html and https://hl7.org/fhir/R4/documents.html#content
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fhir_secondop.fhir import definitions, primitives
from fhir_secondop.fhir.faults import Place, Walk, child

_RESTFUL = re.compile(r"(https?://\S+?)/([A-Z][A-Za-z]+)/([A-Za-z0-9.\-]{1,64})")
_RELATIVE = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9.\-]{1,64}")
_WITH_REQUEST = ("transaction", "batch", "history")
_WITH_RESPONSE = ("transaction-response", "batch-response", "history")
_FIRST = {"document": "Composition", "message": "MessageHeader"}
_OF_COMPOSITION = ("subject", "encounter", "author", "custodian")

Entry = dict[str, Any]


def types(bundle: dict[str, Any]) -> dict[str, str]:
    """fullUrl → resourceType of what stands in a Bundle: what a urn:uuid: names."""
    entries = ((entry.get("fullUrl"), entry.get("resource")) for entry in _many(bundle.get("entry")))
    return {url: str(r.get("resourceType")) for url, r in entries if isinstance(url, str) and isinstance(r, dict)}


def of_bundle(value: dict[str, Any], place: Place, walk: Walk) -> None:
    """The invariants bdl-3, 4, 5, 7, 11 and 12, each at its entry, and the rules that R4 has in words alone."""
    found = value.get("entry", [])
    entries = [entry if isinstance(entry, dict) else {} for entry in (found if isinstance(found, list) else ())]
    kind, seen = str(value.get("type")), set()
    for index, entry in enumerate(entries):
        here = child(place, "entry", index)
        _of_kind(kind, entry, here, walk)
        if isinstance(url := entry.get("fullUrl"), str):
            _identity(url, entry, child(here, "fullUrl"), walk)
            version = _version(entry.get("resource"))
            if kind != "history" and (url, version) in seen:
                walk.fault("invariant", child(here, "fullUrl"), "stands in the Bundle twice")
            seen.add((url, version))
    if (first := _FIRST.get(kind)) is not None:
        resource = entries[0].get("resource") if entries else None
        if not isinstance(resource, dict) or resource.get("resourceType") != first:
            walk.fault("invariant", child(child(place, "entry", 0), "resource"), f"of a {kind} must be a {first}")
        else:
            _whole(kind, entries, place, walk)


def _of_kind(kind: str, entry: Entry, here: Place, walk: Walk) -> None:
    for part, kinds in (("request", _WITH_REQUEST), ("response", _WITH_RESPONSE)):
        if kind in kinds and part not in entry:
            walk.fault("required", child(here, part), f"is required in a {kind}")
        elif kind not in kinds and part in entry:
            walk.fault("structure", child(here, part), f"may not stand in a {kind}")
    if not entry.keys() & {"resource", "request", "response"}:
        walk.fault("required", child(here, "resource"), "is required where there is no request or response")
    elif kind == "searchset" and "resource" not in entry:
        walk.fault("required", child(here, "resource"), "is required in a searchset")
    elif "fullUrl" not in entry and "_fullUrl" not in entry and not kind.startswith(("transaction", "batch")):
        walk.fault("required", child(here, "fullUrl"), f"is required in a {kind}: it says which resource this is")


def _identity(url: str, entry: Entry, here: Place, walk: Walk) -> None:
    """An absolute URI; one that names a type and id names those of the resource, unless that is yet to be created."""
    request, resource = entry.get("request"), entry.get("resource")
    is_new = isinstance(request, dict) and request.get("method") == "POST"
    if primitives.ABSOLUTE(url) is None:
        walk.fault("value", here, "must be an absolute URI")
    elif isinstance(resource, dict) and not is_new and (named := _RESTFUL.fullmatch(url)):
        of_type, of_id = named[2], named[3]
        if of_type in definitions.resource_types() and (of_type, of_id) != (
            resource.get("resourceType"), resource.get("id"),
        ):  # fmt: skip
            walk.fault("value", here, "names another type or id than the resource of the entry has")


def _version(resource: Any) -> str:
    meta = resource.get("meta") if isinstance(resource, dict) else None
    return str(meta.get("versionId", "")) if isinstance(meta, dict) else ""


def _whole(kind: str, entries: list[Entry], place: Place, walk: Walk) -> None:
    """What the first entry is about stands in the Bundle; of a document, nothing stands there that is not linked."""
    known: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if isinstance(url := entry.get("fullUrl"), str):
            known.setdefault(url, index)
    first = entries[0]["resource"]
    at = child(child(place, "entry", 0), "resource")
    for name, reference in _named(kind, first):
        if (text := _text(reference)) and _resolved(text, entries[0], known) is None and not text.startswith("#"):
            walk.fault("not-found", child(at, name), f"names a resource that is not in the {kind}")
    if kind == "document":
        for index in _strangers(entries, known):
            walk.fault("invalid", child(place, "entry", index), "is linked to nothing in the document")


def _named(kind: str, first: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(element, Reference) of what must stand in the Bundle."""
    if kind == "message":
        yield from (("focus", reference) for reference in _many(first.get("focus")))
        return
    for name in _OF_COMPOSITION:
        yield from ((name, reference) for reference in _many(first.get(name)))
    for attester in _many(first.get("attester")):
        yield from (("attester", reference) for reference in _many(attester.get("party")))
    sections = _many(first.get("section"))
    while sections:
        section = sections.pop()
        sections += _many(section.get("section"))
        yield from (("section", reference) for reference in _many(section.get("entry")))


def _many(value: Any) -> list[dict[str, Any]]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


def _text(reference: dict[str, Any]) -> str:
    text = reference.get("reference")
    return text if isinstance(text, str) else ""


def _resolved(text: str, entry: Entry, known: dict[str, int]) -> int | None:
    """The number of the entry that a reference in another names.

    Source: https://hl7.org/fhir/R4/bundle.html#references
    """
    text = text.partition("#")[0].partition("/_history/")[0]
    if text in known or not _RELATIVE.fullmatch(text):
        return known.get(text)
    base = _RESTFUL.fullmatch(str(entry.get("fullUrl")))
    return known.get(f"{base[1]}/{text}") if base else None


def _strangers(entries: list[Entry], known: dict[str, int]) -> list[int]:
    """The numbers of the entries that no way of references, in whichever direction, leads to from the first."""
    linked: list[set[int]] = [set() for _ in entries]
    for index, entry in enumerate(entries):
        for text in _references(entry.get("resource")):
            if (other := _resolved(text, entry, known)) is not None:
                linked[index].add(other)
                linked[other].add(index)
    reached, ahead = {0}, [0]
    while ahead:
        for other in linked[ahead.pop()] - reached:
            reached.add(other)
            ahead.append(other)
    return [index for index in range(len(entries)) if index not in reached]


def _references(resource: Any) -> Iterator[str]:
    ahead = [resource]
    while ahead:
        value = ahead.pop()
        if isinstance(value, dict):
            for key, below in value.items():
                if key == "reference" and isinstance(below, str):
                    yield below
                else:
                    ahead.append(below)
        elif isinstance(value, list):
            ahead += value
