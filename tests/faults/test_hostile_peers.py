"""Deliveries to EHRs that keep to nothing: none lost, none to the wrong patient, none twice by us, and what is there
twice all the same is seen.

The long form, 10,000 deliveries with another seed and a table of what happened:
`SECONDOP_SEED=7 python -m pytest -m slow -s tests/faults/test_hostile_peers.py`.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from tests.faults.hostile import hostile
from tests.faults.judging import Judged, judged

SEED = int(os.environ.get("SECONDOP_SEED", "1"))
LARGEST_MB = 1_000


def delivered(folder: Path, url: str, cases: int) -> Judged:
    """All deliveries of so many cases, until none is due any more; then those on hold are replayed in quiet."""
    began = time.monotonic()
    with hostile(folder, url, cases=cases, seed=SEED, threads=16) as run:
        run.work()
        found = judged(run)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(f"\nseed {SEED}, {cases} cases, {time.monotonic() - began:.0f} s, at most {peak_mb:.0f} MB resident")
        print(found.table())
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
    found = delivered(tmp_path, database_url, cases=10)
    assert_safe(found)
    assert found.deliveries > 100
    assert found.outcomes["verified"] > found.deliveries / 2


@pytest.mark.slow
def test_ten_thousand_deliveries_to_hostile_peers(database_url: str, tmp_path: Path) -> None:
    found = delivered(tmp_path, database_url, cases=800)
    assert found.deliveries >= 10_000
    assert_safe(found)
