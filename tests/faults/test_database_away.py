"""PostgreSQL is stopped at once and started again, fails over to a standby, has no room left, or a disk that confirms
nothing, while a case is on its way."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.faults.forwarding import Address
from tests.faults.machines import LEASE, Door, delivering, running, wait_for
from tests.faults.postgres import Server
from tests.faults.small import SmallDisk
from tests.scenarios.cluster import Cluster
from tests.scenarios.outcome import check

AWAY_S = 2.0


@pytest.fixture
def server() -> Iterator[Server]:
    # Not below pytest's own folder: it is closed to the server's user, and a run that begins meanwhile clears it away.
    with tempfile.TemporaryDirectory(prefix="secondop-away-", ignore_cleanup_errors=True) as folder:
        made = Server(Path(folder) / "primary").init()
        yield made
        made.stop()


def started(folder: Path, database: str) -> Cluster:
    return Cluster(folder, database, ("one",), serves=("serve", "--no-work"), settings=LEASE, timeout_s=2.0)


class Written:
    """Somebody who stores one thing after the other, and remembers what was confirmed."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.confirmed: list[str] = []
        self.refused = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            answer = self._door.ask("POST", "/fhir/Patient", {"resourceType": "Patient"})
            if answer.status_code == 201:
                self.confirmed.append(answer.json()["id"])
            else:
                assert answer.status_code >= 500, answer.text
                self.refused += 1

    def end(self) -> list[str]:
        """What was confirmed."""
        self._over.set()
        self._thread.join()
        return self.confirmed


def survived(cluster: Cluster, strike: Callable[[], None], times: int) -> None:
    """The case goes on through so many strikes, each in the middle of something else; nothing confirmed is lost."""
    door = Door(cluster)
    written = Written(door)
    failed: list[BaseException] = []

    def struck() -> None:
        try:
            for _ in range(times):
                strike()
                time.sleep(3.0)
        except BaseException as error:
            failed.append(error)

    striking = threading.Thread(target=struck)
    delivering(cluster, striking.start)
    board = cluster.told()
    striking.join()
    assert failed == []
    wait_for("a service that can write", door.ready)
    confirmed = written.end()
    there = {row[0] for row in cluster.rows("SELECT id FROM resource WHERE type = 'Patient'")}
    assert written.refused
    assert len(confirmed) > 20
    assert set(confirmed) <= there
    print(f"{len(confirmed)} confirmed writes, {written.refused} refused, none of the confirmed lost")
    check(cluster, [], board, kills=0)
    states = {row[0] for row in cluster.rows("SELECT status FROM dbos_workflow_status")}
    assert "ERROR" not in states
    assert all(process.poll() is None for process in cluster.processes.values()), "nothing had to be started again"


def test_a_database_that_is_started_again_while_reports_are_delivered_loses_and_doubles_nothing(
    server: Server, tmp_path: Path
) -> None:
    def restart() -> None:
        server.stop()
        time.sleep(AWAY_S)
        server.start()

    with running(started(tmp_path, server.url)) as cluster:
        survived(cluster, restart, 2)


@pytest.mark.slow
def test_a_database_that_fails_over_to_its_standby_loses_nothing_that_was_confirmed(
    server: Server, tmp_path: Path
) -> None:
    standby = Server(server.folder.parent / "standby").follow(server)
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
    server.sql("SELECT pg_reload_conf()")
    server.until("SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
    address = Address(server.port)

    def fail_over() -> None:
        server.stop()
        standby.promote()
        address.point_to(standby.port)

    try:
        with running(started(tmp_path, f"postgresql://postgres@127.0.0.1:{address.port}/postgres")) as cluster:
            survived(cluster, fail_over, 1)
    finally:
        address.close()
        standby.stop()


@pytest.mark.slow
def test_a_database_without_a_connection_left_loses_nothing_that_was_confirmed(server: Server, tmp_path: Path) -> None:
    """Somebody else has all that it takes (`max_connections`), and those that we had were ended."""
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend'"

    def without_connections() -> None:
        held: list[sa.Connection] = []
        over = time.monotonic() + 3 * AWAY_S
        with server.connected() as first:
            while time.monotonic() < over:
                try:
                    held.append(server.connected())
                except sa.exc.OperationalError:
                    ours = [each.connection.driver_connection.info.backend_pid for each in (first, *held)]  # type: ignore[union-attr]
                    first.execute(sa.text(f"{ended} AND NOT pid = ANY(:ours)"), {"ours": ours})
            assert len(held) > 90
        for each in held:
            each.close()

    with running(started(tmp_path, server.url)) as cluster:
        survived(cluster, without_connections, 2)
        assert "too many clients" in server.log


def write_on(connection: sa.Connection) -> None:
    """Until it fails: while its log has files to write on in, a server does not notice a full disk."""
    for _ in range(1000):
        connection.execute(sa.text("SELECT pg_switch_wal(), pg_logical_emit_message(false, 'full', 'x')"))


def fill_up(server: Server, disk: SmallDisk) -> None:
    """Until the server gives up and ends."""
    with server.connected() as connection:  # opened before: to open one, too, takes room
        disk.fill()
        with pytest.raises(sa.exc.DBAPIError):
            write_on(connection)
    wait_for("the server to have ended", lambda: not (server.folder / "postmaster.pid").exists())


@pytest.mark.slow
def test_a_database_without_room_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    """PostgreSQL ends when its log finds no room on its own disk, and is started again when there is some."""
    with tempfile.TemporaryDirectory(prefix="secondop-full-") as folder, SmallDisk(Path(folder), 300) as disk:
        server = Server(Path(folder) / "primary").init()

        def without_room() -> None:
            fill_up(server, disk)
            disk.empty()
            server.start()

        try:
            with running(started(tmp_path, server.url)) as cluster:
                survived(cluster, without_room, 1)
        finally:
            server.stop()


@pytest.mark.slow
def test_tables_without_room_lose_nothing_that_was_confirmed(server: Server, tmp_path: Path) -> None:
    """The log has room, the tables have a disk of their own: PostgreSQL goes on, and refuses what needs a new page."""
    with tempfile.TemporaryDirectory(prefix="secondop-tables-") as folder, SmallDisk(Path(folder), 100) as disk:
        place = disk.place / "tables"
        place.mkdir()
        server.given(place)
        server.sql(f"CREATE TABLESPACE small LOCATION '{place}'")
        server.sql("ALTER DATABASE postgres SET default_tablespace = small")

        def without_room() -> None:
            disk.fill()
            time.sleep(3 * AWAY_S)
            disk.empty()

        try:
            with running(started(tmp_path, server.url)) as cluster:
                survived(cluster, without_room, 2)
            assert "No space left on device" in server.log
        finally:
            server.stop()


@pytest.mark.slow
def test_a_database_whose_fsync_fails_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    """PostgreSQL panics rather than confirm what its disk did not, and recovers from its log."""
    if shutil.which("strace") is None:
        pytest.skip("strace makes the calls fail: apt-get install strace")
    with tempfile.TemporaryDirectory(prefix="secondop-unsynced-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder) / "primary", syncs=True).init()

        def unsynced() -> None:
            before = server.log.count("PANIC")
            whom = [word for pid in server.pids for word in ("-p", str(pid))]
            strace = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
                                       "-e", "inject=fsync,fdatasync:error=EIO", *whom])  # fmt: skip
            try:
                wait_for("a server that has given up", lambda: server.log.count("PANIC") > before)
            finally:
                strace.terminate()
                strace.wait(20)
            time.sleep(AWAY_S)
            if not server.pids:
                print("the server could not recover by itself: it is started")
                server.start()

        try:
            with running(started(tmp_path, server.url)) as cluster:
                survived(cluster, unsynced, 2)
            print([line for line in server.log.splitlines() if "PANIC" in line])
        finally:
            server.stop()
