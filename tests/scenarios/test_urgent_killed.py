"""SIGKILL of the service while an urgent contact escalates: a new start goes on by the clock, each step once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion import urgent
from fhir_secondop.store import resources
from fhir_secondop.store.database import Database, normalised
from tests.conftest import free_port
from tests.service.world import opened

LEFT_S = 20.0  # until the last step is due, when the service starts for the first time
PATIENCE_S = 60.0


class Served:
    """The service as an operator runs it, in a process group of its own."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.database = folder, database
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "secondop.toml").write_text(
            f'port = {free_port()}\ndatabase = "{database}"\nauth = "tokens"\ntoken_file = "tokens.toml"\n'
            'link_secret_file = "link-secret"\ndocument_keys_file = "document-keys.json"\n'
        )

    def start(self) -> None:
        command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--config", str(self.folder / "secondop.toml")]
        with open(self.folder / "service.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def steps(self, task_id: str) -> list[str]:
        """How far each version of the contact says that it has come, oldest first."""
        database = Database(self.database)
        try:
            with database.reading() as connection:
                versions = resources.history(connection, EVERYTHING, "Task", task_id)
            return [urgent.STEPS[urgent.step_of(version.resource)] for version in reversed(versions)]
        finally:
            database.dispose()

    def until(self, task_id: str, step: str) -> list[str]:
        """The same, once that step is there."""
        ends = time.monotonic() + PATIENCE_S
        while (found := self.steps(task_id))[-1] != step:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "service.log").read_text()
            assert time.monotonic() < ends, (found, (self.folder / "service.log").read_text())
            time.sleep(0.1)
        return found

    def waiting(self) -> int:
        """How many steps of an escalation the workflows still have before them."""
        prefix = "" if self.database.startswith("sqlite") else "dbos."
        engine = sa.create_engine(normalised(self.database))
        with engine.connect() as connection:
            query = sa.text(f"SELECT count(*) FROM {prefix}workflow_status WHERE name = 'escalate' "
                            "AND status NOT IN ('SUCCESS', 'ERROR')")  # fmt: skip
            found: int = connection.execute(query).scalar_one()
        engine.dispose()
        return found

    def settle(self, waiting: int) -> int:
        """The same, once it is that: a workflow is over a little after what it did can be seen."""
        ends = time.monotonic() + PATIENCE_S
        while (found := self.waiting()) != waiting and time.monotonic() < ends:
            time.sleep(0.1)
        return found


@pytest.fixture
def served(tmp_path: Path, database_url: str) -> Iterator[Served]:
    made = Served(tmp_path, database_url)
    yield made
    made.kill()


def test_killed_between_two_steps_it_goes_on_and_repeats_none(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(served.folder, served.database, monkeypatch) as world:
        world.clock.forward(LEFT_S - 60 * 60)
        case_id = world.gathered(sources=[])
        world.accept(case_id)
        # The workflows that this would start are the world's own: the service makes them anew from the Task.
        task_id = world.post(case_id, "raise-urgent", {"finding": "x"}, "reviewer")["resource"].partition("/")[2]
    due = time.monotonic() + LEFT_S
    served.start()
    assert served.until(task_id, "coordinator") == ["raised", "deputy", "coordinator"]
    assert served.settle(1) == 1
    assert time.monotonic() < due, "too slow to be killed in time"
    served.kill()

    time.sleep(max(0.0, due - time.monotonic()))
    assert served.steps(task_id) == ["raised", "deputy", "coordinator"]
    served.start()
    once = ["raised", "deputy", "coordinator", "unreached"]
    assert served.until(task_id, "unreached") == once
    served.kill()
    served.start()  # again: what is done is not done twice
    time.sleep(6.0)
    assert served.steps(task_id) == once
    assert served.settle(0) == 0
