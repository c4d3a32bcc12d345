"""Operations on patients that some EHRs offer: $match with its grades, and $everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal

from sqlalchemy.engine import Connection

from fhir_secondop.access import rights
from fhir_secondop.errors import Forbidden, Invalid
from fhir_secondop.fhir import definitions, query
from fhir_secondop.fhir.criteria import LIMITS
from fhir_secondop.model import EVERYTHING, Caller, Operation, Resource, Result
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import resources, search
from fhir_secondop.store.resources import Stored

Facts = frozenset[str]


def _names(patient: Resource) -> Facts:
    names = patient.get("name", [])
    return frozenset(f"{n.get('family', '')}, {g}".lower() for n in names for g in n.get("given", [])[:1])


def _phones(patient: Resource) -> Facts:
    numbers = [t.get("value", "") for t in patient.get("telecom", []) if t.get("system") == "phone"]
    return frozenset("".join(c for c in number if c.isdecimal()) for number in numbers) - {""}


def _one(patient: Resource, element: str) -> Facts:
    return frozenset({patient[element]} if element in patient else ())


_FACTS: dict[str, Callable[[Resource], Facts]] = {
    "identifier": lambda p: frozenset(
        f"{i['system']}|{i['value']}" for i in p.get("identifier", []) if {"system", "value"} <= set(i)
    ),
    "name": _names,
    "family": lambda p: frozenset(n["family"].lower() for n in p.get("name", []) if "family" in n),
    "gender": lambda p: _one(p, "gender"),
    "birthDate": lambda p: _one(p, "birthDate"),
    "phone": _phones,
}
# Grade → what must agree; the first that fits. Source: http://hl7.org/fhir/R4/valueset-match-grade.html
_GRADES: tuple[tuple[str, Decimal, Facts], ...] = (
    ("certain", Decimal("1.0"), frozenset({"identifier"})),
    ("certain", Decimal("0.99"), frozenset({"name", "gender", "birthDate", "phone"})),
    ("probable", Decimal("0.8"), frozenset({"name", "birthDate"})),
    ("probable", Decimal("0.7"), frozenset({"family", "gender", "birthDate"})),
    ("possible", Decimal("0.4"), frozenset({"name", "gender"})),
)


def grade(asked: Resource, known: Resource) -> tuple[str, Decimal]:
    """(match grade, score) of a known patient for the one asked for; ("", 0) when they are not alike."""
    alike = {name for name, of in _FACTS.items() if of(asked) & of(known)}
    return next(((code, score) for code, score, needs in _GRADES if needs <= alike), ("", Decimal(0)))


def _may_read(caller: Caller) -> None:
    if not rights.allows(caller, "Patient", "r"):
        raise Forbidden(f"{caller.name} has no scope for this on Patient.")


def with_match(endpoint: Endpoint) -> Endpoint:
    """Offers Patient/$match. Source: https://hl7.org/fhir/R4/patient-operation-match.html"""

    def match(caller: Caller, _: str, sent: Resource) -> Result:
        _may_read(caller)
        given = {p["name"]: p for p in sent.get("resource", {}).get("parameter", [])}
        asked = given.get("resource", {}).get("resource", {})
        if asked.get("resourceType") != "Patient":
            raise Invalid("The parameter resource must be a Patient.", path="Parameters.parameter")
        with endpoint.database.reading() as connection:
            found = [(grade(asked, s.resource), s) for s in _all(connection, endpoint, "Patient", "")]
        matches = sorted((m for m in found if m[0][0]), key=lambda m: m[0][1], reverse=True)
        if given.get("onlyCertainMatches", {}).get("valueBoolean"):
            certain = [m for m in matches if m[0][0] == "certain"]
            matches = certain if len(certain) == 1 else []  # two certain ones are none
        matches = matches[: given.get("count", {}).get("valueInteger", len(matches))]
        return Result({}, _bundle(endpoint, [_graded(endpoint, *graded, p) for graded, p in matches]))

    return _offering(endpoint, Operation("match", "Patient", "Finds a patient.", match, raw=True, on_type=True))


def _graded(endpoint: Endpoint, code: str, score: Decimal, stored: Stored) -> Resource:
    url = "http://hl7.org/fhir/StructureDefinition/match-grade"
    said = {"extension": [{"url": url, "valueCode": code}], "mode": "match", "score": score}
    return {**_entry(endpoint, stored), "search": said}


def with_everything(endpoint: Endpoint) -> Endpoint:
    """Offers Patient/[id]/$everything, in one page. Source: https://hl7.org/fhir/R4/patient-operation-everything.html"""

    def everything(caller: Caller, patient_id: str, sent: Resource) -> Result:
        _may_read(caller)
        with endpoint.database.reading() as connection:
            held = {(s.type, s.id): s for s in _compartment(connection, endpoint, patient_id)}
        entries = [{**_entry(endpoint, stored), "search": {"mode": "match"}} for stored in held.values()]
        return Result({}, _bundle(endpoint, entries))

    return _offering(endpoint, Operation("everything", "Patient", "The whole record.", everything, reads=True))


def _compartment(connection: Connection, endpoint: Endpoint, patient_id: str) -> Iterator[Stored]:
    """The patient and all that points at the patient as the compartment says. Raises NotFound."""
    yield resources.read(connection, EVERYTHING, "Patient", patient_id)
    for kind, codes in definitions.compartment("Patient").items():
        for code in codes if "search-type" in endpoint.offered(kind) else ():
            if code in definitions.search_parameters(kind):
                yield from _all(connection, endpoint, kind, f"{code}=Patient/{patient_id}")


def _all(connection: Connection, endpoint: Endpoint, kind: str, criteria: str) -> Iterator[Stored]:
    """What a search finds, over all its pages."""
    wanted = replace(query.parse(kind, criteria), count=LIMITS.max_page)
    while True:
        found = search.run(connection, wanted, EVERYTHING, endpoint.base_url)
        yield from found.matches
        if not found.next_page:
            return
        wanted = replace(wanted, page=found.next_page)


def _entry(endpoint: Endpoint, stored: Stored) -> Resource:
    return {"fullUrl": f"{endpoint.base_url}/{stored.type}/{stored.id}", "resource": stored.resource}


def _bundle(endpoint: Endpoint, entries: list[Resource]) -> Resource:
    head: Resource = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return {**head, "entry": entries} if entries else head


def _offering(endpoint: Endpoint, operation: Operation) -> Endpoint:
    # The canonical names of HL7's own operations.
    return replace(
        endpoint, operations=(*endpoint.operations, operation), canonical=endpoint.canonical or "http://hl7.org/fhir"
    )


def without_identifier_search(endpoint: Endpoint) -> Endpoint:
    """Takes away the search of patients by identifier."""
    known = {kind: frozenset(p.code for p in endpoint.parameters(kind)) for kind in endpoint.types()}
    return replace(endpoint, searchable={**known, "Patient": known.get("Patient", frozenset()) - {"identifier"}})
