"""HAPI's generic client (Java) against the running service, in JSON and in XML: writes, reads, searches, pages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.interop.hapi_server import JVM, PROJECT, classpath
from tests.interop.our_service import serving

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
    with serving(tmp_path_factory.mktemp("service")) as base:
        yield base


@pytest.mark.parametrize("encoding", ["JSON", "XML"])
def test_hapis_client_gets_what_it_asks_for(service: str, encoding: str) -> None:
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; HAPI needs Java 17 and Maven")
    command = ["java", *JVM, "-cp", classpath(PROJECT), "secondop.interop.HapiClient", service, encoding]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == GOT
