"""FHIR clients from npm against the running service, signed in with a token: fhir-kit-client, SMART's, Medplum's.

One script of ours for each (npm/clients) drives it through what it has methods for and prints what it got. Medplum's
shows no HTTP status of a refusal, and none of the service's words at 401; SMART's has the whole OperationOutcome in the
text of its error. None has a method for a conditional delete, and SMART's none for a conditional update. Medplum's
takes of the link to the next page its parameters alone, and asks its own address with them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.our_service import signed_in

pytestmark = pytest.mark.shared
PROJECT = Path(__file__).parent / "npm" / "clients"
PAGES = [["N0", "N1", "N2"], ["N3", "N4", "N5"], ["N6"]]
DONE = {
    "updated": ["2", "1970-01-02"],
    "patched": ["3", "other"],
    "vread": "male",
    "batch": ["201", "201", "404"],
    "transaction": ["201", "201"],
    "nothingStays": [],
    "pages": PAGES,
    "include": ["Observation", "Patient"],
    "everything": ["Observation", "Patient"],
    "validate": ["error", ["Patient.gender"]],
}
"""What every one of them is to show."""
GENDERS = "http://hl7.org/fhir/ValueSet/administrative-gender"
REFUSED = {
    "absent": (404, "not-found", "There is no Patient/absent."),
    "gone": (410, "deleted", "Patient/… was deleted; its versions are in _history."),
    "stale": (412, "conflict", "Patient/… is at version 3, not 1; read it again."),
    "invalid": (422, "code-invalid", f"must be a code of the value set {GENDERS}"),
    "unknown": (422, "not-supported", "'shoe' is no search parameter of Patient; see /fhir/metadata."),
}
NOBODY = {"status": 401, "code": "login", "says": "This token is not known here."}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our scripts and the clients; the lock leaves out what one has for React Native: 500 packages."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; these clients need Node 20")
    folder = shutil.copytree(PROJECT, tmp_path_factory.mktemp("clients") / "clients")
    quietly = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    command = ["npm", "ci", *quietly, "--omit=optional", "--legacy-peer-deps"]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with signed_in(tmp_path_factory.mktemp("service")) as found:
        yield found


def run(scripts: Path, service: tuple[str, str], client: str) -> dict[str, Any]:
    """What that client showed; without the ids, which are new each time."""
    done = subprocess.run(["node", f"{client}.js", *service], cwd=scripts, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", done.stdout)))


def refusals(*, version: str = "3", status: bool = True, **others: Any) -> dict[str, Any]:
    """What a client shows of each refusal."""
    shown: dict[str, Any] = {}
    for name, (number, code, says) in REFUSED.items():
        shown[name] = {"code": code, "says": says.replace("version 3", f"version {version}")}
        if status:
            shown[name]["status"] = number
    return {**shown, **others}


def test_fhir_kit_client(scripts: Path, service: tuple[str, str]) -> None:
    assert run(scripts, service, "fhir-kit-client") == {
        **DONE,
        "capability": ["CapabilityStatement", "4.0.1"],
        "created": [201, "1"],
        "location": True,
        "read": ["Kit", 'W/"1"'],
        "history": ["PATCH", "PUT", "POST"],
        "typeHistory": ["3", "2", "1"],
        "systemHistory": "history",
        "conditionalCreate": [200, True],
        "conditionalUpdate": [200, True, "4"],
        "undone": refusals()["absent"],
        "several": 1,
        "posted": 1,
        "compartment": ["Observation"],
        "resolved": True,
        "deleted": 204,
        "refused": refusals(version="4", nobody=NOBODY),
    }


def test_fhirclient_of_smart(scripts: Path, service: tuple[str, str]) -> None:
    assert run(scripts, service, "fhirclient") == {
        **DONE,
        "version": ["4.0.1", 4],
        "created": "1",
        "read": ["Smart", 'W/"1"'],
        "patient": True,
        "history": ["PATCH", "PUT", "POST"],
        "conditionalCreate": [200, True],
        "undone": refusals()["absent"],
        "flat": [given for page in PAGES for given in page],
        "iterated": [given for page in PAGES for given in page],
        "several": 1,
        "mine": [[72.5, "Smart"]],
        "kg": 72.5,
        "deleted": 204,
        "refused": refusals(nobody=NOBODY),
    }


def test_medplum_core(scripts: Path, service: tuple[str, str]) -> None:
    assert run(scripts, service, "medplum") == {
        **DONE,
        "capability": ["CapabilityStatement", "4.0.1"],
        "created": "1",
        "read": "Plum",
        "history": ["3", "2", "1"],
        "createdIfNoneExist": True,
        "createdAsNoneExists": True,
        "upserted": [True, "4"],
        "inserted": "1",
        "undone": refusals(status=False)["absent"],
        "several": 3,
        "reference": True,
        "refused": refusals(version="4", status=False, nobody={"code": "login", "says": "Unauthorized"}),
    }
