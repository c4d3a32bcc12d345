"""OpenAPI 3.1 of the FHIR endpoint, from its table of routes and what is offered on each type; every example runs.

`x-samples` are requests that are sent first; "{patient}" in an example is the id of what the sample of that name made.
A call's `x-examples` are whole requests, each with the status that it is answered with: a test sends them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from fhir_secondop import __version__
from fhir_secondop.fhir import codec
from fhir_secondop.model import Operation, Resource
from fhir_secondop.opinion import intake_json
from fhir_secondop.rest import formats, published
from fhir_secondop.rest.app import ROUTES
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.published import Published

Plain = dict[str, Any]
FORM = "application/x-www-form-urlencoded"
# What any call may meet: form, sign-in, rights, format, size, limits of rate, time and overload.
_ANY = (400, 401, 403, 404, 405, 406, 408, 413, 414, 415, 422, 429, 431, 503)
_FAILED = {
    400: "malformed, or not offered", 401: "who calls is not known", 403: "the caller may not do this",
    404: "there is nothing here that the caller may see", 405: "this address does not take this",
    406: "the answer is wanted in a format that is not written here", 408: "the request did not arrive in time",
    409: "it contradicts what is there", 410: "it was deleted; or a page link is no longer kept",
    412: "a precondition does not hold", 413: "larger than may be sent at once", 414: "the address is too long",
    415: "the body is in a format that is not read here", 422: "a rule is broken, or it would cost too much",
    429: "asked more often than one may", 431: "the headers are too large", 503: "not now; Retry-After says when",
}  # fmt: skip
_OK = {
    200: "done", 201: "created; Location says where", 202: "begun; the answer names the Tasks to watch",
    204: "done, and there is nothing to show",
    304: "what the caller holds is the current version",
}  # fmt: skip
_READING, _WRITING = (200, 304, 410), (200, 201, 409, 412)


@dataclass(frozen=True, slots=True)
class Example:
    """A request as a client sends it, and the status of its answer."""

    summary: str
    url: str
    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """What there is to say of a route. `interaction` is what must be offered on a type for it to be taken there."""

    id: str
    summary: str
    interaction: str
    statuses: tuple[int, ...]
    examples: tuple[Example, ...]
    takes: str = ""  # "resource", "patch", "form": the body
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


_SYSTEM = "urn:ietf:rfc:3986"
_IDENTIFIER = f"{_SYSTEM}|urn:example:openapi"
PATIENT: Resource = {
    "resourceType": "Patient", "identifier": [{"system": _SYSTEM, "value": "urn:example:openapi"}],
    "name": [{"family": "Sampleton", "given": ["Paula"]}], "birthDate": "1970-01-01",
}  # fmt: skip
_OBSERVATION: Resource = {
    "resourceType": "Observation", "status": "final", "code": {"text": "Weight"},
    "subject": {"reference": "Patient/{patient}"},
    "valueQuantity": {"value": 64.0, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
}  # fmt: skip
_BASIC: Resource = {"resourceType": "Basic", "code": {"text": "to be deleted"}}
_WRONG = {"resourceType": "Patient", "gender": "x"}
_PATCH = {"Content-Type": formats.JSON_PATCH}


def _bundle(kind: str) -> Resource:
    entry = {"resource": _BASIC, "request": {"method": "POST", "url": "Basic"}}
    read = {"request": {"method": "GET", "url": "Patient/{patient}"}}
    return {"resourceType": "Bundle", "type": kind, "entry": [entry, read]}


_TAGGED = {**_BASIC, "identifier": [{"system": _SYSTEM, "value": "urn:example:forgotten"}]}
SAMPLES: dict[str, Resource] = {
    "patient": PATIENT, "observation": _OBSERVATION, "discarded": _BASIC, "forgotten": _TAGGED,
}  # fmt: skip
"""Name → what is created first."""
_SEARCH = ("_count", "_sort", "_total", "_include", "_revinclude", "_elements", "_summary", "criteria")

# (method, address) of rest.app.ROUTES → what there is to say of it. A test compares the two.
CALLS: dict[tuple[str, str], Call] = {
    ("POST", "/"): Call(
        "transaction", "Runs a Bundle; a transaction as a whole or not at all.", "", (200, 409, 410, 412), (
            Example("a transaction", "/", 200, _bundle("transaction")),
            Example("a transaction that reads", "/", 200, {"resourceType": "Bundle", "type": "transaction", "entry": [
                {"request": {"method": "GET", "url": "Observation?patient={patient}&_sort=-date&_count=10"}}]}),
            Example("a batch", "/", 200, _bundle("batch")),
            Example("no Bundle", "/", 422, PATIENT),
        ), "resource", headers=("Prefer",)),
    ("GET", "/"): Call(
        "search-all", "Searches several types, or all that the caller may search.", "", (200, 410), (
            Example("two types by what both have", "/?_type=Patient,Observation&_lastUpdated=gt2024&_count=10", 200),
            Example("what one of them does not have", "/?_type=Patient,Observation&family=sampleton", 422),
        ), query=("_type", *_SEARCH), headers=("Prefer",)),
    ("POST", "/_search"): Call(
        "search-all-by-form", "Searches several types by a form.", "", (200, 410), (
            Example("all types by id", "/_search", 200, "_id={patient}", {"Content-Type": FORM}),
        ), "form", headers=("Prefer",)),
    ("GET", "/_history"): Call(
        "history-of-all", "Every version of what the caller may read, newest first, in pages.", "", (200,), (
            Example("since a day", "/_history?_since=2024-01-01&_count=10", 200),
        ), query=("_type", "_count", "_since")),
    ("GET", "/<t>"): Call(
        "search", "Searches a type.", "search-type", (200, 410), (
            Example("by a reference, with what it points to",
                    "/Observation?patient={patient}&_include=Observation:subject&_sort=-date&_count=10", 200),
            Example("an unknown parameter is refused", "/Patient?colour=red", 422),
            Example("or left out, where that is wanted", "/Patient?colour=red&family=sampleton", 200,
                    headers={"Prefer": "handling=lenient"}),
            Example("how many", "/Patient?birthdate=ge1970&_summary=count", 200),
        ), query=_SEARCH, headers=("Prefer",)),
    ("POST", "/<t>/_search"): Call(
        "search-by-form", "Searches a type by a form: what it asks stands in no log of addresses.", "search-type",
        (200, 410), (
            Example("by an identifier", "/Patient/_search", 200, f"identifier={_IDENTIFIER}", {"Content-Type": FORM}),
        ), "form", headers=("Prefer",)),
    ("POST", "/<t>"): Call(
        "create", "Creates a resource under an id of ours; with If-None-Exist, unless there is one that matches.",
        "create", _WRITING, (
            Example("a new one", "/Basic", 201, _BASIC),
            Example("one that is there already", "/Patient", 200, PATIENT,
                    {"If-None-Exist": f"identifier={_IDENTIFIER}"}),
            Example("not shown again", "/Basic", 201, _BASIC, {"Prefer": "return=minimal"}),
            Example("one with a fault", "/Patient", 422, _WRONG),
        ), "resource", headers=("If-None-Exist", "Prefer")),
    ("PUT", "/<t>"): Call(
        "update-found", "Updates the one that a search finds, or creates it.", "update", _WRITING, (
            Example("the one with this identifier", f"/Patient?identifier={_IDENTIFIER}", 200, PATIENT),
        ), "resource", ("criteria",), ("If-Match", "Prefer")),
    ("PATCH", "/<t>"): Call(
        "patch-found", "Changes parts of the one that a search finds.", "patch", (200, 409, 412), (
            Example("the one with this identifier", f"/Patient?identifier={_IDENTIFIER}", 200,
                    [{"op": "add", "path": "/active", "value": True}], _PATCH),
            Example("none is found", "/Patient?_id=nobody", 404,
                    [{"op": "add", "path": "/active", "value": True}], _PATCH),
        ), "patch", ("criteria",), ("If-Match", "Prefer")),
    ("DELETE", "/<t>"): Call(
        "delete-found", "Deletes the one that a search finds; its versions stay.", "delete", (200, 204, 409, 412), (
            Example("the one with this identifier", f"/Basic?identifier={_SYSTEM}|urn:example:forgotten", 204),
        ), query=("criteria",), headers=("If-Match",)),
    ("GET", "/<t>/<i>"): Call(
        "read", "The current version.", "read", _READING, (
            Example("in JSON", "/Patient/{patient}", 200),
            Example("in XML", "/Patient/{patient}", 200, headers={"Accept": formats.XML}),
            Example("one that is not there", "/Patient/nobody", 404),
        ), headers=("If-None-Match", "If-Modified-Since")),
    ("PUT", "/<t>/<i>"): Call(
        "update", "Stores the next version; with If-Match, unless there is a newer one.", "update", _WRITING, (
            Example("the next version", "/Patient/{patient}", 200, {**PATIENT, "id": "{patient}"}),
            Example("of one that has changed since", "/Patient/{patient}", 412, {**PATIENT, "id": "{patient}"},
                    {"If-Match": 'W/"999"'}),
            Example("of one that is not there: ids are ours to give", "/Patient/nobody", 405,
                    {**PATIENT, "id": "nobody"}),
        ), "resource", headers=("If-Match", "Prefer")),
    ("PATCH", "/<t>/<i>"): Call(
        "patch", "Changes parts of a resource by JSON Patch (RFC 6902).", "patch", (200, 409, 410, 412), (
            Example("an element", "/Patient/{patient}", 200,
                    [{"op": "add", "path": "/gender", "value": "female"}], _PATCH),
            Example("a test that does not hold", "/Patient/{patient}", 409,
                    [{"op": "test", "path": "/birthDate", "value": "1980-01-01"}], _PATCH),
        ), "patch", headers=("If-Match", "Prefer")),
    ("DELETE", "/<t>/<i>"): Call(
        "delete", "Deletes a resource; its versions stay. Nothing of a case is deleted.", "delete",
        (200, 204, 409, 412), (Example("one of no case", "/Basic/{discarded}", 204),), headers=("If-Match",)),
    ("GET", "/<t>/_history"): Call(
        "history-of-type", "Every version of a type, newest first, in pages.", "history-type", (200,), (
            Example("since a day", "/Patient/_history?_since=2024-01-01&_count=10", 200),
        ), query=("_count", "_since")),
    ("GET", "/<t>/<i>/_history"): Call(
        "history", "Every version of a resource, newest first.", "history-instance", (200,), (
            Example("of a patient", "/Patient/{patient}/_history", 200),
            Example("a page of it", "/Patient/{patient}/_history?_count=1", 200),
        ), query=("_count", "_since")),
    ("GET", "/<t>/<i>/_history/<v>"): Call(
        "vread", "One version of a resource.", "vread", (200, 410), (
            Example("the first", "/Patient/{patient}/_history/1", 200),
            Example("one that is not there", "/Patient/{patient}/_history/999", 404),
        )),
    ("GET", "/<t>/<i>/<u>"): Call(
        "search-compartment", "Searches a type in a compartment.", "search-type", (200, 410), (
            Example("what was observed of a patient", "/Patient/{patient}/Observation?_count=5", 200),
        ), query=_SEARCH, headers=("Prefer",)),
}  # fmt: skip
_NAMES = {"t": "type", "i": "id", "v": "version", "u": "contained"}
_QUERY: dict[str, Plain] = {
    "_count": {"schema": {"type": "integer", "minimum": 0}, "example": 10},
    "_sort": {"schema": {"type": "string"}, "example": "-_lastUpdated"},
    "_total": {"schema": {"enum": ["none", "estimate", "accurate"]}},
    "_include": {"schema": {"type": "string"}, "example": "Observation:subject"},
    "_revinclude": {"schema": {"type": "string"}, "example": "Observation:subject"},
    "_elements": {"schema": {"type": "string"}, "example": "identifier"},
    "_summary": {"schema": {"enum": ["true", "text", "data", "count", "false"]}},
    "_type": {"schema": {"type": "string"}, "example": "Patient,Observation"},
    "_since": {"schema": {"type": "string", "format": "date-time"}, "example": "2024-01-01T00:00:00Z"},
    "criteria": {
        "description": "the search parameters of the type; metadata lists them", "style": "form", "explode": True,
        "schema": {"type": "object", "additionalProperties": {"type": "string"}}, "example": {"_id": "a"},
    },
}  # fmt: skip
_HEADERS: dict[str, Plain] = {
    "Prefer": {"example": "return=minimal", "description": "return=minimal|representation|OperationOutcome, or "
               "handling=strict|lenient"},
    "If-Match": {"example": 'W/"1"', "description": "the version that is meant"},
    "If-None-Match": {"example": 'W/"1"', "description": "the version that is held already"},
    "If-Modified-Since": {"example": "Mon, 01 Jan 2024 00:00:00 GMT"},
    "If-None-Exist": {"example": "identifier=a", "description": "create, unless a search finds one"},
}  # fmt: skip


def document(endpoint: Endpoint) -> Plain:
    """The OpenAPI document of an endpoint."""
    paths: dict[str, Plain] = {"/metadata": {"get": _metadata(endpoint)}}
    for method, address, _ in ROUTES:
        call = CALLS.get((method, address))
        types = _types(endpoint, call.interaction) if call is not None else []
        if call is not None and (types or not call.interaction) and _is_offered(endpoint, call):
            path, parameters = _address(endpoint, address, types)
            paths.setdefault(path, {})[method.lower()] = _described(endpoint, call, types, parameters)
    for kind in endpoint.types() if endpoint.validates else ():
        paths[f"/{kind}/$validate"] = {"post": _validate(endpoint, kind)}
    for row in endpoint.operations:
        path, calls = _operation(endpoint, row)
        paths.setdefault(path, {}).update(calls)
    for kind in endpoint.types():
        for one in published.offered(endpoint, kind):
            paths.update(_published(endpoint, one))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{endpoint.software}, FHIR R4", "version": __version__,
            "description": "The FHIR endpoint. What is offered on which type, with every search parameter, is in "
                           "/metadata. x-samples are sent first; each of a call's x-examples is answered as it says.",
        },
        "servers": [{"url": endpoint.base_url}],
        "security": [{"bearer": []}],
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"OperationOutcome": _schema(["OperationOutcome"])},
            "responses": _responses(endpoint),
        },
        "x-samples": samples(),
        "paths": paths,
    }  # fmt: skip


def samples() -> dict[str, Plain]:
    """Name → the request that makes what examples name so; their order matters."""
    made = {name: {"method": "POST", "url": f"/{it['resourceType']}", "body": it} for name, it in SAMPLES.items()}
    return {**made, "case": {"method": "POST", "url": "/", "body": _request()}}


@cache
def _request() -> Resource:
    """A request for a second opinion as a transaction."""
    text = (files("fhir_secondop.examples") / "breast-treatment-plan" / "request.json").read_text("utf-8")
    return intake_json.to_bundle(codec.parse(text))


def _types(endpoint: Endpoint, interaction: str) -> list[str]:
    return [kind for kind in endpoint.types() if interaction in endpoint.offered(kind)]


def _is_offered(endpoint: Endpoint, call: Call) -> bool:
    if call.id == "transaction":
        return bool(endpoint.system & {"transaction", "batch"})
    of_all = {"search-all": "search-system", "search-all-by-form": "search-system", "history-of-all": "history-system"}
    if call.id in of_all:
        return of_all[call.id] in endpoint.system
    return endpoint.conditional_changes or not call.id.endswith("-found")


def _address(endpoint: Endpoint, address: str, types: list[str]) -> tuple[str, list[Plain]]:
    parameters = []
    for short, name in _NAMES.items():
        if f"<{short}>" in address:
            address = address.replace(f"<{short}>", f"{{{name}}}")
            schema: Plain = {"type": "string", "pattern": r"^[A-Za-z0-9\-.]{1,64}$"}
            if short == "v":
                schema = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}
            elif short in "tu":
                schema = {"type": "string", "enum": types}
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    return address, parameters


def _described(endpoint: Endpoint, call: Call, types: list[str], parameters: list[Plain]) -> Plain:
    named = [{"name": name, "in": "query", **_QUERY[name]} for name in call.query]
    named += [{"name": name, "in": "header", "schema": {"type": "string"}, **_HEADERS[name]} for name in call.headers]
    found: Plain = {
        "operationId": call.id,
        "summary": call.summary,
        "parameters": [*parameters, *named],
        "responses": {str(s): {"$ref": f"#/components/responses/{s}"} for s in sorted({*call.statuses, *_ANY})},
        "x-examples": _examples(endpoint, call.examples),
    }
    if call.takes:
        found["requestBody"] = {"required": True, "content": _taken(endpoint, call, types or ["Bundle"])}
    return found


def _taken(endpoint: Endpoint, call: Call, types: list[str]) -> Plain:
    sent = {str(place): {"summary": each.summary, "value": each.body} for place, each in enumerate(call.examples)
            if each.body is not None}  # fmt: skip
    if call.takes == "form":
        return {FORM: {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}}
    if call.takes == "patch":
        step = {"type": "object", "required": ["op", "path"], "properties": {
            "op": {"enum": ["add", "remove", "replace", "move", "copy", "test"]}, "path": {"type": "string"},
            "from": {"type": "string"}, "value": {}}}  # fmt: skip
        return {formats.JSON_PATCH: {"schema": {"type": "array", "items": step}, "examples": sent}}
    return _content(endpoint, {"schema": _schema(types), "examples": sent})


def _schema(types: list[str]) -> Plain:
    named = {"resourceType": {"type": "string", "enum": types}}
    return {"type": "object", "required": ["resourceType"], "properties": named}


def _content(endpoint: Endpoint, json_form: Plain) -> Plain:
    return {formats.JSON: json_form, **({formats.XML: {}} if endpoint.xml else {})}


def _responses(endpoint: Endpoint) -> Plain:
    """What each status means, wherever it is given."""
    outcome = {"schema": {"$ref": "#/components/schemas/OperationOutcome"}}
    shown = {204: {}, 304: {}, **dict.fromkeys(_FAILED, _content(endpoint, outcome))}
    content = {**_content(endpoint, {"schema": {"type": "object"}}), "*/*": {}}
    return {
        str(status): {"description": said, **({"content": found} if (found := shown.get(status, content)) else {})}
        for status, said in {**_OK, **_FAILED}.items()
    }


def _examples(endpoint: Endpoint, examples: Iterable[Example]) -> list[Plain]:
    """Those of types that are offered here."""
    found = []
    for each in examples:
        headers = dict(each.headers)
        if each.body is not None:
            headers.setdefault("Content-Type", formats.JSON)
        if headers.get("Accept") == formats.XML and not endpoint.xml:
            continue
        found.append({
            "summary": each.summary, "url": each.url, "status": each.status,
            **({"headers": headers} if headers else {}), **({"body": each.body} if each.body is not None else {}),
        })  # fmt: skip
    return found


def _metadata(endpoint: Endpoint) -> Plain:
    call = Call("metadata", "The CapabilityStatement; anybody may read it.", "", (200,), (
        Example("what is offered", "/metadata", 200),
    ))  # fmt: skip
    return {**_described(endpoint, call, [], []), "security": []}


def _validate(endpoint: Endpoint, kind: str) -> Plain:
    sent: Resource = PATIENT if kind == "Patient" else {"resourceType": kind}
    if kind == "Parameters":  # else it is taken for what says how to validate
        sent = {"resourceType": kind, "parameter": [{"name": "resource", "resource": sent}]}
    call = Call(f"validate-{kind}", f"What is right and wrong with a {kind}; nothing is stored.", "", (200, 410), (
        Example("every fault, and what was not checked", f"/{kind}/$validate", 200, sent),
    ), "resource")  # fmt: skip
    return _described(endpoint, call, [kind, "Parameters"], [])


_OF_REPORTS = ("compare", "verify")  # of which a new case has none yet


def _operation(endpoint: Endpoint, row: Operation) -> tuple[str, Plain]:
    """The address of a row of the table, and what may be done there."""
    is_of_one = bool(row.type) and not row.on_type
    base = f"/{row.type}" if row.type else ""
    path = f"{base}/${row.code}"
    parameters: list[Plain] = []
    if is_of_one:
        path, parameters = _address(endpoint, f"{base}/<i>/${row.code}", [])
    of_case = row.reads and row.type == "ServiceRequest" and not row.schema.get("required")
    example = Example("of a new case", f"/ServiceRequest/{{case}}/${row.code}", 404 if row.code in _OF_REPORTS else 200)
    call = Call(
        f"{row.type or 'system'}-{row.code}", row.summary, "", (200, 201, 202, 409, 410, 412),
        (example,) if of_case and is_of_one else (), "" if row.reads else "resource",
    )  # fmt: skip
    described = _described(endpoint, call, _taken_by(row), parameters)
    described.get("requestBody", {})["required"] = False
    if not row.reads:
        return path, {"post": described}
    post = {**described, "operationId": f"{call.id}-by-post", "x-examples": []}
    return path, {"get": described, "post": post}


# Code and whether it is of one resource → an example; what others defined is described where they did.
_OF_OTHERS = {
    ("everything", True): Example("a patient's record", "/Patient/{patient}/$everything?_type=Observation", 200),
    ("everything", False): Example("the first page of all", "/Patient/$everything?_count=1", 200),
    ("document", True): Example("of none", "/Composition/nowhere/$document", 404),
    ("docref", False): Example("a patient's documents", "/DocumentReference/$docref?patient={patient}", 200),
    ("summary", True): Example("an International Patient Summary", "/Patient/{patient}/$summary", 200),
    ("summary", False): Example("by an identifier", f"/Patient/$summary?identifier={_IDENTIFIER}", 200),
}


def _published(endpoint: Endpoint, row: Published) -> dict[str, Plain]:
    """The addresses of an operation that others defined, and what may be done there."""
    found: dict[str, Plain] = {}
    for is_of_one in (True, False):
        if not (row.on_instance if is_of_one else row.on_type):
            continue
        address = f"/{row.type}{'/<i>' if is_of_one else ''}/${row.code}"
        path, parameters = _address(endpoint, address, [])
        call = Call(
            f"{row.type}-{row.code}{'-of-one' if is_of_one else ''}", f"As {row.definition} says.", "", (200, 410),
            (_OF_OTHERS[row.code, is_of_one],),
        )  # fmt: skip
        got = _described(endpoint, call, ["Bundle"], parameters)
        posted = _described(endpoint, replace(call, takes="resource", examples=()), ["Parameters"], parameters)
        posted["requestBody"]["required"] = False
        found[path] = {"get": got, "post": {**posted, "operationId": f"{call.id}-by-post"}}
    return found


def _taken_by(row: Operation) -> list[str]:
    """The types that an operation takes: of one that is handed what was sent as it is, whatever holds it."""
    return ["Bundle", "Parameters"] if row.raw else ["Parameters"]
