"""FHIR clients from PyPI against the running service, signed in.

They are SMART's fhirclient, FHIR-PYrate, SMART Fetch and fhirpy (of which test_clients.py has more). SMART's has no
vread, history, patch, conditional write or update with a version, and makes nothing of an OperationOutcome: its
exceptions keep the response. SMART Fetch signs in by SMART Backend Services, the others come with a token; it takes the
patients of a crawl from a bulk export, which we have not, unless it is told which ones. What fhirpy sends as a patch is
part of a resource, which R4 does not know: it has JSON Patch, XML Patch and FHIRPath Patch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc.jwk import ECKey

from tests.interop.our_service import serving, signed_in

pytestmark = pytest.mark.shared
GIVEN = [f"N{number}" for number in range(7)]
Plain = dict[str, Any]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with signed_in(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture
def session(service: tuple[str, str]) -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.headers["Authorization"] = f"Bearer {service[1]}"
        yield opened


def patient(family: str, number: int = 0) -> Plain:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:example:mrn", "value": f"{family}-{number}"}],
        "name": [{"family": family, "given": [f"N{number}"]}],
        "gender": "female" if number % 2 else "male",
    }


def weight(subject: str, kilograms: float) -> Plain:
    category = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [{"coding": [category]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
        "subject": {"reference": subject},
        "valueQuantity": {"value": kilograms, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
    }


def bundle(kind: str, family: str, *requests_: str) -> Plain:
    entries: list[Plain] = [
        {"request": {"method": "POST", "url": "Patient"}, "resource": patient(family, number)} for number in (1, 2)
    ]
    entries += [{"request": {"method": "GET", "url": url}} for url in requests_]
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


def loaded(base: str, session: requests.Session, family: str) -> list[str]:
    """The ids of seven patients of that name, each with two weights."""
    ids = []
    for number in range(7):
        ids.append(session.post(f"{base}/Patient", json=patient(family, number), timeout=20).json()["id"])
        for kilograms in (70 + number, 71 + number):
            made = session.post(f"{base}/Observation", json=weight(f"Patient/{ids[-1]}", kilograms), timeout=20)
            assert made.status_code == 201
    return ids


def says(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["issue"][0]["diagnostics"]


def test_fhirclient_of_smart(service: tuple[str, str], session: requests.Session) -> None:
    # Asked for inside the test, as below: a skip at collection would show in the first suite, which skips nothing.
    client = pytest.importorskip("fhirclient.client", reason="pip install fhirclient")
    from fhirclient import server
    from fhirclient.models.bundle import Bundle
    from fhirclient.models.observation import Observation
    from fhirclient.models.patient import Patient

    base, _ = service
    smart = client.FHIRClient({"app_id": "test", "api_base": base})
    smart.server.session = session  # it takes a token from a sign-in of its own alone
    assert smart.server.capabilityStatement.fhirVersion == "4.0.1"

    made = Patient(Patient(patient("Smart")).create(smart.server))
    assert (made.name[0].family, made.meta.versionId) == ("Smart", "1")
    read = Patient.read(made.id, smart.server)
    read.gender = "other"
    assert read.update()["meta"]["versionId"] == "2"
    for number in range(1, 7):
        Patient(patient("Smart", number)).create(smart.server)
    search = Patient.where({"family": "Smart", "_count": "3", "_sort": "given"})
    assert [one.name[0].given[0] for one in search.perform_resources_iter(smart.server)] == GIVEN
    assert [len(page.entry) for page in search.perform_iter(smart.server)] == [3, 3, 1]
    several = Patient.where({"family": "Smart", "gender": {"$or": ["female", "other"]}, "given:exact": "N0"})
    assert [one.id for one in several.perform_resources_iter(smart.server)] == [made.id]

    made_weight = Observation(Observation(weight(f"Patient/{made.id}", 72.5)).create(smart.server))
    found = Observation.where({"_id": made_weight.id}).include("subject").perform_resources_iter(smart.server)
    assert [type(one) for one in found] == [Observation, Patient]
    backwards = Patient.where({"_id": made.id}).include("subject", Observation, reverse=True)
    assert [type(one) for one in backwards.perform_resources_iter(smart.server)] == [Patient, Observation]
    everything = Bundle.read_from(f"Patient/{made.id}/$everything", smart.server)
    assert [type(entry.resource) for entry in everything.entry] == [Patient, Observation]

    batch = Bundle(bundle("batch", "Batch", "Patient/absent")).create(smart.server)
    assert [entry["response"]["status"][:3] for entry in batch["entry"]] == ["201", "201", "404"]
    transaction = Bundle(bundle("transaction", "Transaction")).create(smart.server)
    assert [entry["response"]["status"][:3] for entry in transaction["entry"]] == ["201", "201"]
    with pytest.raises(server.FHIRNotFoundException):
        Bundle(bundle("transaction", "Undone", "Patient/absent")).create(smart.server)
    assert list(Patient.where({"family": "Undone"}).perform_resources_iter(smart.server)) == []

    spare = Patient.read(Patient(patient("Spare")).create(smart.server)["id"], smart.server)
    spare.delete()
    with pytest.raises(requests.HTTPError) as gone:
        Patient.read(spare.id, smart.server)
    said = f"Patient/{spare.id} was deleted; its versions are in _history."
    assert says(gone.value.response) == (410, said)
    with pytest.raises(server.FHIRNotFoundException) as absent:
        Patient.read("absent", smart.server)
    assert says(absent.value.response) == (404, "There is no Patient/absent.")
    made.gender = "x"
    with pytest.raises(requests.HTTPError) as invalid:
        made.update(smart.server)
    assert invalid.value.response.status_code == 422
    session.headers["Authorization"] = "Bearer of-nobody"
    with pytest.raises(server.FHIRUnauthorizedException) as nobody:
        Patient.read(made.id, smart.server)
    assert says(nobody.value.response) == (401, "This token is not known here.")


def test_fhir_pyrate_makes_tables_of_all_pages(service: tuple[str, str], session: requests.Session) -> None:
    pirate = pytest.importorskip("fhir_pyrate", reason="pip install fhir-pyrate").Pirate
    base, _ = service
    ids = loaded(base, session, "Pyrate")
    search = pirate(base_url=base, auth=session, num_processes=1)
    asked = {"family": "Pyrate", "_count": 3, "_sort": "given"}
    paths = ["id", ("given", "name[0].given[0]"), ("mrn", "identifier.value")]
    patients = search.steal_bundles_to_dataframe("Patient", asked, fhir_paths=paths)
    assert patients["id"].tolist() == ids
    assert patients["mrn"].tolist() == [f"Pyrate-{number}" for number in range(7)]
    # A request for each row, each answered in two pages.
    weights = search.trade_rows_for_dataframe(
        patients,
        "Observation",
        df_constraints={"subject": "id"},
        request_params={"_count": 1, "_sort": "value-quantity"},
        fhir_paths=[("subject", "subject.reference"), ("kg", "valueQuantity.value")],
    )
    seen = sorted(zip(weights["subject"], weights["kg"], strict=True))
    assert seen == sorted((f"Patient/{one}", 70 + n + more) for n, one in enumerate(ids) for more in (0, 1))
    # The same search in pieces of time, which between them have each resource once.
    pieces = search.sail_through_search_space_to_dataframe(
        "Patient",
        time_attribute_name="_lastUpdated",
        date_init="2020-01-01",
        date_end="2100-01-01",
        request_params={"family": "Pyrate", "_count": 2},
        fhir_paths=["id"],
    )
    assert sorted(pieces["id"]) == sorted(ids)


def test_smart_fetch_signs_in_with_its_key_and_crawls(tmp_path: Path) -> None:
    pytest.importorskip("smart_fetch", reason="pip install smart-fetch")
    folder = tmp_path / "service"
    with signed_in(folder) as (base, token), requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        ids = loaded(base, session, "Crawled")
    for name in ("registered", "stranger"):
        key = ECKey.generate_key("P-384", {"kid": "1", "alg": "ES384", "use": "sig"})
        signing = {**key.as_dict(private=True), "key_ops": ["sign"]}
        (tmp_path / f"{name}.jwks").write_text(json.dumps({"keys": [signing]}))
        (folder / f"{name}.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    (folder / "clients.toml").write_text(
        '[clients.fetcher]\nname = "Fetcher"\nroles = ["coordinator"]\njwks_file = "registered.json"\n'
        'scopes = ["system/Patient.rs", "system/Observation.rs", "system/Condition.rs"]\n'
    )

    def crawl(base: str, key: str) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).parent / "smart-fetch", "crawl", "--fhir-url", base, "--no-compression"]
        command += ["--smart-client-id", "fetcher", "--smart-key", tmp_path / f"{key}.jwks"]
        command += ["--type", "Patient,Observation,Condition", "--id-system", "urn:example:mrn"]
        command += ["--id-list", ",".join(f"Crawled-{number}" for number in range(7)), tmp_path / key]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    with serving(folder, "requests_per_s = 0.0", auth="smart") as base:
        done, refused = crawl(base, "registered"), crawl(base, "stranger")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {file.stem: file.read_text("utf-8").splitlines() for file in (tmp_path / "registered").glob("*.ndjson")}
    assert sorted(json.loads(line)["id"] for line in lines["Patient"]) == sorted(ids)
    subjects = Counter(json.loads(line)["subject"]["reference"] for line in lines["Observation"])
    assert subjects == {f"Patient/{one}": 2 for one in ids}
    assert "Condition" not in lines
    assert refused.returncode != 0
    assert "Could not authenticate" in refused.stdout + refused.stderr


def test_fhirpy(service: tuple[str, str]) -> None:
    fhirpy = pytest.importorskip("fhirpy", reason="pip install fhirpy")
    exceptions = pytest.importorskip("fhirpy.base.exceptions")
    base, token = service
    client = fhirpy.SyncFHIRClient(base, authorization=f"Bearer {token}")

    def make(resourceType: str, **elements: Any) -> Any:
        return client.resource(resourceType, **elements)

    def created(plain: Plain) -> Any:
        one = make(**plain)
        one.save()
        return one

    assert client.execute("metadata", method="get")["fhirVersion"] == "4.0.1"
    made = created(patient("Py"))
    mine = client.resources("Patient").search(identifier="urn:example:mrn|Py-0")
    changed, is_new = mine.update(make(**{**patient("Py"), "gender": "other"}))
    assert (is_new, changed.id, changed["meta"]["versionId"]) == (False, made.id, "2")
    assert client.execute(f"Patient/{made.id}/_history/1", method="get")["gender"] == "male"
    with pytest.raises(exceptions.OperationOutcome, match="a PATCH takes application/json-patch"):
        client.patch("Patient", made.id, gender="female")

    observation = created(weight(f"Patient/{made.id}", 81.25))
    found = client.resources("Observation").search(_id=observation.id).include("Observation", "subject").fetch_raw()
    assert [entry["resource"].resource_type for entry in found["entry"]] == ["Observation", "Patient"]
    backwards = mine.revinclude("Observation", "subject").fetch_raw()
    assert [entry["resource"].resource_type for entry in backwards["entry"]] == ["Patient", "Observation"]
    having = client.resources("Patient").has("Observation", "subject", value_quantity="81.25")
    assert [one.id for one in having.fetch_all()] == [made.id]
    everything = client.resource("Patient", id=made.id).execute("$everything", method="get")
    assert [entry["resource"]["resourceType"] for entry in everything["entry"]] == ["Patient", "Observation"]
    assert make(**patient("Py")).is_valid()
    assert not client.resource("Patient", gender="x").is_valid()

    batch = client.execute("", data=bundle("batch", "Batch", "Patient/absent"))
    assert [entry["response"]["status"][:3] for entry in batch["entry"]] == ["201", "201", "404"]
    transaction = client.execute("", data=bundle("transaction", "Transaction"))
    assert [entry["response"]["status"][:3] for entry in transaction["entry"]] == ["201", "201"]
    with pytest.raises(exceptions.ResourceNotFound):
        client.execute("", data=bundle("transaction", "Undone", "Patient/absent"))
    assert client.resources("Patient").search(family="Undone").fetch_all() == []

    created(patient("Spare"))
    assert client.resources("Patient").search(family="Spare").delete()[1] == 204
    assert client.resources("Patient").search(family="Spare").fetch_all() == []
    with pytest.raises(exceptions.OperationOutcome, match="administrative-gender"):
        created({"resourceType": "Patient", "gender": "x"})
    with pytest.raises(exceptions.AuthorizationError, match="This token is not known here"):
        fhirpy.SyncFHIRClient(base, authorization="Bearer of-nobody").get("Patient", made.id)
