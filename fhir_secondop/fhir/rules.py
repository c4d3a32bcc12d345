"""What R4 demands beyond elements, counts and types: references, extensions, narratives, required codes, Bundles.

Of R4's written invariants only those that these functions check; the others are not evaluated here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fhir_secondop.fhir import definitions, narrative
from fhir_secondop.fhir.definitions import Element
from fhir_secondop.fhir.faults import Place, Walk, child

Rule = Callable[[dict[str, Any], Place, Walk], None]

_RELATIVE = re.compile(r"([A-Z][A-Za-z]+)/[A-Za-z0-9.\-]{1,64}(?:/_history/[A-Za-z0-9.\-]{1,64})?")
_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?\S+")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:\S+")
_LITERAL_URL = re.compile(r"https?://\S+/([A-Z][A-Za-z]+)/[A-Za-z0-9.\-]{1,64}(?:/_history/[A-Za-z0-9.\-]{1,64})?")


def of_extension(value: dict[str, Any], place: Place, walk: Walk) -> None:
    has_value = any(key.startswith(("value", "_value")) for key in value)
    if has_value == ("extension" in value):
        walk.fault("extension", place, "must have either a value or extensions")


def of_modifier_extension(value: Any, place: Place, walk: Walk) -> None:
    """One that we do not know may turn the meaning of the rest around.

    Source: https://hl7.org/fhir/R4/extensibility.html#modifierExtension
    """
    if not isinstance(value, dict) or not isinstance(url := value.get("url"), str) or not definitions.profile(url):
        walk.fault("extension", place, "is a modifier extension that is not known here, so the rest can't be trusted")


def of_reference(value: dict[str, Any], place: Place, walk: Walk) -> None:
    text = value.get("reference")
    if type(text) is not str:
        return
    here = child(place, "reference")
    if text.startswith("#"):
        if text != "#" and text[1:] not in walk.contained:
            walk.fault("not-found", here, "names a contained resource that is not there")
    elif found := _RELATIVE.fullmatch(text) or _CONDITIONAL.fullmatch(text):
        if found[1] not in definitions.resource_types():
            walk.fault("value", here, "names a resource type that R4 (4.0.1) does not have")
    elif _ABSOLUTE.fullmatch(text) is None:
        walk.fault("value", here, "must be Type/id, an absolute URL, a urn:, or #id of a contained resource")


def of_narrative(value: dict[str, Any], place: Place, walk: Walk) -> None:
    div = value.get("div")
    if type(div) is str and div and (reason := narrative.fault(div)):
        walk.fault("invalid", child(place, "div"), reason)


def of_bundle(value: dict[str, Any], place: Place, walk: Walk) -> None:
    """The invariants bdl-3, 4, 5, 7, 11 and 12."""
    entries = value.get("entry")
    if not isinstance(entries, list):
        return
    kind, seen = value.get("type"), set()
    for index, entry in enumerate(e if isinstance(e, dict) else {} for e in entries):
        here = child(place, "entry", index)
        if kind in ("transaction", "batch") and "request" not in entry:
            walk.fault("required", child(here, "request"), f"is required in a {kind}")
        if kind in ("transaction-response", "batch-response") and "response" not in entry:
            walk.fault("required", child(here, "response"), f"is required in a {kind}")
        if not entry.keys() & {"resource", "request", "response"}:
            walk.fault("required", child(here, "resource"), "is required where there is no request or response")
        if kind != "history" and isinstance(url := entry.get("fullUrl"), str):
            version = _version(entry.get("resource"))
            if (url, version) in seen:
                walk.fault("invariant", child(here, "fullUrl"), "stands in the Bundle twice")
            seen.add((url, version))
    if first := {"document": "Composition", "message": "MessageHeader"}.get(str(kind)):
        resource = entries[0].get("resource") if entries and isinstance(entries[0], dict) else None
        if not isinstance(resource, dict) or resource.get("resourceType") != first:
            walk.fault("invariant", child(child(place, "entry", 0), "resource"), f"of a {kind} must be a {first}")


def _version(resource: Any) -> str:
    meta = resource.get("meta") if isinstance(resource, dict) else None
    return str(meta.get("versionId", "")) if isinstance(meta, dict) else ""


OF_TYPE: dict[str, Rule] = {
    "Bundle": of_bundle,
    "Extension": of_extension,
    "Narrative": of_narrative,
    "Reference": of_reference,
}


def of_targets(element: Element) -> Rule | None:
    """The resource types that an element's references may point to."""
    targets = element.targets.get("Reference", frozenset())
    if not targets or "Resource" in targets:
        return None
    return lambda value, place, walk: check_target(value, targets, place, walk)


def check_target(value: Any, targets: frozenset[str], place: Place, walk: Walk) -> None:
    """A fault if the reference says which type it points to and that type is not among the targets."""
    text = value.get("reference") if isinstance(value, dict) else None
    if type(text) is not str:
        return
    if text.startswith("#"):
        found = walk.contained.get(text[1:], "")
    else:
        match = _RELATIVE.fullmatch(text) or _CONDITIONAL.fullmatch(text) or _LITERAL_URL.fullmatch(text)
        found = match[1] if match else ""
    if found in definitions.resource_types() and found not in targets:
        allowed = ", ".join(sorted(targets))
        walk.fault("value", child(place, "reference"), f"may point to {allowed}, not to {found}")


Codes = Mapping[str, frozenset[str]]


def of_binding(element: Element, type_name: str) -> Rule | None:
    """A required binding of an element that is not a plain code (the walk itself looks those up)."""
    codes = definitions.value_set(element.binding) if element.binding else None
    if codes is None or type_name not in ("CodeableConcept", "Coding", "Quantity"):
        return None
    return lambda value, place, walk: check_codes(value, type_name, codes, element.binding, place, walk)


def check_codes(value: Any, type_name: str, codes: Codes, url: str, place: Place, walk: Walk) -> None:
    """A fault unless the coded value has a code of the value set. A code alone may be of any of its systems."""
    if type_name == "CodeableConcept":
        value = value.get("coding") if isinstance(value, dict) else None
    if not any(_is_in(coding, codes) for coding in (value if isinstance(value, list) else [value])):
        walk.fault("code-invalid", place, f"must have a code of the value set {url}")


def _is_in(coding: Any, codes: Codes) -> bool:
    if isinstance(coding, str):
        return any(coding in allowed for allowed in codes.values())
    if not isinstance(coding, dict):
        return False
    system, code = coding.get("system"), coding.get("code")
    return isinstance(system, str) and isinstance(code, str) and code in codes.get(system, ())
