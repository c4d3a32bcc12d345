"""The plain JSON door: open a case, list cases, run its operations. The rows are those of the FHIR door."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response, g, request

from fhir_secondop.access import rights
from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import (
    Forbidden,
    Malformed,
    NotFound,
    UnsupportedMedia,
)
from fhir_secondop.fhir import codec
from fhir_secondop.model import Caller, Operation, Resource, Result
from fhir_secondop.opinion import intake_json
from fhir_secondop.rest import failures
from fhir_secondop.rest.answers import check_members, valid
from fhir_secondop.rest.operations import check, may
from fhir_secondop.service import intake, operations, review
from fhir_secondop.service.context import load
from fhir_secondop.store import resources, tables

JSON = "application/json"
_SUMMARISED = ("ServiceRequest", "Patient", "Task", "DiagnosticReport")


def blueprint(service: Service) -> Blueprint:
    """Routes below /api."""
    routes = Blueprint("api", __name__)
    context = service.context
    rows = {op.code: op for op in service.operations if op.type == "ServiceRequest"}

    @routes.post("/second-opinions")
    def open_case() -> Response:
        caller = _caller(service)
        rights.require_role(caller, "requester")
        plain = _body()
        check(plain, review.schema("second-opinion-request"))
        bundle = intake_json.to_bundle(plain)
        valid(bundle)
        sent = intake.sent_of_bundle(bundle)
        key = request.headers.get("Idempotency-Key", "")
        result = operations.opened(intake.open_case(context, caller, sent, [None] * len(sent), key))
        answer = _answer(result)
        answer.headers["Location"] = f"{context.public_url}/api/second-opinions/{result.plain['id']}"
        return answer

    @routes.get("/second-opinions")
    def list_cases() -> Response:
        caller = _reader(service)
        return _json({"cases": _cases(service, caller)})

    @routes.get("/second-opinions/<case_id>")
    def show(case_id: str) -> Response:
        caller = _reader(service)
        return _json(operations.case_summary(intake.find_case(context, caller, case_id)))

    @routes.route("/second-opinions/<case_id>/<code>", methods=["GET", "POST"])
    def operate(case_id: str, code: str) -> Response:
        caller = _caller(service)
        row = rows.get(code)
        if row is None or (request.method == "GET" and not row.reads):
            raise NotFound(f"There is no operation {code!r}; /api/openapi.json lists them.")
        return _answer(_run(service, row, caller, case_id))

    failures.handle(routes, JSON)
    return routes


def _caller(service: Service) -> Caller:
    caller = service.authenticate(request)
    g.caller = caller.id
    return caller


def _reader(service: Service) -> Caller:
    """The caller, whose scopes cover what a summary of a case tells. Raises Forbidden."""
    caller = _caller(service)
    missing = [f"{kind}.r" for kind in _SUMMARISED if not rights.allows(caller, kind, "r")]
    if missing:
        raise Forbidden(f"{caller.name} has no scope {', '.join(missing)}.")
    return caller


def _run(service: Service, row: Operation, caller: Caller, case_id: str) -> Result:
    may(service.endpoint, caller, row)
    plain = _body() if request.get_data() else {}
    check(plain, row.schema)
    return row.handler(caller, case_id, plain)


def _cases(service: Service, caller: Caller) -> list[Resource]:
    """The cases that the caller may see, newest first."""
    context = service.context
    with context.database.reading() as connection:
        visible = resources.visible(context.visibility(caller))
        ids = connection.execute(
            sa.select(tables.resource.c.id)
            .where(
                tables.resource.c.type == "ServiceRequest",
                tables.resource.c.id == tables.resource.c.case_id,
                tables.resource.c.deleted.is_(False),
                visible,
            )
            .order_by(tables.resource.c.rid.desc())
            .limit(100)
        ).scalars()
        return [
            {
                k: v
                for k, v in operations.case_summary(load(connection, context.visibility(caller), case_id)).items()
                if k in ("id", "patient", "placer", "opened", "status", "businessStatus", "report")
            }
            for case_id in ids.all()
        ]


def _body() -> dict[str, Any]:
    if request.mimetype != JSON:
        raise UnsupportedMedia(f"Send Content-Type: {JSON}.")
    data = request.get_data()
    if not data.strip():
        raise Malformed("The body is empty.")
    check_members(data)
    return codec.parse(data)


def _answer(result: Result) -> Response:
    return _json(result.plain, result.status)


def _json(plain: dict[str, Any], status: int = 200) -> Response:
    return Response(codec.dumps(plain), status, mimetype=JSON)
