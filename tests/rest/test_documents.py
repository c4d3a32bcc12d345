"""$document and $docref over HTTP, on both databases: a document is whole or says that it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from fhir_secondop.access import rights
from fhir_secondop.fhir import codec, excerpts
from fhir_secondop.fhir.validate import validate
from fhir_secondop.limits import Limits
from fhir_secondop.model import EVERYTHING, Caller
from fhir_secondop.rest.app import blueprint
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Database
from tests.rest.served import client_of
from tests.rest.test_everything import following, said, shown
from tests.store.rows import BASE, DESK, delete, named, put, update

CALLERS = {
    "desk": Caller("desk", "Desk", frozenset({"coordinator"}), ("system/*.rs",)),
    "few": Caller("few", "Few", frozenset({"coordinator"}), (
        "system/Composition.r", "system/Patient.r", "system/Practitioner.r", "system/DocumentReference.rs")),
    "guest": Caller("guest", "Guest", frozenset({"reviewer"}), ("system/*.rs",)),
    "none": Caller("none", "None", frozenset({"coordinator"}), ("system/Patient.rs",)),
}  # fmt: skip
P1, D1 = {"reference": "Patient/p1"}, {"reference": "Practitioner/d1"}
LOINC = "http://loinc.org"


def composition(*entries: str, **more: Any) -> dict[str, Any]:
    section = {"title": "x", "entry": [{"reference": text} for text in entries]}
    return {"resourceType": "Composition", "status": "final", "type": {"text": "x"}, "date": "2026", "title": "x",
            "subject": P1, "author": [D1], **({"section": [section]} if entries else {}), **more}  # fmt: skip


@pytest.fixture
def client(database: Database) -> Any:
    named(database, "Organization", [("o1", {"name": "One", "partOf": {"reference": "Organization/o2"}}),
                                     ("o2", {"name": "Two"}), ("alone", {"name": "Alone"})])  # fmt: skip
    named(database, "Practitioner", [("d1", {"active": True})])
    named(database, "Patient", [("p1", {"managingOrganization": {"reference": f"{BASE}/Organization/o1"}})])
    named(database, "Observation", [
        ("b1", {"status": "final", "code": {"text": "x"}, "subject": P1, "performer": [D1]}),
        ("b2", {"status": "final", "code": {"text": "x"}, "subject": P1, "performer": [
            {"reference": "https://elsewhere.example/fhir/Practitioner/x"}, {"reference": "Practitioner/gone"}]}),
    ])  # fmt: skip
    put(database, composition("Observation/b1"), resource_id="c1")

    def authenticate(request: Any) -> Caller:
        return CALLERS[request.headers.get("As", "desk")]

    offered = frozenset({"document", "docref"})
    return client_of(database, authenticate, published=offered, xml=True, restrictions=rights.restrictions)


def asked(client: Any, path: str, status: int = 200, body: Any = None, **headers: str) -> tuple[dict[str, Any], Any]:
    address = path.removeprefix(BASE.removesuffix("/fhir")) if path.startswith(BASE) else f"/fhir/{path}"
    if body is None:
        answer = client.get(address, headers=headers)
    else:
        answer = client.post(address, data=json.dumps(body), headers=headers, content_type="application/fhir+json")
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = codec.parse(answer.text)
    assert [issue for issue in validate(found) if issue.severity == "error"] == []
    return found, answer.headers


def held(document: dict[str, Any]) -> list[str]:
    return [entry["fullUrl"].removeprefix(f"{BASE}/") for entry in document["entry"]]


def reasons(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(issue["code"], issue["diagnostics"]) for issue in told["issue"]]


WHOLE = ["Composition/c1", "Patient/p1", "Practitioner/d1", "Observation/b1", "Organization/o1", "Organization/o2"]


def test_a_document_holds_all_that_its_composition_leads_to(client: Any) -> None:
    document, headers = asked(client, "Composition/c1/$document")
    assert held(document)[0] == "Composition/c1"
    assert sorted(held(document)) == sorted(WHOLE)
    assert document["type"] == "document"
    assert document["identifier"]["value"].startswith("urn:uuid:")
    assert document["timestamp"] > "2026"
    assert "meta" not in document
    assert "Warning" not in headers
    again, _ = asked(client, "Composition/c1/$document?persist=false")
    assert again["identifier"] != document["identifier"]
    assert again["entry"] == document["entry"]
    no = {"resourceType": "Parameters", "parameter": [{"name": "persist", "valueBoolean": False}]}
    assert held(asked(client, "Composition/c1/$document", body=no)[0]) == held(document)


def test_it_is_not_stored_and_what_it_does_not_take_is_named(client: Any) -> None:
    yes = {"resourceType": "Parameters", "parameter": [{"name": "persist", "valueBoolean": True}]}
    for path, body in (("Composition/c1/$document?persist=true", None), ("Composition/c1/$document", yes)):
        told, _ = asked(client, path, 400, body=body)
        assert told["issue"][0]["expression"] == ["persist"]
    for path in ("Composition/c1/$document?graph=x", "Composition/c1/$document?persist=x"):
        assert reasons(asked(client, path, 422)[0])
    asked(client, "Composition/none/$document", 404)
    asked(client, "Composition/$document", 404)
    asked(client, "Composition/c1/$document", 403, As="none")


def test_what_it_points_to_and_is_not_there_refuses_the_document(client: Any, database: Database) -> None:
    with database.reading() as connection:
        one = resources.read(connection, EVERYTHING, "Observation", "b1")
    delete(database, one)
    text = "Composition/c1 points to Observation/b1, which was deleted."
    for lenient in ({}, {"Prefer": "handling=lenient"}):
        told, _ = asked(client, "Composition/c1/$document", 422, **lenient)
        assert reasons(told) == [("deleted", text)]
    put(database, composition("Observation/none", "urn:uuid:5f2e24a4-0b5d-4d0f-8b0e-2f6f6a0e2f11"), resource_id="c2")
    told, _ = asked(client, "Composition/c2/$document", 422)
    assert reasons(told) == [
        ("not-found", "Composition/c2 points to urn:uuid:5f2e24a4-0b5d-4d0f-8b0e-2f6f6a0e2f11, "
                      "which names nothing that is stored."),
        ("not-found", "Composition/c2 points to Observation/none, which is not here, or not for this caller."),
    ]  # fmt: skip


def test_what_those_point_to_is_missing_only_when_that_is_wanted_and_told(client: Any, database: Database) -> None:
    put(database, composition("Observation/b2"), resource_id="c2")
    told, _ = asked(client, "Composition/c2/$document", 422)
    assert reasons(told) == [
        ("not-found", "Observation/b2 points to https://elsewhere.example/fhir/Practitioner/x, which is elsewhere."),
        ("not-found", "Observation/b2 points to Practitioner/gone, which is not here, or not for this caller."),
    ]
    document, headers = asked(client, "Composition/c2/$document", Prefer="handling=lenient")
    assert "Observation/b2" in held(document)
    assert document["meta"]["tag"] == [excerpts.SUBSETTED]
    assert headers["Warning"] == '199 - "not in this document: Practitioner/gone and 1 more"'


def test_without_the_scope_nobody_gets_part_of_a_document(client: Any) -> None:
    told, _ = asked(client, "Composition/c1/$document", 422, As="few")
    assert reasons(told) == [
        ("suppressed", "Composition/c1 points to Observation/b1, which takes the scope Observation.r."),
        ("suppressed", "Patient/p1 points to Organization/o1, which takes the scope Organization.r."),
    ]


def test_what_may_not_be_seen_is_as_if_it_was_not_there(client: Any, database: Database) -> None:
    guest = CALLERS["guest"]
    for kind, name, rest in (("Patient", "p9", {}), ("Practitioner", "d9", {})):
        put(database, {"resourceType": kind, **rest}, resource_id=name, caller=guest)
    own = {"subject": {"reference": "Patient/p9"}, "author": [{"reference": "Practitioner/d9"}]}
    for name, entry in (("c8", "Observation/b1"), ("c9", "Observation/nothing")):
        put(database, composition(entry, **own), resource_id=name, caller=guest)
    seen, unseen = (reasons(asked(client, f"Composition/{name}/$document", 422, As="guest")[0])[0]
                    for name in ("c8", "c9"))  # fmt: skip
    assert seen[1].replace("c8", "c9").replace("b1", "nothing") == unseen[1]
    asked(client, "Composition/c1/$document", 404, As="guest")
    with database.transaction(DESK) as tx:
        gone = sa.update(tables.resource).where(tables.resource.c.id == "c8").values(case_id="of-others")
        tx.connection.execute(gone)
    asked(client, "Composition/c8/$document", 404, As="guest")


def test_a_version_that_is_named_is_the_one_that_is_given(client: Any, database: Database) -> None:
    with database.reading() as connection:
        one = resources.read(connection, EVERYTHING, "Observation", "b1")
    update(database, one, {**one.resource, "status": "amended"})
    put(database, composition("Observation/b1/_history/1"), resource_id="c2")
    document, _ = asked(client, "Composition/c2/$document")
    [found] = [e["resource"] for e in document["entry"] if e["resource"]["resourceType"] == "Observation"]
    assert (found["meta"]["versionId"], found["status"]) == ("1", "final")
    put(database, composition("Observation/b1/_history/7"), resource_id="c3")
    told, _ = asked(client, "Composition/c3/$document", 422)
    assert "Observation/b1/_history/7, which is not here" in reasons(told)[0][1]


def test_too_large_a_document_is_refused(client: Any) -> None:
    asked(limited(client, max_document=len(WHOLE)), "Composition/c1/$document")
    told, _ = asked(limited(client, max_document=len(WHOLE) - 1), "Composition/c1/$document", 422)
    [(code, said)] = reasons(told)
    assert code == "too-costly"
    assert "max_document" in said


def limited(client: Any, **limits: int) -> Any:
    """A client of the same endpoint with other limits."""
    endpoint = replace(client.endpoint, limits=Limits(**limits))
    app = Flask("limited", static_folder=None)
    app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")
    return app.test_client()


def test_what_leads_back_ends(client: Any, database: Database) -> None:
    named(database, "Group", [("g1", {"type": "person", "actual": True, "member": [{"entity": P1}],
                                      "managingEntity": {"reference": "Organization/o2"}})])  # fmt: skip
    with database.reading() as connection:
        one = resources.read(connection, EVERYTHING, "Organization", "o2")
    update(database, one, {**one.resource, "partOf": {"reference": "Organization/o1"}})
    assert sorted(held(asked(client, "Composition/c1/$document")[0])) == sorted(WHOLE)


# ---- $docref


def reference(name: str, kind: str, start: str, end: str, subject: str = "Patient/p1") -> tuple[str, dict[str, Any]]:
    return name, {"status": "current", "type": {"coding": [{"system": LOINC, "code": kind}]},
                  "subject": {"reference": subject}, "content": [{"attachment": {"title": "x"}}],
                  "context": {"period": {"start": start, "end": end}}}  # fmt: skip


@pytest.fixture
def documented(client: Any, database: Database) -> Any:
    named(database, "DocumentReference", [
        reference("r1", "34133-9", "2020-01-01", "2020-02-01"), reference("r2", "11488-4", "2021-01-01", "2021-02-01"),
        reference("r3", "34133-9", "2022-01-01", "2022-02-01"),
        reference("other", "34133-9", "2020-01-01", "2020-02-01", "Patient/p2"),
    ])  # fmt: skip
    return client


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("patient=p1", ["r1", "r2", "r3"]),
        ("patient=Patient/p1", ["r1", "r2", "r3"]),
        ("patient=p1&type=http://loinc.org|34133-9", ["r1", "r3"]),
        ("patient=p1&type=34133-9&type=11488-4", ["r1", "r2", "r3"]),
        ("patient=p1&start=2020-06-01", ["r2", "r3"]),
        ("patient=p1&start=2020-06-01&end=2021-06-01", ["r2"]),
        ("patient=p1&end=2020-01-15T00:00:00Z", ["r1"]),
        ("patient=p1&on-demand=false", ["r1", "r2", "r3"]),
    ],
)
def test_documents_of_a_patient_are_found(documented: Any, query: str, found: list[str]) -> None:
    bundle, _ = asked(documented, f"DocumentReference/$docref?{query}")
    assert shown(bundle) == [f"DocumentReference/{name}" for name in found]
    assert said(bundle) == []
    pairs = [pair.split("=") for pair in query.split("&")]
    typed = {"patient": "valueId", "start": "valueDateTime", "end": "valueDateTime", "type": "valueString"}
    parameters = [{"name": n, typed.get(n, "valueBoolean"): v if n in typed else v == "true"} for n, v in pairs
                  if n != "patient" or "/" not in v]  # fmt: skip
    if len(parameters) == len(pairs):
        again, _ = asked(documented, "DocumentReference/$docref",
                         body={"resourceType": "Parameters", "parameter": parameters})  # fmt: skip
        assert shown(again) == shown(bundle)


def test_a_type_is_sent_as_a_coding_too(documented: Any) -> None:
    sent = {"resourceType": "Parameters", "parameter": [
        {"name": "patient", "valueId": "p1"},
        {"name": "type", "valueCoding": {"system": LOINC, "code": "11488-4"}}]}  # fmt: skip
    assert shown(asked(documented, "DocumentReference/$docref", body=sent)[0]) == ["DocumentReference/r2"]


def test_documents_come_in_pages(documented: Any) -> None:
    path, found = "DocumentReference/$docref?patient=p1&_count=1", []
    while path:
        bundle, _ = asked(documented, path)
        found += shown(bundle)
        path = following(bundle)
    assert found == ["DocumentReference/r1", "DocumentReference/r2", "DocumentReference/r3"]
    asked(documented, "DocumentReference/$docref?patient=p1&_page=r1", 400)


def test_a_page_of_documents_ends_at_its_bytes(documented: Any, database: Database) -> None:
    small = client_of(database, lambda request: CALLERS["desk"], published=frozenset({"docref"}),
                      restrictions=rights.restrictions, limits=Limits(max_page_bytes=1))  # fmt: skip
    path, found = "DocumentReference/$docref?patient=p1", []
    while path:
        bundle, _ = asked(small, path)
        found.append(shown(bundle))
        path = following(bundle)
    assert found == [["DocumentReference/r1"], ["DocumentReference/r2"], ["DocumentReference/r3"]]


def test_what_is_not_made_or_not_there_is_said(documented: Any) -> None:
    bundle, _ = asked(documented, "DocumentReference/$docref?patient=p1&on-demand=true")
    assert (shown(bundle), said(bundle)) == ([], [
        "No document is made on demand here; without on-demand=true those that are stored are given."])  # fmt: skip
    bundle, _ = asked(documented, "DocumentReference/$docref?patient=nobody")
    assert (shown(bundle), said(bundle)) == ([], ["There is no Patient/nobody here that Desk may see."])
    bundle, _ = asked(documented, "DocumentReference/$docref?patient=p1", As="guest")
    assert (shown(bundle), said(bundle)) == ([], ["There is no Patient/p1 here that Guest may see."])


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("", "patient"), ("patient=", "patient"), ("patient=p1&patient=p2", "patient"), ("patient=a,b", "patient"),
        ("patient=p1&start=x", "start"), ("patient=p1&on-demand=maybe", "on-demand"),
        ("patient=p1&profile=x", "profile"),
        ("patient=p1&start=2022&end=2021", "start"),
    ],
)  # fmt: skip
def test_what_docref_can_not_take_is_named(documented: Any, query: str, place: str) -> None:
    told, _ = asked(documented, f"DocumentReference/$docref?{query}", 422)
    assert [issue["expression"] for issue in told["issue"]] == [[place]]


def test_docref_takes_the_scope_of_a_search(documented: Any) -> None:
    assert len(shown(asked(documented, "DocumentReference/$docref?patient=p1", As="few")[0])) == 3
    asked(documented, "DocumentReference/$docref?patient=p1", 403, As="none")
