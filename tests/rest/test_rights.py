"""Who may do what: the endpoint as callers with scopes meet it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from fhir_secondop.access import rights
from fhir_secondop.errors import Unauthenticated
from fhir_secondop.model import Caller, Operation, Resource, Result
from fhir_secondop.rest.app import blueprint
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store.database import Database, now_ms
from tests.rest.served import (
    NAME,
    PATIENT,
    Send,
    bundle,
    created,
    document,
    matches,
    posting,
    sender,
)
from tests.store.rows import BASE


def ran(caller: Caller, resource_id: str, sent: Resource) -> Result:
    if resource_id == "breaks":
        raise RuntimeError(f"{NAME} was in the row")
    return Result({"ran": True})


@pytest.fixture
def guarded(database: Database) -> Callable[[Caller], Send]:
    """guarded(caller) → an endpoint that knows only that caller, with two operations."""

    def build(caller: Caller) -> Send:
        def authenticate(request: Any) -> Caller:
            if not caller.id:
                raise Unauthenticated("Say who you are.")
            return caller

        endpoint = Endpoint(
            database=database, base_url=BASE, software="test", authenticate=authenticate,
            visibility=lambda caller: rights.visibility(caller, now_ms()), allows=rights.allows,
            operations=(
                Operation("look", "Patient", "Looks.", ran, reads=True),
                Operation("do", "Patient", "Does.", ran),
            ),
        )  # fmt: skip
        app = Flask("test", static_folder=None)
        app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")
        return sender(app)

    return build


ALICE = Caller("alice", "Alice", frozenset({"provider"}), ("user/*.cruds",))
BOB = Caller("bob", "Bob", frozenset({"provider"}), ("user/*.cruds",))


def test_nobody_reaches_what_belongs_to_somebody_else(guarded: Callable[[Caller], Send]) -> None:
    alice, bob = guarded(ALICE), guarded(BOB)
    identified = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}]}
    name = created(alice, identified)
    for path in (f"/Patient/{name}", f"/Patient/{name}/_history", f"/Patient/{name}/_history/1"):
        assert alice("GET", path).status_code == 200
        for method in ("GET", "HEAD"):
            assert bob(method, path).status_code == 404
    # As with an id that nobody has: hidden and absent are told apart by nothing.
    assert bob("PUT", f"/Patient/{name}", {**PATIENT, "id": name}).status_code == 405
    assert bob("DELETE", f"/Patient/{name}").status_code == 404
    for asked in (
        "",
        f"name={NAME}",
        f"_id={name}",
        "identifier=urn:mrn|1",
        "name:missing=false",
        "gender:missing=true",
    ):
        assert matches(alice("GET", f"/Patient?{asked}")) == [name]
        answer = bob("GET", f"/Patient?{asked}&_total=accurate")
        assert matches(answer) == []
        assert answer.json
        assert answer.json["total"] == 0
    for entry in (
        {"request": {"method": "GET", "url": f"Patient/{name}"}},
        {"resource": {**PATIENT, "id": name}, "request": {"method": "PUT", "url": f"Patient/{name}"}},
        posting(document("Patient?identifier=urn:mrn|1", "https://x/1")),
    ):
        assert bob("POST", "/", bundle(entry)).status_code in (404, 412)
    bob("POST", "/", bundle({"request": {"method": "DELETE", "url": f"Patient/{name}"}}))
    # A conditional create must not tell that it is there.
    assert bob("POST", "/Patient", identified, If_None_Exist="identifier=urn:mrn|1").status_code == 201
    assert json.loads(alice("GET", f"/Patient/{name}").text)["meta"]["versionId"] == "1"


SCOPES = [
    ("r", "GET", "/Patient/{}"), ("r", "GET", "/Patient/{}/_history"), ("r", "GET", "/Patient/{}/_history/1"),
    ("s", "GET", "/Patient"), ("s", "POST", "/Patient/_search"), ("c", "POST", "/Patient"), ("u", "PUT", "/Patient/{}"),
    ("u", "PATCH", "/Patient/{}"), ("d", "DELETE", "/Patient/{}"), ("c", "POST", "/"),
]  # fmt: skip


def test_each_interaction_needs_its_letter(guarded: Callable[[Caller], Send]) -> None:
    for letter, method, path in SCOPES:
        name = created(guarded(ALICE))
        body: Any = {**PATIENT, "id": name} if method in ("POST", "PUT") and "_search" not in path else None
        more = {}
        if path == "/":
            body = bundle(posting(PATIENT))
        if method == "PATCH":
            body, more = [], {"Content_Type": "application/json-patch+json"}
        for scopes, allowed in (
            (f"user/Patient.{letter}", True), ("user/Observation.cruds", False), ("", False),
            ("user/Patient." + "cruds".replace(letter, ""), False),
        ):  # fmt: skip
            status = guarded(replace(ALICE, scopes=(scopes,)))(method, path.format(name), body, **more).status_code
            assert (status < 300) == allowed, (method, path, scopes, status)
            assert allowed or status == 403


@pytest.mark.parametrize(("letters", "shown"), [("c", False), ("cr", True)])
def test_what_a_conditional_create_finds_is_shown_to_who_may_read_it(
    guarded: Callable[[Caller], Send], letters: str, shown: bool
) -> None:
    identified = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}], "gender": "female"}
    name = created(guarded(ALICE), identified)
    send = guarded(replace(ALICE, scopes=(f"user/Patient.{letters}",)))
    answer = send("POST", "/Patient", PATIENT, **{"If-None-Exist": "identifier=urn:mrn|1"})
    assert (answer.status_code, answer.headers["Location"]) == (200, f"{BASE}/Patient/{name}/_history/1")
    assert ("female" in answer.get_data(as_text=True)) is shown


def test_who_says_nothing_is_asked_who_it_is(guarded: Callable[[Caller], Send]) -> None:
    nobody = guarded(Caller("", ""))
    for method, path in (("GET", "/Patient/1"), ("GET", "/Patient"), ("POST", "/"), ("GET", "/Patient/1/$look")):
        answer = nobody(method, path, {} if method == "POST" else None)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert nobody("GET", "/metadata").status_code == 200


def test_get_and_head_run_only_operations_that_read(guarded: Callable[[Caller], Send]) -> None:
    send = guarded(ALICE)
    assert [send(method, "/Patient/1/$look").status_code for method in ("GET", "HEAD", "POST")] == [200, 200, 200]
    assert [send(method, "/Patient/1/$do").status_code for method in ("GET", "HEAD", "POST")] == [404, 404, 200]
    assert send("DELETE", "/Patient/1/$do").status_code == 405


def test_a_failure_of_ours_says_nothing_of_the_row(
    guarded: Callable[[Caller], Send], caplog: pytest.LogCaptureFixture
) -> None:
    answer = guarded(ALICE)("POST", "/Patient/breaks/$do")
    assert answer.status_code == 500
    assert "Quote number" in answer.text
    assert "test_rights.py" in caplog.text
    assert NAME not in caplog.text
