"""The events of a case are numbered without holes, whoever writes at once and whatever fails; with their transaction
they come, and with it they go.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fhir_secondop.fhir import codec
from fhir_secondop.store import case_events, commits, resources
from fhir_secondop.store.case_events import Event
from fhir_secondop.store.database import Database, Transaction
from tests.store.rows import BASE, DESK, create, put
from tests.store.teller import InVain, basic, opened
from tests.store.test_commits import Writers

CASE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def numbered(database_url: str) -> Iterator[Database]:
    """A database in which two cases were opened."""
    database = opened(database_url)
    for case_id in (CASE, OTHER):
        put(database, request(), resource_id=case_id, case_id=case_id)
        begin(database, case_id)
    yield database
    database.dispose()


def request() -> dict[str, object]:
    return {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": {"display": "x"}}


def begin(database: Database, case_id: str) -> None:
    assert database.numbering is not None
    with database.transaction(DESK) as tx:
        database.numbering.begin(tx, case_id)


def events(database: Database, case_id: str = CASE, after: int = 0, count: int = 10_000) -> list[Event]:
    with database.reading() as connection:
        return case_events.after(connection, case_id, after, count)


def kinds(database: Database, case_id: str = CASE) -> list[str]:
    found = events(database, case_id)
    assert [event.n for event in found] == list(range(1, len(found) + 1)), "there is a hole"
    with database.reading() as connection:
        assert case_events.last_of(connection, [case_id]).get(case_id, 0) == len(found)
    return [event.kind for event in found]


def test_numbers_have_no_hole_whoever_writes_at_once_and_whatever_fails(numbered: Database) -> None:
    url = numbered.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.store.teller", url]
    running = [
        subprocess.Popen([*command, name, "12", CASE, OTHER], stdout=subprocess.PIPE, text=True) for name in "abc"
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    committed = [tuple(pair) for lines in said for pair in json.loads(lines)]
    assert 50 < len(committed) < 3 * 6 * 12, "some of it failed, and most of it did not"
    for case_id in (CASE, OTHER):
        told = kinds(numbered, case_id)
        # every event is of a transaction that was committed, all of its events follow one another, and none lacks
        stems = [kind.partition("#")[0].partition(".")[0] for kind in told]
        together = list(dict.fromkeys(stems))
        assert sorted(together) == sorted(text for case, text in committed if case == case_id)
        assert stems == [stem for stem in together for _ in range(stems.count(stem))]
        # the order of the numbers is that of the commits: `lastUpdated` rises with it
        at = [event.at for event in events(numbered, case_id)]
        assert at == sorted(at)


def test_events_go_with_their_transaction(numbered: Database) -> None:
    put(numbered, basic("before"), case_id=CASE)
    with pytest.raises(InVain):
        _give_up(numbered)
    put(numbered, basic("after"), case_id=CASE)
    assert kinds(numbered) == ["before.0", "after.0"]


def _give_up(database: Database) -> None:
    with database.transaction(DESK) as tx:
        create(tx, basic("in vain", 3), case_id=CASE)
        assert database.numbering is not None
        database.numbering.write(tx)
        assert case_events.last_of(tx.connection, [CASE]) == {CASE: 4}
        raise InVain


def test_of_those_who_share_a_commit_the_one_who_fails_leaves_neither_event_nor_hole(
    numbered: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "LONGEST_S", 60)  # the first one waits until all the others have come
    writers = Writers(database_url)
    writers.database.numbering = numbered.numbering

    def tell(text: str, fails: bool = False) -> Callable[[Transaction], None]:
        def then(tx: Transaction) -> None:
            create(tx, basic(text, 2), case_id=CASE)
            if fails:
                assert writers.database.numbering is not None
                writers.database.numbering.write(tx)
                raise InVain

        return then

    became = writers.together(("one", tell("one")), ("bad", tell("bad", fails=True)), ("two", tell("two")))
    assert writers.commits == 1, "they did not share a commit"
    assert isinstance(became["bad"], InVain)
    found = kinds(numbered)
    assert sorted([found[:2], found[2:]]) == [["one.0", "one.1"], ["two.0", "two.1"]]
    writers.database.dispose()


def test_what_has_no_case_and_what_is_copied_from_a_source_tells_nothing(numbered: Database) -> None:
    put(numbered, basic("first"), case_id=CASE)
    put(numbered, basic("of nobody"))
    put(numbered, basic("copied"), case_id=CASE, owner="source:lakeside")
    put(numbered, basic("sent"), case_id=CASE, owner="upload:x")
    put(numbered, basic("elsewhere"), case_id="#directory")
    put(numbered, request(), case_id=CASE)
    assert kinds(numbered) == ["first.0"]
    put(numbered, basic("apart"), case_id=f"{CASE}#quarantine")
    assert kinds(numbered) == ["first.0", "apart.0"]


@pytest.mark.parametrize(("case_id", "more"), [(None, 0), (CASE, 2)])
def test_a_create_without_a_case_runs_not_one_statement_more(
    sqlite_template: Path, tmp_path: Path, case_id: str | None, more: int
) -> None:
    ran: list[int] = []
    database = opened(str(shutil.copy(sqlite_template, tmp_path / "x.sqlite")))
    put(database, request(), resource_id=CASE, case_id=CASE)
    put(database, basic("first"), case_id=CASE)
    for numbering in (None, database.numbering):
        database.numbering = numbering
        statements: list[str] = []
        with database.transaction(DESK) as tx:
            tx.connection.connection.driver_connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
            create(tx, basic("x"), case_id=case_id)
        ran.append(len(statements))
    database.dispose()
    assert ran[1] - ran[0] == more


def test_the_past_of_a_case_that_was_there_before_is_numbered_when_something_happens_and_when_it_is_asked_for(
    numbered: Database,
) -> None:
    numbering, numbered.numbering = numbered.numbering, None
    for case_id in ("old", "older"):
        put(numbered, request(), resource_id=case_id, case_id=case_id)
        first = put(numbered, basic("first"), case_id=case_id)
        put(numbered, basic("draft"), case_id=f"{case_id}#draft")
        put(numbered, basic("copied"), case_id=case_id, owner="source:lakeside")
        with numbered.transaction(DESK) as tx:
            resources.update(tx, first, *codec.split(json.dumps(basic("second"))), base_url=BASE)
    numbered.numbering = numbering
    put(numbered, basic("now", 2), case_id="old")
    assert kinds(numbered, "old") == ["first.0", "draft.0", "second.0", "now.0", "now.1"]
    assert kinds(numbered, "older") == []
    begin(numbered, "older")
    begin(numbered, "older")
    assert kinds(numbered, "older") == ["first.0", "draft.0", "second.0"]
    assert [event.version for event in events(numbered, "older")] == [1, 1, 2]


def test_replayed_from_any_number_they_are_the_same_each_time(numbered: Database) -> None:
    for number in range(7):
        put(numbered, basic(f"e{number}"), case_id=CASE)
    whole = events(numbered)
    for after in range(9):
        assert events(numbered, after=after) == events(numbered, after=after) == whole[after:]
    assert events(numbered, after=2, count=3) == whole[2:5]
