"""history: every version of a resource, or of all resources of a type, newest first.

Source: https://hl7.org/fhir/R4/http.html#history
"""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Response, request

from fhir_secondop.errors import Invalid, NotFound, Unsupported
from fhir_secondop.fhir import codec, query, times
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, interactions
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import resources
from fhir_secondop.store.resources import Stored


def history(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """GET [type]/[id]/_history: every version, in pages; `_since` says from when on, `_count` how many."""
    interactions.may(endpoint, caller, resource_type, "history-instance", "r")
    asked, since, page = _asked()
    count = _count(endpoint, asked)
    with endpoint.reading() as connection:
        seen = endpoint.sees(caller, (resource_type, "r"))
        current = resources.find(connection, seen, resource_type, resource_id)
        if current is None:
            raise NotFound(f"There is no {resource_type}/{resource_id}.")
        found, is_cut = resources.history_page(
            connection, seen, resource_type, resource_id, count + 1, before=page, since_ms=since,
            most_bytes=endpoint.limits.max_page_bytes,
        )  # fmt: skip
    shown = found[:count]
    disclosure.disclosed(shown)
    following = str(shown[-1].version) if shown and (is_cut or len(found) > count) else ""
    links = _links(f"{endpoint.base_url}/{resource_type}/{resource_id}/_history", asked, following)
    head: Resource = {"resourceType": "Bundle", "type": "history", "link": links}
    if since is None:
        head["total"] = current.version
    return answers.bundle_answer(head, (_history_entry(endpoint, stored) for stored in shown))


def _asked() -> tuple[dict[str, str], int | None, int | None]:
    """What a history is asked for: the parameters of its links, from when on (ms), and where the page begins."""
    extra = [name for name in request.args if name not in ("_count", "_since", "_page", "_format", "_pretty")]
    if extra:
        raise Unsupported("A history takes _count and _since.", path=extra[0])
    asked = {name: request.args[name] for name in ("_count", "_since") if name in request.args}
    since = times.interval(asked["_since"]).low if "_since" in asked else None
    page = request.args.get("_page")
    if page is not None and (not page.isdecimal() or len(page) > 15):
        raise Invalid("This page link is not one of ours; ask for the history again.", path="_page")
    return asked, since, None if page is None else int(page)


def _count(endpoint: Endpoint, asked: dict[str, str]) -> int:
    return min(query.count(asked["_count"]) if "_count" in asked else query.DEFAULT_COUNT, endpoint.limits.max_page)


def _links(here: str, asked: dict[str, str], following: str) -> list[Resource]:
    links = [{"relation": "self", "url": f"{here}?{urlencode(asked)}" if asked else here}]
    if following:
        links.append({"relation": "next", "url": f"{here}?{urlencode({**asked, '_page': following})}"})
    return links


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
    """GET [type]/_history: of all resources of the type, in pages; `_since` says from when on, `_count` how many.

    The next page begins before the last version of this one: what is written meanwhile is on none of the further pages,
    and none of what was there is left out.
    """
    interactions.may(endpoint, caller, resource_type, "history-type", "r")
    asked, since, before = _asked()
    count = _count(endpoint, asked)
    with endpoint.reading() as connection:
        seen = endpoint.sees(caller, (resource_type, "r"))
        found, is_cut = resources.history_of_type(
            connection, seen, resource_type, count + 1, before_ms=before, since_ms=since,
            most_bytes=endpoint.limits.max_page_bytes,
        )  # fmt: skip
    shown = found[:count]
    disclosure.disclosed(shown)
    following = str(shown[-1].updated) if shown and (is_cut or len(found) > count) else ""
    links = _links(f"{endpoint.base_url}/{resource_type}/_history", asked, following)
    head: Resource = {"resourceType": "Bundle", "type": "history", "link": links}
    return answers.bundle_answer(head, (_history_entry(endpoint, each) for each in shown))
