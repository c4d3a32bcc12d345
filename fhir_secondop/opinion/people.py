"""Practitioners, their roles and organisations as a case knows them: who is who across resources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fhir_secondop.fhir import refs
from fhir_secondop.model import Resource


@dataclass(frozen=True, slots=True)
class Person:
    """One professional of a case. `reference` is the PractitionerRole where there is one, else the Practitioner.

    `identifiers` and `organization` are "system|value".
    """

    reference: str
    practitioner: str
    name: str
    identifiers: frozenset[str] = frozenset()
    organization: str = ""
    organization_ref: str = ""
    organization_name: str = ""
    parents: frozenset[str] = frozenset()  # of the organization, all the way up: references and identifiers
    specialty: str = ""
    phones: frozenset[str] = frozenset()
    suites: frozenset[str] = frozenset()  # addresses down to the room, without case and spaces

    @property
    def key(self) -> str:
        """What stands for this person: the first identifier, else the reference."""
        return min(self.identifiers, default=self.practitioner or self.reference)


def identifiers(resource: Resource) -> frozenset[str]:
    """The identifiers of a resource as "system|value"."""
    return frozenset(f"{i.get('system', '')}|{i['value']}" for i in resource.get("identifier", []) if "value" in i)


def display_name(resource: Resource) -> str:
    """The name to print for a Practitioner or Patient."""
    for name in resource.get("name", []):
        if isinstance(name, dict):
            parts = [*name.get("prefix", []), *name.get("given", []), name.get("family", "")]
            return name.get("text") or " ".join(part for part in parts if part)
    return ""


# A building is shared by many; a suite is not.
_ROOM = re.compile(r"\b(suite|ste|room|rm|floor|fl|unit|office)\b|#")


def _suites(addresses: Iterable[Resource]) -> Iterator[str]:
    for address in addresses:
        lines = " ".join(address.get("line", [])).lower()
        if _ROOM.search(lines):
            yield re.sub(r"[^a-z0-9#]", "", f"{lines}{address.get('postalCode', '')}{address.get('city', '').lower()}")


class Directory:
    """Looks up people among the resources of a case, by reference ("Type/id")."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._by_ref = {f"{r['resourceType']}/{r['id']}": r for r in resources if "id" in r}

    def resource(self, reference: str) -> Resource | None:
        """The resource behind a reference, versioned or not."""
        ref = refs.parse(reference)
        return self._by_ref.get(ref.local if ref else reference)

    def person(self, reference: str) -> Person | None:
        """The professional behind a reference to a PractitionerRole or Practitioner; None for anyone else."""
        found = self.resource(reference)
        if found is None:
            return None
        if found["resourceType"] == "PractitionerRole":
            return self._of_role(found)
        if found["resourceType"] == "Practitioner":
            role = next(
                (
                    r
                    for r in self._by_ref.values()
                    if r["resourceType"] == "PractitionerRole"
                    and r.get("practitioner", {}).get("reference") == f"Practitioner/{found['id']}"
                ),
                None,
            )
            return self._of_role(role) if role else self._of_role({"practitioner": {"reference": reference}})
        return None

    def _parents(self, organization: Resource) -> Iterator[str]:
        seen: set[str] = set()
        ref = organization.get("partOf", {}).get("reference", "")
        while ref and ref not in seen:
            seen.add(ref)
            yield ref
            parent = self.resource(ref) or {}
            yield from identifiers(parent)
            ref = parent.get("partOf", {}).get("reference", "")

    def _of_role(self, role: Resource) -> Person | None:
        practitioner_ref = role.get("practitioner", {}).get("reference", "")
        practitioner = self.resource(practitioner_ref)
        if practitioner is None:
            return None
        organization_ref = role.get("organization", {}).get("reference", "")
        organization = self.resource(organization_ref) or {}
        telecom = [*role.get("telecom", []), *practitioner.get("telecom", [])]
        specialty = next(
            (
                f"{c.get('system', '')}|{c['code']}"
                for s in role.get("specialty", [])
                for c in s.get("coding", [])
                if "code" in c
            ),
            "",
        )
        return Person(
            reference=f"PractitionerRole/{role['id']}" if "id" in role else practitioner_ref,
            practitioner=practitioner_ref,
            name=display_name(practitioner),
            identifiers=identifiers(practitioner),
            organization=min(identifiers(organization), default=""),
            organization_ref=organization_ref,
            organization_name=organization.get("name", ""),
            parents=frozenset(self._parents(organization)),
            specialty=specialty,
            phones=frozenset(t["value"] for t in telecom if t.get("system") == "phone" and "value" in t),
            suites=frozenset(_suites([*practitioner.get("address", []), *organization.get("address", [])])),
        )
