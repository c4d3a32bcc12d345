"""Who and what has a number: applications, authorities, entities and people, as HL7 v2 writes them.

Source: HL7 v2.5.1, chapter 2A (HD, EI, XCN, PPN)
"""

from __future__ import annotations

from typing import Any

from fhir_secondop.hl7v2.er7 import escape, joined

NPI = "http://hl7.org/fhir/sid/us-npi"
NPI_OID = "2.16.840.1.113883.4.6"
_OID = "urn:oid:"


def pair(setting: str) -> tuple[str, str]:
    """Application and facility of "APPLICATION|FACILITY", as they stand in MSH."""
    application, _, facility = setting.partition("|")
    return escape(application), escape(facility)


def inner(setting: str) -> str:
    """An authority, written "NAMESPACE" or "NAMESPACE|UNIVERSAL ID|TYPE", as it stands within a component."""
    return "&".join(map(escape, setting.split("|")))


def entity(value: str, system: str) -> str:
    """A number with the URI of who gave it, as an EI: an OID is one, any other is a URI."""
    if not value:
        return ""
    return joined(value, "", *_universal(system))


def person(practitioner: dict[str, Any], at: str = "") -> str:
    """A Practitioner as an XCN, or with `at` (a DTM) as a PPN; "" of one who has no name."""
    name: dict[str, Any] = next(iter(practitioner.get("name", [])), {})
    if not name:
        return ""
    held = [i for i in practitioner.get("identifier", []) if "value" in i]
    own: dict[str, Any] = next((i for i in held if i.get("system") == NPI), next(iter(held), {}))
    is_npi = own.get("system") == NPI
    authority = f"NPI&{NPI_OID}&ISO" if is_npi else "&".join(["", *map(escape, _universal(own.get("system", "")))])
    first, *more = name.get("given") or [""]
    family = name.get("family") or name.get("text", "")
    parts = [
        own.get("value", ""), family, first, " ".join(more), "", " ".join(name.get("prefix", [])), "", "",
    ]  # fmt: skip
    whole = [*map(escape, parts), authority if authority.strip("&") else "", "L", "", "", "NPI" if is_npi else ""]
    if at:
        whole += ["", at]
    return "^".join(whole).rstrip("^")


def _universal(system: str) -> tuple[str, str]:
    """The universal id of a system, and its kind."""
    if not system:
        return "", ""
    return (system.removeprefix(_OID), "ISO") if system.startswith(_OID) else (system, "URI")
