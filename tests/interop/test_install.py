"""A fresh clone with the README alone, and a wheel installed elsewhere: what a new user does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import requests

pytestmark = pytest.mark.shared
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("SECONDOP_", "PYTHON", "VIRTUAL_ENV"))}


def run(command: str, folder: Path, timeout_s: float = 600) -> str:
    done = subprocess.run(
        command, shell=True, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_on_a_fresh_clone_the_first_command_of_the_readme_ends_in_a_served_demo(tmp_path: Path) -> None:
    run(f"git clone -q {ROOT} clone", tmp_path)
    clone = tmp_path / "clone"
    command = next(line for line in (clone / "README.md").read_text().splitlines() if line.endswith("secondop demo"))
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=clone, env=ENVIRONMENT, stdout=out, stderr=out, start_new_session=True
        )
    try:
        ends = time.monotonic() + 600
        said = ""
        while "Still served" not in said and time.monotonic() < ends:
            assert process.poll() is None, said
            time.sleep(0.5)
            said = (tmp_path / "out").read_text()
        assert "ALIGNED" in said
        url = re.search(r"the service at (\S+)", said)
        assert url is not None
        assert requests.get(f"{url[1]}/fhir/metadata", timeout=30).json()["fhirVersion"] == "4.0.1"
        assert "POST" in requests.get(f"{url[1]}/docs", timeout=30).text.upper()
        again = run(".venv/bin/fhir-secondop demo --dir other --run-to-end --json", clone)
        assert json.loads(again)["case"]["aligned"] is True
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def test_a_wheel_installed_elsewhere_runs_the_demo_without_the_checkout(tmp_path: Path) -> None:
    run(f"{sys.executable} -m pip wheel -q --no-deps -w wheels {ROOT}", tmp_path)
    wheel = next((tmp_path / "wheels").glob("*.whl"))
    with zipfile.ZipFile(wheel) as packed:
        assert [name for name in packed.namelist() if "__pycache__" in name] == []
    run(f"{sys.executable} -m venv elsewhere && elsewhere/bin/pip install -q {wheel}", tmp_path)
    said = run("elsewhere/bin/fhir-secondop demo --dir d --run-to-end --json", tmp_path)
    board = json.loads(said)
    assert board["case"]["aligned"] is True
    assert [row["state"] for row in board["providers"]].count("aligned (acknowledged, unverified)") == 1
    assert run("elsewhere/bin/secondop check $(elsewhere/bin/python -c 'import fhir_secondop.examples as e; "
               "print(e.__path__[0])')/breast-treatment-plan/records", tmp_path)  # fmt: skip
