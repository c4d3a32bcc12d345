"""Which types may be written by plain FHIR writes is a setting; every type can be read, searched and validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import definitions
from fhir_secondop.service import writable
from fhir_secondop.web.app import create

FHIR = {"Content-Type": "application/fhir+json"}
SLOT = {"resourceType": "Schedule", "actor": [{"display": "Room"}]}
PATIENT = {"resourceType": "Patient", "active": True}
WRITES = {"create", "update", "patch", "delete"}


def service(folder: Path, template: Path, **settings: Any) -> Any:
    database = folder / "service.sqlite"
    database.write_bytes(template.read_bytes())
    made = Settings(database=str(database), auth="none", link_secret_file=str(folder / "link"), **settings)
    return create(bootstrap.assembled(made)).test_client()


def test_by_default_a_case_and_its_record_are_written_and_every_type_is_read(
    tmp_path: Path, sqlite_template: Path
) -> None:
    client = service(tmp_path, sqlite_template)
    assert client.post("/fhir/Patient", json=PATIENT, headers=FHIR).status_code == 201
    for path, method, body in [
        ("/fhir/Schedule", "POST", SLOT),
        ("/fhir/Schedule/a", "PUT", {**SLOT, "id": "a"}),
        ("/fhir/", "POST", {"resourceType": "Bundle", "type": "transaction", "entry": [
            {"resource": PATIENT, "request": {"method": "POST", "url": "Patient"}},
            {"resource": SLOT, "request": {"method": "POST", "url": "Schedule"}}]}),
    ]:  # fmt: skip
        refused = client.open(path, method=method, json=body, headers=FHIR)
        assert refused.status_code == 400, refused.text
        [issue] = refused.get_json()["issue"]
        assert issue["code"] == "not-supported"
        assert "writable_types" in issue["diagnostics"]
    assert client.get("/fhir/Patient?_total=accurate").get_json()["total"] == 1  # the transaction's was not stored
    assert client.get("/fhir/Schedule").status_code == 200
    assert client.get("/fhir/Schedule/_history").status_code == 200
    assert client.get("/fhir/Schedule/a").status_code == 404
    validated = client.post("/fhir/Schedule/$validate", json=SLOT, headers=FHIR)
    assert validated.status_code == 200
    stated = {row["type"]: row for row in client.get("/fhir/metadata").get_json()["rest"][0]["resource"]}
    assert stated.keys() == set(definitions.resource_types())
    for kind, row in stated.items():
        codes = {interaction["code"] for interaction in row["interaction"]}
        assert {"read", "vread", "search-type", "history-type"} <= codes
        assert bool(codes & WRITES) == (kind in writable.CASE)
        assert row["conditionalCreate"] == (kind in writable.CASE)


def test_another_type_is_written_where_the_setting_names_it(tmp_path: Path, sqlite_template: Path) -> None:
    client = service(tmp_path, sqlite_template, writable_types="case, Schedule")
    assert client.post("/fhir/Schedule", json=SLOT, headers=FHIR).status_code == 201
    assert client.post("/fhir/Patient", json=PATIENT, headers=FHIR).status_code == 201


@pytest.mark.parametrize(("setting", "found"), [
    ("case", writable.CASE), ("", frozenset()),
    ("all", frozenset(definitions.resource_types()) - {"AuditEvent", "Subscription"}),
    ("all,AuditEvent,Subscription", frozenset(definitions.resource_types())),
    ("Patient,Slot", frozenset({"Patient", "Slot"})), ("case,Slot", writable.CASE | {"Slot"}),
])  # fmt: skip
def test_the_setting_names_types(setting: str, found: frozenset[str]) -> None:
    assert writable.types(setting) == found


@pytest.mark.parametrize("setting", ["Patients", "case;Slot", "All"])
def test_a_setting_that_names_no_type_is_refused_by_name(setting: str) -> None:
    with pytest.raises(Invalid, match="writable_types"):
        writable.types(setting)


def test_what_a_case_is_made_of_is_of_r4_and_no_audit() -> None:
    assert set(definitions.resource_types()) > writable.CASE
    assert "AuditEvent" not in writable.CASE
