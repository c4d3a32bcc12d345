"""SIGKILL of servers and workers at random, while several cases are on their way: each thing once, in every one.

TEST_KILLS=1000 python -m pytest -s -n 0 -m slow tests/faults/test_random_kills.py
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from fhir_secondop.sandbox.story import Story
from tests.conftest import drop_postgres, new_postgres
from tests.scenarios.cluster import SERVICE, Cluster
from tests.scenarios.outcome import check

SEED = int(os.environ.get("TEST_SEED", "8"))
KILLS = int(os.environ.get("TEST_KILLS", "500"))
AT_ONCE = 3  # cases
A_CLUSTER = 6  # cases; then a new database, so that the record that is gathered does not grow
# Between two kills. A process takes a second and a half to start: killed more often, none would come to do anything.
APART_S = (0.5, 4.0)


class Killer:
    """Kills a process of the service every now and then: its server, or one of its two workers."""

    def __init__(self, cluster: Cluster, seed: int, most: int) -> None:
        self._cluster, self._most = cluster, most
        self._random = random.Random(seed)
        self._over = threading.Event()
        self.killed: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._random.uniform(*APART_S)) and len(self.killed) < self._most:
            name, pid = self._random.choice(self._living() or [("", 0)])
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(name)

    def _living(self) -> list[tuple[str, int]]:
        rows = self._cluster.rows("SELECT name, pid FROM executor WHERE state = 'working'")
        found = [("worker", int(pid)) for _, pid in rows]
        with contextlib.suppress(requests.RequestException, ValueError):
            answer = requests.get(f"{self._cluster.layout.url}/readyz", timeout=2)
            found.append(("server", int(answer.json()["pid"])))
        # A row may be of one that died a moment ago: its number could be somebody else's by now.
        keeper = self._cluster.processes[SERVICE].pid
        return [(name, pid) for name, pid in found if _parent(pid) == keeper]

    def stop(self) -> list[str]:
        self._over.set()
        self._thread.join()
        return self.killed


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def killed(folder: Path, database: str, seed: int, most: int, cases: int = A_CLUSTER) -> Counter[str]:
    """Cases in a service that is killed again and again; how often each kind of process was."""
    cluster = Cluster(
        folder, database, (), serves=("serve", "--workers", "2"), settings=("lease_s = 3.0",), timeout_s=2.0
    )
    try:
        killer = Killer(cluster, seed, most)
        stories = [cluster.another(n) for n in range(cases)]
        with ThreadPoolExecutor(AT_ONCE) as pool:

            def told(story: Story) -> None:
                board = cluster.told(story)
                check(cluster, killer.killed, board, kills=0, story=story)

            list(pool.map(told, stories))
        return Counter(killer.stop())
    finally:
        cluster.close()


@pytest.fixture
def databases(request: pytest.FixtureRequest) -> Iterator[Iterator[str]]:
    made: list[str] = []

    def new() -> Iterator[str]:
        while True:
            if request.param == "postgresql":
                made.append(new_postgres(request.getfixturevalue("postgres")))
            yield made[-1] if request.param == "postgresql" else ""

    yield new()
    for url in made:
        drop_postgres(request.getfixturevalue("postgres"), url)


@pytest.mark.parametrize("databases", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True)
def test_killed_a_few_times_each_thing_is_there_once(databases: Iterator[str], tmp_path: Path) -> None:
    """The short form."""
    found = killed(tmp_path, next(databases), SEED, most=12, cases=2)
    assert found.total() >= 6, found


@pytest.mark.slow
@pytest.mark.parametrize("databases", ["sqlite", "postgresql"], indirect=True)
def test_killed_hundreds_of_times_each_thing_is_there_once(databases: Iterator[str], tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    began, number = time.monotonic(), 0
    while found.total() < KILLS:
        number += 1
        found += killed(tmp_path / str(number), next(databases), SEED + number, KILLS)
        print(f"  {found.total()} kills in {number * A_CLUSTER} cases, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{found.total():,} kills ({dict(found)}) in {number * A_CLUSTER} cases: each thing once")
