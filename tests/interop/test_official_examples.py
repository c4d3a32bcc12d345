"""HL7's own example resources over HTTP to a real endpoint: taken, and given back byte for byte."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from fhir_secondop import fhir
from tests.conftest import free_port, wait_for

pytestmark = pytest.mark.shared

# What the loop uses, and what comes with the records of a patient. All other types run too, in one test.
LOOP = (
    "AllergyIntolerance", "Appointment", "Binary", "Bundle", "CarePlan", "CareTeam", "Communication", "Composition",
    "Condition", "Consent", "Coverage", "Device", "DiagnosticReport", "DocumentReference", "Encounter",
    "FamilyMemberHistory", "Goal", "ImagingStudy", "Immunization", "List", "Location", "Media", "Medication",
    "MedicationAdministration", "MedicationDispense", "MedicationRequest", "MedicationStatement", "Observation",
    "Organization", "Parameters", "Patient", "Practitioner", "PractitionerRole", "Procedure", "Provenance",
    "QuestionnaireResponse", "RelatedPerson", "ServiceRequest", "Specimen", "Task",
)  # fmt: skip

JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("official"), free_port()
    command = [sys.executable, "-m", "fhir_secondop.cli", "sandbox", "ehr", "--shape", "full", "--port", str(port)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([*command, "--database", str(folder / "ehr.sqlite")], stdout=log, stderr=log)
    wait_for(f"http://127.0.0.1:{port}/healthz", process)
    yield f"http://127.0.0.1:{port}/fhir"
    process.kill()
    process.wait()


def examples(folder: Path) -> dict[Path, tuple[str, str]]:
    """path → (type, text) of every official example."""
    texts = {path: path.read_text("utf-8") for path in sorted((folder / "official-r4-examples-json").glob("*.json"))}
    return {path: (json.loads(text)["resourceType"], text) for path, text in texts.items()}


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def outside(text: str) -> list[str]:
    """The top-level members of a JSON object as sent, but for id and meta: each as "key:value" with its own bytes.

    Written without the product's codec: cuts at the commas of depth one.
    """
    members, depth, begin, at = [], 0, text.index("{") + 1, 0
    while at < len(text):
        character = text[at]
        if character == '"':
            found = _STRING.match(text, at)
            assert found
            at = found.end()
            continue
        depth += (character in "{[") - (character in "}]")
        if (character == "," and depth == 1) or (character == "}" and depth == 0):
            members.append(text[begin:at].strip())
            begin = at + 1
        at += 1
    return [member for member in members if not re.match(r'"(id|meta)"\s*:', member)]


def test_the_comparison_sees_every_byte() -> None:
    one = '{"resourceType":"Basic" , "id":"1", "a" : {"id": "2", "b":[1, 2.0]}, "meta":{"x":"},{"}, "c":"\\"}"}'
    assert outside(one) == ['"resourceType":"Basic"', '"a" : {"id": "2", "b":[1, 2.0]}', '"c":"\\"}"']
    assert outside(one) != outside(one.replace("2.0", "2.00"))
    assert outside(one) != outside(one.replace("[1, 2", "[1,2"))


def kept(base: str, kind: str, text: str) -> str:
    """What is wrong with posting and reading back a resource; "" when nothing is."""
    posted = requests.post(f"{base}/{kind}", data=text.encode(), headers=JSON, timeout=60)
    if posted.status_code != 201:
        return f"{posted.status_code} {posted.text[:500]}"
    address = posted.headers["Location"]
    read = requests.get(address, timeout=60)
    if read.content != posted.content:
        return "the answer to the create and the version read back differ"
    if outside(read.text) != outside(text):
        return "bytes differ"
    sent, stored = json.loads(text), read.json()
    if stored["id"] == sent.get("id"):
        return "the sender's id was taken"
    tags = {k: v for k, v in sent.get("meta", {}).items() if k not in ("versionId", "lastUpdated")}
    if {k: v for k, v in stored["meta"].items() if k not in ("versionId", "lastUpdated")} != tags:
        return "the sender's meta is not there"
    found = requests.get(f"{base}/{kind}?_id={stored['id']}", timeout=60)
    if read.text not in found.text:
        return "the search gives other bytes"
    return ""


def run(base: str, chosen: dict[Path, tuple[str, str]]) -> dict[str, str]:
    """What is wrong, by file."""
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda item: (item[0].name, kept(base, *item[1])), chosen.items())
        return {name: result for name, result in results if result}


@pytest.mark.parametrize("kind", LOOP)
def test_examples_of_a_type_are_given_back_byte_for_byte(base: str, shared_data: Path, kind: str) -> None:
    chosen = {p: e for p, e in examples(shared_data).items() if e[0] == kind and not is_invalid(e[1])}
    assert chosen, f"there is no example of {kind}"
    assert run(base, chosen) == {}


def is_invalid(text: str) -> bool:
    """Those that test_r4_tables.py names."""
    return any(issue.severity == "error" for issue in fhir.check(text))


def test_examples_of_every_other_type_too(base: str, shared_data: Path) -> None:
    chosen = {p: e for p, e in examples(shared_data).items() if e[0] not in LOOP and not is_invalid(e[1])}
    assert len(chosen) > 200
    assert run(base, chosen) == {}


def test_the_invalid_ones_are_refused_and_told_where(base: str, shared_data: Path) -> None:
    chosen = {p: e for p, e in examples(shared_data).items() if is_invalid(e[1])}
    assert len(chosen) == 90
    for path, (kind, text) in chosen.items():
        answer = requests.post(f"{base}/{kind}", data=text.encode(), headers=JSON, timeout=60)
        assert answer.status_code == 422, path.name
        assert all(issue["expression"] for issue in answer.json()["issue"]), path.name
