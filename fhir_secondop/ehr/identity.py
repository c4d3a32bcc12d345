"""Who the patient is at an EHR. Certain, or left to a person: a near-twin's record must never enter a case.

In this order: that place's own identifier; `$match`, of which only the grade certain counts; family, given, birth date
and gender together with one of phone, e-mail, postcode and address line. Anything less is a candidate.
Source: EHR.md, reading, row 1; https://hl7.org/fhir/R4/patient-operation-match.html
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fhir_secondop.ehr.client import Client, matches
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.model import Page, Resource

_GRADE = "http://hl7.org/fhir/StructureDefinition/match-grade"
MAX_CANDIDATES = 10


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody there who may be the patient: the id there, and in which facts they agree and differ."""

    id: str
    agrees: tuple[str, ...]
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """Who the patient is there. `id` is empty when that is not certain; `because` says why, without any value.

    `page` is the answer that said so. `candidates` are for a person to decide; `pages` are where they come from.
    """

    id: str
    because: str
    page: Page | None = None
    candidates: tuple[Candidate, ...] = ()
    pages: tuple[Page, ...] = ()


def find_patient(client: Client, patient: Resource, system: str) -> Match:
    """The patient (ours) at that EHR, whose own identifiers are of `system`."""
    known = [i["value"] for i in patient.get("identifier", []) if system and i.get("system") == system and "value" in i]
    if known:
        return _by_identifier(client, patient, system, known)
    if client.capability.operation("Patient", "match"):
        return _by_match(client, patient)
    return _by_facts(client, patient)


def confirmed(client: Client, patient_id: str) -> Match:
    """The patient whom a person has confirmed, read again. Raises EhrFailure when it is not there any more."""
    page = client.get(f"Patient/{patient_id}")
    return Match(patient_id, "confirmed by a person", page)


def _by_identifier(client: Client, patient: Resource, system: str, values: Iterable[str]) -> Match:
    for value in values:
        page, bundle = next(client.pages("Patient", {"identifier": f"{system}|{value}"}))
        found = [r for r in matches(bundle, "Patient") if _has(r, system, value)]
        if len(found) > 1:
            why = "several patients there have this identifier; a person must choose"
            return Match("", why, None, _candidates(patient, found), (page,))
        if not found:
            continue
        there = found[0]
        if there.get("birthDate") != patient.get("birthDate"):
            why = "the patient with this identifier has another date of birth; a person must look"
            return Match("", why, None, _candidates(patient, found), (page,))
        because = "by identifier, same date of birth"
        successor = _successor(there)
        if successor:
            why = "the record there was merged into another; a person must look"
            return Match("", why, None, _candidates(patient, found), (page,))
        return Match(there["id"], because, page)
    return Match("", "no patient with this identifier")


def _by_match(client: Client, patient: Resource) -> Match:
    """$match with what identifies, and nothing else of the patient."""
    asked = {k: patient[k] for k in ("name", "birthDate", "gender", "telecom", "address", "identifier") if k in patient}
    bundle = client.post(
        "Patient/$match",
        {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "resource", "resource": {"resourceType": "Patient", **asked}},
                {"name": "onlyCertainMatches", "valueBoolean": False},
                {"name": "count", "valueInteger": MAX_CANDIDATES},
            ],
        },
    )
    graded = [
        (_grade(entry), entry["resource"])
        for entry in bundle.get("entry", [])
        if entry.get("resource", {}).get("resourceType") == "Patient"
    ]
    certain = [r for grade, r in graded if grade == "certain"]
    if len(certain) == 1 and certain[0].get("birthDate") == patient.get("birthDate"):
        page = client.get(f"Patient/{certain[0]['id']}")
        return Match(certain[0]["id"], "by $match, graded certain", page)
    return _left_to_a_person(client, patient, [r for _, r in graded], "$match was not certain")


def _grade(entry: Resource) -> str:
    return next(
        (e.get("valueCode", "") for e in entry.get("search", {}).get("extension", []) if e.get("url") == _GRADE), ""
    )


def _by_facts(client: Client, patient: Resource) -> Match:
    name = _name(patient)
    if not (name[0] and name[1] and patient.get("birthDate") and patient.get("gender")):
        return Match("", "no identifier of that place is known, and too little to search by")
    asked = {"family": name[0], "given": name[1], "birthdate": patient["birthDate"], "gender": patient["gender"]}
    offered = {key: value for key, value in asked.items() if client.capability.parameter("Patient", key)}
    if not {"family", "birthdate"} <= offered.keys():
        return Match("", "no identifier of that place is known, and patients can't be searched by name there")
    try:
        found = client.search("Patient", {**offered, "_count": "20"})[: 2 * MAX_CANDIDATES]
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return Match("", f"no identifier of that place is known, and the search by name was refused ({failure.kind})")
    same = [r for r in found if _is_certain(patient, r)]
    if len(same) == 1 and len([r for r in found if _could_be(patient, r)]) == 1:
        page = client.get(f"Patient/{same[0]['id']}")
        return Match(same[0]["id"], "by name, date of birth, gender and contact", page)
    return _left_to_a_person(client, patient, found, "no identifier of that place is known")


def _left_to_a_person(client: Client, patient: Resource, found: list[Resource], why: str) -> Match:
    likely = [r for r in found if _could_be(patient, r)][:MAX_CANDIDATES]
    if not likely:
        return Match("", f"{why}; nobody there looks like the patient")
    pages = tuple(client.get(f"Patient/{r['id']}") for r in likely)
    return Match("", f"{why}; a person must choose", None, _candidates(patient, likely), pages)


def _successor(there: Resource) -> bool:
    return any(link.get("type") == "replaced-by" for link in there.get("link", []))


def _has(resource: Resource, system: str, value: str) -> bool:
    return any(i.get("system") == system and i.get("value") == value for i in resource.get("identifier", []))


def _is_certain(ours: Resource, there: Resource) -> bool:
    if there.get("active") is False or _successor(there):
        return False
    agrees = set(_compare(ours, there)[0])
    return {"family name", "given name", "birth date", "gender"} <= agrees and bool(
        agrees & {"phone", "e-mail", "postcode", "address"}
    )


def _could_be(ours: Resource, there: Resource) -> bool:
    """Whether a person should look at it at all: the birth date, or the whole name."""
    agrees = set(_compare(ours, there)[0])
    return "birth date" in agrees or {"family name", "given name"} <= agrees


def _candidates(ours: Resource, found: Iterable[Resource]) -> tuple[Candidate, ...]:
    return tuple(Candidate(r["id"], *_compare(ours, r)) for r in found)


def _compare(ours: Resource, there: Resource) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The facts in which two Patients agree, and those in which they differ. What one lacks is neither."""
    agrees: list[str] = []
    differs: list[str] = []
    for fact, mine, theirs in _facts(ours, there):
        if mine and theirs:
            (agrees if mine & theirs else differs).append(fact)
    return tuple(agrees), tuple(differs)


def _facts(ours: Resource, there: Resource) -> Iterator[tuple[str, set[str], set[str]]]:
    for fact, read in (
        ("family name", lambda p: {_folded(n.get("family", "")) for n in p.get("name", [])}),
        ("given name", lambda p: {_folded(n["given"][0]) for n in p.get("name", []) if n.get("given")}),
        ("birth date", lambda p: {p.get("birthDate", "")}),
        ("gender", lambda p: {p.get("gender", "")}),
        ("phone", lambda p: _telecom(p, "phone", "sms")),
        ("e-mail", lambda p: _telecom(p, "email")),
        ("postcode", lambda p: {_folded(a.get("postalCode", "")) for a in p.get("address", [])}),
        ("address", lambda p: {_folded(" ".join(a.get("line", []))) for a in p.get("address", [])}),
    ):
        yield fact, read(ours) - {""}, read(there) - {""}


def _telecom(patient: Resource, *systems: str) -> set[str]:
    values = (t.get("value", "") for t in patient.get("telecom", []) if t.get("system") in systems)
    # A phone by its last nine digits: country codes are written in many ways.
    return {_folded(v) if "email" in systems else re.sub(r"\D", "", v)[-9:] for v in values}


def _name(patient: Resource) -> tuple[str, str]:
    names = patient.get("name", [])
    official: Resource = next((n for n in names if n.get("use") == "official"), next(iter(names), {}))
    return official.get("family", ""), next(iter(official.get("given", [])), "")


def _folded(text: str) -> str:
    """Letters and digits alone, without accents and case."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(r"[\W_]", "", plain.casefold())
