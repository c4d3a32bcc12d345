"""Where resources come in: what another validator says of them is in the answer, or refuses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from pytest_httpserver import HTTPServer
from werkzeug.test import TestResponse

from fhir_secondop.access import rights
from fhir_secondop.ehr.second_stage import SecondStage
from fhir_secondop.fhir import codec, validate
from fhir_secondop.model import EVERYTHING, Operation, Result
from fhir_secondop.rest.app import blueprint
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.sandbox import ehr
from fhir_secondop.store import resources
from fhir_secondop.store.database import Database, now_ms
from tests.ehr.test_second_stage import MISSING, PATIENT, PROFILE, Other, said, validator
from tests.rest.served import Send, bundle, posting, sender
from tests.store.rows import BASE

STRANGE = "https://nobody.example/StructureDefinition/strange"
ASKING = {"Prefer": "return=OperationOutcome"}
Build = Callable[..., Send]


@pytest.fixture
def other(httpserver: HTTPServer) -> Other:
    return Other(httpserver)


@pytest.fixture
def build(database: Database) -> Build:
    """build(validator, …) → an endpoint with those."""

    def built(*validators: Any) -> Send:
        endpoint = Endpoint(
            database=database, base_url=BASE, software="test", authenticate=lambda request: ehr.VISITOR,
            visibility=lambda caller: rights.visibility(caller, now_ms()), allows=rights.allows, update_creates=True,
            operations=(Operation("take", "", "Takes it.", lambda caller, name, sent: Result({}), raw=True),),
            second_stage=SecondStage(validators, now=now_ms).examine,
        )  # fmt: skip
        app = Flask("test", static_folder=None)
        app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")
        return sender(app)

    return built


def issues(answer: TestResponse) -> list[tuple[str, str]]:
    assert answer.json
    assert validate.validate(codec.parse(answer.get_data())) == []
    found = answer.json if answer.json["resourceType"] == "OperationOutcome" else {"issue": []}
    return [(issue["severity"], issue.get("expression", [""])[0]) for issue in found["issue"]]


def stored(database: Database) -> int:
    with database.reading() as connection:
        return len(connection.execute(resources.rows(EVERYTHING)).all())


def test_a_fault_that_it_finds_refuses_the_write(build: Build, other: Other, database: Database) -> None:
    other.issues = [MISSING, said("error", "is wrong", "Patient.name[0]"), said("warning", "could be better")]
    send = build(validator(other.base))
    text = (
        f'{{"resourceType": "Patient",\n "meta": {{"profile": ["{PROFILE}"]}},\n "id": "1", "name": [{{"text": "A"}}]}}'
    )
    for method, path in (("POST", "/Patient"), ("PUT", "/Patient/1")):
        answer = send(method, path, text)
        assert answer.status_code == 422
        assert issues(answer) == [("error", "Patient"), ("error", "Patient.name[0]")]
        assert answer.json
        where = {e["url"].rpartition("-")[2]: e for e in answer.json["issue"][1]["extension"]}
        assert (where["line"]["valueInteger"], where["col"]["valueInteger"]) == (3, 22)
        assert where["source"]["valueString"] == "uscore"
    assert stored(database) == 0


def test_what_it_says_beside_is_told_to_who_asks(build: Build, other: Other) -> None:
    other.issues = [said("warning", "could be better"), said("information", "CodeSystem is unknown")]
    send = build(validator(other.base))
    answer = send("POST", "/Patient", PATIENT, **ASKING)
    assert answer.status_code == 201
    assert issues(answer) == [("information", ""), ("warning", "Patient"), ("information", "Patient")]
    plain = send("POST", "/Patient", PATIENT)
    assert plain.json
    assert plain.json["resourceType"] == "Patient"
    changed = send("PUT", "/Patient/x", {**PATIENT, "id": "x"}, **ASKING)
    assert (changed.status_code, len(issues(changed))) == (201, 3)


def test_where_nobody_is_configured_it_says_so(build: Build, other: Other) -> None:
    claiming = {**PATIENT, "meta": {"profile": [STRANGE]}}
    for send in (build(), build(validator(other.base))):
        answer = send("POST", "/Patient", claiming, **ASKING)
        assert issues(answer) == [("information", ""), ("information", "Patient")]
        assert f"The profile {STRANGE} is not known here" in answer.text
    assert other.seen == []


def test_when_it_does_not_answer_the_resource_is_taken_and_it_says_so(build: Build) -> None:
    answer = build(validator("http://127.0.0.1:1/fhir"))("POST", "/Patient", PATIENT, **ASKING)
    assert answer.status_code == 201
    assert issues(answer) == [("information", ""), ("warning", "Patient")]
    assert f"The profile {PROFILE} was not checked by uscore" in answer.text


def test_who_is_required_has_to_answer(build: Build, other: Other, database: Database) -> None:
    answer = build(validator("http://127.0.0.1:1/fhir", required=True))("POST", "/Patient", PATIENT)
    assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (503, True)
    assert issues(answer) == [("error", "Patient")]
    assert stored(database) == 0
    assert build(validator(other.base, required=True))("POST", "/Patient", PATIENT).status_code == 201


def test_what_we_find_wrong_is_not_sent(build: Build, other: Other) -> None:
    send = build(validator(other.base))
    assert send("POST", "/Patient", {**PATIENT, "gender": "x"}).status_code == 422
    assert send("POST", "/Patient", {"resourceType": "Patient"}).status_code == 201
    assert other.seen == []


def test_a_transaction_is_sent_as_a_whole_and_each_entry_has_its_own(
    build: Build, other: Other, database: Database
) -> None:
    other.issues = [said("warning", "could be better", "Bundle.entry[1].resource/*Patient/null*/")]
    send = build(validator(other.base))
    strange = {"resourceType": "Patient", "meta": {"profile": [STRANGE]}}
    sent = bundle(posting({"resourceType": "Patient"}), posting(PATIENT), posting(strange))
    answer = send("POST", "/", sent, **ASKING)
    assert answer.status_code == 200
    issues(answer)
    assert answer.json
    outcomes = [entry["response"].get("outcome", {}).get("issue") for entry in answer.json["entry"]]
    assert outcomes[0] is None
    assert [issue["diagnostics"] for issue in outcomes[1]] == ["uscore says: could be better"]
    assert [issue["expression"] for issue in outcomes[2]] == [["Bundle.entry[2].resource"]]
    assert len(other.seen) == 1
    assert "outcome" not in send("POST", "/", sent).text
    other.issues = [said("error", "is wrong", "Bundle.entry[1].resource/*Patient/null*/.name[0]")]
    refused = send("POST", "/", sent)
    assert (refused.status_code, issues(refused)) == (422, [("error", "Bundle.entry[1].resource.name[0]")])
    assert stored(database) == 6


def test_an_operation_that_takes_resources_asks_too(build: Build, other: Other) -> None:
    send = build(validator(other.base))
    collection = {"resourceType": "Bundle", "type": "collection", "entry": [
        {"fullUrl": "urn:uuid:00000000-0000-4000-8000-000000000001", "resource": PATIENT}]}  # fmt: skip
    assert send("POST", "/$take", collection).status_code == 200
    other.issues = [MISSING]
    assert send("POST", "/$take", collection).status_code == 422


def test_nothing_waits_for_it_in_the_database(build: Build, other: Other, database: Database) -> None:
    """While it looks at one write, another one goes on: on SQLite a transaction would hold it up."""
    send = build(validator(other.base))
    statuses: list[int] = []

    def write() -> None:
        statuses.append(send("POST", "/Patient", {"resourceType": "Patient"}).status_code)

    other.meanwhile = write
    for body, path in ((PATIENT, "/Patient"), (bundle(posting(PATIENT)), "/")):
        assert send("POST", path, body).status_code in (200, 201)
    assert statuses == [201, 201]
