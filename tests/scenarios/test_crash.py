"""SIGKILL of the whole process group at exact points: a new start ends in the same board, nothing twice or lost."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.sandbox import demo
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Database, normalised
from tests.scenarios.faults import POINTS, Proxy
from tests.scenarios.numbers import check_events

Plain = dict[str, Any]
EHRS = ("riverside", "lakeside")


@pytest.fixture
def killed(tmp_path: Path, bare_database_url: str) -> Iterator[Killed]:
    case = tmp_path / "case"
    with demo.case_folder("breast-treatment-plan") as folder:
        shutil.copytree(folder, case)
    run = Killed(tmp_path / "demo", case, "" if bare_database_url.startswith("sqlite") else bare_database_url)
    yield run
    run.close()


class Killed:
    """A demo whose EHRs are behind proxies, in a process group of its own."""

    def __init__(self, folder: Path, case: Path, database: str) -> None:
        self.folder, self.case, self.database = folder, case, database
        self.layout = demo.lay_out(folder, case, database)
        self.proxies = {name: Proxy(self.layout.ports[name]) for name in EHRS}
        config = (folder / "secondop.toml").read_text()
        for name, proxy in self.proxies.items():
            config = config.replace(f":{self.layout.ports[name]}/", f":{proxy.port}/")
        (folder / "secondop.toml").write_text(config)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fhir_secondop.cli", "demo", "--dir", str(self.folder), "--case",
                   str(self.case), "--run-to-end", "--json"]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        return self.process

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for proxy in self.proxies.values():
            proxy.close()

    def run_until_killed(self, name: str, point: str, method: str, path: str) -> None:
        """Runs until a request of that method and path prefix reaches the EHR; then the whole group is dead."""
        proxy = self.proxies[name]
        proxy.arm(point, lambda m, p: m == method and p.startswith(path), self.kill)
        process = self.start()
        process.communicate(timeout=120)
        assert proxy.struck.is_set(), "the demo ended before the point was reached"
        assert process.returncode == -signal.SIGKILL

    def run_to_end(self) -> Plain:
        process = self.start()
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        board: Plain = json.loads(out)
        return board

    def documents(self, name: str) -> list[bytes]:
        """The content of every document at an EHR that carries the case's marks, straight from its database."""
        database = Database(str(self.folder / f"{name}.sqlite"), pool_size=1)
        try:
            with database.reading() as connection:
                query = resources.rows().where(tables.resource.c.type == "DocumentReference")
                rows = list(connection.execute(query.where(tables.resource.c.deleted.is_(False))))
        finally:
            database.dispose()
        found = [resources.stored(row).resource for row in rows]
        ours = [r for r in found if "case" in r.get("description", "")]
        return [base64.b64decode(r["content"][0]["attachment"]["data"]) for r in ours]


def _check(run: Killed, board: Plain) -> None:
    assert board["case"]["aligned"] is True
    assert [row["aligned"] for row in board["providers"]] == [True] * 4
    assert [row["rung"] for row in board["providers"]] == ["5", "1", "1", "10"]
    # One copy of the report and one of the plan of record at each EHR that can hold one.
    for name in EHRS:
        contents = run.documents(name)
        assert len(contents) == 2, f"{name} holds {len(contents)} documents"
        assert len(set(contents)) == 2
    assert check_events(run.database or str(run.folder / "secondop.sqlite")) > 20


def _at(*points: tuple[str, ...], also: set[tuple[str, ...]]) -> list[Any]:
    """Every point on SQLite, on PostgreSQL those in `also`; there the others belong to the long form (-m slow)."""
    assert also <= set(points)
    return [pytest.param("sqlite", *point) for point in points] + [
        pytest.param("postgresql", *point, marks=() if point in also else pytest.mark.slow) for point in points
    ]


@pytest.mark.parametrize(
    ("bare_database_url", "path"),
    _at(("/fhir/Observation",), ("/fhir/Practitioner/",), also={("/fhir/Observation",)}),
    indirect=["bare_database_url"],
)
def test_killed_while_gathering_ends_in_the_same_board(killed: Killed, path: str) -> None:
    killed.run_until_killed("lakeside", "after-send", "GET", path)
    _check(killed, killed.run_to_end())


DELIVERING = [
    (name, path, point)
    for name, path in (("lakeside", "/fhir"), ("riverside", "/fhir/DocumentReference"))
    for point in POINTS
]


# The third on PostgreSQL, of a copy that has landed at the first of them unanswered, is below.
@pytest.mark.parametrize(
    ("bare_database_url", "name", "path", "point"),
    _at(
        *DELIVERING,
        also={("lakeside", "/fhir", "after-answer"), ("riverside", "/fhir/DocumentReference", "after-send")},
    ),
    indirect=["bare_database_url"],
)
def test_killed_while_delivering_sends_nothing_twice(killed: Killed, name: str, path: str, point: str) -> None:
    killed.run_until_killed(name, point, "POST", path)
    _check(killed, killed.run_to_end())


def test_jobs_deleted_and_made_anew_from_the_tasks_change_nothing(killed: Killed, bare_database_url: str) -> None:
    killed.run_until_killed("lakeside", "after-send", "POST", "/fhir")
    url = bare_database_url if killed.database else f"sqlite:///{killed.folder / 'secondop.sqlite'}"
    engine = sa.create_engine(normalised(url))
    with engine.begin() as connection:
        prefix = "dbos." if killed.database else ""
        deleted = connection.execute(sa.text(f"DELETE FROM {prefix}workflow_status")).rowcount
    engine.dispose()
    assert deleted > 0
    _check(killed, killed.run_to_end())
