"""Several server processes on one port: they share the work, one that is killed is made anew, and all end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import free_port, wait_for

STARTS_S = 60.0


class Service:
    """A service of two processes, begun as an operator begins it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        (folder / "secondop.toml").write_text(f'port = {self.port}\nauth = "none"\n')
        command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--config", "secondop.toml", "--processes", "2"]
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            self.keeper = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        self.url = f"http://127.0.0.1:{self.port}"

    def pid(self) -> int:
        """Which process answers a new connection; 0 for none."""
        try:
            answer = requests.get(f"{self.url}/readyz", timeout=5)
        except requests.RequestException:
            return 0
        if answer.status_code == 429:
            time.sleep(0.2)
            return 0
        return int(answer.json()["pid"])


def until(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + STARTS_S
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.05)


def are_gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    try:
        wait_for(f"{running.url}/healthz", running.keeper)
        until(lambda: running.log.read_text("utf-8").count("FHIR base") == 1)
        yield running
    finally:
        running.keeper.terminate()
        running.keeper.wait(30)


def both(service: Service) -> set[int]:
    """The processes that answer, two of them."""
    found: set[int] = set()

    def ask() -> bool:
        found.add(service.pid())
        found.discard(0)
        return len(found) == 2

    until(ask)
    return found


def test_two_processes_serve_one_is_made_anew_and_both_end_with_the_keeper(service: Service) -> None:
    pids = both(service)
    assert service.keeper.pid not in pids

    # what one stores, both give
    made = requests.post(f"{service.url}/fhir/Basic", json={"resourceType": "Basic", "code": {"text": "x"}}, timeout=20)
    assert made.status_code == 201
    answers = {requests.get(made.headers["Location"], timeout=20).status_code for _ in range(8)}
    assert answers == {200}

    # one is killed
    victim = min(pids)
    os.kill(victim, signal.SIGKILL)
    until(lambda: are_gone({victim}))
    anew = both(service)
    assert victim not in anew
    assert len(anew & pids) == 1
    assert requests.get(made.headers["Location"], timeout=20).status_code == 200

    # all end
    service.keeper.terminate()
    assert service.keeper.wait(30) == 0
    assert are_gone(anew)


def test_they_end_when_the_keeper_is_killed(service: Service) -> None:
    pids = both(service)
    service.keeper.kill()
    service.keeper.wait(30)
    until(lambda: are_gone(pids))


def test_a_port_that_is_taken_is_said_at_once(service: Service, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--port", str(service.port), "--auth", "none",
               "--processes", "2", "--database", str(tmp_path / "other.sqlite")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert "can't be listened on" in done.stderr


def test_a_database_that_somebody_works_on_is_said_at_once(service: Service, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--port", str(free_port()), "--auth", "none",
               "--processes", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert "Another service works on this database" in done.stderr


@pytest.mark.parametrize("command", ["serve", "work"])
def test_whoever_serves_or_works_collects_its_garbage(tmp_path: Path, command: str) -> None:
    """A start does without; a worker that went on so grew by a hundred megabytes a minute."""
    code = """
import gc, os, signal, sys
from fhir_secondop.config import Settings
from fhir_secondop.web import server
gc.disable()  # as `serve` does
def told():
    print("collects" if gc.isenabled() else "does not")
    os.kill(os.getpid(), signal.SIGTERM)
settings = Settings(database="x.sqlite", auth="none", port=int(sys.argv[2]))
signal.signal(signal.SIGTERM, server._stop)
server._serve(settings, told) if sys.argv[1] == "serve" else server._work(settings, "one", told)
"""
    asked = [sys.executable, "-c", code, command, str(free_port())]
    assert subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=120).stdout == "collects\n"
