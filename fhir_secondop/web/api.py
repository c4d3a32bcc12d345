"""The plain JSON door: open a case, list cases, run its operations. The rows are those of the FHIR door."""

from __future__ import annotations

from flask import Blueprint, Response, request

from fhir_secondop.access import rights
from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Forbidden, NotFound
from fhir_secondop.model import Caller, Operation, Resource, Result
from fhir_secondop.opinion import intake_json
from fhir_secondop.rest import disclosure, failures
from fhir_secondop.rest.answers import valid
from fhir_secondop.rest.operations import check, may, noted, of_query
from fhir_secondop.service import case_states, cases, intake, review, worklist
from fhir_secondop.service.operations import opening
from fhir_secondop.service.operations.case import LINE_TYPES, case_line, case_summary
from fhir_secondop.web.plain import JSON, answer, body, signed_in

PAGE = 100


def blueprint(service: Service) -> Blueprint:
    """Routes below /api."""
    routes = Blueprint("api", __name__)
    context = service.context
    rows = {op.code: op for op in service.operations if op.type == "ServiceRequest"}

    @routes.post("/second-opinions")
    def open_case() -> Response:
        caller = signed_in(service)
        plain = body(service)
        check(plain, review.schema("second-opinion-request"))
        bundle = intake_json.to_bundle(plain)
        valid(bundle)
        sent = intake.sent_of_bundle(bundle)
        key = request.headers.get("Idempotency-Key", "")
        result = opening.opened(intake.open_case(context, caller, sent, [None] * len(sent), key))
        noted(result, False)
        opened = _answer(result)
        opened.headers["Location"] = f"{context.public_url}/api/second-opinions/{result.plain['id']}"
        return opened

    @routes.get("/second-opinions")
    def list_cases() -> Response:
        caller = reader(service)
        found, older = _cases(service, caller, request.args.get("before", ""))
        for case in found:
            disclosure.disclosed_of(case["id"])
        return answer({"cases": found, **({"next": f"/api/second-opinions?before={older}"} if older else {})})

    @routes.get("/second-opinions/<case_id>")
    def show(case_id: str) -> Response:
        caller = reader(service)
        summary = case_summary(intake.find_case(context, caller, case_id))
        disclosure.disclosed_of(case_id)
        return answer(summary)

    @routes.route("/second-opinions/<case_id>/<code>", methods=["GET", "POST"])
    def operate(case_id: str, code: str) -> Response:
        caller = signed_in(service)
        row = rows.get(code)
        if row is None or (request.method == "GET" and not row.reads):
            raise NotFound(f"There is no operation {code!r}; /api/openapi.json lists them.")
        result = _run(service, row, caller, case_id)
        noted(result, True)
        return _answer(result)

    failures.handle(routes, JSON)
    return routes


def reader(service: Service) -> Caller:
    """The caller, whose scopes cover what a summary of a case tells. Raises Forbidden."""
    caller = signed_in(service)
    missing = rights.summary_scopes_missing(caller)
    if missing:
        raise Forbidden(f"{caller.name} has no scope {', '.join(missing)}.")
    return caller


def _run(service: Service, row: Operation, caller: Caller, case_id: str) -> Result:
    may(service.endpoint, caller, row)
    plain = body(service) if request.get_data() else of_query(row)
    check(plain, row.schema)
    return row.handler(caller, case_id, plain)


def _cases(service: Service, caller: Caller, before: str) -> tuple[list[Resource], str]:
    """A page of the cases that the caller may see, newest first, and where the older ones begin."""
    context = service.context
    case_states.follow(context)
    with context.database.reading() as connection:
        ids, older = worklist.newest(context, connection, caller, PAGE, before)
        listed = cases.read(connection, context.visibility(caller), ids, LINE_TYPES)
    return [case_line(case) for case in listed], older


def _answer(result: Result) -> Response:
    return answer(result.plain, result.status)
