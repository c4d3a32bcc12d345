"""The audit of every request: begun before anything is looked at, written before the answer goes out.

Exempt are only addresses that tell nothing of anybody; a test walks the routes.
"""

from __future__ import annotations

import uuid

from flask import Flask, Response, g, request

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Unavailable
from fhir_secondop.fhir import definitions
from fhir_secondop.rest import disclosure, failures, inner
from fhir_secondop.rest.formats import JSON
from fhir_secondop.store.audit import origin
from fhir_secondop.store.audit.rows import Access, access_rows

# Nothing of a case, a person or a caller stands here; health checks would fill the table.
EXEMPT = frozenset({
    "/fhir/metadata", "/fhir/.well-known/smart-configuration", "/healthz", "/readyz", "/docs", "/api/openapi.json",
    "/fhir/openapi.json",
    "/.well-known/jwks.json", "/.well-known/document-keys.json", "/assets/<path:filename>",
    "/api/schemas/<any('second-opinion-request','report-draft'):name>.json",
})  # fmt: skip
_CASE = "/api/second-opinions/<case_id>"
# (method, rule) → FHIR interaction, or the operation that it is; other rules are told by their method.
_INTERACTIONS = {
    ("POST", "/fhir/"): "transaction",
    ("GET", "/fhir/"): "search-system",
    ("POST", "/fhir/_search"): "search-system",
    ("GET", "/fhir/_history"): "history-system",
    ("GET", "/fhir/<t>"): "search-type",
    ("POST", "/fhir/<t>/_search"): "search-type",
    ("GET", "/fhir/<t>/_history"): "history-type",
    ("GET", "/fhir/<t>/<i>/_history"): "history-instance",
    ("GET", "/fhir/<t>/<i>/<u>"): "search-type",
    ("GET", "/fhir/<t>/<i>/_history/<v>"): "vread",
    ("GET", "/api/second-opinions"): "search-type",
    ("POST", "/api/second-opinions"): "$request-second-opinion",
    ("POST", "/ack/<token>"): "$acknowledge",
    ("POST", "/upload/<token>"): "$upload",
    ("GET", "/api/deliveries"): "search-type",
    ("POST", "/api/deliveries/replay"): "$replay",
    ("POST", "/api/connections/<name>/pause"): "$pause-connection",
    ("POST", "/api/connections/<name>/resume"): "$resume-connection",
}
_BY_METHOD = {"GET": "read", "HEAD": "read", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_ACTIONS = {"create": "C", "read": "R", "vread": "R", "history-instance": "R", "history-type": "R",
            "history-system": "R", "update": "U",
            "patch": "U", "delete": "D"}  # fmt: skip
_CONTROLS = frozenset(
    {"_format", "_pretty", "_count", "_total", "_page", "_cursor", "_id", "_lastUpdated", "_sort", "_include",
     "_revinclude", "_has", "_elements", "_summary", "_since", "_type",
     "start", "end", "on-demand", "persist",  # of operations
     "after", "wait", "count"}  # of events
)  # fmt: skip


def install(app: Flask, service: Service) -> None:
    """Records each request of an application; to be called last, so that later answers pass here first."""
    audit = service.context.database.audit
    if audit is None:
        return
    codes = frozenset({"validate", *service.endpoint.published, *(operation.code for operation in service.operations)})

    def begin() -> None:
        origin.begin(None)
        rule = _rule()
        if rule in EXEMPT:
            return
        noted = disclosure.access()
        _describe(noted, rule, codes)
        origin.begin(noted)

    def check() -> None:
        if _rule() not in EXEMPT:
            try:
                audit.check()
            except Unavailable:
                g.audit_refused = True
                raise

    def end(answer: Response) -> Response:
        rule = _rule()
        if rule in EXEMPT or g.get("audit_refused", False):
            return answer  # refused, because nothing can be recorded now: that is counted
        noted = disclosure.access()
        if not noted.request:
            _describe(noted, rule, codes)  # somebody answered before us
        answer.headers["X-Request-Id"] = noted.request
        within = inner.inside()
        if within is not None:  # recorded with the transaction, when it is known whether that stands
            within.noted.append((noted, answer.status_code))
            return answer
        now = audit.now()
        try:
            audit.put(
                [
                    row
                    for one, status in (*disclosure.parts(), (noted, answer.status_code))
                    for row in access_rows(one, _ACTIONS.get(one.operation, "E"), status, now)
                ]
            )
        except Unavailable as error:
            return failures.answer(error, JSON if request.path.startswith("/fhir") else "application/json")
        return answer

    # Before everybody else's: what they write, and what they refuse, belongs to this request too.
    app.before_request_funcs.setdefault(None, []).insert(0, begin)
    app.before_request(check)
    app.after_request(end)
    app.teardown_request(lambda error: origin.begin(None))


def _rule() -> str:
    return request.url_rule.rule if request.url_rule else "-"


def _describe(noted: Access, rule: str, codes: frozenset[str]) -> None:
    """What is known before anybody is asked: the rule with its type and operation, the id, the names of parameters."""
    parts = request.view_args or {}
    kind = parts.get("t", "")
    kind = kind if kind in definitions.resource_types() else ""
    code = parts.get("code", "")
    code = code if code in codes else ""
    noted.request = g.get("request_id") or uuid.uuid4().hex
    method = request.method
    noted.method = method if method in _BY_METHOD or method == "OPTIONS" else "?"
    if "code" in parts:
        noted.operation = f"${code}"
    else:
        method = "GET" if noted.method == "HEAD" else noted.method
        noted.operation = _INTERACTIONS.get((method, rule)) or _BY_METHOD.get(method, "")
    searched = parts.get("u", kind)  # in a compartment
    searched = searched if searched in definitions.resource_types() else ""
    noted.route = rule.replace("<t>", kind or "<t>").replace("<code>", code or "<code>")
    noted.route = noted.route.replace("<u>", searched or "<u>")
    noted.type = kind
    if kind and "i" in parts:
        disclosure.asked(kind, parts["i"])
        version = parts.get("v", "")
        noted.version = int(version) if version.isdecimal() and len(version) < 10 else None
    elif rule.startswith(_CASE):
        disclosure.asked("ServiceRequest", parts.get("case_id", ""))
    noted.params = " ".join(sorted({_named(name, searched) for name in request.args}))


def _named(name: str, kind: str) -> str:
    """A parameter's name where it is one, of a chain its first; "?" for what may be anything."""
    known = name.partition(":")[0].partition(".")[0]
    codes = definitions.search_parameters(kind) if kind else definitions.search_parameter_codes()
    return known if known in _CONTROLS or known in codes else "?"
