"""The events of a case over plain JSON: replayed from any number, and waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Malformed
from fhir_secondop.opinion.case_events import KINDS
from fhir_secondop.rest import disclosure, failures
from fhir_secondop.service import case_events
from fhir_secondop.web.api import reader
from fhir_secondop.web.plain import JSON, answer

FOLLOWERS = "secondop.followers"  # of the application: what whoever stops its server must end
LONGEST_WAIT_S = 30
MOST = 1000
COUNT = 100
_LARGEST = 2**63 - 1  # what a number of an event may be
PARAMETERS: dict[str, tuple[int, int, str]] = {
    "after": (0, _LARGEST, "The number of the last event that you have; 0 replays from the first."),
    "wait": (0, LONGEST_WAIT_S, "For how many seconds to wait when there is none; it is answered as soon as there is."),
    "count": (COUNT, MOST, "How many events at most."),
}
"""Each with what it is where it is not given, the most that it may be, and what it says."""


def blueprint(service: Service) -> Blueprint:
    """The route below /api."""
    routes = Blueprint("events", __name__)
    context = service.context

    @routes.get("/second-opinions/<case_id>/events")
    def events(case_id: str) -> Response:
        caller = reader(service)
        asked = _asked()
        found = case_events.page(context, caller, case_id, asked["after"], asked["count"])
        if not found.events and asked["wait"]:
            # Outside of any transaction. Rights are looked at again afterwards: they may have ended meanwhile.
            service.followers.wait(caller.id, case_id, asked["after"], asked["wait"])
            found = case_events.page(context, caller, case_id, asked["after"], asked["count"])
        disclosure.disclosed_of(case_id)
        return answer({"case": found.case_id, "events": found.events, "last": found.last})

    failures.handle(routes, JSON)
    return routes


def _asked() -> dict[str, int]:
    """The parameters of the request. Raises Malformed naming the one that is wrong."""
    for name in request.args:
        if name not in PARAMETERS:
            raise Malformed(f"There is no parameter of that name; there are {', '.join(PARAMETERS)}.", path=name[:64])
    return {name: _number(name, *limits[:2]) for name, limits in PARAMETERS.items()}


def _number(name: str, default: int, most: int) -> int:
    given = request.args.getlist(name)
    least = least_of(name)
    if not given:
        return default
    if len(given) > 1 or not (given[0].isascii() and given[0].isdecimal() and len(given[0]) < 20):
        raise Malformed(f"Give {name} once, as a whole number.", path=name)
    if not least <= int(given[0]) <= most:
        raise Malformed(f"{name} is between {least} and {most}.", path=name)
    return int(given[0])


def least_of(name: str) -> int:
    """The least that a parameter may be."""
    return 1 if name == "count" else 0


def openapi(responses: Mapping[str, Any]) -> dict[str, Any]:
    """The route's row in the OpenAPI document, for the path that it has there."""
    event = {
        "type": "object",
        "required": ["number", "kind"],
        "properties": {
            "number": {"type": "integer", "minimum": 1, "description": "1, 2, 3 … of this case, without a hole."},
            "kind": {
                "enum": [*KINDS, case_events.WITHHELD],
                "description": f"{case_events.WITHHELD}: of something that you may not read; nothing more is told.",
            },
            "at": {"type": "string", "format": "date-time", "description": "`lastUpdated` of the version."},
            "evidence": {"type": "string", "description": "The version that says so, below /fhir."},
        },
    }
    answer = {
        "type": "object",
        "required": ["case", "events", "last"],
        "properties": {
            "case": {"type": "string", "format": "uuid"},
            "events": {"type": "array", "items": event},
            "last": {"type": "integer", "description": "The number of the last event there is; ask after it next."},
        },
    }
    return {
        "operationId": "events",
        "summary": "What has happened in the case: the events after a number; waits for the next if you say how long.",
        "parameters": [
            {
                "name": name, "in": "query", "description": said, "example": example,
                "schema": {"type": "integer", "minimum": least_of(name), "maximum": most, "default": default},
            }
            for (name, (default, most, said)), example in zip(PARAMETERS.items(), (11, 20, 50), strict=True)
        ],
        "responses": {
            **responses,
            "200": {
                "description": "The events in order; none when the time is over and nothing has happened.",
                "content": {"application/json": {"schema": answer, "example": EXAMPLE}},
            },
        },
    }  # fmt: skip


EXAMPLE = {
    "case": "5b54398d-f85e-432e-895c-02afc566716a",
    "events": [
        {
            "number": 12, "kind": "report-signed", "at": "2026-03-02T10:15:30.201Z",
            "evidence": "DiagnosticReport/c1f5bdf5-7aad-5892-8095-c593c2e7db9b/_history/1",
        },
        {"number": 13, "kind": "withheld"},
    ],
    "last": 13,
}  # fmt: skip
