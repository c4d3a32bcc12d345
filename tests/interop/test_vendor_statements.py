"""doctor on what four vendors declared at /metadata in July–August 2026 (captured; each hospital differs)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fhir_secondop.ehr import doctor, vendors
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.model import Connection

pytestmark = pytest.mark.shared
# file → (vendor, rung, types that can't be searched by patient)
STATEMENTS = {
    "epic": ("epic", 5),
    "oracle-health": ("oracle-health", 3),
    "athenahealth": ("athenahealth", 10),
    "meditech": ("meditech", 10),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_each_captured_statement_has_its_write_plan(shared_data: Path, name: str) -> None:
    vendor, rung = STATEMENTS[name]
    statement = json.loads((shared_data / f"vendor-capability-statements/{name}.json").read_text("utf-8"))
    site = vendors.site(Connection("there", "https://there.example/fhir", vendor=vendor))
    said = doctor.declared(Capability(statement), site)
    assert said["fhirVersion"] == "4.0.1"
    assert said["writePlan"]["rung"] == rung, said["writePlan"]
    assert all(row["why"] for row in said["writePlan"]["notPossible"])
    asked = {row["type"] for row in said["read"] if row["asked"]}
    assert {"Condition", "AllergyIntolerance", "MedicationRequest", "Observation", "DiagnosticReport",
            "DocumentReference", "Procedure", "Encounter", "Immunization"} <= asked  # fmt: skip


def test_no_statement_declares_a_conditional_create_or_a_transaction(shared_data: Path) -> None:
    for name in STATEMENTS:
        statement = json.loads((shared_data / f"vendor-capability-statements/{name}.json").read_text("utf-8"))
        capability = Capability(statement)
        assert not capability.system("transaction"), name
        assert not any(capability.conditional_create(kind) for kind in capability.types), name
