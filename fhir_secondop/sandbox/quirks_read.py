"""Quirks of searching and reading: pages, notices, criteria, denials. Rows of the table in `quirks`."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from werkzeug.wrappers import Response

from fhir_secondop.model import Resource
from fhir_secondop.sandbox.answers import outcome, put_resource, refusal, resource_in
from fhir_secondop.sandbox.traffic import Around, Asked, GoOn, Times, number

Change = Callable[[Asked, Resource], None]


def _on_bundles(change: Change) -> Around:
    """Changes the Bundle of each search."""

    def around(asked: Asked, go_on: GoOn) -> Response:
        answer = go_on(asked)
        bundle = resource_in(answer) if asked.kind == "search" else None
        if bundle is not None and bundle["resourceType"] == "Bundle":
            change(asked, bundle)
            put_resource(answer, bundle)
        return answer

    return around


def _next(bundle: Resource) -> Resource | None:
    return next((link for link in bundle["link"] if link["relation"] == "next"), None)


# ---- pages


def overlapping_pages(value: str) -> Around:
    """The last match of a page comes again, as it was then, as the first of the next."""
    last: dict[tuple[str, tuple[tuple[str, str], ...]], Resource] = {}

    def change(asked: Asked, bundle: Resource) -> None:
        matches = [entry for entry in bundle.get("entry", []) if entry["search"]["mode"] == "match"]
        if asked.following and (before := last.get((asked.type, tuple(asked.query)))):
            bundle["entry"] = [before, *bundle["entry"]]
        if (following := _next(bundle)) and matches:
            query = parse_qsl(urlsplit(following["url"]).query, keep_blank_values=True)
            last[asked.type, tuple(query)] = matches[-1]

    return _on_bundles(change)


def looping_pages(value: str) -> Around:
    """The second page's next link leads back to the first page."""

    def change(asked: Asked, bundle: Resource) -> None:
        if asked.following:
            first = next(link["url"] for link in bundle["link"] if link["relation"] == "self")
            bundle["link"] = [{"relation": "self", "url": first}, {"relation": "next", "url": first}]

    return _on_bundles(change)


def next_elsewhere(value: str) -> Around:
    """Next links that name another base."""

    def change(asked: Asked, bundle: Resource) -> None:
        if following := _next(bundle):
            parts = urlsplit(following["url"])
            following["url"] = f"{value.rstrip('/')}/{asked.type}?{parts.query}"

    return _on_bundles(change)


def expiring_pages(value: str) -> Around:
    """The cached search behind a next link is gone, the first n times."""
    times = Times(number(value, 1))

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.kind == "search" and asked.following and times.take():
            return refusal(400, "expired", "The search session has expired; start again.", own="4113")
        return go_on(asked)

    return around


def page_2_fails(asked: Asked, go_on: GoOn) -> Response:
    """No page after the first can be had."""
    if asked.kind == "search" and asked.following:
        return refusal(500, "exception", "An internal error occurred.")
    return go_on(asked)


# ---- notices among the matches


def _notice(code: str, own: str, text: str) -> Around:
    def change(asked: Asked, bundle: Resource) -> None:
        said = outcome(code, text, own=own, severity="warning")
        bundle.setdefault("entry", []).append({"resource": said, "search": {"mode": "outcome"}})

    return _on_bundles(change)


def more_data(value: str) -> Around:
    """Says in each answer that there may be more."""
    return _notice("incomplete", "4127", "More data may exist than was returned.")


def withheld_notice(value: str) -> Around:
    """Says in each answer that something is withheld."""
    return _notice("suppressed", "59204", "Results of a part that the client is not authorized for are withheld.")


def error_in_200(asked: Asked, go_on: GoOn) -> Response:
    """A search's failure with the status of success."""
    return refusal(200, "exception", "The search failed.") if asked.kind == "search" else go_on(asked)


# ---- criteria


def demands(parameter: str, *types: str) -> Around:
    """Refuses to search these types by patient without a parameter that US Core lets a server demand."""

    def around(asked: Asked, go_on: GoOn) -> Response:
        named = {name.partition(":")[0] for name, _ in asked.query}
        if asked.kind == "search" and asked.type in types and not named & {parameter, "_id"}:
            return refusal(400, "required", f"Required search parameter missing from request: {parameter}", own="4111")
        return go_on(asked)

    return around


def ignores(*parameters: str) -> Around:
    """Searches as if these parameters had not been sent."""

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.kind == "search":
            asked.put_query([(n, v) for n, v in asked.query if n.partition(":")[0] not in parameters])
        return go_on(asked)

    return around


# ---- denials


def policy_denial(value: str) -> Around:
    """403 for everything of a type: "Observation", or with another code than 4130, "Observation:4134"."""
    kind, _, own = value.partition(":")

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.type == kind:
            return refusal(403, "forbidden", "The client is not allowed to see this by policy.", own=own or "4130")
        return go_on(asked)

    return around


def daily_quota(value: str) -> Around:
    """After n documents of a day (that is, of this process) no more."""
    times = Times(number(value, 10))

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.kind == "read" and asked.type in ("Binary", "DocumentReference") and not times.take():
            return refusal(403, "throttled", "The daily limit of documents has been reached.", own="4135")
        return go_on(asked)

    return around
