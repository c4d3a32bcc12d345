"""Is the reviewer independent of the first opinion? The truth table of DOMAIN section 5.

Every row is evaluated against every author of what is under review and every earlier reviewer; the worst wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fhir_secondop.errors import Conflict, Invalid
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, specialties
from fhir_secondop.opinion.people import Person

ORDER = ("pass", "warn", "unknown", "fail", "barred")
_NO_DECLARATION = "no declaration of interests was made"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the reviewer said: interests ("none" or what they are), and which items they took part in (references)."""

    interests: str = ""
    participated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that applied: its result, the fact, and with whom."""

    result: str
    fact: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Assessment:
    """All findings; `result` is the worst of them."""

    findings: tuple[Finding, ...]

    @property
    def result(self) -> str:
        """barred, fail, unknown, warn or pass."""
        return max((f.result for f in self.findings), key=ORDER.index, default="unknown")

    @property
    def before_declaring(self) -> Assessment:
        """The same without the row on the declaration, which nobody makes before being asked."""
        return Assessment(tuple(f for f in self.findings if f.fact != _NO_DECLARATION))


def assess(
    reviewer: Person,
    others: Iterable[Person],
    declaration: Declaration | None,
    treated: frozenset[str] = frozenset(),
    took_part: frozenset[str] = frozenset(),
    same_organization: str = "warn",
) -> Assessment:
    """The findings on a reviewer against the authors of what is under review and the earlier reviewers.

    `treated` are the identifiers of those who stand in the gathered record as having treated the patient, `took_part`
    those of who had a part in an item under review; `same_organization` is what the site takes that for (warn, fail).
    """
    findings = list(_declared(declaration))
    if reviewer.identifiers & treated:
        findings.append(Finding("warn", "stands in the record as having treated the patient before"))
    if reviewer.identifiers & took_part:
        findings.append(Finding("fail", "took part in an item under review, as the record says"))
    compared = list(others)
    if not compared:
        findings.append(Finding("unknown", "nobody is named as author of what is under review"))
    for other in compared:
        findings.extend(_compare(reviewer, other, same_organization))
    return Assessment(tuple(findings))


def _declared(declaration: Declaration | None) -> Iterable[Finding]:
    if declaration is None or not declaration.interests:
        yield Finding("unknown", _NO_DECLARATION)
    elif declaration.interests.strip().lower() == "none":
        yield Finding("pass", "declared no interests")
    else:
        yield Finding("fail", "declared an interest")
    if declaration is not None and declaration.participated:
        yield Finding("fail", "took part in an item under review")


def _compare(reviewer: Person, other: Person, same_organization: str) -> Iterable[Finding]:
    about = other.name or other.reference
    same_reference = bool(reviewer.practitioner) and reviewer.practitioner == other.practitioner
    if same_reference or reviewer.identifiers & other.identifiers:
        yield Finding("barred", "is the same person", about)
    elif not _systems(reviewer) & _systems(other):
        yield Finding("unknown", "no identifiers of one system, so they can't be told apart for certain", about)
    yield from _organizations(reviewer, other, about, same_organization)
    if reviewer.phones & other.phones:
        yield Finding("warn", "has the same direct line", about)
    if reviewer.suites & other.suites:
        yield Finding("warn", "has the same suite", about)
    yield _specialty(reviewer, other, about)


def _systems(person: Person) -> set[str]:
    return {identifier.rpartition("|")[0] for identifier in person.identifiers}


def _organizations(reviewer: Person, other: Person, about: str, same_organization: str) -> Iterable[Finding]:
    mine = {name for name in (reviewer.organization, reviewer.organization_ref) if name}
    theirs = {name for name in (other.organization, other.organization_ref) if name}
    if not mine or not theirs:
        yield Finding("unknown", "an organization is missing", about)
    elif mine & theirs:
        yield Finding(same_organization, "works for the same organization", about)
    elif reviewer.parents & (other.parents | theirs) or other.parents & mine:
        yield Finding("warn", "the organizations have a common parent", about)


def _specialty(reviewer: Person, other: Person, about: str) -> Finding:
    mine, theirs = reviewer.specialty, other.specialty
    if not mine or not theirs:
        return Finding("unknown", "a specialty is missing", about)
    compared = specialties.compare(mine, theirs)
    if compared == specialties.SAME:
        return Finding("pass", "same specialty", about)
    if specialties.both_primary_care(mine, theirs):
        return Finding("pass", "another primary care physician", about)
    if compared == specialties.OTHER:
        return Finding("warn", "another specialty", about)
    return Finding("unknown", "the specialties are coded in systems that we can't compare", about)


def admit(assessment: Assessment, *, attestation: str, override: str) -> None:
    """Raises unless the reviewer may accept: never when barred, on fail with a reason, on unknown with an attestation.

    Raises Conflict when barred, Invalid when the reason or the attestation is missing.
    """
    results = {finding.result for finding in assessment.findings}
    if "barred" in results:
        raise Conflict("The reviewer is an author of what is under review; ask somebody else.")
    if "fail" in results and not override.strip():
        raise Invalid("Independence fails; to accept all the same, give a reason in override.", path="override")
    if "unknown" in results and not attestation.strip():
        raise Invalid("Independence is not fully known; attest it in attestation before accepting.", path="attestation")


def extension(assessment: Assessment, *, attestation: str, override: str) -> Resource:
    """The independence extension for the Task and the report."""
    parts: list[Resource] = [{"url": "result", "valueCode": assessment.result}]
    parts += [
        {"url": "finding", "valueString": f"{f.result}: {f.fact}" + (f" ({f.about})" if f.about else "")}
        for f in assessment.findings
    ]
    if attestation:
        parts.append({"url": "attestation", "valueString": attestation})
    if override:
        parts.append({"url": "override", "valueString": override})
    return {"url": codes.INDEPENDENCE, "extension": parts}


def stated(resource: Resource) -> dict[str, list[str]]:
    """What an independence extension says, by part: result, finding, attestation, override."""
    said: dict[str, list[str]] = {}
    for ext in resource.get("extension", []):
        if ext.get("url") == codes.INDEPENDENCE:
            for part in ext.get("extension", []):
                said.setdefault(part["url"], []).append(part.get("valueString") or part.get("valueCode", ""))
    return said
