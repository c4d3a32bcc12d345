"""A due date passes while the real service runs, or while it is down: it is announced, once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests

from fhir_secondop.opinion import intake_json
from tests.conftest import free_port
from tests.service.conftest import TOKENS
from tests.service.test_review import example

DESK = {"Authorization": "Bearer desk"}


def serve(folder: Path, database_url: str, port: int) -> subprocess.Popen[bytes]:
    """The service as an operator starts it."""
    (folder / "tokens.toml").write_text(TOKENS)
    (folder / "tokens.toml").chmod(0o600)
    (folder / "secondop.toml").write_text(f'auth = "tokens"\nport = {port}\ndatabase = {json.dumps(database_url)}\n')
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--config", str(folder / "secondop.toml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).ok)
    return process


def until(holds: Any, patience_s: float = 40.0) -> Any:
    """What `holds` answers, once it is true."""
    ends = time.monotonic() + patience_s
    while True:
        try:
            found = holds()
        except requests.RequestException:
            found = None
        if found:
            return found
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.2)


def opened(base: str, due_in_s: float, number: str) -> str:
    """A stat case, asked for so long ago that its eight hours end so many seconds from now."""
    placer = {"system": "https://riverside.example/orders", "value": number}
    bundle = intake_json.to_bundle({**example("request.json"), "priority": "stat", "sources": [], "placer": placer})
    asked = datetime.now(UTC) + timedelta(seconds=due_in_s) - timedelta(hours=8)
    request = next(e["resource"] for e in bundle["entry"] if "SO" in json.dumps(e["resource"].get("orderDetail", "")))
    request["authoredOn"] = asked.isoformat(timespec="milliseconds")
    answer = requests.post(f"{base}/fhir", json=bundle, headers={**DESK, "Content-Type": "application/fhir+json"},
                           timeout=30)  # fmt: skip
    assert answer.status_code == 200, answer.text
    cases = requests.get(f"{base}/api/second-opinions", headers=DESK, timeout=30).json()["cases"]
    case_id: str = next(c["id"] for c in cases if c["placer"] == number)
    return case_id


def overdue(base: str, case_id: str) -> list[str]:
    """What was announced of the case."""
    found = requests.get(f"{base}/api/second-opinions/{case_id}/clocks", headers=DESK, timeout=30).json()
    return [n["text"] for n in found["notices"] if n["topic"] == "overdue"]


def test_a_due_date_is_announced_by_the_running_service_and_after_a_kill(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    process = serve(tmp_path, database_url, port)
    try:
        first = opened(base, 3, "one")
        second = opened(base, 9, "two")
        assert (overdue(base, first), overdue(base, second)) == ([], [])
        until(lambda: overdue(base, first))
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(7)  # the second passes while nobody is there
        process = serve(tmp_path, database_url, port)
        (said,) = until(lambda: overdue(base, second))
        assert said.endswith("8 hours since the request.")
        time.sleep(1)
        assert (len(overdue(base, first)), len(overdue(base, second))) == (1, 1)
    finally:
        process.terminate()
        process.wait()
