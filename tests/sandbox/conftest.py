"""Simulated EHRs behind a real HTTP server, each with a store of its own, all with the same small record."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from werkzeug.serving import BaseWSGIServer

from fhir_secondop.model import Resource
from fhir_secondop.sandbox import ehr
from fhir_secondop.sandbox.signin import Rules
from fhir_secondop.store.database import Database
from tests.conftest import free_port

JSON = "application/fhir+json"
MRN = "https://there.example/mrn"
SCAN = b"%PDF-1.7 an old scan"

Farm = Callable[..., str]


def _subject(number: int = 1) -> Resource:
    return {"subject": {"reference": f"Patient/{number}"}}


def record() -> list[Resource]:
    """Two patients; five results of the first and one of the second, a scan, an encounter, a clinician, an order."""
    people = [
        {"resourceType": "Patient", "id": "1", "identifier": [{"system": MRN, "value": "A-1"}], "gender": "female",
         "name": [{"family": "Muster", "given": ["Maria"]}], "birthDate": "1971-04-17",
         "telecom": [{"system": "phone", "value": "+49 30 5550-123"}]},
        {"resourceType": "Patient", "id": "2", "identifier": [{"system": MRN, "value": "B-2"}], "gender": "male",
         "name": [{"family": "Muster", "given": ["Max"]}], "birthDate": "1969-01-02"},
        {"resourceType": "Practitioner", "id": "p", "name": [{"family": "Standin"}]},
    ]  # fmt: skip
    laboratory = "http://terminology.hl7.org/CodeSystem/observation-category"
    results = [
        {"resourceType": "Observation", "id": f"o{n}", "status": "final", "code": {"text": f"result {n}"},
         "category": [{"coding": [{"system": laboratory, "code": "laboratory"}]}], **_subject(2 if n == 6 else 1)}
        for n in range(1, 7)
    ]  # fmt: skip
    encounter = {"resourceType": "Encounter", "id": "e", "status": "finished", **_subject(),
                 "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}}  # fmt: skip
    scan = {"resourceType": "Binary", "id": "b", "contentType": "application/pdf",
            "data": base64.b64encode(SCAN).decode()}  # fmt: skip
    order = {"resourceType": "MedicationRequest", "id": "m", "status": "active", "intent": "order", **_subject(),
             "medicationCodeableConcept": {"text": "tamoxifen"}}  # fmt: skip
    letter = {"resourceType": "DocumentReference", "id": "d", "status": "current", **_subject(),
              "content": [{"attachment": {"contentType": "application/pdf", "url": "Binary/b"}}]}  # fmt: skip
    return [*people, *results, encounter, scan, letter, order]


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the record in it."""
    folder = tmp_path_factory.mktemp("farm")
    entries = [{"request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}, "resource": r} for r in record()]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    (folder / "record.json").write_text(json.dumps(bundle))
    database = Database(str(folder / "filled.sqlite"))
    database.migrate()
    assert ehr.load(database, "http://127.0.0.1/fhir", [folder / "record.json"]) == len(entries)
    database.dispose()  # the last connection writes everything into the one file
    return folder / "filled.sqlite"


@pytest.fixture
def farm(filled: Path, tmp_path: Path) -> Iterator[Farm]:
    """farm("full", "storm-429=2") → the FHIR base of a simulated EHR that listens."""
    running: list[tuple[BaseWSGIServer, threading.Thread, Database]] = []

    def start(shape: str, *quirks: str, rules: Rules | None = None) -> str:
        port = free_port()
        base = f"http://127.0.0.1:{port}/fhir"
        database = Database(str(shutil.copy(filled, tmp_path / f"{port}.sqlite")), pool_size=4)
        server = ehr.server(ehr.build(shape, database, base, quirks, rules), port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        running.append((server, thread, database))
        return base

    yield start
    for server, thread, database in running:
        server.shutdown()
        thread.join()
        server.server_close()
        database.dispose()


def get(base: str, path: str, accept: str = JSON, **more: Any) -> requests.Response:
    """A GET below the base."""
    return requests.get(f"{base}/{path}", headers={"Accept": accept, **more.pop("headers", {})}, timeout=10, **more)


def send(method: str, base: str, path: str, resource: Resource, timeout: float = 10, **headers: str) -> Any:
    """A POST or PUT below the base."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.request(
        method, f"{base}/{path}", data=json.dumps(resource), timeout=timeout,
        headers={"Content-Type": JSON, "Accept": JSON, **named},
    )  # fmt: skip


def post(base: str, resource: Resource, timeout: float = 10, **headers: str) -> requests.Response:
    """A create."""
    answer: requests.Response = send("POST", base, resource["resourceType"], resource, timeout, **headers)
    return answer


def transaction(base: str, *entries: tuple[Resource, Resource]) -> requests.Response:
    """A transaction of (resource, request) pairs."""
    asked = [{"resource": resource, "request": request} for resource, request in entries]
    answer: requests.Response = send(
        "POST", base, "", {"resourceType": "Bundle", "type": "transaction", "entry": asked}
    )  # fmt: skip
    return answer


def ids(answer: requests.Response) -> list[str]:
    """The ids of a searchset's matches."""
    assert answer.status_code == 200, answer.text
    return [e["resource"]["id"] for e in answer.json().get("entry", []) if e["search"]["mode"] == "match"]


def following(answer: requests.Response) -> str:
    """The next link, or ""."""
    return next((link["url"] for link in answer.json()["link"] if link["relation"] == "next"), "")


def codes(answer: requests.Response) -> set[str]:
    """The codes in an OperationOutcome, or in those of a Bundle: issue codes and the EHR's own."""
    body = answer.json()
    outcomes = [body] if body["resourceType"] == "OperationOutcome" else [
        e["resource"] for e in body.get("entry", []) if e["resource"]["resourceType"] == "OperationOutcome"
    ]  # fmt: skip
    issues = [issue for outcome in outcomes for issue in outcome["issue"]]
    own = {c["code"] for issue in issues for c in issue.get("details", {}).get("coding", [])}
    return {issue["code"] for issue in issues} | own


def document(**more: Any) -> Resource:
    """A document about the first patient, as Oracle wants one."""
    data = base64.b64encode(more.pop("bytes", b"SECOND OPINION")).decode()
    return {
        "resourceType": "DocumentReference",
        "identifier": [{"system": "urn:ours", "value": "v1"}],
        "status": "current",
        "docStatus": "final",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11488-4"}]},
        **_subject(),
        "content": [{"attachment": {"contentType": "text/plain;charset=utf-8", "data": data}}],
        "context": {"period": {"end": "2026-11-20T10:00:00Z"}, "encounter": [{"reference": "Encounter/e"}],
                    "related": [{"reference": "Encounter/e"}]},
        **more,
    }  # fmt: skip
