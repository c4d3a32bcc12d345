"""What R4 demands beyond elements, counts and types: references, extensions, narratives, required codes."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from fhir_secondop.fhir import attachments, bundles, definitions, narrative, primitives
from fhir_secondop.fhir.definitions import Element
from fhir_secondop.fhir.faults import Place, Walk, child

Rule = Callable[[dict[str, Any], Place, Walk], None]

_RELATIVE = re.compile(r"([A-Z][A-Za-z]+)/[A-Za-z0-9.\-]{1,64}(?:/_history/[A-Za-z0-9.\-]{1,64})?")
_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?\S+")
_LITERAL_URL = re.compile(r"https?://\S+/([A-Z][A-Za-z]+)/[A-Za-z0-9.\-]{1,64}(?:/_history/[A-Za-z0-9.\-]{1,64})?")
_GROWING = "http://terminology.hl7.org/CodeSystem/"
_OF_V2 = _GROWING + "v2-"


def of_modifier_extension(value: Any, place: Place, walk: Walk) -> None:
    """One that we do not know may turn the meaning of the rest around.

    Source: https://hl7.org/fhir/R4/extensibility.html#modifierExtension
    """
    if (
        not isinstance(value, dict)
        or not isinstance(url := value.get("url"), str)
        or definitions.extension(url) is None
    ):
        walk.fault("extension", place, "is a modifier extension that is not known here, so the rest can't be trusted")


def of_reference(element: Element) -> Rule:
    """The syntax of a reference at an element, and the resource types that it may point to there."""
    targets = element.targets.get("Reference", frozenset())
    known = definitions.resource_types()
    # What is a plain reference to one of these needs no further question.
    ordinary = known if not targets or "Resource" in targets else targets & known

    def run(value: dict[str, Any], place: Place, walk: Walk) -> None:
        text = value.get("reference")
        if type(text) is str:
            found = _RELATIVE.fullmatch(text)
            within = found[1] if found else walk.entries.get(text) if text.startswith("urn:") else None
            if within in ordinary and "type" not in value and (found or primitives.ABSOLUTE(text)):
                return
            _check_literal(text, child(place, "reference"), walk)
            if (stated := stated_type(value)) and (pointed := _pointed_type(text, walk)) and pointed != stated:
                walk.fault("value", child(place, "type"), f"says {stated}, and the reference says {pointed}")
        if ordinary is not known:
            check_target(value, targets, place, walk)

    return run


def _check_literal(text: str, here: Place, walk: Walk) -> None:
    if text == "#":
        if walk.root is walk.resource:
            walk.fault("not-found", here, "names what contains this resource, and nothing does")
    elif text.startswith("#"):
        if text[1:] not in walk.contained:
            walk.fault("not-found", here, "names a contained resource that is not there")
    elif found := _RELATIVE.fullmatch(text) or _CONDITIONAL.fullmatch(text):
        if found[1] not in definitions.resource_types():
            walk.fault("value", here, "names a resource type that R4 (4.0.1) does not have")
    elif primitives.ABSOLUTE(text) is None:
        walk.fault("value", here, "must be Type/id, an absolute URL, a urn:, or #id of a contained resource")


def stated_type(reference: Mapping[str, Any]) -> str:
    """The resource type of R4 that Reference.type names; "" if it names none."""
    name = reference.get("type")
    name = name.removeprefix("http://hl7.org/fhir/StructureDefinition/") if isinstance(name, str) else ""
    return name if name in definitions.resource_types() else ""


def _pointed_type(text: str, walk: Walk) -> str:
    """The type that the text of a reference names, or that the contained resource has; "" if it can't be told."""
    if text == "#":
        found = "" if walk.root is walk.resource else str(walk.root.get("resourceType"))
    elif text.startswith("#"):
        found = walk.contained.get(text[1:], "")
    else:
        match = _RELATIVE.fullmatch(text) or _CONDITIONAL.fullmatch(text) or _LITERAL_URL.fullmatch(text)
        found = match[1] if match else walk.entries.get(text, "")
    return found if found in definitions.resource_types() else ""


def of_participant(value: dict[str, Any], place: Place, walk: Walk) -> None:
    """ctm-1: only a practitioner acts on behalf of an organization; of a member that isn't here nothing is known."""
    member = value.get("member")
    text = member.get("reference") if isinstance(member, dict) and "onBehalfOf" in value else None
    if type(text) is str:
        here = walk.contained.get(text[1:]) if text.startswith("#") else walk.entries.get(text)
        if here and here != "Practitioner":
            said = f"ctm-1: may be there for a Practitioner only, and the member is a {here}"
            walk.fault("invariant", child(place, "onBehalfOf"), said)


def of_narrative(value: dict[str, Any], place: Place, walk: Walk) -> None:
    div = value.get("div")
    if type(div) is str and div and (reason := narrative.fault(div, walk.contained)):
        walk.fault("invalid", child(place, "div"), reason)


@cache
def _folded(system: str) -> frozenset[str]:
    """The codes of a system that R4 carries, without case: one look for each code that is wrong, however many are."""
    return frozenset(code.casefold() for code in definitions.code_systems()[system])


def of_coding(value: dict[str, Any], place: Place, walk: Walk) -> None:
    """The code is one of its system, where R4 carries the whole system.

    R4's copies of the systems at terminology.hl7.org are of 2019, and those grow: a code that is not there may be
    newer, unless another one is there that differs in case alone.
    Source: https://hl7.org/fhir/R4/datatypes.html#Coding
    """
    system, known = value.get("system"), definitions.code_systems()
    if type(system) is not str or system not in known:
        return
    code, codes = value.get("code"), known[system]
    if type(code) is str and code not in codes:
        is_other_case = code.casefold() in _folded(system)
        if is_other_case and system.startswith(_OF_V2):
            return  # its tables don't say whether case matters
        severity = "error" if is_other_case or not system.startswith(_GROWING) else "warning"
        walk.fault("code-invalid", child(place, "code"), f"is no code that R4 has of {system}", severity=severity)


def of_identifier(value: dict[str, Any], place: Place, walk: Walk) -> None:
    """Source: https://hl7.org/fhir/R4/identifier-registry.html: of urn:ietf:rfc:3986 the value is a full URI."""
    if value.get("system") != "urn:ietf:rfc:3986":
        return
    text = value.get("value")
    if type(text) is str and primitives.ABSOLUTE(text) is None:
        walk.fault("value", child(place, "value"), "must be a full URI (urn:oid:…, http://…), as its system says")


def of_attachment(value: dict[str, Any], place: Place, walk: Walk) -> None:
    """The hash is the data's own: else one of them has been changed on the way.

    Source: https://hl7.org/fhir/R4/datatypes.html#Attachment
    """
    data, stated = value.get("data"), value.get("hash")
    if type(data) is not str or type(stated) is not str or not primitives.test("base64Binary")(data):
        return
    if attachments.digest(b64decode(data)) != "".join(stated.split()):
        walk.fault("invalid", child(place, "hash"), "is not the SHA-1 of the data, in base64")


OF_TYPE: dict[str, Rule] = {
    "Attachment": of_attachment,
    "Coding": of_coding,
    "Identifier": of_identifier,
    "Quantity": of_coding,
    "Bundle": bundles.of_bundle,
    "CareTeam.participant": of_participant,
    "Narrative": of_narrative,
}


def check_target(value: Any, targets: frozenset[str], place: Place, walk: Walk) -> None:
    """A fault if the reference says which type it points to and that type is not among the targets."""
    if not isinstance(value, dict):
        return
    text = value.get("reference")
    pointed = _pointed_type(text, walk) if type(text) is str else ""
    for name, found in (("reference", pointed), ("type", "" if pointed else stated_type(value))):
        if found and found not in targets:
            walk.fault("value", child(place, name), f"may point to {', '.join(sorted(targets))}, not to {found}")


Codes = Mapping[str, frozenset[str]]


def of_binding(element: Element, type_name: str) -> Rule | None:
    """A required or extensible binding of an element that is not a plain code (the walk itself looks those up)."""
    url = element.binding or element.extensible
    if not url or type_name not in ("CodeableConcept", "Coding", "Quantity"):
        return None
    codes = definitions.value_set(url)
    if codes is None:
        return lambda value, place, walk: walk.note(place, f"The codes of {url} can't be looked up here.")
    if element.binding:
        return lambda value, place, walk: check_codes(value, type_name, codes, url, place, walk)
    return lambda value, place, walk: _suggest(value, type_name, codes, url, place, walk)


def _suggest(value: dict[str, Any], type_name: str, codes: Codes, url: str, place: Place, walk: Walk) -> None:
    """Extensible: another code is right only where none of the value set's would do, which nobody but the sender knows.

    Source: https://hl7.org/fhir/R4/terminologies.html#extensible
    """
    coded = value.get("coding") if type_name == "CodeableConcept" else [value]
    given = [c for c in coded if isinstance(c, dict) and "code" in c] if isinstance(coded, list) else []
    if given and not any(_is_in(coding, codes) for coding in given):
        said = f"has no code of {url}; use one of these if one fits"
        walk.fault("code-invalid", place, said, severity="warning")


def of_valueless(element: Element, check: Rule) -> Rule:
    """The check of what stands in place of a primitive's value: no extension is a code of a required binding.

    Source: https://hl7.org/fhir/R4/terminologies.html#required: the concept SHALL be from the value set.
    """
    if not element.binding:
        return check

    def run(value: Any, place: Place, walk: Walk) -> None:
        check(value, place, walk)
        walk.fault("code-invalid", place, f"must have a code of the value set {element.binding}, not extensions alone")

    return run


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
