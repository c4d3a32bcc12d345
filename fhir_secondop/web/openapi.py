"""OpenAPI 3.1 from the table of operations, and a page that makes it readable."""

from __future__ import annotations

from functools import cache
from typing import Any

from flask import Blueprint, Response, render_template

from fhir_secondop import __version__
from fhir_secondop.bootstrap import Service
from fhir_secondop.fhir import codec
from fhir_secondop.service import review
from fhir_secondop.web import events as of_events
from fhir_secondop.web import fhir_openapi, headers, operating

_FAULT = {"description": "an OperationOutcome that names each fault", "content": {"application/json": {}}}
# What any call may meet before it comes to its own: form, sign-in, rights, size, limits of rate and overload.
_ANY = {str(code): _FAULT for code in (400, 401, 403, 413, 414, 415, 429, 503)}


def blueprint(service: Service) -> Blueprint:
    """Routes /api/openapi.json, /fhir/openapi.json, /api/schemas/{name}.json and /docs."""
    routes = Blueprint("openapi", __name__, template_folder="templates")
    text = codec.dumps(document(service))

    @routes.get("/api/openapi.json")
    def openapi() -> Response:
        return Response(text, mimetype="application/json")

    @cache
    def of_fhir() -> str:
        return codec.dumps(fhir_openapi.document(service.endpoint))

    @routes.get("/fhir/openapi.json")
    def fhir() -> Response:
        return Response(of_fhir(), mimetype="application/json")

    @routes.get("/api/schemas/<any('second-opinion-request','report-draft'):name>.json")
    def schema(name: str) -> Response:
        return Response(codec.dumps(review.schema(name)), mimetype="application/schema+json")

    @routes.get("/docs")
    def docs() -> Response:
        page = render_template("docs.html", api=document(service))
        return Response(page, headers=dict(headers.PAGE), mimetype="text/html")

    return routes


def _operating(ok: dict[str, Any]) -> dict[str, Any]:
    """What operators and coordinators ask of connections."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    answers = {**_ANY, "200": ok, "404": _FAULT, "409": _FAULT, "422": _FAULT}
    of_one = {"parameters": [name], "responses": answers}
    task = {"name": "task", "in": "path", "required": True, "schema": {"type": "string"}}
    filters = [{"name": key, "in": "query", "schema": dict(value)} for key, value in operating.SEARCHED.items()]
    replay = {"required": True, "content": {"application/json": {"schema": operating.REPLAY}}}
    pause = {"required": True, "content": {"application/json": {"schema": operating.PAUSE}}}
    return {
        "/api/deliveries": {
            "get": {"operationId": "deliveries", "parameters": filters, "responses": answers,
                    "summary": "Deliveries of all cases; state=on-hold are those that wait for a person."}},
        "/api/deliveries/{task}": {
            "get": {"operationId": "delivery", "parameters": [task], "responses": answers,
                    "summary": "One delivery with every attempt."}},
        "/api/deliveries/replay": {
            "post": {"operationId": "replay-deliveries", "requestBody": replay, "responses": answers,
                     "summary": "Tries again what is on hold, or with dryRun says what would be sent."}},
        "/api/connections": {
            "get": {"operationId": "connections", "responses": {**_ANY, "200": ok},
                    "summary": "Each EHR: what waits for it, and whether it is asked now."}},
        "/api/connections/{name}/pause": {
            "post": {"operationId": "pause-connection", "summary": "Nothing is sent there nor pulled, until resumed.",
                     "requestBody": pause, **of_one}},
        "/api/connections/{name}/resume": {
            "post": {"operationId": "resume-connection", "summary": "What waits goes on, within minutes.", **of_one}},
    }  # fmt: skip


def document(service: Service) -> dict[str, Any]:
    """The OpenAPI document of the plain JSON door."""
    request = review.schema("second-opinion-request")
    case = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    ok = {"description": "done", "content": {"application/json": {}}}
    later = {"description": "begun; the answer names the Tasks to watch", "content": {"application/json": {}}}
    events = of_events.openapi({**_ANY, "404": _FAULT, "409": _FAULT})
    paths: dict[str, Any] = {
        "/api/second-opinions": {
            "post": {
                "operationId": "open",
                "summary": "Opens a case; a repeat answers 200 with the same ids.",
                "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
                "responses": {**_ANY, "201": ok, "200": ok, "409": _FAULT, "422": _FAULT},
            },
            "get": {"operationId": "list",
                    "summary": "The cases that you may see, newest first; `next` is the path of those that are older.",
                    "parameters": [{"name": "before", "in": "query", "description": "a case's id: only older ones",
                                    "schema": {"type": "string", "format": "uuid"}}],
                    "responses": {**_ANY, "200": ok, "404": _FAULT}},
        },
        "/api/second-opinions/{id}": {
            "get": {"operationId": "show", "summary": "One case.", "parameters": [case],
                    "responses": {**_ANY, "200": ok, "404": _FAULT}},
        },
        "/api/second-opinions/{id}/events": {
            "get": {**events, "parameters": [case, *events["parameters"]]},
        },
    }  # fmt: skip
    paths |= _operating(ok)
    for row in service.operations:
        if row.type != "ServiceRequest":
            continue
        call: dict[str, Any] = {
            "operationId": row.code,
            "summary": row.summary,
            "parameters": [case],
            "responses": {**_ANY, "200": ok, "201": ok, "202": later, "404": _FAULT, "409": _FAULT, "422": _FAULT},
        }
        methods: dict[str, Any] = {"post": call}
        if row.reads:
            methods = {"get": call}
        elif row.schema.get("properties"):
            call["requestBody"] = {"content": {"application/json": {"schema": dict(row.schema)}}}
        paths[f"/api/second-opinions/{{id}}/{row.code}"] = methods
    return {
        "openapi": "3.1.0",
        "info": {"title": "fhir_secondop", "version": __version__,
                 "description": "Second opinions over plain JSON. The same operations are at /fhir as $operations."},
        "servers": [{"url": service.context.public_url}],
        "security": [{"bearer": []}],
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }  # fmt: skip
