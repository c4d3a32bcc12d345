"""What every request looks up: one row as it is committed now, on a connection that is given back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from fhir_secondop.errors import Unavailable
from fhir_secondop.store import lookup, tables
from fhir_secondop.store.database import Database, now_ms
from fhir_secondop.store.grants import Grants


def test_a_token_is_known_from_its_commit_to_its_revocation_on_every_connection(database: Database) -> None:
    elsewhere = Database(database.url, pool_size=1)
    here, there = Grants(database, now_ms), Grants(elsewhere, now_ms)
    try:
        for _ in range(3):
            token = here.give("desk", "r", "system/*.rs", 60)
            found = there.find(token)
            assert found is not None
            assert (found.client, found.scopes, found.expires - found.issued) == ("desk", "system/*.rs", 60_000)
            here.revoke(token)
            assert there.find(token) is None
        assert here.find("x' OR 'x' = 'x") is None
    finally:
        elsewhere.dispose()


def test_the_connection_is_given_back_as_it_was(database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    database.migrate()
    grants = Grants(database, now_ms)
    try:
        token = grants.give("desk", "r", "system/*.rs", 60)
        for _ in range(2):
            assert grants.find(token) is not None
            with database.reading() as connection:
                # A snapshot as before: what is written meanwhile is not seen in it.
                counted = sa.select(sa.func.count()).select_from(tables.access_token)
                before = connection.execute(counted).scalar_one()
                grants.give("desk", "r", "system/*.rs", 60)
                assert connection.execute(counted).scalar_one() == before
            with database.engine.connect() as connection:  # and what is not committed is nothing
                connection.execute(sa.delete(tables.access_token))
            assert grants.find(token) is not None
        assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    finally:
        database.dispose()


def test_a_statement_that_fails_is_no_unknown_key(database: Database) -> None:
    grants = Grants(database, now_ms)
    with database.appending() as connection:
        connection.execute(sa.text("DROP TABLE access_token"))
    with pytest.raises((Unavailable, database.engine.dialect.loaded_dbapi.Error)):  # type: ignore[attr-defined]
        grants.find("x")
    assert lookup.one_row(database, sa.select(tables.clock.c.at)) is not None  # and harms nobody after it


def test_one_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    nowhere = Database(f"sqlite:///{tmp_path}/none/none.sqlite")
    with pytest.raises(Unavailable):
        Grants(nowhere, now_ms).find("x")
