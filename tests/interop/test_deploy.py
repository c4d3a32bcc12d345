"""The compose file and the manifests of deploy/, judged by tools that we did not write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.shared


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)


def test_the_compose_file_keeps_the_compose_specification() -> None:
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout


def test_a_compose_file_with_a_fault_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text((DEPLOY / "compose.yaml").read_text("utf-8").replace("stop_grace_period", "stop_grace"))
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", broken)
    assert done.returncode != 0


@pytest.mark.parametrize("version", ["1.31", "1.34"])
@pytest.mark.parametrize("name", ["web.yaml", "worker.yaml"])
def test_the_manifests_are_valid_for_kubernetes(name: str, version: str) -> None:
    done = run(BIN / "kubernetes-validate", "--strict", "-k", version, DEPLOY / "kubernetes" / name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed for resource deployment/" in done.stdout + done.stderr
