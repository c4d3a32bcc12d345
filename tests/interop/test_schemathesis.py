"""schemathesis (PyPI) against our OpenAPI documents and a running service: whatever it makes up, nothing breaks.

The long form, with `requests_per_s = 0` in secondop.toml and TOKEN from tokens.toml:

    schemathesis run URL/api/openapi.json (and URL/fhir/openapi.json) -H "Authorization: Bearer TOKEN" --max-time 1800 \
        -c not_a_server_error,content_type_conformance,status_code_conformance
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.web.limits.conftest import Served, serving

pytestmark = pytest.mark.shared

REQUEST = Path(__file__).parent.parent.parent / "examples/breast-treatment-plan/request.json"
CHECKS = "not_a_server_error,content_type_conformance,status_code_conformance"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("service"), requests_per_s=0) as running:
        yield running


def case_of(service: Served) -> str:
    """A case of the service, as the demo has one."""
    answer = requests.post(f"{service.url}/api/second-opinions", json=json.loads(REQUEST.read_text("utf-8")),
                           headers={"Authorization": "Bearer desk"}, timeout=60)  # fmt: skip
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize(("document", "of_a_case", "seconds"), [
    ("api", True, 30), ("api", False, 15), ("fhir", True, 15),
])  # fmt: skip
def test_nothing_that_schemathesis_makes_up_breaks_the_service(
    service: Served, tmp_path: Path, document: str, of_a_case: bool, seconds: int
) -> None:
    """With the id of a case, so that operations get to work, and with ids of its own."""
    (tmp_path / "schemathesis.toml").write_text(
        f'[parameters]\n"path.id" = "{case_of(service)}"\n' if of_a_case else ""
    )
    # A busy machine gets to fewer calls in these seconds, and then has more of them.
    for given in (seconds, 4 * seconds, 16 * seconds):
        found, said = made_up(service, tmp_path, document, given)
        assert (found["failures"], found["errors"]) == ([], []), said[-6000:]
        calls, operations = found["test_cases"]["generated"], found["operations"]
        print(f"\n{calls} calls of {operations['tested']} operations, seed {found['seed']}")
        if calls > 200 and operations["tested"] == operations["total"]:
            break
    assert operations["tested"] == operations["total"] > 20
    assert calls > 200
    assert service.process.poll() is None
    assert " ERROR " not in service.log.read_text("utf-8")


def made_up(service: Served, folder: Path, document: str, seconds: int) -> tuple[dict[str, Any], str]:
    """What a run of so many seconds reports, and what it printed."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"), "run",
               f"{service.url}/{document}/openapi.json", "--header", "Authorization: Bearer desk", "--checks", CHECKS,
               "--max-time", str(seconds), "--request-timeout", "20", "--continue-on-failure", "--no-shrink",
               "--warnings", "off", "--report", "json", "--report-json-path", str(report)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, cwd=folder)
    assert report.exists(), done.stdout[-3000:] + done.stderr[-2000:]
    return json.loads(report.read_text("utf-8")), done.stdout
