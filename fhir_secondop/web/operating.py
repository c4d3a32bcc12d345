"""The plain JSON door of who operates: the connections, paused and resumed. Nothing of any patient."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response

from fhir_secondop.bootstrap import Service
from fhir_secondop.rest import failures
from fhir_secondop.rest.operations import check
from fhir_secondop.service import circuits, queues
from fhir_secondop.web.plain import JSON, answer, body, signed_in

TEXT = {"type": "string", "minLength": 1, "maxLength": circuits.MOST_REASON}
PAUSE: dict[str, Any] = {
    "type": "object", "required": ["reason"], "properties": {"reason": TEXT}, "additionalProperties": False,
}  # fmt: skip


def blueprint(service: Service) -> Blueprint:
    """Routes below /api/connections."""
    routes = Blueprint("operating", __name__)
    context = service.context

    @routes.get("/connections")
    def connections() -> Response:
        found = queues.of_connections(context, signed_in(service))
        return answer({"connections": [shown(row) for row in found]})

    @routes.post("/connections/<name>/pause")
    def pause(name: str) -> Response:
        caller = signed_in(service)
        plain = body(service)
        check(plain, PAUSE)
        circuits.pause(context, caller, name, plain["reason"])
        return answer(shown(queues.of_connection(context, caller, name)))

    @routes.post("/connections/<name>/resume")
    def resume(name: str) -> Response:
        caller = signed_in(service)
        circuits.resume(context, caller, name)
        return answer(shown(queues.of_connection(context, caller, name)))

    failures.handle(routes, JSON)
    return routes


def shown(row: queues.Queue) -> dict[str, Any]:
    """The queue of a connection, for machines."""
    plain = {_camel(name): value for name, value in asdict(row).items()}
    return {name: value for name, value in plain.items() if value != ""}


def _camel(name: str) -> str:
    first, *more = name.split("_")
    return first + "".join(part.title() for part in more)
