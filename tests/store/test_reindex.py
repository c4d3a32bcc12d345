"""The index made anew, on both databases: all of it, in batches, once, and gone on with after a stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.fhir import definitions
from fhir_secondop.store import index, reindex, tables
from fhir_secondop.store.database import Database
from tests.store.rows import BASE, delete, everything, named, put

PARTS = [{"code": {"coding": [{"code": "a"}]}, "valueQuantity": {"value": 1}}]


def fill(database: Database) -> None:
    for number in range(7):
        rest = {"status": "final", "code": {"text": "x"}, "valueQuantity": {"value": number}, "component": PARTS}
        named(database, "Observation", [(f"o{number}", rest)])
    delete(database, put(database, {"resourceType": "Patient", "name": [{"family": "Gone"}]}))
    named(database, "ValueSet", [("v", {"status": "draft", "url": "http://x.example/v"})])


def emptied(database: Database) -> None:
    with database.appending() as connection:
        for table in (*tables.INDEXES, tables.index_state):
            connection.execute(sa.delete(table))


def rows(database: Database) -> list[list[tuple[Any, ...]]]:
    with database.reading() as connection:
        return [sorted(map(tuple, connection.execute(sa.select(table)).all())) for table in tables.INDEXES]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "BATCH", 2)


@pytest.mark.usefixtures("batches")
def test_all_rows_are_made_anew_once(database: Database) -> None:
    fill(database)
    before, told = rows(database), []
    emptied(database)
    assert reindex.bring_up_to_date(database, BASE, lambda done, whole: told.append((done, whole))) == 9
    assert rows(database) == before
    assert told == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]
    assert reindex.bring_up_to_date(database, BASE) == 0
    assert reindex.again(database, BASE) == 9
    assert rows(database) == before


@pytest.mark.usefixtures("batches")
def test_one_that_was_stopped_is_gone_on_with(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database)
    before = rows(database)
    emptied(database)
    real: Callable[..., None] = index.write_many
    calls = []

    def stops(*of: Any) -> None:
        calls.append(of)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*of)

    with monkeypatch.context() as patch:
        patch.setattr(index, "write_many", stops)
        with pytest.raises(KeyboardInterrupt):
            reindex.bring_up_to_date(database, BASE)
    named(database, "Patient", [("new", {"name": [{"family": "Meanwhile"}]})])
    assert reindex.bring_up_to_date(database, BASE) == 6, "four were done"
    assert everything(database, "Patient", "name=meanwhile") == ["new"]
    assert everything(database, "Observation", "component-code-value-quantity=a$1") == [f"o{n}" for n in range(7)]
    assert [len(found) for found in rows(database)] >= [len(found) for found in before]


def test_another_set_of_parameters_is_indexed_anew(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database)
    reindex.bring_up_to_date(database, BASE)
    assert reindex.bring_up_to_date(database, BASE) == 0
    monkeypatch.setattr(definitions, "search_parameters_digest", lambda: "another")
    assert reindex.bring_up_to_date(database, BASE) == 9
