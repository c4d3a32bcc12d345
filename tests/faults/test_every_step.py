"""SIGKILL at every step: each point that an undisturbed case passes kills whichever process comes there first.

TEST_POINTS=0 python -m pytest -s -m slow tests/faults/test_every_step.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.dying import PLAN, SEEN, STRUCK
from tests.scenarios.cluster import Cluster
from tests.scenarios.outcome import check

WORKERS = ("one", "two")
A_CASE = 20  # points of one case: each death is a start
SHORT = 8  # points in the short form
LEASE = ("lease_s = 2.0",)


class Dying:
    """Cases one after another on databases of their own, whose processes die at planned points."""

    def __init__(self, folder: Path, new_database: Iterator[str]) -> None:
        self.folder, self._databases = folder, new_database
        self.killed: list[str] = []
        self._cases = 0

    def case(self, points: list[str]) -> list[str]:
        """One case whose processes die at these points, where they come there; the points that were passed."""
        self._cases += 1
        place = self.folder / f"case-{self._cases}"
        for part in (PLAN, SEEN, STRUCK):
            (place / part).mkdir(parents=True)
        cluster = Cluster(
            place, next(self._databases), WORKERS, serves=("serve", "--no-work"), settings=LEASE, timeout_s=2.0,
            program=("-m", "tests.faults.dying", str(place)),
        )  # fmt: skip
        try:
            for point in points:
                (place / PLAN / point).touch()
            cluster.supervise()
            board = cluster.told()
            struck = sorted(path.name for path in (place / STRUCK).iterdir())
            check(cluster, struck, board, kills=0)
        finally:
            cluster.close()
        self.killed += struck
        return sorted(path.name for path in (place / SEEN).iterdir())

    def all(self, points: list[str]) -> list[str]:
        """Dies at each of the points; those that nobody came to in two cases."""
        left = list(points)
        for _ in range(2):
            missed: list[str] = []
            for start in range(0, len(left), A_CASE):
                batch = left[start : start + A_CASE]
                before = len(self.killed)
                self.case(batch)
                struck = set(self.killed[before:])
                missed += [point for point in batch if point not in struck]
                print(f"  {len(self.killed)} kills, {len(missed)} points not reached yet", flush=True)
            left = missed
        return left


@pytest.fixture
def dying(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Dying]:
    from tests.conftest import drop_postgres, new_postgres

    made: list[str] = []

    def databases() -> Iterator[str]:
        while True:
            if request.param == "sqlite":
                yield ""
                continue
            made.append(new_postgres(request.getfixturevalue("postgres")))
            yield made[-1]

    yield Dying(tmp_path, databases())
    for url in made:
        drop_postgres(request.getfixturevalue("postgres"), url)


@pytest.mark.parametrize("dying", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_few_steps_kill_and_each_thing_is_there_once(dying: Dying) -> None:
    """The short form: some points that each case passes, chosen by the seed."""
    points = [
        "gather.begin-done-not-journalled", "gather.fetch-before-commit", "gather.merge-after-commit",
        "request-after-commit", "deliver-dequeued", "deliver.attempt-before-commit", "deliver.attempt-after-POST",
        "deliver.attempt-done-not-journalled", "deliver-over-not-recorded", "take-over-after-commit",
    ]  # fmt: skip
    chosen = random.Random(int(os.environ.get("TEST_SEED", "8"))).sample(points, SHORT)
    dying.case(chosen)
    assert len(dying.killed) >= SHORT - 2, dying.killed


@pytest.mark.slow
@pytest.mark.parametrize("dying", ["sqlite", "postgresql"], indirect=True)
def test_each_step_kills_and_each_thing_is_there_once(dying: Dying) -> None:
    points = dying.case([])
    assert len(points) > 60
    never = dying.all(points)
    print(f"{len(points)} points, {len(dying.killed)} kills; nobody came again to {', '.join(never) or 'none'}")
    assert len(never) <= len(points) // 10
