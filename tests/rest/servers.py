"""Server processes on one database, each with its own port; killed and started again as a test says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.conftest import free_port, wait_for

JSON = {"Content-Type": "application/fhir+json"}


class Servers:
    """The full simulated EHR, `many` processes of it."""

    def __init__(self, folder: Path, database_url: str, many: int) -> None:
        self._folder, self._database_url = folder, database_url
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.ports = [free_port() for _ in range(many)]
        for port in self.ports:
            self._start(port)
        for port in self.ports:
            self._wait(port)

    @property
    def bases(self) -> list[str]:
        return [f"http://127.0.0.1:{port}/fhir" for port in self.ports]

    def _start(self, port: int) -> None:
        command = [sys.executable, "-m", "fhir_secondop.cli", "sandbox", "ehr", "--shape", "full", "--port", str(port)]
        with open(self._folder / f"server-{port}.log", "ab") as log:
            self._running[port] = subprocess.Popen([*command, "--database", self._database_url], stdout=log, stderr=log)

    def _wait(self, port: int) -> None:
        wait_for(f"http://127.0.0.1:{port}/healthz", self._running[port])

    def kill(self, number: int) -> None:
        """SIGKILL, whatever it is doing; then it is started again on the same port."""
        port = self.ports[number]
        self._end(port)
        self._start(port)
        self._wait(port)

    def _end(self, port: int) -> None:
        self._running[port].kill()
        self._running[port].wait()

    def close(self) -> None:
        for port in self.ports:
            self._end(port)


@contextmanager
def serving(folder: Path, database_url: str, many: int) -> Iterator[Servers]:
    servers = Servers(folder, database_url, many)
    try:
        yield servers
    finally:
        servers.close()


def found(base: str, asked: str) -> list[dict[str, object]]:
    """The resources that a search finds, on its one page."""
    answer = requests.get(f"{base}/{asked}", timeout=30)
    assert answer.status_code == 200, answer.text
    return [entry["resource"] for entry in answer.json().get("entry", [])]
