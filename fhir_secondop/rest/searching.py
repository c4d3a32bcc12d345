"""Searches of a type, over all of it or in a compartment.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import urlencode
from uuid import uuid4

from flask import Response, request

from fhir_secondop.errors import Forbidden, NotFound
from fhir_secondop.fhir import codec, criteria, definitions, excerpts, query
from fhir_secondop.fhir.criteria import Condition, Refused
from fhir_secondop.fhir.query import Search
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, interactions, outcome
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import includes, ordering, search
from fhir_secondop.store.resources import Stored

COMPARTMENTS = ("Device", "Encounter", "Patient", "Practitioner", "RelatedPerson")


def search_type(endpoint: Endpoint, caller: Caller, resource_type: str) -> Response:
    """GET [type]?… and POST [type]/_search"""
    return _search(endpoint, caller, _asked(endpoint, resource_type), f"{endpoint.base_url}/{resource_type}")


def search_compartment(endpoint: Endpoint, caller: Caller, owner: str, owner_id: str, resource_type: str) -> Response:
    """GET [compartment]/[id]/[type]?…"""
    if resource_type not in definitions.resource_types() or not endpoint.follows or owner not in COMPARTMENTS:
        raise NotFound("There is nothing at this address; see metadata.")
    wanted = _asked(endpoint, resource_type)
    try:
        within = criteria.in_compartment(owner, owner_id, resource_type)
    except Refused as refusal:
        raise NotFound(str(refusal)) from refusal
    here = f"{endpoint.base_url}/{owner}/{owner_id}/{resource_type}"
    return _search(endpoint, caller, replace(wanted, criteria=(within, *wanted.criteria)), here)


def _search(endpoint: Endpoint, caller: Caller, wanted: Search, here: str) -> Response:
    interactions.may(endpoint, caller, wanted.type, "search-type", "s")
    wanted = replace(wanted, criteria=tuple(_within(endpoint, caller, each) for each in wanted.criteria))
    types = {wanted.type, *(kind for each in wanted.criteria for kind in criteria.types(each))}
    seen = [(kind, "s") for kind in sorted(types)]
    if wanted.includes:
        seen += [(kind, letter) for kind in endpoint.types() for letter in "rs"]
    visibility = endpoint.sees(caller, *seen)
    with endpoint.reading() as connection:
        found = search.run(connection, wanted, visibility, endpoint.base_url)
        more = includes.included(
            connection, found.matches, wanted.includes, visibility, endpoint.base_url,
            lambda kind, is_search: endpoint.allows(caller, kind, "s" if is_search else "r"),
            endpoint.limits,
        )  # fmt: skip
    next_page = found.next_page
    if found.to_keep:
        next_page = ordering.keep(endpoint.database, wanted, visibility, found.to_keep, found.shown)
    disclosure.disclosed((*found.matches, *more))
    links = [{"relation": "self", "url": _url(here, wanted.applied)}]
    if next_page:
        links.append({"relation": "next", "url": _url(here, (*wanted.applied, ("_page", next_page)))})
    head: Resource = {"resourceType": "Bundle", "type": "searchset", "link": links}
    if found.total is not None:
        head["total"] = found.total
    return answers.bundle_answer(head, _entries(endpoint, wanted, found.matches, more))


def _entries(endpoint: Endpoint, wanted: Search, matches: Iterable[Stored], more: Iterable[Stored]) -> Iterator[str]:
    for each in matches:
        yield _entry(endpoint, each, "match", _shown(each, wanted))
    for each in more:
        yield _entry(endpoint, each, "include", each.text)
    if wanted.ignored:
        notice = outcome.outcome(replace(issue, severity="warning") for issue in wanted.ignored)
        # R4 wants each entry named; nothing is stored under this name.
        yield codec.dumps({"fullUrl": f"urn:uuid:{uuid4()}", "resource": notice, "search": {"mode": "outcome"}})


def _within(endpoint: Endpoint, caller: Caller, condition: Condition) -> Condition:
    """The condition by the ways that the caller may search. Raises Forbidden if there is none."""

    def may(resource_type: str) -> bool:
        return "search-type" in endpoint.offered(resource_type) and endpoint.allows(caller, resource_type, "s")

    left = criteria.within(condition, may)
    if left is None:
        raise Forbidden(f"{caller.name} has no scope for what this search goes through.")
    return left


def _asked(endpoint: Endpoint, resource_type: str) -> Search:
    pairs = list(request.args.items(multi=True))
    if request.method == "POST":
        answers.check_form()
        pairs += list(request.form.items(multi=True))
    lenient = "handling=lenient" in request.headers.get("Prefer", "")
    offered = None if endpoint.follows else {p.code for p in endpoint.parameters(resource_type)}
    wanted = query.parse(resource_type, pairs, lenient=lenient, only=offered, limits=endpoint.limits)
    return replace(wanted, count=0) if wanted.summary == "count" else wanted


def _shown(match: Stored, wanted: Search) -> str:
    if wanted.elements:
        return codec.dumps(excerpts.of_elements(match.resource, wanted.elements))
    if wanted.summary:
        return codec.dumps(excerpts.summary(match.resource, wanted.summary))
    return match.text


def _entry(endpoint: Endpoint, found: Stored, mode: str, text: str) -> str:
    full = codec.dumps(f"{endpoint.base_url}/{found.type}/{found.id}")
    return f'{{"fullUrl":{full},"resource":{text},"search":{{"mode":"{mode}"}}}}'


def _url(here: str, pairs: tuple[tuple[str, str], ...]) -> str:
    return f"{here}?{urlencode(pairs)}" if pairs else here
