"""The benchmarks run: their numbers are for people, that they still fit the code is for the suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def test_deliveries_are_measured_against_their_own_requests() -> None:
    command = [sys.executable, str(FOLDER / "delivery.py"), "--deliveries", "2", "--at-once", "2", "--latency-ms", "5",
               "--repeat", "1", "--without-worker", "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["bare"]["deliveries"] == said["threads"]["deliveries"] == 2
    # The same requests, but for the CapabilityStatement that a new client fetches.
    assert 0 <= said["threads"]["requests"] - said["bare"]["requests"] <= 2
    assert said["threads/bare"] > 0


def test_the_format_is_measured_against_fhir_resources() -> None:
    command = [
        sys.executable,
        str(FOLDER / "format.py"),
        "--rounds",
        "1",
        "--seconds",
        "0",
        "--entries",
        "20",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said.keys() == {"json-xml", "xml-json", "validate", "profile", "tables"}
    # Far from what the benchmark shows, and still enough to see a way that has become slow.
    assert said["json-xml"]["Bundle"]["fhir.resources"]["times_ours"] > 5
    assert said["tables"]["tables_mb"] < 40


def test_every_interaction_of_the_endpoint_is_measured_with_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "endpoint.py"), "--rounds", "1", "--seconds", "0.1", "--json", "--folder",
               str(tmp_path), "--only", "create,read,search,transaction,conditional",
               "--plot", str(tmp_path / "plot.svg")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert len(said["measured"]) == 9
    assert all(by["ours"]["per_s"] > 0 for by in said["measured"].values())
    assert len(said["servers"]["ours"]["memory_mb"]) == 3  # the keeper, and two that serve
    assert (tmp_path / "plot.svg").read_text().count("<rect") == 9 + 2


def test_growth_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "endpoint.py"), "--seconds", "0.1", "--json", "--growth", "100,3000",
               "--folder", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(json.loads(done.stdout)) == {"100", "3000"}


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_store_with_many_cases_is_measured_against_one_with_few(database: str) -> None:
    command = [sys.executable, str(FOLDER / "cases.py"), "--cases", "60", "--few", "20", "--repeat", "1", "--json",
               "--database", database]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert {"page, coordinator", "list, reviewer", "board", "waiting", "connections", "requeue"} <= said[
        "measured"
    ].keys()
    assert all(set(by) == {"20", "60"} for by in said["measured"].values())
    assert said["starts"]["60"]["jobs"] > said["starts"]["20"]["jobs"] > 0  # what is open has its workflows


def test_deliveries_by_workers_are_measured_with_and_without_faults() -> None:
    command = [sys.executable, str(FOLDER / "fleet.py"), "--reports", "2", "--workers", "1", "--database", "sqlite",
               "--latency-ms", "5", "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    one = json.loads(done.stdout)["workers"]["1"]
    assert one["calm"]["healthy"] == one["faults"]["healthy"] == 4
    assert one["p99 with faults/without"] > 0
