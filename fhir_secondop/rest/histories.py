"""history: every version of a resource, or of all resources of a type or of all types, newest first.

Source: https://hl7.org/fhir/R4/http.html#history
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from flask import Response, request

from fhir_secondop.errors import Forbidden, Invalid, NotFound, Unsupported
from fhir_secondop.fhir import codec, definitions, query, times
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, interactions, pages
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import methods, resources
from fhir_secondop.store.resources import Stored

_TAKES = ("_count", "_since")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A history that is asked for. `links` are the parameters of its links; `before` is where the page begins."""

    here: str
    bound_to: object
    count: int
    links: dict[str, str]
    since: int | None
    before: int | None

    def bundle(self, endpoint: Endpoint, caller: Caller, following: str, total: int | None = None) -> Resource:
        """The Bundle without its entries; `following` is the place at which the next page begins, or ""."""
        links = [{"relation": "self", "url": f"{self.here}?{urlencode(self.links)}" if self.links else self.here}]
        if following:
            page = pages.sealed(endpoint, caller, self.bound_to, following)
            links.append({"relation": "next", "url": f"{self.here}?{urlencode({**self.links, '_page': page})}"})
        head: Resource = {"resourceType": "Bundle", "type": "history", "link": links}
        return head if total is None else {**head, "total": total}


def _asked(
    endpoint: Endpoint, caller: Caller, here: str, of: object, takes: tuple[str, ...], said: dict[str, str]
) -> _Asked:
    """What the request asks for; `said` stands in the links beside that."""
    extra = [name for name in request.args if name not in (*takes, "_page", *query.FORMAT_ONLY)]
    if extra:
        raise Unsupported(f"This history takes {', '.join(takes)}.", path=extra[0])
    links = {**said, **{name: request.args[name] for name in _TAKES if name in request.args}}
    since = times.interval(links["_since"]).low if "_since" in links else None
    wanted = query.count(links["_count"]) if "_count" in links else query.DEFAULT_COUNT
    bound_to = ("history", of, since)
    page = request.args.get("_page")
    before = None if page is None else int(pages.opened(endpoint, caller, bound_to, page))
    return _Asked(here, bound_to, min(wanted, endpoint.limits.max_page), links, since, before)


def history(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """GET [type]/[id]/_history: every version, in pages; `_since` says from when on, `_count` how many."""
    interactions.may(endpoint, caller, resource_type, "history-instance", "r")
    here = f"{endpoint.base_url}/{resource_type}/{resource_id}/_history"
    asked = _asked(endpoint, caller, here, (resource_type, resource_id), _TAKES, {})
    with endpoint.reading() as connection:
        seen = endpoint.sees(caller, (resource_type, "r"))
        current = resources.find(connection, seen, resource_type, resource_id)
        if current is None:
            raise NotFound(f"There is no {resource_type}/{resource_id}.")
        found, is_cut = resources.history_page(
            connection, seen, resource_type, resource_id, asked.count + 1, before=asked.before, since_ms=asked.since,
            most_bytes=endpoint.limits.max_page_bytes,
        )  # fmt: skip
        shown = found[: asked.count]
        by = methods.noted(connection, shown)
    disclosure.disclosed(shown)
    following = str(shown[-1].version) if shown and (is_cut or len(found) > asked.count) else ""
    head = asked.bundle(endpoint, caller, following, current.version if asked.since is None else None)
    return answers.bundle_answer(head, (_history_entry(endpoint, stored, by) for stored in shown))


def _history_entry(endpoint: Endpoint, stored: Stored, by: Mapping[tuple[int, int], str]) -> str:
    method = by.get((stored.rid, stored.version), methods.implied(stored))
    # By whatever criteria it was found: they may name a patient, and an instance is what has a history.
    url = stored.type if method == "POST" else f"{stored.type}/{stored.id}"
    status = "204" if stored.deleted else "201" if stored.version == 1 else "200"
    full = codec.dumps(f"{endpoint.base_url}/{stored.type}/{stored.id}")
    facts = {
        "request": {"method": method, "url": url},
        "response": {"status": status, "etag": stored.etag, "lastModified": times.instant(stored.updated)},
    }
    body = "" if stored.deleted else f'"resource":{stored.text},'
    return f'{{"fullUrl":{full},{body}{codec.dumps(facts)[1:]}'


def history_of_type(endpoint: Endpoint, caller: Caller, resource_type: str) -> Response:
    """GET [type]/_history: of all resources of the type, in pages; `_since` says from when on, `_count` how many."""
    interactions.may(endpoint, caller, resource_type, "history-type", "r")
    here = f"{endpoint.base_url}/{resource_type}/_history"
    return _history_of(endpoint, caller, [resource_type], here, _TAKES, {})


def history_of_all(endpoint: Endpoint, caller: Caller) -> Response:
    """GET [base]/_history: of all types that the caller may read, or of those that `_type` names.

    R4 has no such parameter here; it is there so that the self link can say which types these are.
    """
    if "history-system" not in endpoint.system:
        raise Unsupported("The history of all types is not offered here; see metadata.")
    known = [each for each in endpoint.types() if "history-type" in endpoint.offered(each)]
    if (named := request.args.get("_type")) is not None:
        types = list(dict.fromkeys(named.split(",")))
        for each in types:
            if each not in definitions.resource_types():
                raise Invalid(f"{each!r} is no resource type of R4 (4.0.1).", path="_type")
            interactions.may(endpoint, caller, each, "history-type", "r")
    else:
        types = [each for each in known if endpoint.allows(caller, each, "r")]
    if not types:
        raise Forbidden(f"{caller.name} has no scope to read any type.")
    said = {"_type": ",".join(types)} if types != known else {}
    return _history_of(endpoint, caller, types, f"{endpoint.base_url}/_history", (*_TAKES, "_type"), said)


def _history_of(
    endpoint: Endpoint, caller: Caller, types: list[str], here: str, takes: tuple[str, ...], said: dict[str, str]
) -> Response:
    """What both histories do.

    The next page begins before the last version of this one: what is written meanwhile is on none of the further
    pages, and none of what was there is left out.
    """
    asked = _asked(endpoint, caller, here, types, takes, said)
    with endpoint.reading() as connection:
        seen = endpoint.sees(caller, *((each, "r") for each in types))
        found, is_cut = resources.history_of_types(
            connection, seen, types, asked.count + 1, before_ms=asked.before, since_ms=asked.since,
            most_bytes=endpoint.limits.max_page_bytes,
        )  # fmt: skip
        shown = found[: asked.count]
        by = methods.noted(connection, shown)
    disclosure.disclosed(shown)
    following = str(shown[-1].updated) if shown and (is_cut or len(found) > asked.count) else ""
    head = asked.bundle(endpoint, caller, following)
    return answers.bundle_answer(head, (_history_entry(endpoint, each, by) for each in shown))
