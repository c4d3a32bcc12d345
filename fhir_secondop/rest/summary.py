"""$summary: the International Patient Summary of what is stored of a patient and the caller may see.

A section that is empty for want of a scope would say that we have no information: so without them all it is refused.
Source: https://hl7.org/fhir/uv/ips/STU1.1/OperationDefinition-summary.html
"""

from __future__ import annotations

from uuid import uuid4

from flask import Response
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Forbidden, Invalid, Issue, NotFound, TooCostly, Unsupported
from fhir_secondop.fhir import query, refs, times
from fhir_secondop.model import Caller, Visibility
from fhir_secondop.opinion import ips
from fhir_secondop.rest import answers, disclosure, inputs, interactions
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.inputs import Input
from fhir_secondop.store import compartments, resources, search, tables
from fhir_secondop.store.database import now_ms
from fhir_secondop.store.resources import Stored

NEWEST_OF = 100
"""Results, reports and vital signs that are looked at, of each the newest."""


def run(endpoint: Endpoint, caller: Caller, patient_id: str) -> Response:
    """GET and POST Patient/[id]/$summary, and Patient/$summary with an identifier.

    Raises NotFound, Gone, Forbidden, Unsupported, Invalid.
    """
    sent = inputs.read(endpoint, ("profile",) if patient_id else ("profile", "identifier"))
    if sent.one("profile").partition("|")[0] not in ("", ips.PROFILE):
        raise Unsupported(f"A summary is made by {ips.PROFILE} alone.", path="profile")
    interactions.may(endpoint, caller, "Patient", "read", "r")
    _check_scopes(endpoint, caller, needs_search=not patient_id)
    visibility, most = endpoint.visibility(caller), endpoint.limits.max_document
    with endpoint.reading() as connection:
        if not patient_id:
            patient_id = _identified(connection, endpoint, visibility, sent)
            disclosure.asked("Patient", patient_id)
        patient = resources.read(connection, visibility, "Patient", patient_id)
        conditions = [compartments.of_patient(patient_id), tables.resource.c.type.in_(sorted(ips.types_of_all()))]
        found = list(compartments.page(connection, conditions, visibility, None, most + 1))
        if len(found) > most:
            said = f"More than {most} resources would be looked at for this summary (max_document)"
            raise TooCostly(f"{said}; $everything has pages.")
        newest, cut = _newest(connection, endpoint, visibility, patient_id)
        found += newest
        named = _medications(found, endpoint.base_url)
        beside = list(compartments.named(connection, named, visibility))
    document = ips.document(
        patient.resource, [one.resource for one in found], [one.resource for one in beside],
        base_url=endpoint.base_url, now=times.instant(now_ms()), new_id=lambda: str(uuid4()),
        cut=cut,
    )  # fmt: skip
    given = {entry["fullUrl"].removeprefix(f"{endpoint.base_url}/") for entry in document["entry"]}
    disclosure.disclosed(one for one in (patient, *found, *beside) if compartments.local_of(one) in given)
    return answers.json_answer(document)


def _check_scopes(endpoint: Endpoint, caller: Caller, *, needs_search: bool) -> None:
    needed = [(kind, "s") for kind in sorted(ips.types())] + [("Patient", "r"), ("Medication", "r")]
    needed += [("Patient", "s")] if needs_search else []
    missing = [
        f"{kind}.{letter}"
        for kind, letter in needed
        if not endpoint.allows(caller, kind, letter) or endpoint.restrictions(caller, kind, letter)
    ]
    if missing:
        raise Forbidden(f"{caller.name} has no scope {', '.join(missing)}, which $summary needs.")


def _identified(connection: Connection, endpoint: Endpoint, visibility: Visibility, sent: Input) -> str:
    """The id of the one patient with that identifier. Raises NotFound, Invalid."""
    identifier = sent.one("identifier")
    if not identifier:
        raise Invalid("Of all patients there is no summary: name one, by its identifier.", path="identifier")
    wanted = query.parse("Patient", [("identifier", identifier), ("_count", "2")])
    found = search.run(connection, wanted, visibility, endpoint.base_url).matches
    if not found:
        raise NotFound("There is no Patient with this identifier.")
    if len(found) > 1:
        said = "More than one Patient has this identifier."
        raise Invalid(said, issues=[Issue("error", "multiple-matches", "identifier", said)])
    return found[0].id


def _newest(
    connection: Connection, endpoint: Endpoint, visibility: Visibility, patient_id: str
) -> tuple[list[Stored], set[str]]:
    """Of what has a value at a time the newest of each code, and the codes of the sections of which there is more."""
    by_local: dict[str, Stored] = {}
    cut: set[str] = set()
    for each in ips.NEWEST:
        pairs = [("patient", f"Patient/{patient_id}"), ("status", ",".join(ips.STATED)), ("_sort", "-date")]
        pairs += [("category", ",".join(each.categories))] if each.categories else []
        wanted = query.parse(each.type, [*pairs, ("_count", str(NEWEST_OF))], limits=endpoint.limits)
        result = search.run(connection, wanted, visibility, endpoint.base_url)
        by_id = {one.id: one for one in result.matches}
        kept = ips.newest(one.resource for one in result.matches)
        by_local.update({compartments.local_of(by_id[one["id"]]): by_id[one["id"]] for one in kept})
        if result.to_keep or len(kept) < len(by_id):
            cut.add(each.code)
    return list(by_local.values()), cut


def _medications(found: list[Stored], base_url: str) -> list[tuple[str, str]]:
    """(type, id) of the medications that statements and orders name."""
    named = (one.resource.get("medicationReference", {}).get("reference", "") for one in found)
    here = (refs.parse(text) for text in named)
    return sorted({("Medication", ref.id) for ref in here if ref and ref.type == "Medication"
                   and ref.base in ("", base_url)})  # fmt: skip
