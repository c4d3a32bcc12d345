"""An endpoint behind a client that needs no network, as these tests ask for it, and what they send and read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from fhir_secondop.access import rights
from fhir_secondop.fhir import codec, validate
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest.app import blueprint
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store.database import Database, now_ms
from tests.store.rows import BASE

NAME = "Wolkenstein"  # planted in what is sent, never to be repeated by an error
PATIENT = {"resourceType": "Patient", "name": [{"family": NAME}]}
URN = "urn:uuid:00000000-0000-4000-8000-00000000000"
BINARY = {"resourceType": "Binary", "contentType": "text/plain", "data": "aGVsbG8="}

Send = Callable[..., TestResponse]


def client_of(database: Database, authenticate: Callable[[Any], Caller], **options: Any) -> Any:
    """A client whose addresses begin with /fhir."""
    endpoint = Endpoint(
        database=database, base_url=BASE, software="test", authenticate=authenticate,
        visibility=lambda caller: rights.visibility(caller, now_ms()), allows=rights.allows, **options,
    )  # fmt: skip
    app = Flask("test", static_folder=None)
    app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")
    client: Any = app.test_client()
    client.endpoint = endpoint
    return client


def sender(app: Flask) -> Send:
    client: FlaskClient = app.test_client()

    def send(method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named.setdefault("Content-Type", "application/fhir+json")
        data = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
        answer = client.open(f"/fhir{path}", method=method, data=data, headers=named)
        if answer.status_code >= 400:
            check_failure(method, answer)
        return answer

    return send


def check_failure(method: str, answer: TestResponse) -> None:
    """Every failure is a valid OperationOutcome without the planted name."""
    assert answer.mimetype == "application/fhir+json"
    assert NAME.lower() not in answer.text.lower()
    assert NAME.lower() not in str(answer.headers).lower()
    if method != "HEAD":
        outcome = codec.parse(answer.get_data())
        assert outcome["resourceType"] == "OperationOutcome"
        assert validate.validate(outcome) == []


def created(send: Send, resource: Resource = PATIENT) -> str:
    answer = send("POST", f"/{resource['resourceType']}", resource)
    assert answer.status_code == 201, answer.text
    assert answer.json
    return str(answer.json["id"])


def expressions(answer: TestResponse) -> list[str]:
    assert answer.json
    return [e for issue in answer.json["issue"] for e in issue.get("expression", [])]


def matches(answer: TestResponse) -> list[str]:
    assert answer.json
    assert answer.status_code == 200, answer.text
    assert validate.validate(codec.parse(answer.get_data())) == []
    return [e["resource"]["id"] for e in answer.json.get("entry", []) if e["search"]["mode"] == "match"]


def bundle(*entries: Resource, kind: str = "transaction") -> Resource:
    return {"resourceType": "Bundle", "type": kind, **({"entry": list(entries)} if entries else {})}


def posting(resource: Resource, full_url: str = "", **request: str) -> Resource:
    return {
        **({"fullUrl": full_url} if full_url else {}), "resource": resource,
        "request": {"method": "POST", "url": resource["resourceType"], **request},
    }  # fmt: skip


def document(patient: str, binary: str) -> Resource:
    return {
        "resourceType": "DocumentReference", "status": "current", "subject": {"reference": patient},
        "content": [{"attachment": {"contentType": "text/plain", "url": binary}}],
    }  # fmt: skip
