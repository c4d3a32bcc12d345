"""Who of the directory may review a case: every candidate, by each criterion, with the fact that decides it.

Nobody is dropped: who fails, or is barred, stands at the end of the list and says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import coverage, directory, languages, licences, networks, places, specialties
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.independence import ORDER, Assessment
from fhir_secondop.opinion.networks import Network
from fhir_secondop.opinion.people import Directory, Person
from fhir_secondop.opinion.places import Place

ORDER_SAID = (
    "Barred last; then by the number of criteria that fail, of those unknown, and of warnings; equals by name. "
    "No criterion counts more than another."
)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion of a candidate. `result`: pass, warn, unknown, fail, barred."""

    name: str
    result: str
    fact: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a case asks of its reviewer. `specialties` are "system|code" with their words."""

    specialties: tuple[tuple[str, str], ...]
    place: Place | None
    languages: tuple[Resource, ...]
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody of the directory, with every criterion and the findings on independence before a declaration."""

    person: Person
    criteria: tuple[Criterion, ...]
    independence: Assessment

    @property
    def result(self) -> str:
        """The worst of the criteria."""
        return max((c.result for c in self.criteria), key=ORDER.index)


def wanted(case: Case, now_ms: int) -> Wanted:
    """What a case asks of its reviewer, as its request, its patient and the patient's Coverage say."""
    addresses = sorted(case.patient.get("address", []), key=lambda a: a.get("use") != "home")
    spoken = case.patient.get("communication", [])
    preferred = [c["language"] for c in spoken if c.get("preferred")] or [c["language"] for c in spoken]
    return Wanted(
        tuple(specialties.codings([case.request["performerType"]] if "performerType" in case.request else [])),
        next(iter(places.of_addresses(addresses)), None),
        tuple(preferred),
        tuple(networks.wanted(case, one) for one in coverage.of_case(case, now_ms)),
    )


def match(
    needed: Wanted, resources: Sequence[Resource], assessed: dict[str, Assessment], now_ms: int
) -> list[Candidate]:
    """Every candidate, best first; `assessed` is the independence of each by its reference."""
    known = Directory(resources)
    found = []
    for ref in directory.candidates(resources):
        person = known.person(ref)
        if person is not None:
            criteria = (*_criteria(needed, resources, known, person, now_ms), _independence(assessed[ref]))
            found.append(Candidate(person, criteria, assessed[ref]))
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple[object, ...]:
    results = [c.result for c in candidate.criteria]
    counts = (results.count(result) for result in ("barred", "fail", "unknown", "warn"))
    return (*counts, candidate.person.name, candidate.person.reference)


def _criteria(
    needed: Wanted, resources: Iterable[Resource], known: Directory, person: Person, now_ms: int
) -> Iterable[Criterion]:
    role = known.resource(person.reference) or {}
    practitioner = known.resource(person.practitioner) or {}
    if role is practitioner:
        role = {}
    services = [s for ref in role.get("healthcareService", []) if (s := known.resource(ref.get("reference", "")))]
    yield Criterion("specialty", *_specialty(needed, [role, *services]))
    yield Criterion("place", *_place(needed.place, known, role))
    yield Criterion("licence", *licences.judged(practitioner, known, needed.place, now_ms))
    spoken = [c for one in (practitioner, *services) for c in one.get("communication", [])]
    yield Criterion("language", *languages.judged(needed.languages, spoken))
    yield Criterion("network", *networks.judged(list(needed.networks), networks.stated(role, resources, known)))
    yield Criterion("availability", *_availability(practitioner, role, now_ms))


def _specialty(needed: Wanted, sources: list[Resource]) -> tuple[str, str]:
    mine = [found for one in sources for found in specialties.codings(one.get("specialty", []))]
    asked = ", ".join(words for _, words in needed.specialties)
    if not needed.specialties:
        return "unknown", "the request names no specialty"
    if not mine:
        return "unknown", f"no specialty is stated; asked for: {asked}"
    compared = {specialties.compare(code, other): words for code, words in mine for other, _ in needed.specialties}
    if specialties.SAME in compared:
        return "pass", f"{compared[specialties.SAME]}, as asked for"
    stated = ", ".join(words for _, words in mine)
    if specialties.UNKNOWN in compared:
        return "unknown", f"{stated} can't be compared with {asked}"
    return "fail", f"{stated}; asked for: {asked}"


def _place(patient: Place | None, known: Directory, role: Resource) -> tuple[str, str]:
    """Where the reviewer works, against where the patient is: a case goes by record, so far away is a warning."""
    if patient is None:
        return "unknown", "where the patient is isn't known"
    locations = [known.resource(ref.get("reference", "")) or {} for ref in role.get("location", [])]
    organization = known.resource(role.get("organization", {}).get("reference", "")) or {}
    addresses = [one["address"] for one in locations if "address" in one] or organization.get("address", [])
    mine = places.of_addresses(addresses)
    if not mine:
        return "unknown", "where the reviewer works is not stated"
    names = "; ".join(sorted({str(place) for place in mine}))
    same = [places.same_state(place, patient) for place in mine]
    if True in same:
        return "pass", f"works in the patient's state ({patient.state})"
    if None in same:
        return "unknown", f"{names} can't be compared with {patient}"
    return "warn", f"works in {names}; the patient is in {patient}"


def _availability(practitioner: Resource, role: Resource, now_ms: int) -> tuple[str, str]:
    period = role.get("period", {})
    if practitioner.get("active") is False or role.get("active") is False:
        return "fail", "is no longer active"
    if "end" in period and times.interval(period["end"]).high <= now_ms:
        return "fail", f"left this role on {period['end']}"
    if "start" in period and times.interval(period["start"]).low > now_ms:
        return "fail", f"begins this role on {period['start']}"
    for absence in role.get("notAvailable", []):
        during = absence.get("during", {})
        begun = "start" not in during or times.interval(during["start"]).low <= now_ms
        if begun and ("end" not in during or times.interval(during["end"]).high > now_ms):
            until = f" until {during['end']}" if "end" in during else ""
            return "warn", f"is not available{until}: {absence['description']}"
    if role.get("availabilityExceptions"):
        return "warn", str(role["availabilityExceptions"])
    if role.get("availableTime"):
        return "pass", "is available"
    return "unknown", "nothing is stated"


def _independence(found: Assessment) -> Criterion:
    worst = [f for f in found.findings if f.result == found.result]
    said = "; ".join(dict.fromkeys(f.fact + (f" ({f.about})" if f.about else "") for f in worst))
    return Criterion("independence", found.result, said)
