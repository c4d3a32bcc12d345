"""Starts HAPI FHIR's JPA server (Java, from its published artifacts; see hapi/README.md) on loopback."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.conftest import free_port, wait_for

PROJECT = Path(__file__).parent / "hapi"
JARS = "target/classpath"
MAIN = "secondop.interop.HapiServer"
# It starts once and serves little: the quick compiler and the small collector halve its memory.
JVM = ("-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


@contextmanager
def maven() -> Iterator[None]:
    """Maven writes into the project and into the folder of all jars: one process of a test run at a time."""
    with open(Path(tempfile.gettempdir()) / "secondop-maven.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def classpath(project: Path) -> str:
    """What java needs to run it; built when it was never, or from older sources, or from jars now gone."""
    with maven():
        if not built(project):
            command = ["mvn", "-q", "-B", "compile"]
            done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=900)
            assert done.returncode == 0, f"{' '.join(command)} in {project}:\n{(done.stdout + done.stderr)[-4000:]}"
    return f"{project / 'target/classes'}{os.pathsep}{(project / JARS).read_text()}"


def built(project: Path) -> bool:
    jars = project / JARS
    if not jars.exists():
        return False
    sources = [project / "pom.xml", *(p for p in (project / "src").rglob("*") if p.is_file())]
    if max(p.stat().st_mtime for p in sources) > jars.stat().st_mtime:
        return False
    return all(Path(jar).exists() for jar in jars.read_text().split(os.pathsep))


@contextmanager
def hapi_server(folder: Path) -> Iterator[str]:
    """The FHIR base of an empty HAPI server, with its log in that folder; skips where Java or Maven is missing."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; HAPI needs Java 17 and Maven")
    port = free_port()
    base = f"http://127.0.0.1:{port}/fhir"
    command = ["java", *JVM, "-cp", classpath(PROJECT), MAIN, str(port)]
    with open(folder / "hapi.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        # Not /metadata: its first answer takes longer than wait_for has patience with one request.
        wait_for(f"{base}/Patient?_summary=count", process, timeout_s=180)
        requests.get(f"{base}/metadata", timeout=60).raise_for_status()
        yield base
    finally:
        process.terminate()
        process.wait()
