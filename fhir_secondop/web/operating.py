"""The plain JSON door of who operates: the connections, paused and resumed; deliveries found and tried again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, request

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Invalid
from fhir_secondop.rest import disclosure, failures
from fhir_secondop.rest.operations import check
from fhir_secondop.service import circuits, deliveries, ledger, queues
from fhir_secondop.web.plain import JSON, answer, body, signed_in

TEXT = {"type": "string", "minLength": 1, "maxLength": circuits.MOST_REASON}
PAUSE: dict[str, Any] = {
    "type": "object", "required": ["reason"], "properties": {"reason": TEXT}, "additionalProperties": False,
}  # fmt: skip

_WORD = {"type": "string", "minLength": 1, "maxLength": 128}
_FILTERS: dict[str, Any] = {
    "ehr": {**_WORD, "description": "a connection"},
    "reason": {**_WORD, "description": "why it is not done: a kind of failure, mismatch, consent-withheld, waits …"},
    "what": {**_WORD, "description": "report, plan, proposal, notice"},
    "case": {**_WORD, "description": "a case's id; for the coordinator"},
    "olderThanHours": {"type": "number", "exclusiveMinimum": 0, "maximum": 1_000_000},
    "count": {"type": "integer", "minimum": 1, "maximum": deliveries.MOST},
    "after": {**_WORD, "description": "the `next` of the page before"},
}
SEARCHED: dict[str, Any] = {
    **_FILTERS,
    "state": {**_WORD, "description": f"of {', '.join(ledger.STATES)}; several by comma"},
}
REPLAY: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "properties": {
        **_FILTERS, "tasks": {"type": "array", "items": _WORD, "minItems": 1, "maxItems": deliveries.MOST},
        "changed": {"type": "string", "maxLength": 1000, "description": "what has changed; needed but for a dry run"},
        "dryRun": {"type": "boolean", "description": "only say what would be sent, against what was tried before"},
    },
}  # fmt: skip


def blueprint(service: Service) -> Blueprint:
    """Routes below /api/connections and /api/deliveries."""
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

    @routes.get("/deliveries")
    def search() -> Response:
        found = deliveries.search(context, signed_in(service), _asked(_of_query()))
        _shown_of(found)
        return answer(found)

    @routes.get("/deliveries/<task_id>")
    def show(task_id: str) -> Response:
        found = deliveries.show(context, signed_in(service), task_id)
        disclosure.disclosed_of(found["case"])
        return answer(found)

    @routes.post("/deliveries/replay")
    def replay() -> Response:
        caller = signed_in(service)
        plain = body(service)
        check(plain, REPLAY)
        asked, tasks = _asked(plain), tuple(plain.get("tasks", ()))
        if not plain.get("dryRun"):
            return answer(deliveries.replay(context, caller, asked, plain.get("changed", ""), tasks))
        found = deliveries.rehearse(context, caller, asked, tasks)
        _shown_of(found)
        return answer(found)

    failures.handle(routes, JSON)
    return routes


def _shown_of(found: Mapping[str, Any]) -> None:
    """Tells the audit whose deliveries are in the answer; who operates is told of no case."""
    for row in found["deliveries"]:
        if "case" in row:
            disclosure.disclosed_of(row["case"])


def _of_query() -> dict[str, Any]:
    """The filters in the address. Raises Invalid for one that is not known, or not what it must be."""
    plain: dict[str, Any] = dict(request.args.items())
    for name, kind in (("olderThanHours", float), ("count", int)):
        try:
            plain |= {name: kind(plain[name])} if name in plain else {}
        except ValueError:
            raise Invalid(f"{name}: use a number.", path=name) from None
    check(plain, {"type": "object", "properties": SEARCHED, "additionalProperties": False})
    return plain


def _asked(plain: Mapping[str, Any]) -> deliveries.Asked:
    return deliveries.Asked(
        ehr=plain.get("ehr", ""), states=tuple(filter(None, plain.get("state", "").split(","))),
        reason=plain.get("reason", ""), what=plain.get("what", ""), case_id=plain.get("case", ""),
        older_than_h=plain.get("olderThanHours", 0.0), after=plain.get("after", ""),
        count=plain.get("count", deliveries.PAGE),
    )  # fmt: skip


def shown(row: queues.Queue) -> dict[str, Any]:
    """The queue of a connection, for machines."""
    plain = {_camel(name): value for name, value in asdict(row).items()}
    return {name: value for name, value in plain.items() if value != ""}


def _camel(name: str) -> str:
    first, *more = name.split("_")
    return first + "".join(part.title() for part in more)
