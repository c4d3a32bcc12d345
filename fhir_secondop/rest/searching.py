"""Searches of a type or over several, everywhere or in a compartment.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlencode

from flask import Response, request

from fhir_secondop.errors import Forbidden, Invalid, NotFound, Unsupported
from fhir_secondop.fhir import codec, criteria, definitions, excerpts, query
from fhir_secondop.fhir.criteria import Refused
from fhir_secondop.fhir.query import Search
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, interactions, pages
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import includes, ordering, search
from fhir_secondop.store.resources import Stored

COMPARTMENTS = ("Device", "Encounter", "Patient", "Practitioner", "RelatedPerson")


def search_type(endpoint: Endpoint, caller: Caller, resource_type: str) -> Response:
    """GET [type]?… and POST [type]/_search"""
    interactions.may(endpoint, caller, resource_type, "search-type", "s")
    wanted = _asked(endpoint, resource_type, _pairs())
    return _search(endpoint, caller, wanted, f"{endpoint.base_url}/{resource_type}")


def search_system(endpoint: Endpoint, caller: Caller) -> Response:
    """GET [base]?_type=…&… and POST [base]/_search"""
    if "search-system" not in endpoint.system:
        raise Unsupported("A search over several types is not offered here; see metadata.")
    return _search_types(endpoint, caller, endpoint.types(), _as_asked, endpoint.base_url)


def search_compartment(endpoint: Endpoint, caller: Caller, owner: str, owner_id: str, resource_type: str) -> Response:
    """GET [compartment]/[id]/[type]?…, and GET [compartment]/[id]/*?_type=…&…"""
    if resource_type not in (*definitions.resource_types(), "*") or not endpoint.follows or owner not in COMPARTMENTS:
        raise NotFound("There is nothing at this address; see metadata.")
    here = f"{endpoint.base_url}/{owner}/{owner_id}/{resource_type}"

    def inside(part: query.Part) -> query.Part:
        return part[0], (criteria.in_compartment(owner, owner_id, part[0]), *part[1])

    if resource_type == "*":
        return _search_types(endpoint, caller, criteria.in_compartment_of(owner), inside, here)
    interactions.may(endpoint, caller, resource_type, "search-type", "s")
    wanted = _asked(endpoint, resource_type, _pairs())
    try:
        return _search(endpoint, caller, _each_part(wanted, inside), here)
    except Refused as refusal:
        raise NotFound(str(refusal)) from refusal


def _as_asked(part: query.Part) -> query.Part:
    return part


def _each_part(wanted: Search, change: Callable[[query.Part], query.Part]) -> Search:
    (kind, conditions), *also = (change(part) for part in wanted.parts)
    return replace(wanted, type=kind, criteria=conditions, also=tuple(also))


def _search_types(
    endpoint: Endpoint, caller: Caller, known: Sequence[str], change: Callable[[query.Part], query.Part], here: str
) -> Response:
    """A search over those types that `_type` names, or over all of `known` that the caller may search."""
    pairs = _pairs()
    named = [value for name, value in pairs if name == "_type"]
    if len(named) > 1:
        raise Invalid("Send _type once, with commas between the types.", path="_type")
    if named:
        types = list(dict.fromkeys(criteria.split(named[0])))
        for each in types:
            if each not in known:
                raise Invalid(f"{each!r} is no type that can be searched here.", path="_type")
            interactions.may(endpoint, caller, each, "search-type", "s")
    else:
        types = [each for each in known if endpoint.may_search(caller, each)]
    if not types:
        raise Forbidden(f"{caller.name} has no scope to search any type.")
    wanted = _asked(endpoint, types, [(name, value) for name, value in pairs if name != "_type"])
    if named or len(types) < len(known):
        # Also who named none is told which were searched, where it wasn't all.
        wanted = replace(wanted, applied=(("_type", ",".join(types)), *wanted.applied))
    return _search(endpoint, caller, _each_part(wanted, change), here)


def _search(endpoint: Endpoint, caller: Caller, wanted: Search, here: str) -> Response:
    """Answers a search of types that the caller may search."""
    wanted = _each_part(
        wanted, lambda part: (part[0], tuple(endpoint.ways(caller, condition) for condition in part[1]))
    )
    own = {kind for kind, _ in wanted.parts}
    types = own | {kind for _, conditions in wanted.parts for each in conditions for kind in criteria.types(each)}
    seen = [(kind, "s") for kind in sorted(types)]
    if wanted.includes:
        seen += [(kind, letter) for kind in endpoint.types() for letter in "rs"]
    visibility = endpoint.sees(caller, *seen)
    asked = (wanted.parts, wanted.sort)
    if wanted.page:
        wanted = replace(wanted, page=pages.opened(endpoint, caller, asked, wanted.page))
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
        page = pages.sealed(endpoint, caller, asked, next_page)
        links.append({"relation": "next", "url": _url(here, (*wanted.applied, ("_page", page)))})
    head: Resource = {"resourceType": "Bundle", "type": "searchset", "link": links}
    if found.total is not None:
        head["total"] = found.total
    return answers.bundle_answer(head, _entries(endpoint, wanted, found.matches, more))


def _entries(endpoint: Endpoint, wanted: Search, matches: Iterable[Stored], more: Iterable[Stored]) -> Iterator[str]:
    yield from answers.entries(endpoint.base_url, matches, "match", lambda each: _shown(each, wanted))
    yield from answers.entries(endpoint.base_url, more, "include")
    if wanted.ignored:
        yield answers.notice(replace(issue, severity="warning") for issue in wanted.ignored)


def _pairs() -> list[tuple[str, str]]:
    pairs = list(request.args.items(multi=True))
    if request.method == "POST":
        answers.check_form()
        pairs += list(request.form.items(multi=True))
    return pairs


def _asked(endpoint: Endpoint, types: str | Sequence[str], pairs: list[tuple[str, str]]) -> Search:
    lenient = "handling=lenient" in request.headers.get("Prefer", "")
    offered = None
    if not endpoint.follows:
        each = [types] if isinstance(types, str) else types
        offered = set.intersection(*({p.code for p in endpoint.parameters(kind)} for kind in each))
    wanted = query.parse(types, pairs, lenient=lenient, only=offered, limits=endpoint.limits)
    return replace(wanted, count=0) if wanted.summary == "count" else wanted


def _shown(match: Stored, wanted: Search) -> str:
    if wanted.elements:
        return codec.dumps(excerpts.of_elements(match.resource, wanted.elements))
    if wanted.summary:
        return codec.dumps(excerpts.summary(match.resource, wanted.summary))
    return match.text


def _url(here: str, pairs: tuple[tuple[str, str], ...]) -> str:
    return f"{here}?{urlencode(pairs)}" if pairs else here
