"""The audit's chains: without holes whatever happens, and no change of the past stays unseen."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from fhir_secondop.errors import Unavailable
from fhir_secondop.fhir import codec
from fhir_secondop.store import creating, resources, tables
from fhir_secondop.store.audit import anchors, origin, reads, refusals, rows, trail, verify
from fhir_secondop.store.audit.audit import Audit
from fhir_secondop.store.audit.rows import Access, Head
from fhir_secondop.store.database import Database, now_ms
from tests.store.rows import BASE, DESK, create, put, update

BASIC = {"resourceType": "Basic", "code": {"text": "x"}}
AUDIT = tables.audit.c


@pytest.fixture
def audited(database: Database) -> Database:
    """An empty database with an audit, on both kinds."""
    database.audit = Audit(database, strict=False, now=now_ms)
    return database


def access(case_id: str | None = None, number: int = 1, **said: Any) -> list[dict[str, Any]]:
    noted = Access(request="r", method="GET", route="/fhir/<t>/<i>", operation="read", caller="desk", **said)
    noted.disclosed[case_id] = number
    return rows.access_rows(noted, "R", 200, now_ms())


def look(database: Database, *read: list[dict[str, Any]]) -> None:
    """Records reads, and waits until they are written."""
    assert database.audit is not None
    for one in read:
        database.audit.put(one)
    database.audit.flush()


def fail(database: Database) -> None:
    """A transaction that writes and rolls back."""
    with database.transaction(DESK) as tx:
        create(tx, BASIC)
        raise RuntimeError


def everything(database: Database) -> list[Any]:
    with database.reading() as connection:
        return list(connection.execute(sa.select(tables.audit).order_by(AUDIT.chain, AUDIT.n)))


def verdict(database: Database, exported: list[Head] | None = None) -> verify.Verdict:
    with database.reading() as connection:
        return verify.verify(connection, exported or [])


def exported(database: Database) -> list[Head]:
    with database.reading() as connection:
        lines = "\n".join(map(anchors.line, anchors.newest(connection)))
    return anchors.of_lines(f"2026-05-01 INFO {lines}\nanything else\n")


# ---- what is recorded of writes


def test_a_write_is_recorded_in_its_own_transaction(audited: Database) -> None:
    with audited.transaction(DESK) as tx:
        one = create(tx, BASIC, case_id="c1")
    two = update(audited, one, {**BASIC, "code": {"text": "y"}})
    with audited.transaction(DESK) as tx:
        resources.delete(tx, two)
    found = [(r.n, r.kind, r.caller, r.action, r.type, r.id, r.version, r.case_id) for r in everything(audited)]
    assert found == [
        (1, "write", "desk", "C", "Basic", one.id, 1, "c1"),
        (2, "write", "desk", "U", "Basic", one.id, 2, "c1"),
        (3, "write", "desk", "D", "Basic", one.id, 3, "c1"),
    ]
    assert verdict(audited).bad == ""


def test_a_transaction_that_rolls_back_leaves_no_row_and_no_hole(audited: Database) -> None:
    put(audited, BASIC)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            fail(audited)
    put(audited, BASIC)
    assert [r.n for r in everything(audited)] == [1, 2]
    assert verdict(audited).bad == ""


def test_a_write_whose_audit_cannot_be_written_is_not_stored(audited: Database) -> None:
    put(audited, BASIC)
    with audited.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE audit RENAME TO audit_gone")
    with pytest.raises(sa.exc.DBAPIError):
        put(audited, BASIC)
    with audited.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE audit_gone RENAME TO audit")
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.resource)).scalar_one() == 1
    put(audited, BASIC)
    assert len(everything(audited)) == 2
    assert verdict(audited).bad == ""


def test_after_a_commit_in_doubt_another_chain_begins(audited: Database) -> None:
    """The commit came through and its answer did not: the number is taken, and nobody here knows it."""
    put(audited, BASIC)

    def lost(connection: Any) -> None:
        connection.connection.driver_connection.commit()
        raise ConnectionResetError

    sa.event.listen(audited.engine, "commit", lost)
    with pytest.raises((ConnectionResetError, Unavailable)):  # the latter where an anchor shared the commit
        put(audited, BASIC)
    sa.event.remove(audited.engine, "commit", lost)
    put(audited, BASIC)
    found = everything(audited)
    assert len(found) == 3
    assert len({r.chain for r in found}) == 2
    assert verdict(audited).bad == ""


def test_what_comes_in_bulk_is_one_row_a_type(audited: Database) -> None:
    def new(kind: str) -> creating.New:
        resource = {"resourceType": kind, "code": {"text": "x"}}
        return creating.New(resources.new_id(), codec.compose(resource), resource)

    with audited.transaction(DESK) as tx:
        creating.create_many(
            tx, [new("Basic"), new("Basic"), new("Condition")], base_url=BASE, case_id="c1#quarantine", owner="source:x"
        )
    assert [(r.action, r.type, r.id, r.number, r.case_id) for r in everything(audited)] == [
        ("C", "Basic", "", 2, "c1"), ("C", "Condition", "", 1, "c1")
    ]  # fmt: skip


def test_a_write_names_the_request_it_came_with_and_a_workflow_its_step(audited: Database) -> None:
    asked = Access(request="r1", method="POST", route="/fhir/<t>", operation="create", caller="link:Task/1")
    origin.begin(asked)
    put(audited, BASIC)
    origin.begin(None)
    assert asked.written == 1
    with origin.workflow("gather.merge"):
        put(audited, BASIC)
    put(audited, BASIC)
    assert [(r.route, r.request, r.behalf) for r in everything(audited)] == [
        ("/fhir/<t>", "r1", "link:Task/1"), ("workflow gather.merge", "", ""), ("", "", "")
    ]  # fmt: skip


# ---- reads


def test_a_denied_resource_is_recorded_with_the_case_it_belongs_to(audited: Database) -> None:
    with audited.transaction(DESK) as tx:
        create(tx, BASIC, case_id="c1#draft", resource_id="b1")
    look(audited, access(None, 0, type="Basic", id="b1"), access(None, 0, type="Basic", id="b2"))
    assert [(r.id, r.case_id) for r in everything(audited) if r.kind == "access"] == [("b1", "c1"), ("b2", None)]


@pytest.mark.parametrize(("queue", "batch"), [(3, 100), (50, 2)])
def test_a_full_queue_makes_the_next_wait_and_drops_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, queue: int, batch: int
) -> None:
    monkeypatch.setattr(reads, "QUEUE_ROWS", queue)
    monkeypatch.setattr(reads, "_BATCH", batch)
    monkeypatch.setattr(reads, "GATHER_S", 0.001)
    database.audit = Audit(database, strict=False, now=now_ms)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: database.audit.put(access(f"c{n}")), range(200)))  # type: ignore[union-attr]
    look(database)
    assert {r.case_id for r in everything(database)} == {f"c{n}" for n in range(200)}
    assert verdict(database).rows == 200


def test_closing_writes_what_is_queued_and_an_anchor_and_then_takes_no_more(audited: Database) -> None:
    assert audited.audit is not None
    for n in range(50):
        audited.audit.put(access(f"c{n}"))
    audited.audit.close()
    assert len(everything(audited)) == 50
    found = verdict(audited, exported(audited))
    assert (found.bad, found.exported) == ("", 1)
    with pytest.raises(Unavailable):
        audited.audit.put(access())


def test_eight_threads_of_reads_and_writes_leave_no_hole(audited: Database) -> None:
    def work(seed: int) -> None:
        dice = random.Random(seed)
        for n in range(25):
            assert audited.audit is not None
            if dice.random() < 0.4:
                put(audited, BASIC)
            elif dice.random() < 0.3:
                with pytest.raises(RuntimeError):
                    fail(audited)
            else:
                audited.audit.put(access(f"c{seed}.{n}"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    look(audited)
    found = everything(audited)
    assert len({r.chain for r in found}) == 2
    with audited.reading() as connection:
        stored = connection.execute(sa.select(sa.func.count()).select_from(tables.version)).scalar_one()
    assert len([r for r in found if r.kind == "write"]) == stored
    assert verdict(audited).bad == ""


# ---- anchors


def test_anchors_are_written_at_most_once_a_minute_and_only_when_something_moved(database: Database) -> None:
    at = [now_ms()]
    heads: list[Head] = []
    made = anchors.Anchors(database, lambda: at[0], lambda: heads)

    def count() -> int:
        with database.reading() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(tables.audit_anchor)).scalar_one())

    made.due(False)
    assert count() == 0
    heads.append(Head("a" * 16, 1, "d"))
    made.due(False)
    assert count() == 0
    at[0] += anchors.EVERY_MS
    made.due(False)
    assert count() == 1
    at[0] += anchors.EVERY_MS
    made.due(False)
    made.due(True)
    assert count() == 1
    heads[0] = Head("a" * 16, 2, "e")
    made.due(True)
    assert count() == 2


def test_the_first_anchor_of_a_process_names_what_a_killed_one_left(database: Database) -> None:
    left = Audit(database, strict=True, now=now_ms)
    left.put(access("c1"))  # and is never closed: its anchor, if it made one, names nothing of this
    chain = everything(database)[0].chain
    following = anchors.Anchors(database, now_ms, list)
    following.due(False)
    with database.reading() as connection:
        heads = connection.execute(sa.select(tables.audit_anchor.c.heads)).scalars().all()
    assert any(chain in text for text in heads)
    left.close()


# ---- tampering


def _rehash(connection: Any, chain: str, first: int) -> None:
    """Makes the digests of a chain right again from a row on: what somebody does who knows how it works."""
    found = connection.execute(sa.select(tables.audit).where(AUDIT.chain == chain).order_by(AUDIT.n)).mappings().all()
    before = ""
    for row in found:
        digest = row["digest"] if row["n"] < first else rows.digest(dict(row), before)
        if digest != row["digest"]:
            connection.execute(
                sa.update(tables.audit).where(AUDIT.chain == chain, AUDIT.n == row["n"]).values(digest=digest)
            )
        before = digest


def _row(chain: str, n: int) -> Any:
    return sa.and_(AUDIT.chain == chain, AUDIT.n == n)


def edit(connection: Any, chain: str, last: int) -> None:
    connection.execute(sa.update(tables.audit).where(_row(chain, 3)).values(caller="somebody-else"))


def delete_last(connection: Any, chain: str, last: int) -> None:
    connection.execute(sa.delete(tables.audit).where(_row(chain, last)))


def delete_middle(connection: Any, chain: str, last: int) -> None:
    connection.execute(sa.delete(tables.audit).where(_row(chain, 3)))


def delete_first(connection: Any, chain: str, last: int) -> None:
    connection.execute(sa.delete(tables.audit).where(_row(chain, 1)))


def swap(connection: Any, chain: str, last: int) -> None:
    for old, new in ((2, 900), (3, 2), (900, 3)):
        connection.execute(sa.update(tables.audit).where(_row(chain, old)).values(n=new))


def add(connection: Any, chain: str, last: int) -> None:
    row = connection.execute(sa.select(tables.audit).where(_row(chain, last))).mappings().one()
    connection.execute(sa.insert(tables.audit).values({**row, "n": last + 1}))


def drop_chain(connection: Any, chain: str, last: int) -> None:
    connection.execute(sa.delete(tables.audit).where(AUDIT.chain == chain))


def rehash_suffix(connection: Any, chain: str, last: int) -> None:
    edit(connection, chain, last)
    _rehash(connection, chain, 3)


def delete_and_renumber(connection: Any, chain: str, last: int) -> None:
    delete_middle(connection, chain, last)
    for n in range(4, last + 1):
        connection.execute(sa.update(tables.audit).where(_row(chain, n)).values(n=n - 1))
    _rehash(connection, chain, 3)


def delete_rehash_and_forge(connection: Any, chain: str, last: int) -> None:
    """Every digest right and every anchor made anew, but a number is missing."""
    delete_middle(connection, chain, last)
    _rehash(connection, chain, 3)
    _new_anchors(connection, {(r.chain, r.n): r.digest for r in connection.execute(sa.select(tables.audit))})


def forge_everything(connection: Any, chain: str, last: int) -> None:
    """Row, chain, and every anchor made anew: inside the database nothing is wrong any more."""
    rehash_suffix(connection, chain, last)
    digests = {(r.chain, r.n): r.digest for r in connection.execute(sa.select(tables.audit))}
    _new_anchors(connection, digests)


def drop_chain_and_forge(connection: Any, chain: str, last: int) -> None:
    drop_chain(connection, chain, last)
    _new_anchors(connection, {(r.chain, r.n): r.digest for r in connection.execute(sa.select(tables.audit))})


def _new_anchors(connection: Any, digests: dict[tuple[str, int], str]) -> None:
    import json

    anchor = tables.audit_anchor
    kept = connection.execute(sa.select(anchor).order_by(anchor.c.chain, anchor.c.n)).mappings().all()
    connection.execute(sa.delete(anchor))
    head = Head("", 0, "")
    for row in kept:
        head = head if head.chain == row["chain"] else Head(row["chain"], 0, "")
        heads = [[c, n, digests[c, n]] for c, n, _ in json.loads(row["heads"]) if (c, n) in digests]
        values = {"at": row["at"], "heads": json.dumps(heads, separators=(",", ":"))}
        head, made = rows.append(head, [values], rows.ANCHOR_FIELDS)
        connection.execute(sa.insert(anchor), made)


def drop_anchors(connection: Any, chain: str, last: int) -> None:
    connection.execute(sa.delete(tables.audit_anchor))


def edit_anchor(connection: Any, chain: str, last: int) -> None:
    connection.execute(sa.update(tables.audit_anchor).values(at=tables.audit_anchor.c.at + 1))


def drop_all(connection: Any, chain: str, last: int) -> None:
    connection.execute(sa.delete(tables.audit))
    connection.execute(sa.delete(tables.audit_anchor))


# (what is done, whether it is found without an exported anchor)
TAMPERING: tuple[tuple[Callable[[Any, str, int], None], bool], ...] = (
    (edit, True), (delete_last, True), (delete_middle, True), (delete_first, True), (swap, True), (add, True),
    (drop_chain, True), (rehash_suffix, True), (delete_and_renumber, True), (edit_anchor, True),
    (delete_rehash_and_forge, True),
    (forge_everything, False), (drop_chain_and_forge, False), (drop_anchors, False), (drop_all, False),
)  # fmt: skip


@pytest.mark.parametrize("kind", ["access", "write"])
@pytest.mark.parametrize(("tamper", "found_alone"), TAMPERING, ids=lambda v: getattr(v, "__name__", str(v)))
def test_tampering_is_found(
    audited: Database, tamper: Callable[[Any, str, int], None], found_alone: bool, kind: str
) -> None:
    for n in range(6):
        look(audited, access(f"c{n}"))
        put(audited, BASIC)
    assert audited.audit is not None
    audited.audit.close()
    kept = exported(audited)
    assert verdict(audited, kept).bad == ""
    chain = next(r.chain for r in everything(audited) if r.kind == kind)
    with audited.engine.begin() as connection:
        tamper(connection, chain, 6)
    assert (verdict(audited).bad != "") is found_alone
    assert verdict(audited, kept).bad != ""


@given(st.lists(st.text("ab", max_size=3), min_size=2, max_size=6), st.data())
def test_any_change_of_a_field_changes_every_digest_after_it(callers: list[str], data: st.DataObject) -> None:
    values = [{**access()[0], "caller": caller} for caller in callers]
    _, made = rows.append(Head("0" * 16, 0, ""), values)
    place = data.draw(st.integers(0, len(values) - 1))
    field = data.draw(st.sampled_from([f for f in (*rows.FIELDS, *rows.LATER) if f not in ("chain", "n")]))
    values[place] = {**values[place], field: "other"}
    _, again = rows.append(Head("0" * 16, 0, ""), values)
    same = [a["digest"] == b["digest"] for a, b in zip(made, again, strict=True)]
    assert same == [True] * place + [False] * (len(values) - place)


# ---- killed


@pytest.mark.parametrize("after", [5, 23, 60])
def test_killed_in_the_middle_no_acknowledged_write_lacks_its_row_and_the_chain_holds(
    database: Database, database_url: str, after: int
) -> None:
    command = [sys.executable, "-m", "tests.store.recorder", database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(after)]
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.readlines()
    acknowledged = [line.strip() for line in said if line.endswith("\n")]
    found = everything(database)
    recorded = {r.id for r in found if r.kind == "write"}
    assert len(acknowledged) >= after
    assert set(acknowledged) <= recorded
    with database.reading() as connection:
        stored = set(connection.execute(sa.select(tables.resource.c.id)).scalars())
    assert recorded == stored
    assert verdict(database).bad == ""


# ---- reading it


def test_who_touched_a_case_is_told_by_caller_with_denials(audited: Database) -> None:
    with audited.transaction(DESK) as tx:
        create(tx, {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "7"}]}, case_id="c1",
               resource_id="p1")  # fmt: skip
    denied = rows.access_rows(Access(caller="stranger", type="Patient", id="p1"), "R", 404, now_ms())
    look(audited, access("c1"), access("c1"), access("c2"), denied)
    with audited.reading() as connection:
        for record in ("p1", "Patient/p1", "urn:mrn|7"):
            assert trail.cases_of(connection, record) == ["c1"]
        assert trail.cases_of(connection, "urn:mrn|8") == []
        found = [(r.caller, r.reads, r.writes, r.denied) for r in trail.callers(connection, "c1")]
    assert sorted(found) == [("desk", 2, 1, 0), ("stranger", 0, 0, 1)]


def test_a_reader_of_the_trail_goes_by_the_index(audited: Database) -> None:
    query = sa.select(tables.audit).where(AUDIT.case_id == "c1").order_by(AUDIT.at.desc()).limit(10)
    if not audited.is_sqlite:
        return  # an empty table is scanned by PostgreSQL, rightly
    with audited.reading() as connection:
        text = str(query.compile(audited.engine, compile_kwargs={"literal_binds": True}))
        assert "ix_audit_case" in str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all())


def test_no_thread_is_left_after_closing(audited: Database) -> None:
    before = set(threading.enumerate())
    look(audited, access())
    assert set(threading.enumerate()) - before
    assert audited.audit is not None
    audited.audit.close()
    assert not set(threading.enumerate()) - before


# ---- refused at the door


def test_what_is_refused_at_the_door_is_a_row_for_each_caller_and_status_not_for_each_request(
    audited: Database,
) -> None:
    assert audited.audit is not None
    for _ in range(1000):
        audited.audit.refused("desk", 429)
    for _ in range(3):
        audited.audit.refused("", 413)
    look(audited, access())
    assert [r.kind for r in everything(audited)] == ["access"]  # within a minute nothing is written for it
    audited.audit.close()
    found = [(r.caller, r.status, r.number, r.case_id) for r in everything(audited) if r.kind == "refused"]
    assert sorted(found) == [("", 413, 3, None), ("desk", 429, 1000, None)]
    assert verdict(audited).bad == ""


def test_the_refusals_of_a_minute_are_due_when_it_is_over() -> None:
    at = [1_000_000]
    made = refusals.Refusals(lambda: at[0])
    assert made.due(True) == []
    made.count("desk", 429)
    at[0] += refusals.EVERY_MS - 1
    made.count("desk", 429)
    assert made.due(False) == []
    at[0] += 1
    assert [(r["caller"], r["status"], r["number"], r["at"]) for r in made.due(False)] == [("desk", 429, 2, at[0])]
    assert made.due(True) == []
    made.count("desk", 429)  # a minute of its own
    assert made.due(False) == []
    assert len(made.due(True)) == 1


@given(
    texts=st.lists(st.text() | st.sampled_from(["é", "\x7f", '"', "\\", "/", "\n", "a\u2028"]), min_size=2, max_size=2)
)
def test_a_digest_is_of_the_json_that_the_documentation_names(texts: list[str]) -> None:
    """Whichever encoder writes it: anybody can check a chain with a JSON library."""
    if any("\ud800" <= c <= "\udfff" for text in texts for c in text):
        return
    row = {"chain": texts[0], "n": 7, "case_id": None, "party": texts[1]}
    canonical = json.dumps([texts[0], 7, None, ["party", texts[1]]], separators=(",", ":"))
    expected = hashlib.sha256(f"before\n{canonical}".encode()).hexdigest()
    assert rows.digest(row, "before", ("chain", "n", "case_id")) == expected
