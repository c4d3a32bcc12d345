"""The engine: schema and model are the same, migrations may run twice at once, readers do not wait."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from fhir_secondop import store
from fhir_secondop.errors import NotFound
from fhir_secondop.model import EVERYTHING
from fhir_secondop.store import database as database_module
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Database, is_away, last_write, newest, normalised
from fhir_secondop.store.patience import connect_args
from tests.conftest import drop_postgres, new_postgres
from tests.store.rows import DESK, create, cut_off, everything, put

BASIC = {"resourceType": "Basic", "code": {"text": "x"}}


def test_the_migrated_schema_is_the_one_of_the_model(database: Database) -> None:
    with database.engine.connect() as connection:
        only = connection.dialect.name

        def is_there(item: Any, name: str | None, kind: str, reflected: bool, compared: Any) -> bool:
            return reflected or kind != "index" or item.info.get("only", only) == only

        options = {"compare_type": True, "compare_server_default": True, "include_object": is_there}
        context = MigrationContext.configure(connection, opts=options)
        differences = compare_metadata(context, tables.metadata)
    ours = [d for d in differences if not _is_alembics(d)]
    assert ours == []


def _is_alembics(difference: object) -> bool:
    return "alembic_version" in repr(difference)


def test_the_newest_migration_is_the_one_that_alembic_goes_to(database: Database) -> None:
    """A start with nothing to do does without alembic."""
    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == newest()
    with database.reading() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == newest()


def test_the_comparison_would_see_a_missing_column(database: Database) -> None:
    with database.engine.connect() as connection:
        metadata = sa.MetaData()
        for table in tables.metadata.sorted_tables:
            table.to_metadata(metadata)
        metadata.tables["resource"].append_column(sa.Column("forgotten", sa.Text))
        assert "forgotten" in repr(compare_metadata(MigrationContext.configure(connection), metadata))


def test_what_was_indexed_before_references_lost_a_column_is_found_after(bare_database_url: str) -> None:
    old = Database(bare_database_url)
    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    with old.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0011")
        body = '{"resourceType":"Observation","subject":{"reference":"Patient/p1"}}'
        connection.execute(
            sa.text(
                "INSERT INTO resource (rid, type, id, version, updated, deleted, owner)"
                " VALUES (1, 'Observation', 'o1', 1, 1700000000000, :no, 'desk')"
            ),
            {"no": False},
        )
        connection.execute(
            sa.text("INSERT INTO version VALUES (1, 1, 1700000000000, :no, :body, 29, '{}', 'desk')"),
            {"no": False, "body": body},
        )
        connection.execute(
            sa.text(
                "INSERT INTO ix_reference (rid, type, param, target, identifier)"
                " VALUES (1, 'Observation', 'subject', 'Patient/p1', '')"
            )
        )
        connection.commit()
    old.migrate()
    assert everything(old, "Observation", "subject=Patient/p1") == ["o1"]
    assert everything(old, "Observation", "subject=Patient/p2") == []
    with old.reading() as connection:
        found = resources.read(connection, EVERYTHING, "Observation", "o1")
    assert found.body.text == body
    old.dispose()


def test_a_range_over_text_goes_by_code_points_on_both(database: Database) -> None:
    """PostgreSQL's locale must not decide what begins with what (the column's collation)."""
    for family in ("Zed", "abel", "Äbel", "Z-Z", "zz top"):
        put(database, {"resourceType": "Patient", "name": [{"family": family}]})
    assert len(everything(database, "Patient", "family=z")) == 3
    assert len(everything(database, "Patient", "family=zz")) == 1


def test_two_starts_at_once_migrate_once(bare_database_url: str) -> None:
    opened = [Database(bare_database_url) for _ in range(3)]
    failures: list[BaseException] = []

    def start(database: Database) -> None:
        try:
            database.migrate()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(database,)) for database in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    put(opened[0], BASIC)
    assert len(everything(opened[2], "Basic", "")) == 1
    for database in opened:
        database.dispose()


def test_a_second_migration_keeps_what_is_there(database: Database) -> None:
    stored = put(database, BASIC)
    database.migrate()
    assert everything(database, "Basic", "") == [stored.id]


def test_a_reader_sees_one_state_and_does_not_wait_for_a_writer(database: Database) -> None:
    put(database, BASIC)
    with database.transaction(DESK) as tx:
        create(tx, BASIC)
        assert len(everything(database, "Basic", "")) == 1, "what is not committed is not there"
    count = sa.select(sa.func.count()).select_from(tables.resource)
    with database.reading() as connection:
        before = connection.execute(count).scalar_one()
        put(database, BASIC)
        assert connection.execute(count).scalar_one() == before, "one snapshot throughout"
    assert len(everything(database, "Basic", "")) == 3


def test_a_failed_transaction_lets_the_next_writer_in(database: Database) -> None:
    for _ in range(10):  # more than the pool holds
        with pytest.raises(RuntimeError), database.transaction(DESK):
            raise RuntimeError
    put(database, BASIC)


def test_commits_are_durable_before_they_are_acknowledged(database: Database) -> None:
    with database.transaction(DESK) as tx:
        if database.is_sqlite:
            assert tx.connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
            assert tx.connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        else:
            assert tx.connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
            assert tx.connection.exec_driver_sql("SHOW fsync").scalar_one() == "on"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("/var/lib/x.sqlite", "sqlite:////var/lib/x.sqlite"),
        ("sqlite:///x", "sqlite:///x"),
    ],
)
def test_a_url_as_people_write_it_is_understood(given: str, meant: str) -> None:
    assert normalised(given) == meant


def test_a_writer_that_stands_still_within_its_transaction_does_not_stop_the_others(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is paused there, say: PostgreSQL ends its transaction, and nothing of it is stored."""
    monkeypatch.setattr(database_module, "_READ_CLOCK_FOR", database_module._clock_for(0.5))
    url = new_postgres(postgres)
    paused, other = Database(url), Database(url)
    paused.migrate()

    def stand_still() -> int:
        with paused.transaction(DESK) as tx:
            tx.tick()
            with other.transaction(DESK) as second:
                return second.tick()

    with pytest.raises(DBAPIError) as failed:
        stand_still()
    assert is_away(failed.value)
    with other.transaction(DESK) as tx:
        assert tx.began == last_write(tx.connection) > 0
    paused.dispose()
    other.dispose()
    drop_postgres(postgres, url)


def test_a_server_that_is_silent_is_not_waited_for_by_the_kernels_measure() -> None:
    """What libpq and the server are told; what the URL says itself stays (tests/faults/test_network.py cuts one)."""
    told = connect_args(sa.make_url("postgresql+psycopg://db/x?connect_timeout=2"))
    assert "connect_timeout" not in told
    assert told["tcp_user_timeout"] <= 15_000
    assert told["keepalives_idle"] + told["keepalives_interval"] * told["keepalives_count"] <= 15
    for name in ("tcp_keepalives_idle", "tcp_user_timeout", "idle_in_transaction_session_timeout"):
        assert f"-c {name}=" in told["options"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("writing", [True, False])
def test_a_connection_that_broke_is_put_away_without_a_word_of_the_pool(
    database: Database, writing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What it meant is said once, by whoever asked."""

    def written() -> None:
        with database.transaction(DESK) as tx:
            cut_off(database, tx.connection)
            create(tx, BASIC)

    def read() -> None:
        with database.reading() as connection:
            cut_off(database, connection)
            resources.case_of(connection, "Basic", "a")

    with pytest.raises(DBAPIError) as error:
        written() if writing else read()
    assert is_away(error.value)
    assert error.value.connection_invalidated
    assert caplog.messages == []
    assert everything(database, "Basic", "") == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_broke_after_it_was_read_from_harms_nobody(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with database.reading() as connection:
        cut_off(database, connection)
    with database.reading() as connection:  # in a transaction of SQLAlchemy's
        connection.execute(sa.text("SELECT 1"))
        cut_off(database, connection)

    def refused() -> None:
        with database.reading() as connection:
            cut_off(database, connection)
            raise NotFound("There is none.")

    with pytest.raises(NotFound):
        refused()
    assert caplog.messages == []
    assert everything(database, "Basic", "") == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_who_passes_over_a_broken_connection_is_told_that_the_database_is_away(database: Database) -> None:
    def passes_over() -> None:
        with database.transaction(DESK) as tx:
            cut_off(database, tx.connection)
            with pytest.raises(DBAPIError):
                create(tx, BASIC)
            tx.connection.execute(sa.text("SELECT 1"))

    with pytest.raises(sa.exc.SQLAlchemyError) as error:
        passes_over()
    assert is_away(error.value)
