"""Who of the directory may review a case, with the reason for each."""

from __future__ import annotations

from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.model import Caller
from fhir_secondop.opinion import directory as entries
from fhir_secondop.opinion import languages, matching
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.matching import Candidate, Wanted
from fhir_secondop.opinion.people import Directory
from fhir_secondop.service import directory, review
from fhir_secondop.service.context import Context, load

Plain = dict[str, Any]


def match(context: Context, caller: Caller, case_id: str, _: Plain) -> Plain:
    """Every candidate of the directory, best first, by each criterion; for the coordinator, who asks them."""
    rights.require_role(caller)
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id, gathered=True)
        listed = directory.read(connection)
    needed = matching.wanted(case, context.now())
    people = Directory([*case.resources, *listed])
    assessed = {
        ref: review.assess(case, person, None, context.same_organization).before_declaring
        for ref in entries.candidates(listed)
        if (person := people.person(ref)) is not None
    }
    found = matching.match(needed, listed, assessed, context.now())
    return {
        "wanted": _wanted(needed),
        "order": matching.ORDER_SAID,
        "candidates": [_row(case, candidate) for candidate in found],
    }


def _wanted(needed: Wanted) -> Plain:
    return {
        "specialty": [words for _, words in needed.specialties],
        "place": str(needed.place or ""),
        "language": [languages.words(language) for language in needed.languages],
        "network": [network.name for network in needed.networks],
    }


def _row(case: Case, candidate: Candidate) -> Plain:
    person = candidate.person
    return {
        "candidate": person.reference,
        "name": person.name,
        "organization": person.organization_name,
        "result": candidate.result,
        "asked": _asked(case, candidate),
        "criteria": [{"criterion": c.name, "result": c.result, "fact": c.fact} for c in candidate.criteria],
        "independence": [
            {"result": f.result, "fact": f.fact, "about": f.about} for f in candidate.independence.findings
        ],
    }


def _asked(case: Case, candidate: Candidate) -> str:
    """The status of the newest Task of that one in this case, "" where there is none."""
    for task in reversed(case.reviews):
        owner = case.directory.person(task.get("owner", {}).get("reference", ""))
        if owner is not None and owner.identifiers & candidate.person.identifiers:
            return str(task["status"])
    return ""
