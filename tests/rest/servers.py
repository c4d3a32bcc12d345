"""Server processes on one database, each with its own port; killed and started again as a test says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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
        command = [sys.executable, "-m", "fhir_secondop.cli", *self._command(port)]
        with open(self._folder / f"server-{port}.log", "ab") as log:
            self._running[port] = subprocess.Popen(command, stdout=log, stderr=log)

    def _command(self, port: int) -> list[str]:
        return ["sandbox", "ehr", "--shape", "full", "--port", str(port), "--database", self._database_url]

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


class Service(Servers):
    """The service itself: several processes below one keeper, on one port; those are what is killed."""

    def __init__(self, folder: Path, database_url: str, many: int) -> None:
        self._many = many
        settings = {"auth": "none", "database": database_url, "requests_per_s": 0.0}
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        (folder / "secondop.toml").write_text("\n".join(lines))
        super().__init__(folder, database_url, 1)

    def _command(self, port: int) -> list[str]:
        config = str(self._folder / "secondop.toml")
        return ["serve", "--config", config, "--port", str(port), "--processes", str(self._many)]

    def _wait(self, port: int) -> None:
        super()._wait(port)
        self._until(self._many)

    def _until(self, many: int) -> list[int]:
        ends = time.monotonic() + 60
        while len(pids := self.pids()) < many:
            assert time.monotonic() < ends
            time.sleep(0.02)
        return pids

    def pids(self) -> list[int]:
        """The processes that answer."""
        keeper = self._running[self.ports[0]].pid
        return [int(pid) for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()]

    def kill(self, number: int) -> None:
        """SIGKILL to one of them; the keeper makes it anew."""
        pids = self._until(1)
        os.kill(pids[number % len(pids)], signal.SIGKILL)

    def _end(self, port: int) -> None:
        self._running[port].terminate()
        self._running[port].wait()


@contextmanager
def serving(folder: Path, database_url: str, many: int, kind: type[Servers] = Servers) -> Iterator[Servers]:
    servers = kind(folder, database_url, many)
    try:
        yield servers
    finally:
        servers.close()


def found(base: str, asked: str) -> list[dict[str, object]]:
    """The resources that a search finds, on its one page."""
    answer = requests.get(f"{base}/{asked}", timeout=30)
    assert answer.status_code == 200, answer.text
    return [entry["resource"] for entry in answer.json().get("entry", [])]
