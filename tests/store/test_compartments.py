"""A patient's compartment: its pages, the indexes that they use, and how few statements a whole record takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.fhir import codec
from fhir_secondop.fhir.times import interval
from fhir_secondop.model import EVERYTHING, Caller, Visibility
from fhir_secondop.store import compartments
from fhir_secondop.store.compartments import Place
from fhir_secondop.store.database import Database
from tests.rest.served import client_of
from tests.store.rows import DESK, create, named

P1 = {"reference": "Patient/p1"}
REVIEWER = Visibility(False, "reviewer", frozenset({"reviewer"}), 0)


@pytest.fixture
def sqlite(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """A database of which one connection is used."""
    shutil.copy(sqlite_template, tmp_path / "test.sqlite")
    opened = Database(f"sqlite:///{tmp_path / 'test.sqlite'}", pool_size=1)
    yield opened
    opened.dispose()


def record(database: Database, number: int) -> None:
    named(database, "Practitioner", [("d1", {"active": True})])
    named(database, "Patient", [("p1", {"generalPractitioner": [{"reference": "Practitioner/d1"}]}), ("p2", {})])
    observation = {"status": "final", "code": {"text": "x"}, "effectiveDateTime": "2020"}
    with database.transaction(DESK) as tx:
        for n in range(number):
            subject = {"subject": {"reference": f"Patient/p{1 + n % 2}"}}
            create(tx, {"resourceType": "Observation", **observation, **subject}, resource_id=f"o{n}")


def plan(connection: Any, conditions: list[Any], visibility: Visibility, place: Place | None, **how: Any) -> list[str]:
    said: list[str] = []

    def note(cursor_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            rows = cursor_connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            said.extend(row[3] for row in rows)

    engine = connection.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        list(compartments.page(connection, conditions, visibility, place, 10, **how))
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    return said


@pytest.mark.parametrize("visibility", [EVERYTHING, REVIEWER], ids=["all", "reviewer"])
@pytest.mark.parametrize("place", [None, Place(3, 50)], ids=["first", "next"])
def test_each_shape_of_a_page_goes_by_an_index(sqlite: Database, visibility: Visibility, place: Place | None) -> None:
    record(sqlite, 60)
    one = compartments.of_patient("p1")
    with sqlite.reading() as connection:
        for conditions in ([one], [one, compartments.in_care(interval("2020"))],
                           [one, compartments.is_none_of(["Encounter"], but_patient="p1")]):  # fmt: skip
            steps = plan(connection, conditions, visibility, place)
            assert any("ix_reference_target" in step for step in steps)
            assert [step for step in steps if step.startswith("SCAN") and "CONSTANT" not in step] == []
        steps = plan(connection, [compartments.of_patients(visibility)], visibility, place, of_all=True)
        # Of all patients: along the numbers from where the last page ended, or by the cases that are seen.
        onwards = "SEARCH resource USING INTEGER PRIMARY KEY (rowid>" if place else "SCAN resource"
        assert steps[0].startswith(onwards if visibility.everything else "MULTI-INDEX OR"), steps


def test_a_long_record_comes_whole_and_in_order(database: Database) -> None:
    record(database, 1200)
    conditions = [compartments.of_patient("p1")]
    with database.reading() as connection:
        everything = [one.id for one in compartments.page(connection, conditions, EVERYTHING, None, 5000)]
        assert len(everything) == 601
        found: list[str] = []
        place = None
        last = compartments.newest(connection)
        while page := list(compartments.whole(connection, "p1", place, 250)):
            found += [one.id for one in page]
            place = Place(page[-1].rid, last)
    assert found == everything


def test_who_sees_all_gets_the_same_by_the_short_way(database: Database) -> None:
    record(database, 20)
    wanted = [("Practitioner", "d1"), ("Patient", "p2"), *(("Observation", f"o{n}") for n in range(60))]
    everybody = sa.true()
    with database.reading() as connection:
        long_way = list(compartments.page(connection, [compartments.of_patient("p1")], EVERYTHING, None, 100))
        assert list(compartments.whole(connection, "p1", None, 100)) == long_way
        found = list(compartments.named(connection, wanted, EVERYTHING))
        also = list(compartments.named(connection, wanted, EVERYTHING, among=everybody))
    assert sorted(found, key=lambda one: one.rid) == sorted(also, key=lambda one: one.rid)
    assert len(found) == 22


def test_a_record_takes_two_statements(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    record(sqlite, 100)
    desk = Caller("desk", "Desk", frozenset({"coordinator"}), ("system/*.rs",))
    client = client_of(sqlite, lambda request: desk, published=frozenset({"everything"}))
    client.get("/fhir/Patient/p1/$everything")
    asked: list[str] = []
    with sqlite.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_trace_callback(asked.append)
    parsed: list[str] = []
    real = codec.trusted
    monkeypatch.setattr(codec, "trusted", lambda text: parsed.append(text) or real(text))
    try:
        answer = client.get("/fhir/Patient/p1/$everything")
    finally:
        driver.set_trace_callback(None)
    assert len(json.loads(answer.text)["entry"]) == 52
    assert sum(statement.lstrip().startswith("SELECT") for statement in asked) == 2
    assert parsed == [], "what is stored goes out as it is"


def test_a_record_is_found_in_few_steps(sqlite: Database) -> None:
    """Of SQLite's machine: written as a truth value, the list of ways was gone through for each row again."""
    record(sqlite, 200)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with sqlite.reading() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(count, 10)
        assert len(list(compartments.whole(connection, "p1", None, 1000))) == 101
        driver.set_progress_handler(None, 0)
    assert steps * 10 < 101 * 60


@pytest.mark.parametrize("meta", [{}, {"tag": [{"code": "ä"}], "versionId": "7"}])
def test_a_resource_goes_out_with_our_version_and_the_senders_meta(database: Database, meta: dict[str, Any]) -> None:
    with database.transaction(DESK) as tx:
        stored = create(tx, {"resourceType": "Patient", "meta": meta, "active": True}, resource_id="p1")
    assert codec.trusted(stored.text) == {"resourceType": "Patient", "id": "p1", "meta": stored.meta, "active": True}
    assert stored.text == codec.splice(stored.body, stored.id, stored.meta)
    assert stored.meta["versionId"] == "1"
