"""A simulated payer: one operation, CoverageEligibilityRequest/$submit, and a shape that says how it answers.

Source: https://hl7.org/fhir/R4/coverageeligibilityrequest-operation-submit.html
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request

from fhir_secondop.errors import Invalid, SecondOpError
from fhir_secondop.fhir import codec, validate
from fhir_secondop.model import Resource

JSON = "application/fhir+json"
_ASKED = ("CoverageEligibilityRequest", "Patient", "Coverage", "Organization")


def build(shape: str, now: Callable[[], str], slow_s: float = 60.0) -> Flask:
    """A payer of that shape. `now` gives the instant that its answers are dated with."""
    app = Flask(__name__)

    @app.get("/healthz")
    def healthy() -> str:
        return "ok"

    @app.get("/fhir/metadata")
    def metadata() -> Response:
        operation = {
            "name": "submit",
            "definition": "http://hl7.org/fhir/OperationDefinition/CoverageEligibilityRequest-submit",
        }
        kinds = [{"type": "CoverageEligibilityRequest", "operation": [operation]}]
        rest = [{"mode": "server", "resource": kinds}]
        return _answer({
            "resourceType": "CapabilityStatement", "status": "active", "date": now(), "kind": "instance",
            "fhirVersion": "4.0.1", "format": ["json"], "rest": rest, "software": {"name": f"{shape} payer"},
            "implementation": {"description": "A simulated payer"},
        })  # fmt: skip

    @app.post("/fhir/CoverageEligibilityRequest/$submit")
    def submit() -> Response:
        try:
            asked = _asked(codec.parse(request.get_data()))
        except SecondOpError as error:
            issue = {"severity": "error", "code": "invalid", "diagnostics": error.message}
            return _answer({"resourceType": "OperationOutcome", "issue": [issue]}, 400)
        return SHAPES[shape](asked, now(), slow_s)

    return app


def _asked(bundle: Resource) -> Resource:
    """The request of a Bundle that has all that a payer needs. Raises Invalid of any other."""
    if any(issue.severity in ("error", "fatal") for issue in validate.validate(bundle)):
        raise Invalid("It is no valid FHIR R4.")
    kinds = sorted(entry["resource"]["resourceType"] for entry in bundle.get("entry", []))
    if kinds != sorted(_ASKED):
        raise Invalid("Send a Bundle with " + ", ".join(_ASKED) + ".")
    found = {e["resource"]["resourceType"]: e["resource"] for e in bundle["entry"]}
    asked: Resource = found["CoverageEligibilityRequest"]
    cited = {asked["patient"]["reference"], asked["insurer"]["reference"],
             *(one["coverage"]["reference"] for one in asked["insurance"])}  # fmt: skip
    there = {f"{kind}/{found[kind]['id']}" for kind in _ASKED[1:]}
    if cited != there or found["Coverage"]["beneficiary"]["reference"] != asked["patient"]["reference"]:
        raise Invalid("Who is insured, by whom and how must stand in the Bundle.")
    return asked


def _response(asked: Resource, now: str, **said: Any) -> Resource:
    return {
        "resourceType": "CoverageEligibilityResponse", "id": f"answer-{asked['id'][:8]}", "status": "active",
        "purpose": asked["purpose"], "patient": asked["patient"], "created": now,
        "request": {"reference": f"CoverageEligibilityRequest/{asked['id']}"}, "outcome": "complete",
        "insurer": asked["insurer"], **said,
    }  # fmt: skip


def _item(asked: Resource, now: str, slow_s: float, **said: Any) -> Response:
    item = {"productOrService": asked["item"][0]["productOrService"], **said}
    coverage = asked["insurance"][0]["coverage"]
    return _answer(_response(asked, now, insurance=[{"coverage": coverage, "inforce": True, "item": [item]}]))


def _covered(asked: Resource, now: str, slow_s: float) -> Response:
    return _item(asked, now, slow_s, excluded=False, authorizationRequired=False)


def _not_covered(asked: Resource, now: str, slow_s: float) -> Response:
    return _item(asked, now, slow_s, excluded=True)


def _authorization(asked: Resource, now: str, slow_s: float) -> Response:
    return _item(asked, now, slow_s, excluded=False, authorizationRequired=True)


def _lapsed(asked: Resource, now: str, slow_s: float) -> Response:
    coverage = asked["insurance"][0]["coverage"]
    return _answer(_response(asked, now, insurance=[{"coverage": coverage, "inforce": False}]))


def _error(asked: Resource, now: str, slow_s: float) -> Response:
    error = [{"code": {"text": "member not found"}}]
    return _answer(_response(asked, now, outcome="error", error=error))


def _garbage(asked: Resource, now: str, slow_s: float) -> Response:
    return Response("<html>Our portal has moved.</html>", 200, mimetype="text/html")


def _down(asked: Resource, now: str, slow_s: float) -> Response:
    return Response("", 503)


def _slow(asked: Resource, now: str, slow_s: float) -> Response:
    time.sleep(slow_s)
    return _covered(asked, now, slow_s)


SHAPES: dict[str, Callable[[Resource, str, float], Response]] = {
    "covered": _covered, "not-covered": _not_covered, "authorization": _authorization, "lapsed": _lapsed,
    "error": _error, "garbage": _garbage, "down": _down, "slow": _slow,
}  # fmt: skip


def _answer(resource: Resource, status: int = 200) -> Response:
    return Response(codec.dumps(resource), status, mimetype=JSON)
