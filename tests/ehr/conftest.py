"""Simulated EHRs that several tests share, and documents to deliver to them."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.target import Target
from fhir_secondop.fhir import times
from fhir_secondop.model import Connection, Resource
from fhir_secondop.store.database import now_ms
from tests.conftest import free_port, wait_for

ROOT = Path(__file__).parent.parent.parent
RECORDS = ROOT / "examples/breast-treatment-plan/records"
NPI = "http://hl7.org/fhir/sid/us-npi"
PCP = f"{NPI}|9000000111"

Ehrs = Callable[..., str]
Documents = Callable[..., Deliverable]


@pytest.fixture(scope="session")
def ehrs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ehrs]:
    """ehrs("full", "no-transaction", load=[path]) → the FHIR base of an EHR process, one for all tests that ask alike.

    Tests stay apart by using patients or documents of their own.
    """
    folder = tmp_path_factory.mktemp("ehrs")
    bases: dict[tuple[str, ...], str] = {}
    processes: list[subprocess.Popen[bytes]] = []

    def base(shape: str, *quirks: str, load: tuple[Path, ...] = (RECORDS / "lakeside.json",)) -> str:
        key = (shape, *quirks, *map(str, load))
        if key not in bases:
            port = free_port()
            command = [sys.executable, "-m", "fhir_secondop.cli", "sandbox", "ehr", "--shape", shape,
                       "--port", str(port), "--database", str(folder / f"{port}.sqlite")]  # fmt: skip
            for path in load:
                command += ["--load", str(path)]
            for quirk in quirks:
                command += ["--quirk", quirk]
            with open(folder / f"{port}.log", "wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            wait_for(f"http://127.0.0.1:{port}/healthz", processes[-1])
            bases[key] = f"http://127.0.0.1:{port}/fhir"
        return bases[key]

    yield base
    for process in processes:
        process.kill()
        process.wait()


def client_of(base: str, **settings: Any) -> Client:
    """A client of that EHR."""
    settings.setdefault("rate_per_s", 0.0)
    settings.setdefault("settle_s", 0.0)
    return Client(Connection(settings.pop("name", "there"), base, **settings), now=now_ms)


def new_patient(base: str, **more: Any) -> str:
    """A patient that no other test knows, at an EHR that lets one be made: "Patient/id"."""
    patient = {"resourceType": "Patient", "birthDate": "1971-04-17", "active": True, **more}
    made = requests.post(f"{base}/Patient", json=patient, timeout=10)
    assert made.status_code == 201, made.text
    return f"Patient/{made.json()['id']}"


def target_at(base: str, patient: str = "", **settings: Any) -> Target:
    """A delivery's target there; a new patient unless one is named."""
    return Target(client_of(base, **settings), patient or new_patient(base))


def document(version: int = 1, *, case: str = "", report: bool = True) -> Deliverable:
    """Version `version` of a report (or of a plan, which is a document alone). The same `case` gives the same set id.

    It is full of references of ours that must not reach an EHR.
    """
    case = case or str(uuid.uuid4())
    set_id = f"urn:uuid:{uuid.uuid5(uuid.UUID(case), 'set')}"
    made = Deliverable(
        title=f"Second opinion, case {case}, version {version}",
        set_id=set_id,
        version_id=_version_id(case, version),
        version=version,
        previous_version_id=_version_id(case, version - 1) if version > 1 else "",
        issued=f"2026-11-2{version}T12:00:00.000Z",
        doc_status="final" if version == 1 else "amended",
        type={"coding": [{"system": "http://loinc.org", "code": "11488-4", "display": "Consult note"}]},
        author={"resourceType": "Practitioner", "identifier": [{"system": NPI, "value": "9000000190"}],
                "name": [{"family": "Standin", "given": ["Clara"]}]},
        pdf=f"%PDF-1.7 {case} version {version}".encode(),
        text=f"SECOND OPINION\n\nVersion:   {version} ({_version_id(case, version)})\n\n"
             + (f"It replaces version {version - 1}.\n" if version > 1 else "") + "Umlauts: äöü. Keep the breast.\n",
        placer=("https://riverside.example/orders", "RS-2026-0117"),
        clinicians=frozenset({PCP}),
        period={"start": "2026-11-20T09:00:00-05:00", "end": "2026-11-20T10:00:00-05:00"},
    )  # fmt: skip
    if not report:
        return made
    ours = {"subject": {"reference": "Patient/ours"}, "encounter": {"reference": "Encounter/ours"}}
    observation: Resource = {
        "resourceType": "Observation",
        "id": "ours-observation",
        "identifier": [
            {"system": "urn:ietf:rfc3986", "value": f"urn:uuid:{uuid.uuid5(uuid.UUID(case), 'observation')}"}
        ],
        "status": "final" if version == 1 else "amended",
        "code": {"text": "Treatment concordance"},
        "focus": [{"reference": "CarePlan/ours"}],
        "performer": [{"reference": "PractitionerRole/ours"}],
        "effectiveDateTime": made.issued,
        "valueCodeableConcept": {"text": f"agreed-modified, version {version}"},
        **ours,
    }
    return replace(
        made,
        report={
            "resourceType": "DiagnosticReport",
            "id": "ours-report",
            "identifier": [{"system": "urn:ietf:rfc3986", "value": set_id}],
            "status": "final" if version == 1 else "appended",
            "code": {"text": "Consultation 2nd opinion"},
            "basedOn": [{"reference": "ServiceRequest/ours"}],
            "performer": [{"reference": "PractitionerRole/ours"}],
            "result": [{"reference": "Observation/ours-observation"}],
            "issued": made.issued,
            "conclusion": f"Conclusion of version {version}.",
            **ours,
        },
        observations=(observation,),
    )


def _version_id(case: str, version: int) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.UUID(case), f'version {version}')}"


def held(base: str, resource_type: str, **criteria: str) -> list[Resource]:
    """What the EHR holds, asked over HTTP past our own client."""
    url, found = f"{base}/{resource_type}?{urlencode(criteria)}", []
    while url:
        answer = requests.get(url, timeout=10)
        assert answer.status_code == 200, answer.text
        bundle = answer.json()
        found += [entry["resource"] for entry in bundle.get("entry", [])]
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
    return found


def read(base: str, reference: str) -> Resource:
    """One resource there."""
    answer = requests.get(f"{base}/{reference}", timeout=10)
    assert answer.status_code == 200, answer.text
    found: Resource = answer.json()
    return found


def tamper(base: str, reference: str, **changes: Any) -> None:
    """Somebody over there changes a resource."""
    changed = {**read(base, reference), **changes}
    answer = requests.put(f"{base}/{reference}", data=json.dumps(changed),
                          headers={"Content-Type": "application/fhir+json"}, timeout=10)  # fmt: skip
    assert answer.status_code == 200, answer.text


def at(text: str) -> int:
    """Milliseconds of a FHIR instant."""
    return times.interval(text).low
