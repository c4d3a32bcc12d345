"""The directory of reviewers: what its file may hold, and what of an entry a case gets when its person is asked."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.fhir import refs
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.people import Directory, identifiers

TYPES = ("Practitioner", "PractitionerRole", "Organization", "HealthcareService", "Location", "OrganizationAffiliation")
# What a case needs of an entry; where somebody lives, when they were born and how they look is not its business.
_KEPT = {
    "Practitioner": ("active", "identifier", "name", "telecom", "address", "qualification", "communication"),
    "PractitionerRole": ("active", "practitioner", "organization", "code", "specialty", "telecom"),
    "Organization": ("active", "identifier", "type", "name", "telecom", "address", "partOf"),
}


def entries(bundle: Resource) -> list[Resource]:
    """The resources of a directory's Bundle under our ids, citing each other by them.

    An entry is known again by its fullUrl or its id in the file. Raises Invalid with every fault.
    """
    names: dict[str, str] = {}
    issues: list[Issue] = []
    sent: list[tuple[str, Resource, str]] = []
    for place, entry in enumerate(bundle.get("entry", [])):
        resource, path = entry.get("resource", {}), f"Bundle.entry[{place}].resource"
        kind = resource.get("resourceType", "")
        if kind not in TYPES:
            issues.append(Issue("error", "business-rule", path, "A directory holds " + ", ".join(TYPES) + "."))
            continue
        local = f"{kind}/{resource['id']}" if "id" in resource else ""
        key = local or entry.get("fullUrl", "")
        if not key:
            issues.append(Issue("error", "required", f"{path}.id", "Give it an id, by which it is known again."))
            continue
        new = f"{kind}/{_id(key)}"
        if new in names.values():
            issues.append(Issue("error", "duplicate", f"{path}.id", "Another entry has the same id."))
        names.update({name: new for name in (local, entry.get("fullUrl", "")) if name})
        sent.append((new, resource, path))
    issues += [issue for _, resource, path in sent for issue in _faults(resource, path, names)]
    if not any(resource["resourceType"] == "PractitionerRole" for _, resource, _ in sent):
        issues.append(Issue("error", "required", "Bundle.entry", "There is no PractitionerRole: nobody to be asked."))
    if issues:
        raise Invalid(f"{len(issues)} fault(s); the directory stays as it was.", issues=issues)
    return [{**refs.rewritten(resource, names.get), "id": new.partition("/")[2]} for new, resource, _ in sent]


def _id(key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{codes.CANONICAL}/directory/{key}"))


def _faults(resource: Resource, path: str, names: dict[str, str]) -> Iterator[Issue]:
    for target in sorted(set(refs.find(resource))):
        if target not in names and not target.startswith("#"):
            yield Issue("error", "not-found", path, "It refers to something that is not in this Bundle.")
    if resource["resourceType"] == "PractitionerRole" and not resource.get("practitioner", {}).get("reference"):
        yield Issue("error", "required", f"{path}.practitioner", "A role names its Practitioner.")
    if resource["resourceType"] == "Practitioner" and not identifiers(resource):
        hint = "Without an identifier (an NPI, say) nobody could sign in as this person."
        yield Issue("error", "required", f"{path}.identifier", hint)


def candidates(resources: Sequence[Resource]) -> list[str]:
    """The references of everybody who may be asked: each role, and each Practitioner who has none."""
    roles = [r for r in resources if r["resourceType"] == "PractitionerRole"]
    with_role = {role["practitioner"]["reference"] for role in roles}
    alone = [r for r in resources if r["resourceType"] == "Practitioner" and reference(r) not in with_role]
    return [reference(r) for r in (*roles, *alone)]


def copied(case: Case, resources: Iterable[Resource], candidate: str) -> list[Resource]:
    """What a case gets of a candidate: Organizations, Practitioner and (last) the role, under ids of the case.

    An organization that the case knows by its identifier is not copied; it is cited.
    """
    directory = Directory(resources)
    role = directory.resource(candidate) or {}
    practitioner = role
    if role.get("resourceType") == "PractitionerRole":
        practitioner = directory.resource(role["practitioner"]["reference"]) or {}
    chain = list(_organizations(directory, role.get("organization", {}).get("reference", "")))
    known = {i: reference(o) for o in case.of_type("Organization") for i in identifiers(o)}
    names: dict[str, str] = {}
    for resource in (*chain, practitioner, role):
        mine = next((known[i] for i in sorted(identifiers(resource)) if i in known), "")
        is_known = resource["resourceType"] == "Organization" and mine
        names[reference(resource)] = mine if is_known else _own(case, resource)
    cite: Callable[[str], str | None] = names.get
    wanted = [r for r in (*chain, practitioner) if names[reference(r)] == _own(case, r)]
    if role is not practitioner:
        wanted.append(role)
    return [
        {**refs.rewritten(_kept(r), cite), "resourceType": r["resourceType"],
         "id": names[reference(r)].partition("/")[2]}
        for r in wanted
    ]  # fmt: skip


def _own(case: Case, resource: Resource) -> str:
    return f"{resource['resourceType']}/{derived_id(case.id, 'directory', reference(resource))}"


def _organizations(directory: Directory, ref: str) -> Iterator[Resource]:
    """An organization and those that it is part of, the outermost first."""
    found: list[Resource] = []
    organization = directory.resource(ref)
    while organization is not None and organization not in found:
        found.append(organization)
        organization = directory.resource(organization.get("partOf", {}).get("reference", ""))
    return reversed(found)


def _kept(resource: Resource) -> dict[str, Any]:
    kept = {name: resource[name] for name in _KEPT[resource["resourceType"]] if name in resource}
    for name in ("telecom", "address"):
        at_work = [one for one in kept.pop(name, []) if one.get("use") not in ("home", "old")]
        kept |= {name: at_work} if at_work else {}
    # Who issued a licence stays in the directory.
    if "qualification" in kept:
        kept["qualification"] = [
            {k: v for k, v in one.items() if k not in ("issuer", "extension")} for one in kept["qualification"]
        ]
    return kept
