"""history: every version of a resource, or of all resources of a type or of all types, newest first.

Source: https://hl7.org/fhir/R4/http.html#history
"""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Response, request

from fhir_secondop.errors import Forbidden, Invalid, Unsupported
from fhir_secondop.fhir import codec, definitions, query, times
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, interactions, pages
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import resources
from fhir_secondop.store.resources import Stored

_TAKES = ("_count", "_since")


def history(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """GET [type]/[id]/_history: every version, newest first."""
    interactions.may(endpoint, caller, resource_type, "history-instance", "r")
    with endpoint.database.reading() as connection:
        versions = resources.history(
            connection, endpoint.sees(caller, (resource_type, "r")), resource_type, resource_id
        )
    disclosure.disclosed(versions)
    entries = [_history_entry(endpoint, stored) for stored in versions]
    link = [{"relation": "self", "url": f"{endpoint.base_url}/{resource_type}/{resource_id}/_history"}]
    head = {"resourceType": "Bundle", "type": "history", "total": len(versions), "link": link}
    return answers.json_answer(answers.with_entries(head, entries))


def _history_entry(endpoint: Endpoint, stored: Stored) -> str:
    method = "DELETE" if stored.deleted else "POST" if stored.version == 1 else "PUT"
    url = stored.type if method == "POST" else f"{stored.type}/{stored.id}"
    status = {"DELETE": "204", "POST": "201", "PUT": "200"}[method]
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
    return _history_of(endpoint, caller, [resource_type], {}, f"{endpoint.base_url}/{resource_type}/_history")


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
    return _history_of(endpoint, caller, types, said, f"{endpoint.base_url}/_history")


def _history_of(endpoint: Endpoint, caller: Caller, types: list[str], said: dict[str, str], here: str) -> Response:
    """What both histories do; `said` stands in the links beside what was asked.

    The next page begins before the last version of this one: what is written meanwhile is on none of the further
    pages, and none of what was there is left out.
    """
    takes = _TAKES if here != f"{endpoint.base_url}/_history" else (*_TAKES, "_type")
    extra = [name for name in request.args if name not in (*takes, "_page", "_format", "_pretty")]
    if extra:
        raise Unsupported(f"This history takes {', '.join(takes)}.", path=extra[0])
    asked = {**said, **{name: request.args[name] for name in _TAKES if name in request.args}}
    count = min(query.count(asked["_count"]) if "_count" in asked else query.DEFAULT_COUNT, endpoint.max_count)
    since = times.interval(asked["_since"]).low if "_since" in asked else None
    bound_to = ("history", types, since)
    page = request.args.get("_page")
    before = None if page is None else int(pages.opened(endpoint, caller, bound_to, page))
    with endpoint.database.reading() as connection:
        seen = endpoint.sees(caller, *((each, "r") for each in types))
        found = resources.history_of_types(connection, seen, types, count + 1, before_ms=before, since_ms=since)
    shown = found[:count]
    disclosure.disclosed(shown)
    links = [{"relation": "self", "url": f"{here}?{urlencode(asked)}" if asked else here}]
    if len(found) > count and shown:
        following = pages.sealed(endpoint, caller, bound_to, str(shown[-1].updated))
        links.append({"relation": "next", "url": f"{here}?{urlencode({**asked, '_page': following})}"})
    head: Resource = {"resourceType": "Bundle", "type": "history", "link": links}
    return answers.json_answer(answers.with_entries(head, [_history_entry(endpoint, each) for each in shown]))
