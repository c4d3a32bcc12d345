"""Versions, history, deletion, the order of commits, and who sees what."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Gone, Invalid, NotFound, PreconditionFailed
from fhir_secondop.fhir import codec, query
from fhir_secondop.model import EVERYTHING, RECORD, REPORT, Caller
from fhir_secondop.store import bundles, resources, search, tables
from fhir_secondop.store.database import Database, Transaction
from tests.store.producer import conditional
from tests.store.rows import DESK, counts, create, delete, everything, let_in, put, sees, update

PATIENT = {"resourceType": "Patient", "name": [{"family": "Adler"}]}
ROOT = Path(__file__).parents[2]


def read(database: Database, stored: resources.Stored) -> resources.Stored:
    with database.reading() as connection:
        return resources.read(connection, EVERYTHING, stored.type, stored.id)


def test_each_update_is_a_version_of_its_own(database: Database) -> None:
    first = put(database, PATIENT)
    second = update(database, first, {**PATIENT, "gender": "female"})
    third = update(database, second, {**PATIENT, "gender": "other"})
    with database.reading() as connection:
        versions = resources.history(connection, EVERYTHING, "Patient", first.id)
        middle = resources.history(connection, EVERYTHING, "Patient", first.id, version=2)
    assert [v.version for v in versions] == [3, 2, 1]
    assert [v.resource.get("gender") for v in versions] == ["other", "female", None]
    assert [v.updated for v in versions] == [third.updated, second.updated, first.updated]
    assert [v.resource["gender"] for v in middle] == ["female"]
    assert read(database, first).resource["meta"]["versionId"] == "3"


def test_a_version_that_never_was_is_not_found(database: Database) -> None:
    first = put(database, PATIENT)
    with database.reading() as connection, pytest.raises(NotFound):
        resources.history(connection, EVERYTHING, "Patient", first.id, version=2)


def test_the_id_and_meta_of_the_sender_are_replaced_but_its_tags_stay(database: Database) -> None:
    tag = {"system": "urn:x", "code": "test"}
    extension = {"url": "urn:x:weight", "valueDecimal": 1.5}
    stored = put(
        database,
        {
            **PATIENT,
            "id": "mine",
            "meta": {"versionId": "77", "lastUpdated": "1999-01-01T00:00:00Z", "tag": [tag], "extension": [extension]},
        },
    )
    meta = stored.resource["meta"]
    assert stored.resource["id"] == stored.id != "mine"
    assert meta["tag"] == [tag]
    assert meta["versionId"] == "1"
    assert not meta["lastUpdated"].startswith("1999")


def test_a_decimal_in_meta_keeps_its_digits(database: Database) -> None:
    text = '{"resourceType":"Basic","code":{"text":"x"},"meta":{"extension":[{"url":"urn:x","valueDecimal":1.10}]}}'
    body, parsed = codec.split(text)
    with database.transaction(DESK) as tx:
        stored = resources.create(tx, body, parsed, base_url="")
    assert '"valueDecimal":1.10}' in read(database, stored).text


def test_an_outdated_version_is_refused_and_changes_nothing(database: Database) -> None:
    first = put(database, PATIENT)
    update(database, first, {**PATIENT, "gender": "female"})
    before = counts(database)
    with pytest.raises(PreconditionFailed):
        update(database, read(database, first), {**PATIENT, "gender": "male"}, if_match=1)
    with pytest.raises(PreconditionFailed):
        delete(database, read(database, first), if_match=1)
    # What was read before somebody else wrote is outdated too, If-Match or not.
    with pytest.raises(PreconditionFailed):
        update(database, first, {**PATIENT, "gender": "male"})
    assert counts(database) == before
    assert read(database, first).resource["gender"] == "female"


def test_an_update_cannot_change_the_type(database: Database) -> None:
    first = put(database, PATIENT)
    with pytest.raises(Invalid):
        update(database, first, {"resourceType": "Basic", "code": {"text": "x"}})


def test_what_was_deleted_is_gone_from_read_and_search_but_not_from_history(database: Database) -> None:
    first = put(database, PATIENT)
    delete(database, first)
    with pytest.raises(Gone):
        read(database, first)
    assert everything(database, "Patient", "name=adler") == []
    assert everything(database, "Patient", "") == []
    with database.reading() as connection:
        versions = resources.history(connection, EVERYTHING, "Patient", first.id)
    assert [(v.version, v.deleted) for v in versions] == [(2, True), (1, False)]


def test_an_update_brings_a_deleted_resource_back(database: Database) -> None:
    first = put(database, PATIENT)
    gone = delete(database, first)
    update(database, gone, PATIENT)
    assert read(database, first).version == 3
    assert everything(database, "Patient", "name=adler") == [first.id]


def test_an_update_is_found_by_what_it_says_now_only(database: Database) -> None:
    first = put(database, PATIENT)
    update(database, first, {"resourceType": "Patient", "name": [{"family": "Brandt"}]})
    assert everything(database, "Patient", "name=adler") == []
    assert everything(database, "Patient", "name=brandt") == [first.id]


def test_an_id_is_given_once_in_a_type(database: Database) -> None:
    put(database, PATIENT, resource_id="a")
    with pytest.raises(Conflict):
        put(database, PATIENT, resource_id="a")
    put(database, {"resourceType": "Basic", "code": {"text": "x"}}, resource_id="a")


def test_what_is_no_fhir_id_is_nowhere(database: Database) -> None:
    for wrong in ("", "a b", "a/b", "ä", "x" * 65, "a\0", "a\n"):
        is_nowhere(database, wrong)


def is_nowhere(database: Database, wrong: str) -> None:
    with database.reading() as connection:
        assert resources.find(connection, EVERYTHING, "Patient", wrong) is None
        with pytest.raises(NotFound):
            resources.read(connection, EVERYTHING, "Patient", wrong)
        with pytest.raises(NotFound):
            resources.history(connection, EVERYTHING, "Patient", wrong)


def write_much_and_fail(tx: Transaction, kept: resources.Stored) -> None:
    create(tx, PATIENT)
    body, parsed = codec.split('{"resourceType":"Patient","active":true}')
    changed = resources.update(tx, kept, body, parsed, base_url="")
    resources.delete(tx, changed)
    resources.delete(tx, kept, if_match=7)


def test_a_transaction_that_raises_stores_nothing(database: Database) -> None:
    kept = put(database, PATIENT)
    before = counts(database)
    with pytest.raises(PreconditionFailed), database.transaction(DESK) as tx:
        write_much_and_fail(tx, kept)
    assert counts(database) == before
    assert read(database, kept).version == 1
    assert everything(database, "Patient", "name=adler") == [kept.id]


def test_a_transaction_reports_what_it_wrote(database: Database) -> None:
    with database.transaction(DESK) as tx:
        stored = create(tx, PATIENT)
        resources.delete(tx, stored)
    assert [(c.interaction, c.type, c.id, c.version) for c in tx.changes] == [
        ("create", "Patient", stored.id, 1),
        ("delete", "Patient", stored.id, 2),
    ]


# Order of commits (decision 8)


def poll(database: Database, stop: threading.Event, seen: list[str]) -> None:
    """What a client does that asks again and again for what is newer than the newest it has."""
    newest = "1970"
    last = False
    while True:
        with database.reading() as connection:
            page = search.run(connection, query.parse("Basic", f"_lastUpdated=gt{newest}&_count=500"), EVERYTHING, "")
        found = [(match.resource["meta"]["lastUpdated"], match.id) for match in page.matches]
        seen += [name for _, name in found]
        newest = max([newest, *(at for at, _ in found)])
        if last:
            return
        last = stop.is_set()


def test_a_poller_misses_nothing_that_four_threads_write(database: Database) -> None:
    stop, seen = threading.Event(), list[str]()
    poller = threading.Thread(target=poll, args=(database, stop, seen))
    poller.start()

    def write(_: int) -> list[tuple[str, int]]:
        written = [put(database, {"resourceType": "Basic", "code": {"text": "x"}}) for _ in range(15)]
        return [(w.id, w.updated) for w in written]

    with ThreadPoolExecutor(4) as threads:
        written = [pair for part in threads.map(write, range(4)) for pair in part]
    stop.set()
    poller.join()
    assert len({at for _, at in written}) == 60
    assert sorted(seen) == sorted(name for name, _ in written), "each exactly once"


def test_last_updated_rises_strictly_with_the_creation_number(database: Database) -> None:
    def write(_: int) -> list[resources.Stored]:
        with database.transaction(DESK) as tx:
            return [create(tx, {"resourceType": "Basic", "code": {"text": "x"}}) for _ in range(3)]

    with ThreadPoolExecutor(4) as threads:
        written = [stored for part in threads.map(write, range(20)) for stored in part]
    in_order = [stored.updated for stored in sorted(written, key=lambda s: s.rid)]
    assert in_order == sorted(set(in_order))


def start_two(url: str, mode: str, count: int) -> list[list[tuple[str, str]]]:
    """Two processes that write at once; the lines of each, in two words."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.store.producer", url, mode, str(count), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    for process in running:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    return [[(line.split()[0], line.split()[1]) for line in answer.splitlines()] for answer in answers]


def test_two_processes_never_give_the_same_time_and_a_poller_misses_nothing(
    database: Database, database_url: str
) -> None:
    stop, seen = threading.Event(), list[str]()
    poller = threading.Thread(target=poll, args=(database, stop, seen))
    poller.start()
    written = [pair for part in start_two(database_url, "create", 40) for pair in part]
    stop.set()
    poller.join()
    assert len(written) == len({at for _, at in written}) == 80
    assert sorted(seen) == sorted(name for name, _ in written), "each exactly once"


def test_a_clock_that_is_set_back_does_not_set_last_updated_back(database: Database) -> None:
    first = put(database, PATIENT)
    slow = Database(database.url, now=lambda: first.updated - 3_600_000)
    second = put(slow, PATIENT)
    slow.dispose()
    assert second.updated == first.updated + 1


# Conditional create


def test_threads_that_race_to_create_the_same_make_one(database: Database) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: conditional(database, n // 8, "ab"[n % 2]), range(64)))
    made = [answer for answer in answers if answer.startswith("201")]
    assert len(made) == 8
    assert all(answer.startswith("200") for answer in answers if answer not in made)
    assert {a.split()[1] for a in answers} == {a.split()[1] for a in made}
    assert len(everything(database, "Patient", "")) == 8


def test_processes_that_race_to_create_the_same_by_different_criteria_make_one(
    database: Database, database_url: str
) -> None:
    answers = [pair for part in start_two(database_url, "conditional", 40) for pair in part]
    made = [name for status, name in answers if status == "201"]
    assert len(made) == 40
    assert sorted(name for status, name in answers if status == "200") == sorted(made)
    assert len(everything(database, "Patient", "")) == 40


# Who sees what (decision 6)

ALICE = Caller("alice", "Alice", frozenset({"provider"}), ("user/*.rs",), frozenset({"urn:npi|1"}))
BOB = Caller("bob", "Bob", frozenset({"provider"}), ("user/*.rs",), frozenset({"urn:npi|2"}))


def test_a_caller_sees_its_own_and_the_cases_that_know_it_and_nothing_else(database: Database) -> None:
    own = put(database, PATIENT, caller=ALICE)
    hers = put(database, PATIENT, case_id="c1")
    foreign = put(database, PATIENT, case_id="c2")
    loose = put(database, PATIENT)
    his = put(database, PATIENT, caller=BOB)
    let_in(database, "c1", "urn:npi|1")
    let_in(database, "c2", "urn:npi|2", "alic", "1", "urn:npi|11")
    with database.reading() as connection:
        for stored in (own, hers):
            assert resources.read(connection, sees(ALICE), "Patient", stored.id).id == stored.id
            assert resources.history(connection, sees(ALICE), "Patient", stored.id)
        for stored in (foreign, loose, his):
            with pytest.raises(NotFound):
                resources.read(connection, sees(ALICE), "Patient", stored.id)
            with pytest.raises(NotFound):
                resources.history(connection, sees(ALICE), "Patient", stored.id)
            with pytest.raises(NotFound):
                resources.history(connection, sees(ALICE), "Patient", stored.id, version=1)
    for asked in ("", "name=adler", "name:missing=false", "gender:not=male", "_lastUpdated=gt2000", "_count=1"):
        assert everything(database, "Patient", asked, visibility=sees(ALICE)) == [own.id, hers.id], asked
    assert everything(database, "Patient", f"_id={foreign.id}", visibility=sees(ALICE)) == []
    assert len(everything(database, "Patient", "", visibility=sees(DESK))) == 5


def test_the_total_counts_only_what_may_be_seen(database: Database) -> None:
    put(database, PATIENT, caller=ALICE)
    put(database, PATIENT, caller=BOB)
    with database.reading() as connection:
        for asked in ("_total=accurate", "_count=0", "_total=accurate&_count=1"):
            assert search.run(connection, query.parse("Patient", asked), sees(ALICE), "").total == 1, asked


def test_a_page_link_of_somebody_else_is_none_of_ours(database: Database) -> None:
    for _ in range(3):
        put(database, PATIENT, caller=BOB)
    put(database, PATIENT, caller=ALICE)
    with database.reading() as connection:
        page = search.run(connection, query.parse("Patient", "_count=1"), sees(BOB), "").next_page
        asked = query.parse("Patient", f"_count=50&_page={page}")
        # Were it told apart from one that was made up, it would say which ids there are.
        with pytest.raises(Invalid, match="not one of ours"):
            search.run(connection, asked, sees(ALICE), "")


def test_a_recipient_of_the_report_does_not_see_the_record_it_is_based_on(database: Database) -> None:
    with database.transaction(DESK) as tx:
        for owner in (f"{resources.SOURCE}lakeside", f"{resources.UPLOAD}1", "somebody"):
            resources.create(tx, codec.compose(PATIENT), PATIENT, base_url="", case_id="c1", owner=owner)
    for part, seen in ((RECORD, 3), (REPORT, 1)):
        with database.transaction(DESK) as tx:
            tx.connection.execute(sa.delete(tables.audience))
            row = {"case_id": "c1", "party": "urn:npi|1", "part": part, "until": None}
            tx.connection.execute(sa.insert(tables.audience).values(row))
        assert len(everything(database, "Patient", "", visibility=sees(ALICE))) == seen


def test_who_was_let_in_for_a_time_sees_nothing_after_it(database: Database) -> None:
    put(database, PATIENT, case_id="c1")
    with database.transaction(DESK) as tx:
        row = {"case_id": "c1", "party": "urn:npi|1", "part": RECORD, "until": 1_000}
        tx.connection.execute(sa.insert(tables.audience).values(row))
    for at_ms, seen in ((999, 1), (1_000, 0)):
        visibility = rights.visibility(ALICE, at_ms)
        assert len(everything(database, "Patient", "", visibility=visibility)) == seen


def test_leaving_the_audience_takes_the_view_away(database: Database) -> None:
    stored = put(database, PATIENT, case_id="c1")
    let_in(database, "c1", "urn:npi|1")
    assert everything(database, "Patient", "", visibility=sees(ALICE)) == [stored.id]
    with database.transaction(DESK) as tx:
        tx.connection.execute(sa.delete(tables.audience))
    assert everything(database, "Patient", "", visibility=sees(ALICE)) == []


def test_a_conditional_create_does_not_find_what_the_caller_may_not_see(database: Database) -> None:
    identified = {**PATIENT, "identifier": [{"system": "urn:x", "value": "1"}]}
    put(database, identified, caller=BOB)
    with database.transaction(ALICE) as tx:
        assert bundles.match_one(tx.connection, "Patient", "identifier=urn:x|1", sees(ALICE), "") is None
        assert bundles.match_one(tx.connection, "Patient", "identifier=urn:x|1", sees(BOB), "") is not None
