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
from fhir_secondop.store import compartments, tables
from fhir_secondop.store.compartments import Place, Record
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


def plan(connection: Any, of: Record, visibility: Visibility, place: Place | None) -> list[str]:
    said: list[str] = []

    def note(cursor_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            rows = cursor_connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            said.extend(row[3] for row in rows)

    engine = connection.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        list(compartments.record(connection, of, visibility, place, 10))
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    return said


@pytest.mark.parametrize("visibility", [EVERYTHING, REVIEWER], ids=["all", "reviewer"])
@pytest.mark.parametrize("place", [None, Place(3, 50)], ids=["first", "next"])
def test_each_shape_of_a_page_goes_by_an_index(sqlite: Database, visibility: Visibility, place: Place | None) -> None:
    record(sqlite, 60)
    with sqlite.reading() as connection:
        for of in (Record("p1"), Record("p1", interval("2020")), Record("p1", None, ("Encounter",))):
            steps = plan(connection, of, visibility, place)
            assert any("ix_reference_target" in step for step in steps)
            assert [step for step in steps if step.startswith("SCAN") and "CONSTANT" not in step] == []
        steps = plan(connection, Record(), visibility, place)
        # Of all patients: along the numbers from where the last page ended, or along a list by the cases that are seen.
        onwards = "SEARCH resource USING INTEGER PRIMARY KEY (rowid"
        assert steps[0].startswith(f"{onwards}>" if visibility.everything else f"{onwards}=?)"), steps
        assert visibility.everything or any(step.startswith("MULTI-INDEX OR") for step in steps)
        assert not any("ORDER BY" in step for step in steps)


def test_a_long_record_comes_whole_and_in_order(database: Database) -> None:
    record(database, 1200)
    conditions = [compartments.of_patient("p1")]
    with database.reading() as connection:
        everything = [one.id for one in compartments.page(connection, conditions, EVERYTHING, None, 5000)]
        assert len(everything) == 601
        found: list[str] = []
        place = None
        last = compartments.newest(connection)
        while page := list(compartments.record(connection, Record("p1"), EVERYTHING, place, 250)):
            found += [one.id for one in page]
            place = Place(page[-1].rid, last)
    assert found == everything


@pytest.mark.parametrize("of", [Record("p1"), Record()], ids=["one", "all"])
def test_a_restricted_reader_gets_what_they_see_of_a_record(database: Database, of: Record) -> None:
    record(database, 20)
    with database.transaction(DESK) as tx:
        resource, audience = tables.resource.c, tables.audience
        seen = sa.update(tables.resource).where(resource.id.in_(["p1", "o0", "o2", "o3", "o4"]))
        tx.connection.execute(seen.values(case_id="c1"))
        tx.connection.execute(
            sa.insert(audience).values(case_id="c1", party="reviewer", part="record", until=1000)
        )  # fmt: skip
        moved = sa.update(tables.resource).where(resource.id == "o4").values(owner="reviewer", case_id=None)
        tx.connection.execute(moved)
    stranger = Visibility(False, "other", frozenset({"other", "x"}), 0)
    late = Visibility(False, "reviewer", frozenset({"reviewer"}), 1000)
    wanted = [("Patient", "p1"), ("Patient", "p2"), *(("Observation", f"o{n}") for n in range(60))]
    with database.reading() as connection:
        # In this order, so that a statement that was kept would show another's.
        mine = REVIEWER, ["p1", "o0", "o2", "o4"]
        after_that = late, ["o4"] if of.patient_id else []
        for visibility, ids in ((EVERYTHING, None), mine, (stranger, []), after_that, mine):
            found = [one.id for one in compartments.record(connection, of, visibility, None, 100)]
            members = [one.id for one in compartments.named(connection, wanted, visibility, among=of)]
            assert sorted(members) == sorted(found)
            assert ids is None or found == ids
            there = [one.id for one in compartments.named(connection, wanted, visibility)]
            assert set(members) <= set(there)


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
        assert len(list(compartments.record(connection, Record("p1"), EVERYTHING, None, 1000))) == 101
        driver.set_progress_handler(None, 0)
    assert steps * 10 < 101 * 60


@pytest.mark.parametrize("meta", [{}, {"tag": [{"code": "ä"}], "versionId": "7"}])
def test_a_resource_goes_out_with_our_version_and_the_senders_meta(database: Database, meta: dict[str, Any]) -> None:
    with database.transaction(DESK) as tx:
        stored = create(tx, {"resourceType": "Patient", "meta": meta, "active": True}, resource_id="p1")
    assert codec.trusted(stored.text) == {"resourceType": "Patient", "id": "p1", "meta": stored.meta, "active": True}
    assert stored.text == codec.splice(stored.body, stored.id, stored.meta)
    assert stored.meta["versionId"] == "1"
