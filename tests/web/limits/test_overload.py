"""The overload benchmark in its short form: what is answered, and that nothing acknowledged is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "overload.py"


def overloaded(*more: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--json", "--seconds", "5", "--sustained-s", "2", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    print("\n" + done.stdout)
    return found


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_overload_is_shed_and_no_acknowledged_write_is_lost(database: str, request: pytest.FixtureRequest) -> None:
    more = []
    if database == "postgresql":
        from tests.conftest import new_postgres

        more = ["--database", new_postgres(request.getfixturevalue("postgres"))]
    found = overloaded(*more)
    assert set(found["statuses"]) <= {"200", "201", "429", "503"}
    assert found["statuses"]["503"] > 0, "it was no overload"
    assert found["statuses"]["201"] > 0
    assert set(found["health"]) == {"200"}
    assert found["acknowledged"] > 0
    assert found["lost"] == 0
    assert found["recovered_s"] != float("inf")
    assert found["rss_peak_mb"] < found["rss_before_mb"] + 200


def test_one_caller_that_asks_too_often_gets_429() -> None:
    found = overloaded("--requests-per-s", "20")
    assert set(found["statuses"]) <= {"200", "201", "429", "503"}
    assert found["statuses"]["429"] > found["done_per_s"] * 5
    assert (found["lost"], set(found["health"])) == (0, {"200"})
