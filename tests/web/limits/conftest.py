"""The service as the process that an operator starts, and raw sockets to speak to it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port, wait_for

NAME = "Wolkenstein"  # planted in what is sent, never to be repeated by a refusal
TOKENS = """
[callers.desk]
name = "Desk"
token = "desk"
roles = ["coordinator", "requester"]
scopes = ["system/*.crus"]

[callers.other]
name = "Other desk"
token = "other"
roles = ["coordinator", "requester"]
scopes = ["system/*.crus"]

[callers.keeper]
name = "Who may delete, too"
token = "keeper"
roles = ["coordinator", "requester"]
scopes = ["system/*.cruds"]
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A running service."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def issue(self) -> dict[str, Any]:
        outcome = json.loads(self.body)
        assert outcome["resourceType"] == "OperationOutcome"
        found: dict[str, Any] = outcome["issue"][0]
        return found


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Served]:
    """The service with these settings of its file."""
    port = free_port()
    (folder / "tokens.toml").write_text(TOKENS)
    (folder / "tokens.toml").chmod(0o600)
    settings.setdefault("auth", "tokens")
    lines = [f"port = {port}", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    (folder / "secondop.toml").write_text("\n".join(lines))
    log = folder / "service.log"
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--config", str(folder / "secondop.toml")]
    with open(log, "wb") as handle:
        process = subprocess.Popen(command, stdout=handle, stderr=handle, cwd=folder)
    served = Served(port, process, log)
    try:
        wait_for(f"{served.url}/healthz", process)
        yield served
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service for a module, with nothing limited by rate."""
    with serving(tmp_path_factory.mktemp("service"), requests_per_s=0, max_entries=20) as running:
        yield running


@dataclass(slots=True)
class Wire:
    """One connection, byte for byte."""

    sock: socket.socket
    held: bytearray = field(default_factory=bytearray)

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def answer(self, *, head: bool = False) -> Said:
        """The next answer. Status 0 when the connection was closed instead."""
        while b"\r\n\r\n" not in self.held:
            if not self._more():
                return Said(0, {}, b"")
        top, _, rest = bytes(self.held).partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = 0 if head else int(headers.get("content-length", 0))
        self.held[:] = rest
        while len(self.held) < length and self._more():
            pass
        body = bytes(self.held[:length])
        del self.held[:length]
        return Said(int(first.split()[1]), headers, body)

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            return False
        self.held += data
        return bool(data)


Dial = Callable[..., Wire]


@pytest.fixture
def dial(served: Served) -> Iterator[Dial]:
    """Opens connections to the module's service, or to another port."""
    opened: list[socket.socket] = []

    def open_one(port: int = 0) -> Wire:
        sock = socket.create_connection(("127.0.0.1", port or served.port), timeout=30)
        opened.append(sock)
        return Wire(sock)

    yield open_one
    for sock in opened:
        sock.close()
