"""Workers that die, stop, are paused or of another version: what they had begun goes on elsewhere, and once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fhir_secondop
from fhir_secondop import examples, profiles
from fhir_secondop.store.database import newest
from tests.scenarios.cluster import EHRS, Cluster
from tests.scenarios.faults import process_at

LEASE = ("lease_s = 1.5",)
PATIENCE_S = 60.0
Start = Callable[..., Cluster]


def on(first: str) -> pytest.MarkDecorator:
    """On that database; on the other one in the long form (-m slow)."""
    other = "sqlite" if first == "postgresql" else "postgresql"
    params = [first, pytest.param(other, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("database_url", params, indirect=True)


@pytest.fixture
def started(tmp_path: Path, database_url: str) -> Iterator[Start]:
    running: list[Cluster] = []

    def start(workers: tuple[str, ...], **options: Any) -> Cluster:
        database = "" if database_url.startswith("sqlite") else database_url
        running.append(
            Cluster(tmp_path, database, workers, **{"serves": ("serve", "--no-work"), "timeout_s": 2.0, **options})
        )
        return running[0]

    yield start
    for cluster in running:
        cluster.close()


def delivering(
    cluster: Cluster, strike: Callable[[str], None], point: str = "after-send"
) -> threading.Event:  # fmt: skip
    """When the report arrives at the second EHR, `strike` is called with the name of the worker that has sent it."""
    once: list[bool] = []

    def struck() -> None:
        with cluster.lock:
            if once:
                return  # another delivery had arrived there, too
            once.append(True)
            pids = {process.pid: name for name, process in cluster.processes.items()}
            strike(pids[process_at(cluster.proxies["lakeside"].asking, pids)])

    proxy = cluster.proxies["lakeside"]
    proxy.arm(point, lambda method, path: method == "POST" and path.startswith("/fhir"), struck)
    return proxy.struck


def check(cluster: Cluster, board: dict[str, Any]) -> None:
    assert board["case"]["aligned"] is True
    for name in EHRS:
        contents = cluster.copies(name, cluster.story.case_id)
        assert (len(contents), len(set(contents))) == (2, 2), f"{name}: report and plan, once each"
    assert [row for row in cluster.rows("SELECT status FROM dbos_workflow_status") if row[0] == "ERROR"] == []


@on("postgresql")
def test_what_a_lost_worker_had_begun_goes_on_at_the_other(started: Start) -> None:
    """A machine that is gone for good: nobody starts its worker again."""
    cluster = started(("one", "two"), settings=LEASE)
    lost: list[str] = []

    def lose(name: str) -> None:
        lost.append(name)
        cluster.signal(name, signal.SIGKILL)

    delivering(cluster, lose)
    check(cluster, cluster.told())
    (name,) = lost
    states = dict(cluster.rows("SELECT name, state FROM executor"))
    assert states[name] == "gone"
    assert sorted(states.values()) == ["gone", "working"]
    # Whoever took over said so; nobody else did anything in the name of the lost one.
    assert f"worker {name} " in cluster.log(({"one", "two"} - {name}).pop())


@on("postgresql")
def test_a_worker_that_was_paused_past_its_lease_commits_nothing(started: Start) -> None:
    cluster = started(("one", "two"), settings=LEASE)
    paused: list[str] = []

    def pause(name: str) -> None:
        cluster.signal(name, signal.SIGSTOP)
        paused.append(name)

    delivering(cluster, pause, "after-answer")
    check(cluster, cluster.told())
    (name,) = paused
    before = cluster.rows("SELECT max(updated) FROM version")
    assert cluster.processes[name].poll() is None
    cluster.signal(name, signal.SIGCONT)
    # It ends with the exit code that says to its supervisor: start me anew. Nothing of it was written meanwhile.
    assert cluster.processes[name].wait(PATIENCE_S) == os.EX_TEMPFAIL
    assert "this worker was declared gone" in cluster.log(name)
    assert cluster.rows("SELECT max(updated) FROM version") == before
    check(cluster, cluster.story.board() | {})


@on("sqlite")
def test_a_worker_that_is_stopped_ends_what_it_has_begun(started: Start) -> None:
    """A deploy: each worker in turn is told to stop while it delivers, and takes nothing new."""
    cluster = started(("one", "two"), settings=("lease_s = 60.0",))  # so long that nobody takes over by its end
    stopped: list[str] = []

    def stop(name: str) -> None:
        cluster.signal(name, signal.SIGTERM)
        stopped.append(name)

    delivering(cluster, stop, "after-answer")
    check(cluster, cluster.told())
    (name,) = stopped
    assert cluster.processes[name].wait(PATIENCE_S) == 0
    assert dict(cluster.rows("SELECT name, state FROM executor"))[name] == "gone"
    assert "taken over" not in cluster.log(({"one", "two"} - {name}).pop())


@on("sqlite")
def test_a_worker_that_is_started_again_goes_on_at_once(started: Start) -> None:
    cluster = started(("one",), settings=("lease_s = 600.0",))

    def again(name: str) -> None:
        cluster.signal(name, signal.SIGKILL)
        cluster.start(name)

    delivering(cluster, again)
    check(cluster, cluster.told())
    assert sorted(row[0] for row in cluster.rows("SELECT state FROM executor")) == ["gone", "working"]


def newer(folder: Path) -> Path:
    """A build of the program whose workflows are of another version, and whose tables have a column more."""
    target = folder / "newer" / "fhir_secondop"
    shutil.copytree(Path(fhir_secondop.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    for package in (profiles, examples):
        name = package.__name__.rpartition(".")[2]
        shutil.copytree(Path(str(package.__file__)).parent, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    workflows = target / "service" / "workflows.py"
    text, count = re.subn(r'^VERSION = "1"$', 'VERSION = "2"', workflows.read_text("utf-8"), flags=re.MULTILINE)
    assert count == 1
    workflows.write_text(text, "utf-8")
    (target / "store" / "migrations" / "versions" / "v0999_newer.py").write_text(
        'import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "0999"\n'
        f'down_revision = "{newest()}"\n\n\ndef upgrade() -> None:\n'
        '    op.add_column("round", sa.Column("newer", sa.Text, nullable=True))\n'
    )
    return target.parent


@on("postgresql")
def test_two_versions_work_side_by_side_until_the_older_one_is_gone(started: Start, tmp_path: Path) -> None:
    """An upgrade: the service still enqueues for the older version when its last worker has left."""
    cluster = started(("older", "newer"), settings=LEASE, code={"newer": newer(tmp_path)})
    versions = dict(cluster.rows("SELECT name, version FROM executor"))
    assert versions == {"older": "1", "newer": "2"}
    # One of the older that ends meanwhile is started again on the newer one's tables.
    assert cluster.rows("SELECT newer FROM round") is not None
    cluster.signal("older", signal.SIGKILL)
    cluster.start("older")
    ends = time.monotonic() + PATIENCE_S
    while cluster.log("older").count("older works") < 2:
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert "the database is of a later version (0999)" in cluster.log("older")
    cluster.act(cluster.story.request)
    cluster.act(cluster.story.gathered)
    # While one of its version works, nobody else takes what is of it.
    done = cluster.rows("SELECT application_version, executor_id FROM dbos_workflow_status WHERE status = 'SUCCESS'")
    assert done
    assert {(version, executor.partition(":")[0]) for version, executor in done} == {("1", "older")}
    cluster.signal("older", signal.SIGTERM)
    assert cluster.processes["older"].wait(PATIENCE_S) == 0
    check(cluster, cluster.told())
    done = cluster.rows("SELECT DISTINCT application_version FROM dbos_workflow_status WHERE name = 'deliver'")
    assert [row[0] for row in done] == ["2"]


@on("sqlite")
def test_servers_that_only_serve_and_workers_beside_them(started: Start) -> None:
    """serve --workers: its processes are kept, and one that is killed is made anew under its name."""
    cluster = started((), serves=("serve", "--workers", "2"), settings=LEASE)
    names = sorted(row[0] for row in cluster.rows("SELECT name FROM executor WHERE state = 'working'"))
    assert len(names) == 2
    assert [name[-2:] for name in names] == ["-1", "-2"]

    def strike() -> None:
        pids = [row[0] for row in cluster.rows("SELECT pid FROM executor WHERE state = 'working'")]
        os.kill(process_at(cluster.proxies["lakeside"].asking, pids), signal.SIGKILL)

    proxy = cluster.proxies["lakeside"]
    proxy.arm("after-send", lambda method, path: method == "POST" and path.startswith("/fhir"), strike)
    check(cluster, cluster.told())
    ends = time.monotonic() + PATIENCE_S
    while sorted(r[0] for r in cluster.rows("SELECT name FROM executor WHERE state = 'working'")) != names:
        assert time.monotonic() < ends
        time.sleep(0.1)
    cluster.signal("service", signal.SIGTERM)
    assert cluster.processes["service"].wait(PATIENCE_S) == 0
    assert {row[0] for row in cluster.rows("SELECT state FROM executor")} == {"gone"}


def test_the_demo_shows_an_ehr_that_stops_and_a_machine_that_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fhir_secondop.cli", "demo", "--faults", "--run-to-end", "--json", "--dir",
               str(tmp_path / "demo")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["case"]["aligned"] is True
    said = [event["what"] for event in told["timeline"]]
    faults = [text for text in said if text.startswith("FAULT: ")]
    assert "was stopped in mid-delivery" in faults[0]
    assert "was lost with its worker" in faults[1]
    # What had landed before it stopped is found, and not sent again.
    assert any("rung 1, verified, found there" in text for text in said)
