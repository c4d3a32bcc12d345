"""Is a reviewer in the network of the patient's payer? What nobody says is unknown, and never a pass.

A role names its networks by the extension of Da Vinci Plan-Net; an OrganizationAffiliation names those of a practice. A
network is an Organization that is part of its payer.
Source: https://hl7.org/fhir/us/davinci-pdex-plan-net/StructureDefinition-network-reference.html,
https://hl7.org/fhir/R4/organizationaffiliation.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fhir_secondop.model import Resource
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.people import Directory, identifiers

NETWORK = "http://hl7.org/fhir/us/davinci-pdex-plan-net/StructureDefinition/network-reference"


@dataclass(frozen=True, slots=True)
class Network:
    """A network: how it and its payer are known (names folded, identifiers "system|value"), and its name for people."""

    name: str
    known_as: frozenset[str]
    payer: frozenset[str]


def wanted(case: Case, coverage: Resource) -> Network:
    """The network of a Coverage of the patient; `known_as` is empty where the Coverage does not name it."""
    payors = [case.directory.resource(p.get("reference", "")) or {} for p in coverage.get("payor", [])]
    payer = frozenset(name for payor in payors for name in _names(payor))
    names = ", ".join(payor["name"] for payor in payors if payor.get("name"))
    said = coverage.get("network", "")
    return Network(said or names or "the patient's payer", frozenset({said.casefold()} if said else ()), payer)


def stated(role: Resource, resources: Iterable[Resource], directory: Directory) -> list[Network]:
    """The networks that the directory states for a role, its services and its organization."""
    cited = [role, *(_found(directory, role.get("healthcareService", [])))]
    refs = [ext.get("valueReference", {}) for one in cited for ext in one.get("extension", []) if ext["url"] == NETWORK]
    organization = role.get("organization", {}).get("reference", "")
    for affiliation in resources:
        if affiliation["resourceType"] == "OrganizationAffiliation" and affiliation.get("active", True):
            member = affiliation.get("participatingOrganization", {}).get("reference")
            refs += affiliation.get("network", []) if organization and member == organization else []
    found = {o["id"]: o for o in _found(directory, refs) if o.get("active", True)}
    return [_network(o, directory) for o in found.values()]


def judged(needed: list[Network], has: list[Network]) -> tuple[str, str]:
    """pass, warn, fail or unknown of somebody in these networks for a patient of those, and the fact."""
    if not needed:
        return "unknown", "no coverage of the patient is known"
    if not has:
        return "unknown", "no network is stated"
    names = ", ".join(sorted({network.name for network in has}))
    for one in needed:
        for other in has:
            parted = one.payer and other.payer and not one.payer & other.payer
            if one.known_as & other.known_as and not parted:
                return "pass", f"is in {other.name}"
    for one in needed:
        same_payer = [other for other in has if one.payer & other.payer]
        if same_payer and not one.known_as:
            return "warn", f"is in a network of {one.name} ({same_payer[0].name}); the patient's is not stated"
    if all(one.known_as or (one.payer and all(o.payer and not o.payer & one.payer for o in has)) for one in needed):
        return "fail", f"is not in {', '.join(sorted(one.name for one in needed))}; stated: {names}"
    return "unknown", f"whose the stated networks are is not said: {names}"


def _network(organization: Resource, directory: Directory) -> Network:
    payer = directory.resource(organization.get("partOf", {}).get("reference", "")) or {}
    name = str(organization.get("name", "a network without a name"))
    return Network(name, frozenset(_names(organization)), frozenset(_names(payer)))


def _names(organization: Resource) -> Iterator[str]:
    yield from identifiers(organization)
    for identifier in organization.get("identifier", []):
        if "value" in identifier:
            yield str(identifier["value"]).casefold()
    for name in (organization.get("name", ""), *organization.get("alias", [])):
        if name:
            yield str(name).casefold()


def _found(directory: Directory, refs: Iterable[Resource]) -> list[Resource]:
    found = (directory.resource(ref.get("reference", "")) for ref in refs)
    return [resource for resource in found if resource is not None]
