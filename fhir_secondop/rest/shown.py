"""What the operations that others defined have in common: what a caller may see, and how it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from urllib.parse import urlencode

from flask import Response

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.fhir import definitions, query
from fhir_secondop.model import Caller, Resource, Visibility
from fhir_secondop.rest import answers, pages
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.inputs import Input
from fhir_secondop.store.compartments import Place
from fhir_secondop.store.resources import Stored

Grants = Callable[[Caller, str, str], bool]
Restrictions = Callable[[Caller, str, str], tuple[str, ...]]


def page_size(endpoint: Endpoint, sent: Input) -> int:
    """How many matches a page has: as many as we give at once, unless fewer are asked for. Raises Invalid."""
    text = sent.one("_count")
    count = query.count(text) if text else endpoint.limits.max_page
    if not count:
        raise Invalid("_count is 1 or more.", path="_count")
    return min(count, endpoint.limits.max_page)


@lru_cache(maxsize=256)
def granted(allows: Grants, caller: Caller) -> tuple[frozenset[str], frozenset[str]]:
    """The types that the caller may read, and those that it may search for."""
    types = definitions.resource_types()
    readable, searchable = (frozenset(kind for kind in types if allows(caller, kind, letter)) for letter in "rs")
    return readable, searchable


@lru_cache(maxsize=256)
def _narrowed(restrictions: Restrictions, caller: Caller) -> tuple[tuple[str, str], ...]:
    return tuple(
        (kind, letter)
        for kind in sorted(definitions.resource_types())
        for letter in "rs"
        if restrictions(caller, kind, letter)
    )


def seen(endpoint: Endpoint, caller: Caller) -> Visibility:
    """What the caller may see of all types, whether it reads or searches."""
    return endpoint.sees(caller, *_narrowed(endpoint.restrictions, caller))


def place_of(endpoint: Endpoint, caller: Caller, operation: str, sent: Input) -> Place | None:
    """Where the page begins that is asked for; None for the first one. Raises Malformed."""
    link = sent.one("_page")
    if not link:
        return None
    after, last = pages.opened(endpoint, caller, _asked(operation, sent), link).split()
    return Place(int(after), int(last))


def link_to(endpoint: Endpoint, caller: Caller, operation: str, sent: Input, place: Place | None) -> str:
    """The `_page` of the page that begins there; "" where there is none."""
    return pages.sealed(endpoint, caller, _asked(operation, sent), f"{place.after} {place.last}") if place else ""


def _asked(operation: str, sent: Input) -> tuple[str, list[tuple[str, str]]]:
    # A client may ask for smaller pages on its way.
    return operation, sorted(pair for pair in sent.pairs() if pair[0] != "_count")


def searchset(
    endpoint: Endpoint,
    address: str,
    pairs: Sequence[tuple[str, str]],
    more: str,
    matches: Iterable[Stored],
    included: Iterable[Stored] = (),
    notices: Sequence[Issue] = (),
) -> Response:
    """The answer of an operation that finds: a Bundle with its links, matches, what comes along, and what is to say."""
    here = f"{endpoint.base_url}/{address}"
    links = [{"relation": "self", "url": f"{here}?{urlencode(pairs)}" if pairs else here}]
    if more:
        links.append({"relation": "next", "url": f"{here}?{urlencode([*pairs, ('_page', more)])}"})
    head: Resource = {"resourceType": "Bundle", "type": "searchset", "link": links}
    return answers.bundle_answer(
        head,
        chain(
            answers.entries(endpoint.base_url, matches, "match"),
            answers.entries(endpoint.base_url, included, "include"),
            [answers.notice(notices)] if notices else (),
        ),
    )
