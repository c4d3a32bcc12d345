"""HAPI FHIR, a server that we did not write (Java): what our delivery builds on holds there, too."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.interop.hapi_server import hapi_server

pytestmark = pytest.mark.shared

Plain = dict[str, Any]
SYSTEM = "urn:test:delivery"


@pytest.fixture(scope="module")
def hapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HAPI's FHIR base; one server for all tests of this module, so a test makes its own patient and identifiers."""
    with hapi_server(tmp_path_factory.mktemp("hapi")) as base:
        yield base


def document(patient: str, identifier: str) -> Plain:
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "masterIdentifier": {"system": SYSTEM, "value": f"master-{identifier}"},
        "identifier": [{"system": SYSTEM, "value": identifier}],
        "subject": {"reference": f"Patient/{patient}"},
        "content": [{"attachment": {"contentType": "text/plain", "data": "aGVsbG8="}}],
    }


def deliver(base: str, patient: str, identifier: str) -> tuple[str, str]:
    """A transaction with the patient under our id and, unless it is there, the document: its status and its id."""
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "resource": {"resourceType": "Patient", "id": patient},
                "request": {"method": "PUT", "url": f"Patient/{patient}"},
            },
            {
                "fullUrl": f"urn:uuid:{uuid.uuid4()}",
                "resource": document(patient, identifier),
                "request": {
                    "method": "POST",
                    "url": "DocumentReference",
                    "ifNoneExist": f"identifier={SYSTEM}|{identifier}",
                },
            },
        ],
    }
    answer = requests.post(base, json=bundle, headers={"Content-Type": "application/fhir+json"}, timeout=30)
    assert answer.status_code == 200, answer.text[:500]
    response = answer.json()["entry"][1]["response"]
    return response["status"].split()[0], response["location"].split("/")[1]


def found(base: str, **criteria: str) -> list[str]:
    bundle = requests.get(f"{base}/DocumentReference", params=criteria, timeout=30).json()
    return [entry["resource"]["id"] for entry in bundle.get("entry", [])]


def test_it_is_r4_and_offers_transactions_and_conditional_creates(hapi: str) -> None:
    statement = requests.get(f"{hapi}/metadata", timeout=30).json()
    assert statement["software"]["name"] == "HAPI FHIR Server"
    assert statement["fhirVersion"] == "4.0.1"
    (rest,) = statement["rest"]
    assert "transaction" in {i["code"] for i in rest["interaction"]}
    (documents,) = [r for r in rest["resource"] if r["type"] == "DocumentReference"]
    assert documents["conditionalCreate"] is True


def test_a_conditional_create_sent_twice_leaves_one_document(hapi: str) -> None:
    patient, identifier = str(uuid.uuid4()), str(uuid.uuid4())
    first, second = deliver(hapi, patient, identifier), deliver(hapi, patient, identifier)
    assert (first[0], second[0]) == ("201", "200")
    assert first[1] == second[1]
    assert found(hapi, patient=patient) == [first[1]]


def test_a_document_is_found_by_either_identifier_and_by_no_other(hapi: str) -> None:
    patient, identifier = str(uuid.uuid4()), str(uuid.uuid4())
    _, number = deliver(hapi, patient, identifier)
    assert found(hapi, identifier=f"{SYSTEM}|{identifier}") == [number]
    assert found(hapi, identifier=f"{SYSTEM}|master-{identifier}") == [number]
    assert found(hapi, identifier=f"{SYSTEM}|{uuid.uuid4()}") == []


def test_an_update_of_a_version_that_is_not_the_current_one_is_refused(hapi: str) -> None:
    patient, identifier = str(uuid.uuid4()), str(uuid.uuid4())
    _, number = deliver(hapi, patient, identifier)
    address = f"{hapi}/DocumentReference/{number}"
    read = requests.get(address, timeout=30)
    kind = {"Content-Type": "application/fhir+json", "If-Match": read.headers["ETag"]}
    assert requests.put(address, json={**read.json(), "description": "a"}, headers=kind, timeout=30).status_code == 200
    stale = requests.put(address, json={**read.json(), "description": "b"}, headers=kind, timeout=30)
    assert stale.status_code in (409, 412)
    assert requests.get(address, timeout=30).json()["description"] == "a"
