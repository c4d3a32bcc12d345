"""The disk is full, or does not do what it is told: no 2xx for what is not stored, and all goes on with room again.

In the short form the kernel refuses the processes each further byte (RLIMIT_FSIZE); in the second suite the database
lies on a file system that really is full: python -m pytest -m shared tests/faults/test_disk.py
"""

from __future__ import annotations

import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.faults.machines import LEASE, Door, Plain, delivering, running, wait_for
from tests.faults.small import SmallDisk
from tests.scenarios.cluster import SERVICE, Cluster
from tests.scenarios.outcome import check

FULL_S = 3.0  # so long that everything which is tried regularly has failed


class Limited:
    """Every process of the cluster may write no byte more."""

    database = ""

    def __init__(self, folder: Path) -> None:
        pass

    @contextmanager
    def full(self, cluster: Cluster) -> Iterator[None]:
        pids = [process.pid for process in cluster.processes.values()]
        for pid in pids:
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
        yield
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

    def close(self) -> None:
        pass


class Mounted:
    """The database has a small file system for itself."""

    def __init__(self, folder: Path) -> None:
        place = folder / "small"
        place.mkdir()
        self._disk = SmallDisk(place, 64)
        self.database = str(place / "secondop.sqlite")

    @contextmanager
    def full(self, cluster: Cluster) -> Iterator[None]:
        # SQLite writes into what its log has already: as short as it can be, it needs room at once.
        with closing(sqlite3.connect(self.database, timeout=30)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._disk.fill()
        yield
        self._disk.empty()

    def close(self) -> None:
        self._disk.close()


Disk = Limited | Mounted


@pytest.fixture(params=["limited", pytest.param("mounted", marks=pytest.mark.shared)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made = Limited(tmp_path) if request.param == "limited" else Mounted(tmp_path)
    yield made
    made.close()


@pytest.fixture
def cluster(disk: Disk, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, disk.database, ("one",), serves=("serve", "--no-work"), settings=LEASE, timeout_s=2.0)
    with running(made):
        yield made


def writes(cluster: Cluster, known: str) -> list[tuple[str, str, Plain]]:
    """A request of each kind that stores something; `known` is the id of a Patient that is there."""
    story = cluster.story
    request = story.file("request.json")
    other = {**request, "placer": {**request["placer"], "value": "full-disk"}}
    patient = {"resourceType": "Patient", "active": True}
    entry = {"resource": patient, "request": {"method": "POST", "url": "Patient"}}
    return [
        ("POST", "/api/second-opinions", other),
        ("POST", "/fhir/Patient", patient),
        ("PUT", f"/fhir/Patient/{known}", {**patient, "id": known}),
        ("POST", "/fhir", {"resourceType": "Bundle", "type": "transaction", "entry": [entry] * 3}),
        ("POST", f"/api/second-opinions/{story.case_id}/ask-reviewer",
         {"reviewer": story.file("review.json")["reviewer"]}),
    ]  # fmt: skip


def test_on_a_full_disk_nothing_is_answered_with_success_and_nothing_is_stored_by_half(
    cluster: Cluster, disk: Disk
) -> None:
    door, story = Door(cluster), cluster.story
    cluster.act(story.request)
    cluster.act(story.gathered)
    wait_for("the last workflow", lambda: not cluster.rows(
        "SELECT 1 FROM dbos_workflow_status WHERE status = 'PENDING'"))  # fmt: skip
    known = door.ask("POST", "/fhir/Patient", {"resourceType": "Patient"}).json()["id"]
    before, case = door.stored(), door.ask("GET", f"/fhir/ServiceRequest/{story.case_id}").text
    with disk.full(cluster):
        for method, path, body in writes(cluster, known) * 2:
            door.refused(door.ask(method, path, body))
            assert not door.ready()
        # What is read of somebody must be recorded, so it is refused as well (docs/security.md); the rest is served.
        for path in (f"/fhir/ServiceRequest/{story.case_id}", f"/api/second-opinions/{story.case_id}/alignment"):
            answer = door.ask("GET", path)
            assert answer.status_code == 503, answer.text
            assert "audit can't be written" in answer.json()["issue"][0]["diagnostics"]
        for path in ("/healthz", "/fhir/metadata"):
            assert door.ask("GET", path).status_code == 200, path
        assert door.stored() == before
        time.sleep(FULL_S)
    wait_for("a service that can write", door.ready)
    assert door.stored() == before
    wait_for("an audit that is written", lambda: door.ask("GET", f"/fhir/Patient/{known}").ok)
    assert door.ask("GET", f"/fhir/ServiceRequest/{story.case_id}").text == case
    for method, path, body in writes(cluster, known):
        answer = door.ask(method, path, body)
        assert answer.ok, answer.text
    board = cluster.told()
    check(cluster, [], board, kills=0)


@pytest.mark.parametrize("point", [pytest.param("before-send", marks=pytest.mark.slow), "after-send"])
def test_a_disk_that_fills_while_a_report_is_delivered_loses_and_doubles_nothing(
    cluster: Cluster, disk: Disk, point: str
) -> None:
    filled = threading.Event()

    def meanwhile() -> None:
        with disk.full(cluster):
            filled.set()
            time.sleep(FULL_S)

    filling = threading.Thread(target=meanwhile)

    def fill() -> None:
        filling.start()
        assert filled.wait(10)

    delivering(cluster, fill, point)
    board = cluster.told()
    filling.join()
    check(cluster, [], board, kills=0)
    states = {row[0] for row in cluster.rows("SELECT status FROM dbos_workflow_status")}
    assert "ERROR" not in states
    assert all(process.poll() is None for process in cluster.processes.values()), "nothing had to be started again"


def test_what_the_disk_did_not_confirm_is_not_answered_with_success(tmp_path: Path) -> None:
    """fsync answers EIO from a moment on: the kernel refuses it to the process, until that is started anew."""
    made = Cluster(tmp_path, "", ("one",), serves=("serve", "--no-work"), settings=LEASE, timeout_s=2.0,
                   program=("-m", "tests.faults.unsynced"))  # fmt: skip
    with running(made) as cluster:
        door, story = Door(cluster), cluster.story
        cluster.act(story.request)
        cluster.act(story.gathered)
        kept = [door.ask("POST", "/fhir/Patient", {"resourceType": "Patient"}).json()["id"] for _ in range(5)]
        cluster.signal(SERVICE, signal.SIGUSR1)
        wait_for("a service that can't write", lambda: not door.ready())
        before = door.stored()
        for method, path, body in writes(cluster, kept[0]) * 2:
            door.refused(door.ask(method, path, body))
        assert door.stored() == before
        cluster.signal(SERVICE, signal.SIGKILL)
        cluster.start(SERVICE)
        wait_for("a service that can write", door.ready)
        for one in kept:
            assert door.ask("GET", f"/fhir/Patient/{one}").status_code == 200
        for method, path, body in writes(cluster, kept[0]):
            assert door.ask(method, path, body).ok
        # The worker's turn: in the middle of a delivery its commits are not confirmed any more.
        delivering(cluster, lambda: _unsynced(cluster))
        check(cluster, [], cluster.told(), kills=0)


def _unsynced(cluster: Cluster) -> None:
    cluster.signal("one", signal.SIGUSR1)

    def again() -> None:
        time.sleep(FULL_S)
        cluster.signal("one", signal.SIGKILL)
        cluster.start("one")

    threading.Thread(target=again).start()
