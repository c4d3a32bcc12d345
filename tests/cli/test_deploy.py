"""What deploy/ says is what the program takes: its commands start, from its configuration, and stop in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fhir_secondop import config
from tests.conftest import free_port, wait_for

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
CONFIG = "/etc/secondop/secondop.toml"
Plain = dict[str, Any]


def documents(name: str) -> list[Plain]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))


def commands() -> dict[str, tuple[list[str], float]]:
    """Who → (arguments of fhir-secondop, the seconds it has to stop)."""
    compose = documents("compose.yaml")[0]["services"]
    found = {
        f"compose {name}": (compose[name]["command"], float(compose[name]["stop_grace_period"].rstrip("s")))
        for name in ("web", "worker")
    }
    for name in ("web", "worker"):
        pod = documents(f"kubernetes/{name}.yaml")[0]["spec"]["template"]["spec"]
        found[f"kubernetes {name}"] = (pod["containers"][0]["args"], float(pod["terminationGracePeriodSeconds"]))
    return found


def probes(by: str, port: int) -> list[list[str]]:
    """The commands that find out how a server does, for this machine: as they are, or what the kubelet would ask."""
    if by == "compose":
        _, program, *rest = documents("compose.yaml")[0]["services"]["web"]["healthcheck"]["test"]
        assert (program, "127.0.0.1:8100" in rest[-1]) == ("python", True)
        return [[sys.executable, *rest[:-1], rest[-1].replace(":8100", f":{port}")]]
    container = documents("kubernetes/web.yaml")[0]["spec"]["template"]["spec"]["containers"][0]
    paths = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
    ask = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"
    return [[sys.executable, "-c", ask, f"http://127.0.0.1:{port}{path}"] for path in paths]


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[Path, int]:
    """The configuration of deploy/ for this machine: other places, all else as it is; who probes is not the proxy."""
    text = (DEPLOY / "secondop.toml").read_text("utf-8")
    secrets, port = tmp_path / "secrets", free_port()
    secrets.mkdir(mode=0o700)
    for name in ("clients.toml", "metrics.token"):
        (secrets / name).write_text("")
    (secrets / "metrics.token").write_text("scraper")
    for old, new in (
        ("/etc/secondop/secrets", str(secrets)), ("port = 8100", f"port = {port}"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "secondop.toml").write_text(text)
    return tmp_path / "secondop.toml", port


def test_a_pod_has_longer_to_stop_than_a_worker_waits_for_what_it_has_begun(adapted: tuple[Path, int]) -> None:
    drain_s = config.load(str(adapted[0]), {}).drain_s
    assert {who: grace_s > drain_s for who, (_, grace_s) in commands().items()} == dict.fromkeys(commands(), True)


@pytest.mark.parametrize("by", ["compose", "kubernetes"])
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_its_commands_start_are_found_ready_and_stop(by: str, adapted: tuple[Path, int], database_url: str) -> None:
    file, port = adapted
    environment = {**os.environ, "SECONDOP_DATABASE": database_url}
    running = []
    for name in ("web", "worker"):
        arguments = [str(file) if a == CONFIG else a for a in commands()[f"{by} {name}"][0]]
        with open(file.parent / f"{name}.log", "wb") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "fhir_secondop.cli", *arguments], stdout=log, stderr=log, env=environment
                )
            )
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz", running[0])
        for probe in probes(by, port):
            assert subprocess.run(probe, capture_output=True, timeout=30).returncode == 0, probe
        ends = time.monotonic() + 60
        while "works" not in (file.parent / "worker.log").read_text():
            assert running[1].poll() is None, (file.parent / "worker.log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.1)
        for process in running:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()
