"""A FHIR client that we did not write (fhirpy) talks to our endpoint."""

from __future__ import annotations

import pytest

from tests.conftest import StartEhr

pytestmark = pytest.mark.shared


def test_fhirpy_creates_searches_pages_updates_and_reads_history(start_ehr: StartEhr) -> None:
    # Asked for inside the test: a skip at collection would show in the first suite, which skips nothing.
    fhirpy = pytest.importorskip("fhirpy", reason="pip install fhirpy")
    exceptions = pytest.importorskip("fhirpy.base.exceptions")
    base = start_ehr("full")
    client = fhirpy.SyncFHIRClient(base)
    made = []
    for number in range(7):
        patient = client.resource(
            "Patient",
            name=[{"family": "Zimmer", "given": [f"N{number}"]}],
            identifier=[{"system": "urn:mrn", "value": f"{number}"}],
        )
        patient.save()
        assert patient["meta"]["versionId"] == "1"
        made.append(patient.id)
    client.resource(
        "Patient", name=[{"family": "Anders"}]
    ).save()  # fhirpy's count() sends _totalMethod, which is no R4 parameter: refused
    found = client.resources("Patient").search(family="zimmer").limit(2).fetch_all()
    assert [patient.id for patient in found] == made
    one = client.resources("Patient").search(identifier="urn:mrn|3").get()
    assert one.id == made[3]
    one["gender"] = "female"
    one.save()
    again = client.reference("Patient", made[3]).to_resource()
    assert (again["gender"], again["meta"]["versionId"]) == ("female", "2")
    history = client.execute(f"Patient/{made[3]}/_history", method="get")
    assert [entry["request"]["method"] for entry in history["entry"]] == ["PUT", "POST"]
    observation = client.resource("Observation", status="final", code={"text": "x"}, subject=again.to_reference())
    observation.save()
    mine = client.resources("Observation").search(subject=again).fetch()
    assert [o.id for o in mine] == [observation.id]
    # get_or_create puts the criteria into the address, which is not R4: refused, not created a second time.
    twin = client.resource("Patient", identifier=[{"system": "urn:mrn", "value": "3"}])
    with pytest.raises(exceptions.OperationOutcome):
        client.resources("Patient").search(identifier="urn:mrn|3").get_or_create(twin)
    assert len(client.resources("Patient").search(identifier="urn:mrn|3").fetch()) == 1
    again.delete()
    with pytest.raises(exceptions.ResourceNotFound):
        client.reference("Patient", made[3]).to_resource()
