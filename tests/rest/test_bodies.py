"""What is sent: formats that are read, faults that are named, and nothing stored of them."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from fhir_secondop.limits import Limits
from fhir_secondop.model import Resource
from fhir_secondop.sandbox.signin import VISITOR
from fhir_secondop.store.database import Database
from tests.rest.served import (
    NAME,
    PATIENT,
    Send,
    client_of,
    created,
    expressions,
    matches,
)


def test_formats_that_are_not_written_or_read_are_refused(sqlite_send: Send) -> None:
    send = sqlite_send
    name = created(send)
    for header in ("application/fhir+xml", "text/html", "application/pdf, text/turtle"):
        assert send("GET", f"/Patient/{name}", Accept=header).status_code == 406
    for header in (
        "application/fhir+json",
        "application/json",
        "text/html, */*;q=0.1",
        "application/fhir+json; fhirVersion=4.0",
    ):
        assert send("GET", f"/Patient/{name}", Accept=header).status_code == 200
    for asked in ("xml", "text/html", "application/fhir%2Bxml"):
        for path in (f"/Patient/{name}", "/Patient", "/metadata"):
            assert send("GET", f"{path}?_format={asked}").status_code == 406
    for asked in ("json", "application/fhir%2Bjson", "application/fhir+json", "application/json"):
        assert send("GET", f"/Patient/{name}?_format={asked}", Accept="text/html").status_code == 200
    for kind in (
        "application/fhir+xml",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json-patch+json",
    ):
        assert send("POST", "/Patient", PATIENT, Content_Type=kind).status_code == 415
        assert send("PUT", f"/Patient/{name}", PATIENT, Content_Type=kind).status_code == 415
        assert send("POST", "/", PATIENT, Content_Type=kind).status_code == 415
    assert len(matches(send("GET", "/Patient"))) == 1


@pytest.mark.parametrize(("body", "where"), [
    (f'{{"resourceType": "Patient",\n  "name": [{{"family": "{NAME}"}},]}}', "line 2, column"),
    (f'{{"resourceType": "Patient",\n\n "{NAME}": }}', "line 3, column"),
    (f'["{NAME}"]', "one JSON object"), ("", "empty"), (b'{"resourceType":"Patient","x":"\xff"}', "UTF-8"),
    (f'{{"{NAME[0]}":1}}', "resourceType"), ("\ufeff{}", "byte order mark"), ("[" * 200 + "]" * 200, "deeper"),
    ('{"resourceType":"Patient","active":true,"active":false}', "twice"), ('{"resourceType":"Patient","x":NaN}', "NaN"),
    ('{"resourceType":"Patient","language":"\\u0000"}', "NUL"),
    ('{"resourceType":"Patient","language":"\\ud800"}', "NUL"),
])  # fmt: skip
def test_what_cannot_be_parsed_is_told_where(sqlite_send: Send, body: str | bytes, where: str) -> None:
    answer = sqlite_send("POST", "/Patient", body)
    assert answer.status_code == 400
    assert where in answer.text


def test_every_fault_is_named_with_its_place_and_nothing_is_stored(sqlite_send: Send) -> None:
    broken = {
        "resourceType": "Patient", "name": [{"family": NAME}, {"family": ""}], "gender": NAME,
        "birthDate": "1970-13-01", "contact": [{"name": {"famly": NAME}}], "active": "true",
    }  # fmt: skip
    for answer in (
        sqlite_send("POST", "/Patient", broken),
        sqlite_send("PUT", "/Patient/x", {**broken, "id": "x"}),
    ):
        assert answer.status_code == 422
        found = set(expressions(answer))
        assert found >= {"Patient.name[1].family", "Patient.gender", "Patient.birthDate", "Patient.active"}
        assert any(e.startswith("Patient.contact[0].name") for e in found)
    assert matches(sqlite_send("GET", "/Patient")) == []


@pytest.mark.parametrize("body", [{"resourceType": "Observation"}, {"resourceType": NAME}, {"resourceType": "Bundle"}])
def test_a_body_of_another_type_is_refused(sqlite_send: Send, body: Resource) -> None:
    assert sqlite_send("POST", "/Patient", body).status_code == 422


def test_an_update_needs_the_id_of_its_address(sqlite_send: Send) -> None:
    name = created(sqlite_send)
    for body in (PATIENT, {**PATIENT, "id": "other"}):
        answer = sqlite_send("PUT", f"/Patient/{name}", body)
        assert (answer.status_code, expressions(answer)) == (400, ["Patient.id"])


def test_an_oversized_body_without_a_length_is_refused(tmp_path: Any) -> None:
    """Chunked: the length is not known before."""
    database = Database(str(tmp_path / "one.sqlite"))
    database.migrate()
    text = b'{"resourceType":"Patient"' + b" " * 2000 + b"}"
    sent = EnvironBuilder("/fhir/Patient", method="POST", data=text, content_type="application/fhir+json")
    environ = sent.get_environ()
    del environ["CONTENT_LENGTH"]
    environ["wsgi.input_terminated"] = True
    client = client_of(database, lambda request: VISITOR, limits=Limits(max_body_bytes=1000))
    _, status, _ = run_wsgi_app(client.application, environ)
    assert status.startswith("413")
    database.dispose()
