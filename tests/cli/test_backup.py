"""A backup taken while the service writes, put back into either database, proved, and carried on."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from fhir_secondop import cli
from fhir_secondop.alert_settings import Alerts, Bounds, Level
from fhir_secondop.bootstrap import LOCAL
from fhir_secondop.sandbox.hl7 import Receiver
from fhir_secondop.service.alerts import watch
from fhir_secondop.service.requeue import requeue
from fhir_secondop.store import backup, restore, tables
from fhir_secondop.store.audit.audit import Audit
from fhir_secondop.store.audit.verify import verify
from fhir_secondop.store.database import Database, now_ms
from tests.conftest import drop_postgres, new_postgres
from tests.service.world import World, opened

Plain = dict[str, Any]


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that is not there yet, of either kind, whatever the one that is backed up."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'restored.sqlite'}"
        return
    server = request.getfixturevalue("postgres")
    url = new_postgres(server)
    yield url
    drop_postgres(server, url)


@pytest.fixture
def other(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that is not there yet, of the kind that the one backed up is not."""
    if database_url.startswith("postgresql"):
        yield f"sqlite:///{tmp_path / 'restored.sqlite'}"
        return
    server = request.getfixturevalue("postgres")
    url = new_postgres(server)
    yield url
    drop_postgres(server, url)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plain]:
    (tmp_path / "secondop.toml").write_text('auth = "none"\n')
    monkeypatch.chdir(tmp_path)

    def call(*words: object, ends: int = 0) -> Plain:
        result = CliRunner().invoke(cli.main, [*map(str, words), *(["--json"] if not ends else [])])
        assert result.exit_code == ends, result.output
        return json.loads(result.stdout) if not ends else {"said": result.output}

    return call


def everything(url: str) -> dict[str, tuple[int, str]]:
    """Each table's rows in a number and a digest, read past the backup's own code."""
    database = Database(url)
    found = {}
    with database.reading() as connection:
        for table in backup.kept():
            rows = sorted(json.dumps(list(row)) for row in connection.execute(sa.select(table)))
            found[table.name] = (len(rows), "\n".join(rows))
    database.dispose()
    return found


def test_what_is_restored_is_what_was_there_in_either_database(
    world: World, empty: str, run: Callable[..., Plain], tmp_path: Path
) -> None:
    world.ehr("riverside")
    world.ehr("lakeside")
    world.signed()
    world.work()
    world.context.database.audit.flush()  # type: ignore[union-attr]
    out = tmp_path / "backup"
    written = run("backup", "--out", out, "--database", world.database_url)
    assert written["resources"] > 100
    assert sorted(file.name for file in out.iterdir()) == sorted(
        ["manifest.json", *(f"{table.name}.ndjson.gz" for table in backup.kept())]
    )
    assert not list(tmp_path.glob(".*partial")), "nothing is left beside it"
    found = run("restore", out, "--database", empty, "--sha256", written["sha256"])
    assert found["rows"] == written["rows"]
    assert found["seconds"] > 0
    before, after = everything(world.database_url), everything(empty)
    assert {name: number for name, (number, _) in after.items()} == {
        name: number for name, (number, _) in before.items()
    }
    for name in ("resource", "version", "audience", "ix_token", "ix_string", "intake", "clock"):
        assert after[name] == before[name], name
    database = Database(empty)
    with database.reading() as connection:
        assert verify(connection).bad == ""
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.session)).scalar_one() == 0
    database.dispose()


def test_a_restored_service_goes_on_and_does_not_deliver_twice(
    world: World, other: str, run: Callable[..., Plain], tmp_path: Path
) -> None:
    world.ehr("riverside")
    world.ehr("lakeside")
    case_id = world.signed()
    run("backup", "--out", tmp_path / "backup", "--database", world.database_url)
    # Everything is delivered, and then the database is lost.
    world.work()
    assert {d["status"] for d in world.deliveries(case_id)} == {"completed"}
    held = {name: (len(one.documents), len(one.reports), one.rows()) for name, one in world.ehrs.items()}
    run("restore", tmp_path / "backup", "--database", other)
    world.database_url = other
    world.jobs.clear()
    world.keys.clear()
    world.start()
    assert {d["status"] for d in world.deliveries(case_id)} == {"accepted"}, "as it was then"
    assert requeue(world.context) > 4
    world.work(patience_s=600)
    assert {d["status"] for d in world.deliveries(case_id)} == {"completed"}
    again = {name: (len(one.documents), len(one.reports), one.rows()) for name, one in world.ehrs.items()}
    assert again == held, "what the EHRs have was found there, and nothing was sent again"
    # Numbers of rows go on behind those that came with the backup.
    world.open(placer={"system": "https://riverside.example/orders", "value": "another"})


def test_after_a_restore_the_next_alert_begins_as_ever(
    world: World, other: str, run: Callable[..., Plain], tmp_path: Path
) -> None:
    def look(settings: Alerts) -> set[tuple[str, str]]:
        world.clock.forward(600)
        watch.look(replace(world.context, alerts=replace(settings, no_worker_minutes=0, hold_down_s=0)))
        return {(alert.kind, alert.subject) for alert, told in watch.listed(world.context, LOCAL) if len(told) == 1}

    world.ehr("riverside")
    world.signed()
    levels = (Level(0, ("desk@hospital.example",)),)
    first = look(Alerts(each=Bounds(1, 0, 0, 0), levels=levels))
    assert ("oldest-undelivered", "riverside") in first
    run("backup", "--out", tmp_path / "backup", "--database", world.database_url)
    run("restore", tmp_path / "backup", "--database", other)
    world.database_url = other
    world.start()
    found = look(Alerts(each=Bounds(1, 0, 0, 0), overall=Bounds(1, 0, 0, 0), levels=levels))
    assert found == {*first, ("oldest-undelivered", "")}


def test_messages_that_nobody_can_look_for_wait_for_a_person_after_a_restore(
    world: World, other: str, run: Callable[..., Plain], tmp_path: Path
) -> None:
    hl7 = {"hl7_receiver": "LAB|LAKESIDE", "hl7_authority": "LKMRN"}
    receiver = Receiver().start()
    world.connect("riverside", "", hl7=f"mllp://127.0.0.1:{receiver.port}", **hl7)
    world.start()
    case_id = world.signed(sources=[])
    run("backup", "--out", tmp_path / "backup", "--database", world.database_url)
    world.work()
    assert len(receiver.heard) == 1
    (tmp_path / "secondop.toml").write_text(
        'auth = "none"\n' + "".join(
            f'[connections.{name}]\norganization = "a|{name}"\npatient_system = "b"\n'
            f'hl7_receiver = "LAB|LAKESIDE"\nhl7_authority = "LKMRN"\n{more}\n'
            for name, more in (("riverside", 'hl7 = "mllp://127.0.0.1:1"'), ("folder", 'hl7_folder = "out"'),
                               ("knows", 'hl7 = "mllp://127.0.0.1:1"\nhl7_dedupes = true'))
        )
    )  # fmt: skip
    assert run("restore", tmp_path / "backup", "--database", other)["paused"] == ["riverside"]
    world.database_url = other
    world.jobs.clear()
    world.keys.clear()
    world.start()
    requeue(world.context)
    world.work(patience_s=3600)
    receiver.stop()
    assert len(receiver.heard) == 1
    (waits,) = (d for d in world.deliveries(case_id) if "riverside" in d["why"])
    assert (waits["status"], "paused riverside" in waits["why"]) == ("accepted", True)


def test_a_backup_is_one_moment_while_the_service_writes(
    world: World, run: Callable[..., Plain], tmp_path: Path
) -> None:
    over = threading.Event()
    opened_cases = []

    def write() -> None:
        while not over.is_set():
            placer = {"system": "https://riverside.example/orders", "value": f"n{len(opened_cases)}"}
            opened_cases.append(world.open(placer=placer))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            run("backup", "--out", tmp_path / f"b{number}", "--database", world.database_url)
    finally:
        over.set()
        writer.join()
    for number in range(3):
        database = Database(str(tmp_path / f"r{number}.sqlite"))
        restore.into(database, tmp_path / f"b{number}", restore.read(tmp_path / f"b{number}"))
        with database.reading() as connection:
            versions = connection.execute(sa.select(sa.func.max(tables.version.c.updated))).scalar_one()
            clock = connection.execute(sa.select(tables.clock.c.at)).scalar_one()
            orphans = connection.execute(
                sa.select(sa.func.count())
                .select_from(tables.resource)
                .where(~sa.exists().where(tables.version.c.rid == tables.resource.c.rid,
                                          tables.version.c.version == tables.resource.c.version))
            ).scalar_one()  # fmt: skip
        assert clock == (versions or 0) or not versions
        assert orphans == 0
        database.dispose()


@pytest.fixture
def written(tmp_path: Path, sqlite_template: Path) -> Path:
    """A small backup of a database with a few audit rows."""
    shutil.copy(sqlite_template, tmp_path / "from.sqlite")
    database = Database(str(tmp_path / "from.sqlite"))
    audit = Audit(database, strict=True, now=now_ms)
    database.audit = audit
    audit.refused("x", 429)
    database.dispose()
    database = Database(str(tmp_path / "from.sqlite"))
    backup.write(database, tmp_path / "backup", {"keepBesides": {}, "at": "2026-11-29T07:00:00Z", "program": "0"})
    database.dispose()
    return tmp_path / "backup"


def test_large_rows_are_held_a_few_at_a_time(
    database_url: str, sqlite_template: Path, tmp_path: Path, empty: str
) -> None:
    """A site with scans has thousands of versions of several MB each; they are never in memory together."""
    many, body = 40, json.dumps({"resourceType": "Binary", "data": "A" * 1_000_000})
    source = Database(database_url)
    source.migrate()
    with source.appending() as connection:
        for n in range(many):
            row = {"rid": n + 1, "version": 1, "updated": n + 1, "deleted": False, "body": body, "cut": 0, "meta": "{}"}
            connection.execute(sa.insert(tables.version).values(**row, by="somebody"))
    target = Database(empty)
    tracemalloc.start()
    try:
        backup.write(source, tmp_path / "backup", {})
        assert tracemalloc.get_traced_memory()[1] < many * len(body) / 3
        restore.into(target, tmp_path / "backup", restore.read(tmp_path / "backup"))
        assert tracemalloc.get_traced_memory()[1] < many * len(body) / 3
    finally:
        tracemalloc.stop()
        source.dispose()
        target.dispose()


def test_a_byte_that_changed_is_found_before_anything_is_written(
    written: Path, run: Callable[..., Plain], tmp_path: Path
) -> None:
    file = written / "audit.ndjson.gz"
    changed = bytearray(file.read_bytes())
    changed[-9] ^= 1
    file.write_bytes(changed)
    said = run("restore", written, "--database", tmp_path / "to.sqlite", ends=1)["said"]
    assert "audit.ndjson.gz is not what was written" in said
    assert not (tmp_path / "to.sqlite").exists()


def test_rows_that_were_changed_with_their_hashes_are_found(
    written: Path, run: Callable[..., Plain], tmp_path: Path
) -> None:
    """Whoever changes a file and the manifest still meets the audit's chain, and the manifest's own SHA-256."""
    whole = backup.sha256(written / "manifest.json")
    file = written / "audit.ndjson.gz"
    lines = gzip.decompress(file.read_bytes()).replace(b"429", b"200")
    file.write_bytes(gzip.compress(lines))
    manifest = json.loads((written / "manifest.json").read_text())
    rows = backup.Rows()
    for line in lines.splitlines():
        rows.add(line)
    manifest["tables"]["audit"] |= {"sha256": backup.sha256(file), "rowsDigest": rows.digest}
    (written / "manifest.json").write_text(json.dumps(manifest))
    said = run("restore", written, "--database", tmp_path / "to.sqlite", ends=1)["said"]
    assert "The audit is broken" in said
    database = Database(str(tmp_path / "to.sqlite"))
    with database.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.audit)).scalar_one() == 0
    database.dispose()
    said = run("restore", written, "--drill", "--sha256", whole, ends=1)["said"]
    assert "is another one" in said


@pytest.mark.parametrize("missing", ["manifest.json", "version.ndjson.gz"])
def test_what_was_cut_off_is_no_backup(written: Path, run: Callable[..., Plain], tmp_path: Path, missing: str) -> None:
    (written / missing).unlink()
    said = run("restore", written, "--database", tmp_path / "to.sqlite", ends=1)["said"]
    assert re.search(f"no whole backup|{missing} is missing", said)
    assert not (tmp_path / "to.sqlite").exists()


@pytest.fixture
def large(tmp_path: Path, sqlite_template: Path) -> Path:
    """A database of which a backup, and putting it back, takes a second or more."""
    file = tmp_path / "large.sqlite"
    shutil.copy(sqlite_template, file)
    database = Database(str(file))
    body = {"version": 1, "deleted": False, "body": json.dumps({"text": "x" * 4000}), "cut": 0, "meta": "{}", "by": "x"}
    row = {"type": "Basic", "version": 1, "deleted": False, "owner": "x"}
    with database.appending() as connection:
        numbers = range(1, 20_001)
        rows = [{**row, "rid": n, "id": f"b{n}", "updated": n} for n in numbers]
        connection.execute(sa.insert(tables.resource), rows)
        connection.execute(sa.insert(tables.version), [{**body, "rid": n, "updated": n} for n in numbers])
    database.dispose()
    return file


def killed(until: Callable[[], bool], *words: object) -> None:
    """The command is ended at once in the middle of its work, when `until` is so."""
    command = [sys.executable, "-m", "fhir_secondop.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not until():
            assert process.poll() is None, "it ended before"
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended before"


def size(file: Path) -> int:
    """Bytes; 0 where there is none."""
    return file.stat().st_size if file.exists() else 0


def counted(file: Path) -> dict[str, int]:
    """How many rows each table has."""
    with closing(sqlite3.connect(file)) as connection:
        return {t.name: connection.execute(f"SELECT count(*) FROM {t.name}").fetchone()[0] for t in backup.kept()}


def test_a_backup_that_is_killed_is_none_and_the_next_one_is_whole(
    large: Path, run: Callable[..., Plain], tmp_path: Path
) -> None:
    out = tmp_path / "another"

    def begun() -> bool:
        return any(size(file) for file in tmp_path.glob(".another.*.partial/version.ndjson.gz"))

    killed(begun, "backup", "--out", out, "--database", large)
    assert not out.exists()
    (left,) = tmp_path.glob(".another.*.partial")
    assert "no whole backup" in run("restore", left, "--drill", ends=1)["said"]
    assert run("backup", "--out", out, "--database", large)["rows"] > 40_000
    assert run("restore", out, "--drill")["digests"] == "equal"


def test_a_restore_that_is_killed_leaves_no_row_and_is_not_taken_for_one(
    large: Path, run: Callable[..., Plain], tmp_path: Path, sqlite_template: Path
) -> None:
    run("backup", "--out", tmp_path / "backup", "--database", large)
    to = tmp_path / "to.sqlite"

    def begun() -> bool:  # so many rows that they are in its log, which are not committed
        return size(tmp_path / "to.sqlite-wal") > 20_000_000

    killed(begun, "restore", tmp_path / "backup", "--database", to)
    assert counted(to) == counted(sqlite_template)
    assert "not empty" in run("restore", tmp_path / "backup", "--database", to, ends=1)["said"]
    assert run("restore", tmp_path / "backup", "--database", tmp_path / "again.sqlite")["digests"] == "equal"


def test_a_backup_that_fails_leaves_nothing(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup.os, "fsync", fail)
    database = Database(str(tmp_path / "from.sqlite"))
    with pytest.raises(OSError, match="No space"):
        backup.write(database, tmp_path / "another", {})
    database.dispose()
    assert sorted(file.name for file in tmp_path.glob("*another*")) == []


def test_nothing_that_is_there_is_written_over(written: Path, run: Callable[..., Plain], tmp_path: Path) -> None:
    said = run("backup", "--out", written, "--database", tmp_path / "from.sqlite", ends=1)["said"]
    assert "is there already" in said
    said = run("restore", written, "--database", tmp_path / "from.sqlite", ends=1)["said"]
    assert "not empty" in said


def test_a_backup_of_an_earlier_version_is_restored_and_brought_up_to_date(written: Path, tmp_path: Path) -> None:
    manifest = restore.read(written)
    then = Database(str(tmp_path / "then.sqlite"))
    then.migrate("0012")
    with then.reading() as connection:
        there = set(sa.inspect(connection).get_table_names())
    then.dispose()
    earlier = {name: entry for name, entry in manifest["tables"].items() if name in there}
    assert "version_method" not in earlier
    database = Database(str(tmp_path / "to.sqlite"))
    restore.into(database, written, {**manifest, "revision": "0012", "tables": earlier})
    with database.reading() as connection:
        assert sa.inspect(connection).has_table("version_method")
    database.dispose()


def test_a_backup_of_a_later_version_is_refused(written: Path, run: Callable[..., Plain], tmp_path: Path) -> None:
    manifest = json.loads((written / "manifest.json").read_text())
    (written / "manifest.json").write_text(json.dumps({**manifest, "revision": "9999"}))
    assert "later version" in run("restore", written, "--database", tmp_path / "to.sqlite", ends=1)["said"]


def test_secrets_are_not_in_it_and_are_named(written: Path, run: Callable[..., Plain], tmp_path: Path) -> None:
    for name in ("link-secret", "document-keys.json", "riverside.token"):
        (tmp_path / name).write_text("the-secret-itself")
    (tmp_path / "secondop.toml").write_text(
        '[connections.riverside]\nbase = "https://ehr.riverside.example"\nauth = "bearer"\n'
        'secret_file = "riverside.token"\n'
    )
    found = run("backup", "--out", tmp_path / "b", "--database", tmp_path / "from.sqlite")
    assert {Path(file).name for file in found["keepBesides"].values()} == {
        "link-secret", "document-keys.json", "riverside.token",
    }  # fmt: skip
    for file in (tmp_path / "b").iterdir():
        content = file.read_bytes()
        text = gzip.decompress(content) if file.suffix == ".gz" else content
        assert b"the-secret-itself" not in text, file.name
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700


def test_a_drill_proves_it_says_how_long_it_took_and_leaves_nothing(
    written: Path, run: Callable[..., Plain], tmp_path: Path, postgres: str
) -> None:
    before = sorted(tmp_path.iterdir())
    for where in ((), ("--database", postgres)):
        found = run("restore", written, "--drill", *where)
        assert (found["drill"], found["files"], found["digests"], found["audit"]["rows"]) == (
            True,
            "proved",
            "equal",
            1,
        )
        assert found["seconds"] > 0
    assert sorted(tmp_path.iterdir()) == before
    database = Database(postgres)
    with database.reading() as connection:
        names = set(connection.execute(sa.text("SELECT datname FROM pg_database")).scalars())
    database.dispose()
    assert not any(name.startswith("secondop_drill") for name in names)
