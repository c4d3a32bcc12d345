"""HAPI's generic client (Java) against the running service, in JSON and in XML: writes, reads, searches, pages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, wait_for
from tests.interop.hapi_server import JVM, PROJECT, classpath

pytestmark = pytest.mark.shared
GOT = """version: 4.0.1
read: N2 1
updated: 2
history: 2
conditional: 3
chained: 3 mmmiii
decimal: 72.50
sorted: N4 N3 | N2 N1
backwards: mi
has: N3 N4
transaction: 201 Created 201 Created
invalid: 422 Observation.status
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("service")
    base = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--auth", "none", "--port", str(port)]
    with open(folder / "service.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(f"{base}/healthz", process)
        yield f"{base}/fhir"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("encoding", ["JSON", "XML"])
def test_hapis_client_gets_what_it_asks_for(service: str, encoding: str) -> None:
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; HAPI needs Java 17 and Maven")
    command = ["java", *JVM, "-cp", classpath(PROJECT), "secondop.interop.HapiClient", service, encoding]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == GOT
