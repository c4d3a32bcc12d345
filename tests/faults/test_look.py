"""SIGKILL of the service while it looks at a chart: whatever it had seen, there is one item, and the next look comes.

python -m pytest -m slow tests/faults/test_look.py
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion import checks, watches
from fhir_secondop.opinion.case import Case
from fhir_secondop.service.context import load
from fhir_secondop.store.database import Database
from tests.conftest import free_port
from tests.faults.dying import PLAN, SEEN, STRUCK
from tests.service.test_drift import DAY_S, change, delivered
from tests.service.world import World, opened

POINTS = (
    "drift.look-before-GET-DocumentReference", "drift.look-after-GET-DocumentReference", "drift.look-before-commit",
    "drift.look-after-commit", "drift.look-done-not-journalled",
)  # fmt: skip
SHORT = POINTS[2:3]
PATIENCE_S = 120.0


class Served:
    """The service with its worker, as an operator runs it; it dies at planned points and is started again."""

    def __init__(self, world: World, points: tuple[str, ...]) -> None:
        self.folder, self.database = world.folder, world.database_url
        for part in (PLAN, SEEN, STRUCK):
            (self.folder / part).mkdir()
        for point in points:
            (self.folder / PLAN / point).touch()
        there = world.connections["lakeside"]
        (self.folder / "secondop.toml").write_text(
            f'lease_s = 1.0\nport = {free_port()}\ndatabase = "{self.database}"\n'
            'auth = "tokens"\ntoken_file = "tokens.toml"\n'
            'link_secret_file = "link-secret"\ndocument_keys_file = "document-keys.json"\n'
            f'[connections.lakeside]\nbase = "{there.base}"\norganization = "{there.organization}"\n'
            f'patient_system = "{there.patient_system}"\nsettle_s = 0.0\nrate_per_s = 0.0\n'
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.faults.dying", str(self.folder), "serve", "--config",
                   str(self.folder / "secondop.toml")]  # fmt: skip
        with open(self.folder / "service.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def until_looked(self, case_id: str) -> Case:
        """Starts it, again after each death, until nothing kills it any more and a look is over."""
        ends = time.monotonic() + PATIENCE_S
        self.start()
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                assert self.process.returncode == -signal.SIGKILL, (self.folder / "service.log").read_text()
                self.start()
            case = self.case(case_id)
            (watch,) = case.tasks_of("watch-chart")
            if watches.number_of(watch) > 1 and not any((self.folder / PLAN).iterdir()):
                return case
            assert time.monotonic() < ends, (self.folder / "service.log").read_text()
            time.sleep(0.1)

    def case(self, case_id: str) -> Case:
        database = Database(self.database, pool_size=1)
        try:
            with database.reading() as connection:
                return load(connection, EVERYTHING, case_id)
        finally:
            database.dispose()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


@pytest.mark.parametrize(
    ("database_url", "points"),
    [
        ("sqlite", SHORT),
        *(pytest.param(kind, POINTS, marks=pytest.mark.slow) for kind in ("sqlite", "postgresql")),
    ],
    indirect=["database_url"],
)
def test_killed_between_look_and_item_there_is_one_item(world: World, points: tuple[str, ...]) -> None:
    world.clock.forward(-(DAY_S + 600))  # delivered a day ago: the look is due as soon as somebody works
    ehr, case_id = delivered(world)
    change(ehr, status="entered-in-error")
    written = len(ehr.written)
    served = Served(world, points)
    try:
        case = served.until_looked(case_id)
        time.sleep(3.0)  # what would be done twice has its time
        case = served.case(case_id)
    finally:
        served.stop()
    assert {path.name for path in (served.folder / STRUCK).iterdir()} == set(points)
    (item,) = checks.of_case(case)
    assert (checks.is_open(item), checks.said(item, "finding")) == (True, "status")
    (watch,) = case.tasks_of("watch-chart")
    assert watches.number_of(watch) == 2  # one look, whoever finished it
    assert len(ehr.written) == written
