"""A machine's clock is wrong, or is set while it works: nothing is sent too early, twice or never."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.store import tables
from tests.faults.machines import running
from tests.scenarios.cluster import Cluster
from tests.scenarios.outcome import check
from tests.service.hospitals import SURGEON, hospital
from tests.service.world import DAY_MS, World, opened

TEN_YEARS_MS = 3652 * DAY_MS


@pytest.fixture
def world(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("by_ms", [TEN_YEARS_MS, -DAY_MS])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_is_set_makes_no_resend_come_too_early(world: World, by_ms: int, restarted: bool) -> None:
    """Sent and not answered: it may land for a minute, whatever the clock says, also when another worker carries on."""
    ehr = hospital(world, "refused-late=2", settle_s=60.0)
    case_id = world.signed(sources=[])
    world.work()
    sent = len(ehr.written)
    world.clock.wrong_ms = by_ms
    if restarted:
        world.start()
    for job in world.jobs:
        job.at = world.clock()  # by its clock they are due, or somebody has woken them
    world.work(patience_s=30)
    assert len(ehr.written) == sent
    world.work(patience_s=300)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    assert (len(ehr.reports), len(ehr.documents)) == (1, 1)
    with world.context.database.reading() as connection:
        version = tables.version.c
        _rises(connection.execute(sa.select(version.rid, version.updated).order_by(version.rid, version.version)).all())


def _rises(versions: Sequence[Any]) -> None:
    """No two versions have the same time, and each of a resource has a later one than the one before."""
    assert len({at for _, at in versions}) == len(versions)
    assert versions == sorted(versions)


@pytest.mark.parametrize("ahead_ms", [TEN_YEARS_MS, pytest.param(-DAY_MS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("database_url", [pytest.param("sqlite", marks=pytest.mark.slow), "postgresql"], indirect=True)
def test_a_worker_with_a_wrong_clock_beside_a_right_one(tmp_path: Path, database_url: str, ahead_ms: int) -> None:
    """Real processes: nobody is declared gone, and everything is there once."""
    database = "" if database_url.startswith("sqlite") else database_url
    made = Cluster(tmp_path, database, ("right", "wrong"), serves=("serve", "--no-work"), timeout_s=2.0,
                   settings=("lease_s = 30.0",), program=("-m", "tests.faults.shifted", str(ahead_ms)))  # fmt: skip
    with running(made) as cluster:
        check(cluster, [], cluster.told(), kills=0)
        assert {row[0] for row in cluster.rows("SELECT state FROM executor")} == {"working"}
        _rises(cluster.rows("SELECT rid, updated FROM version ORDER BY rid, version"))
        assert all(row[0] > 0 for row in cluster.rows("SELECT beats FROM executor"))
