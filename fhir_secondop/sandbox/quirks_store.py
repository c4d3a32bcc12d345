"""Quirks of what becomes of a write: dropped, changed, not stored, stored twice, visible later."""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from werkzeug.wrappers import Response

from fhir_secondop.fhir import attachments
from fhir_secondop.model import Resource
from fhir_secondop.sandbox.answers import put_resource, refusal, resource_in
from fhir_secondop.sandbox.traffic import Around, Asked, GoOn, number

# What Oracle passes over without a word.
_DROPPED = {
    "DocumentReference": ("identifier", "masterIdentifier", "category", "relatesTo", "context.related"),
    "DiagnosticReport": ("identifier",),
    "Communication": ("identifier",),
}
_MADE = re.compile(r"([A-Z][A-Za-z]+/[A-Za-z0-9\-.]+)/_history/")


def _before_storing(change: Callable[[Resource], None]) -> Around:
    """Changes each entry that is written (see Asked.edit) before the endpoint sees it."""

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.writes:
            asked.edit(change)
        return go_on(asked)

    return around


def drops_fields(value: str) -> Around:
    """Elements that vanish: Oracle's, or those of VALUE ("docStatus,context.period") from every type."""

    def change(entry: Resource) -> None:
        resource = entry.get("resource", {})
        for path in value.split(",") if value else _DROPPED.get(resource.get("resourceType", ""), ()):
            _drop(resource, path.split("."))

    return _before_storing(change)


def _drop(element: Resource, path: list[str]) -> None:
    if len(path) > 1 and isinstance(element.get(path[0]), dict):
        _drop(element[path[0]], path[1:])
    # An object without members is not FHIR.
    if len(path) == 1 or element.get(path[0]) == {}:
        element.pop(path[0], None)


def changed_bytes(value: str) -> Around:
    """Every attachment is stored with other bytes than were sent."""

    def change(entry: Resource) -> None:
        for attachment in _attachments(entry.get("resource", {})):
            data = base64.b64decode(attachment["data"]) + b"\n"
            attachment["data"] = base64.b64encode(data).decode()
            if "hash" in attachment:
                attachment["hash"] = attachments.digest(data)

    return _before_storing(change)


def _attachments(element: Any) -> Iterator[Resource]:
    """Every Attachment or Binary with bytes in it."""
    if isinstance(element, dict):
        if "contentType" in element and "data" in element:
            yield element
        for child in element.values():
            yield from _attachments(child)
    elif isinstance(element, list):
        for child in element:
            yield from _attachments(child)


def ignores_criteria(value: str) -> Around:
    """If-None-Exist is passed over: it always creates."""
    return _before_storing(_without_criteria)


def _without_criteria(entry: Resource) -> None:
    entry.get("request", {}).pop("ifNoneExist", None)


def matches_too_much(asked: Asked, go_on: GoOn) -> Response:
    """If-None-Exist matches whatever there is of the type."""

    def change(entry: Resource) -> None:
        request = entry.get("request", {})
        if "ifNoneExist" in request:
            found = resource_in(go_on(asked.instead(f"/{request['url']}", "_count=1"))) or {}
            for other in found.get("entry", []):
                request["ifNoneExist"] = f"_id={other['resource']['id']}"

    if asked.writes:
        asked.edit(change)
    return go_on(asked)


def eventual(value: str) -> Around:
    """What is created is answered with 202, and can be read only after s seconds."""
    return _hidden(number(value, 2), 202)


def stores_nothing(value: str) -> Around:
    """What is created is answered with 201 and a Location; it is never seen again."""
    forgets = _hidden(math.inf, 201)

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.writes:
            asked.edit(_without_criteria)  # what is not there can't be found either
        return forgets(asked, go_on)

    return around


def _hidden(seconds: float, status: int) -> Around:
    shown_from: dict[str, float] = {}

    def is_hidden(place: str) -> bool:
        return shown_from.get(place, 0.0) > time.monotonic()

    def around(asked: Asked, go_on: GoOn) -> Response:
        if is_hidden(f"{asked.type}/{asked.id}"):
            return refusal(404, "not-found", "There is no such resource.")
        answer = go_on(asked)
        found = resource_in(answer)
        for place in _created(asked, answer, found):
            shown_from[place] = time.monotonic() + seconds
            if asked.kind == "create":
                answer.status_code = status
        if asked.kind == "search" and found and "entry" in found:
            found["entry"] = [e for e in found["entry"] if not is_hidden(f"{asked.type}/{e['resource'].get('id')}")]
            put_resource(answer, {name: member for name, member in found.items() if member != []})
        return answer

    return around


def _created(asked: Asked, answer: Response, found: Resource | None) -> list[str]:
    """ "Type/id" of everything that an answer says was created."""
    said = [answer.headers.get("Location", "")] if (asked.kind, answer.status_code) == ("create", 201) else []
    if asked.kind == "transaction" and found:
        answers = [entry.get("response", {}) for entry in found.get("entry", [])]
        said = [a.get("location", "") for a in answers if a.get("status", "").startswith("201")]
    return [match[1] for text in said if (match := _MADE.search(text))]
