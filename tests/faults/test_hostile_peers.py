"""Deliveries to EHRs that keep to nothing: none lost, none to the wrong patient, none twice by us, and what is there
twice all the same is seen.

The long form, 10,000 deliveries with another seed and a table of what happened:
`TEST_SEED=7 python -m pytest -m slow -s tests/faults/test_hostile_peers.py`.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fhir_secondop.store.database import Database
from tests.conftest import drop_postgres, new_postgres
from tests.faults.hostile import hostile
from tests.faults.judging import Judged, judged

SEED = int(os.environ.get("TEST_SEED", "1"))
RUNS, CASES = 13, 80  # of the long form


def delivered(folder: Path, url: str, cases: int, seed: int) -> Judged:
    """All deliveries of so many cases, until none is due any more, and what came of them."""
    began = time.monotonic()
    with hostile(folder, url, cases=cases, seed=seed, threads=16) as run:
        run.work()
        found = judged(run)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"\nseed {seed}, {cases} cases, {time.monotonic() - began:.0f} s, at most {peak_mb:.0f} MB resident")
    print(found.table(), flush=True)
    return found


def assert_safe(found: Judged) -> None:
    """What must be empty is."""
    assert found.caused == []
    assert found.lost == []
    assert found.wrong_patients == []
    assert found.strayed == []
    assert found.undetected == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_hostile_peers_make_us_lose_nothing_and_send_nothing_twice(database_url: str, tmp_path: Path) -> None:
    found = delivered(tmp_path, database_url, cases=12, seed=SEED)  # what is amended before it has begun is not sent
    assert_safe(found)
    assert found.deliveries > 100
    assert found.outcomes["verified"] > found.deliveries / 2


@contextmanager
def empty(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new database."""
    if kind == "sqlite":
        url = f"sqlite:///{folder / 'test.sqlite'}"
    else:
        url = new_postgres(request.getfixturevalue("postgres"))
    opened = Database(url)
    opened.migrate()
    opened.dispose()
    yield url
    if kind != "sqlite":
        drop_postgres(request.getfixturevalue("postgres"), url)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_ten_thousand_deliveries_to_hostile_peers(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = Judged()
    for number in range(1, RUNS + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        with empty(kind, folder, request) as url:
            found += delivered(folder, url, CASES, 100 * SEED + number)
        shutil.rmtree(folder)
    print(f"\ntogether, on {kind}:\n{found.table()}")
    assert found.deliveries >= 10_000
    assert_safe(found)
