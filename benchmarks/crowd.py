"""A store with as many cases as one likes, made in minutes: a few real cases, walked through the service against the
stand-in, and their rows copied by SQL under other ids.

A copy differs from its template in the first eight digits of each id, in the patient, the placer's number, and in who
asked and who reviews (a hundredth of the cases each). Documents are whole in the newest cases only, and what is found
by an id that is made from the case's (a seal) is not found in a copy.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rig
import sqlalchemy as sa
import standin

from fhir_secondop.model import EVERYTHING, Connection
from fhir_secondop.opinion import watches, workflow
from fhir_secondop.service import case_states, delivery
from fhir_secondop.service.context import SERVICE, load, put
from fhir_secondop.service.delivering import orders
from fhir_secondop.store import tables
from fhir_secondop.store.database import Database, now_ms

PROVIDER, REVIEWER = "8100000000", "9000000190"  # as the template names them: those of every hundredth case
KINDS = ("new", "in review", "held", "unread", "done")
_OLD, _RECENT = (2, 3, 0.5, 2, 92.5), (10, 20, 2, 15, 53)  # percent of each kind; of the newest tenth
APART_MS = 600_000  # between two cases
WITH_FILES = 400
_FILE = re.compile(r'"data":"[A-Za-z0-9+/=]{200,}"')
_DOCUMENTS = ("Bundle", "Binary", "Composition", "DocumentReference", "Provenance")  # which no list reads
_COPIED = (
    tables.resource, tables.version, *tables.INDEXES, tables.audience, tables.case_event, tables.case_counter,
    tables.ehr_work, tables.case_state, tables.case_need,
)  # fmt: skip
_MOMENTS = ("authored", "changed")  # of the ledger
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """A case that the others of its kind are copies of. `mark` is what its ids begin with."""

    kind: str
    mark: str
    rows: dict[str, list[Row]]  # by table; rids from 0, times from 0


def connections(base: str, other: str) -> list[Connection]:
    """Two EHRs: the provider's who asks, and one more that gets the report."""
    return [rig.connection("ehr", base, 1, standin.SYSTEM), rig.connection("other", other, 2, standin.SYSTEM)]


@contextmanager
def ehrs(folder: Path) -> Iterator[list[Connection]]:
    """Two stand-ins that know every patient."""
    known = ("--patients", "99999999")
    with rig.standin(folder, *known) as base, rig.standin(folder, *known) as other:
        yield connections(base, other)


def templates(folder: Path, at: Sequence[Connection]) -> list[Template]:
    """A case of each kind, walked through a service of its own."""
    service = rig.service(folder, at, "templates.sqlite")
    marks = {kind: f"7000000{number}" for number, kind in enumerate(KINDS)}
    found = [(kind, mark, walk(service, at, kind, mark)) for kind, mark in marks.items()]
    case_states.follow(service.parts.context)
    with service.parts.context.database.reading() as connection:
        made = [_template(connection, *each) for each in found]
    service.close()
    return made


def fill(database: Database, of: Sequence[Template], count: int) -> dict[str, int]:
    """Puts `count` cases into a database that has none; how many there are of each kind."""
    numbers = _mix(count)
    with _unindexed(database) as connection:
        _copy(connection, of, numbers)
        # The index of the cases is copied, too: it has not to follow.
        newest = sa.select(sa.func.max(tables.version.c.updated)).scalar_subquery()
        mine = tables.reached.c.name == case_states.NAME
        connection.execute(sa.update(tables.reached).where(mine).values(at=newest))
    return {kind: sum(1 for _, each in numbers if each == kind) for kind in KINDS}


def walk(service: rig.Service, at: Sequence[Connection], kind: str, mark: str) -> str:
    """One case through the service to where its kind stands; its id."""
    context, before = service.parts.context, len(service.enqueued)
    informed = at[:1] if kind == "done" else at
    request = rig.request(rig.Patient(((standin.SYSTEM, f"P-{mark}"),)), int(mark), informed, gather=False)
    case_id = service.call("", request)["id"]
    if kind == "new":
        return str(case_id)
    service.call(f"/{case_id}/ask-reviewer", {"reviewer": rig.REVIEWER})
    service.call(f"/{case_id}/accept", {"declaration": {"interests": "none"}}, "reviewer")
    if kind == "in review":
        return str(case_id)
    gaps = service.call(f"/{case_id}/completeness", who="reviewer", method="GET")["gaps"]
    service.call(f"/{case_id}/submit-report", {**rig.DRAFT, "gapsConfirmed": gaps}, "reviewer")
    service.call(f"/{case_id}/sign", {}, "reviewer")
    _deliver(service, before, fails="other" if kind == "held" else "")
    if kind == "done":
        service.call(f"/{case_id}/acknowledge", {"version": 1}, "provider")
        service.call(f"/{case_id}/decide", {"version": 1, "decision": "adopt"}, "provider")
        before = len(service.enqueued)
        plan = {"version": 1, "decision": "adopt", "text": "Go ahead."}
        made = service.call(f"/{case_id}/plan-of-record", plan, "provider")
        _deliver(service, before)
        service.call(f"/{case_id}/acknowledge", {"version": made["version"], "what": "plan"}, "provider")
        with context.database.transaction(SERVICE) as tx:
            for each in load(tx.connection, EVERYTHING, case_id).of_type("Task"):
                if workflow.is_watch(each):  # as months later
                    put(tx, context, case_id, watches.ended(each, "nothing has happened since", context.instant()))
    return str(case_id)


def _deliver(service: rig.Service, after: int, fails: str = "") -> None:
    """Carries out the deliveries that were enqueued since; those to `fails` are given up."""
    context = service.parts.context
    for name, _, partition, *args in service.enqueued[after:]:
        if name == orders.WORKFLOW and partition == fails:
            delivery.give_up(context, args[0], "The EHR does not answer.")
        elif name == orders.WORKFLOW:
            delivery.attempt(context, args[0], 1)


def _template(connection: sa.Connection, kind: str, mark: str, case_id: str) -> Template:
    resource = tables.resource.c
    mine = sa.or_(resource.case_id == case_id, resource.case_id.startswith(f"{case_id}#"))
    found: dict[str, list[Row]] = {}
    rids = list(connection.execute(sa.select(resource.rid).where(mine).order_by(resource.rid)).scalars())
    for table in _COPIED:
        if "rid" in table.c:
            wanted: sa.ColumnElement[bool] = table.c.rid.in_(rids)
        else:
            wanted = sa.or_(table.c.case_id == case_id, table.c.case_id.startswith(f"{case_id}#"))
        found[table.name] = [dict(row) for row in connection.execute(sa.select(table).where(wanted)).mappings()]
    instants = sorted({row["updated"] for row in found["version"]} | {row["at"] for row in found["case_event"]})
    rank = {at: number for number, at in enumerate(instants)}
    number = {rid: place for place, rid in enumerate(rids)}
    ids = {row["id"]: mark + row["id"][8:] for row in found["resource"]}
    pattern = re.compile("|".join(map(re.escape, ids)))

    def moved(column: str, value: Any) -> Any:
        if column == "rid":
            return number[value]
        if column in ("updated", "at"):
            return rank[value]
        if column in _MOMENTS:
            return value - instants[0]
        return pattern.sub(lambda m: ids[m[0]], value) if isinstance(value, str) else value

    return Template(kind, mark, {name: [{c: moved(c, v) for c, v in row.items()} for row in rows]
                                 for name, rows in found.items()})  # fmt: skip


def _mix(count: int) -> list[tuple[int, str]]:
    """The number and the kind of each case, oldest first; the same every time."""
    drawn = random.Random(8)
    return [
        (n, drawn.choices(KINDS, _RECENT if n >= 0.9 * count else _OLD)[0]) for n in range(count)
    ]  # fmt: skip


@contextmanager
def _unindexed(database: Database) -> Iterator[sa.Connection]:
    """A connection for much at once: the indexes are made afterwards, and nothing waits for the disk meanwhile."""
    with database.engine.connect() as connection:
        connection.rollback()
        if database.is_sqlite:
            raw: Any = connection.connection.driver_connection
            raw.execute("PRAGMA synchronous=OFF")
        indexes = _indexes(connection, database.is_sqlite)
        counts = raw.execute("SELECT tbl, idx, stat FROM sqlite_stat1").fetchall() if database.is_sqlite else []
        for name, _ in indexes:
            connection.execute(sa.text(f"DROP INDEX {name}"))
        yield connection
        for _, made in indexes:
            connection.execute(sa.text(made))
        connection.commit()
        if database.is_sqlite:
            raw.execute("PRAGMA synchronous=FULL")
            # What the migrations told the planner went with the indexes.
            raw.execute("DELETE FROM sqlite_stat1")
            raw.executemany("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", counts)
            raw.commit()
            raw.execute("ANALYZE sqlite_schema")
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            connection.execute(sa.text("ANALYZE"))
            connection.commit()


def _indexes(connection: sa.Connection, is_sqlite: bool) -> list[tuple[str, str]]:
    """The indexes that are no constraints, of the tables that are copied: name and the statement that makes it."""
    asked = (
        "SELECT name, sql, tbl_name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        if is_sqlite
        else "SELECT indexname, indexdef, tablename FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT IN "
        "(SELECT conname FROM pg_constraint)"
    )
    copied = {table.name for table in _COPIED}
    return [(name, made) for name, made, table in connection.execute(sa.text(asked)) if table in copied]


def _copy(connection: sa.Connection, templates: Sequence[Template], numbers: Sequence[tuple[int, str]]) -> None:
    connection.execute(sa.text("CREATE TEMPORARY TABLE copied (n INTEGER, kind VARCHAR(16), mark VARCHAR(8), "
                               "provider VARCHAR(10), reviewer VARCHAR(10))"))  # fmt: skip
    texts = [sa.column(name, sa.Text) for name in ("kind", "mark", "provider", "reviewer")]
    into = sa.table("copied", sa.column("n", sa.BigInteger), *texts)
    for start in range(0, len(numbers), 10_000):
        connection.execute(sa.insert(into), [
            {"n": n, "kind": kind, "mark": f"{n:08d}", "provider": f"81{n % 100:08d}",
             "reviewer": f"90{190 + n % 100:08d}"}
            for n, kind in numbers[start : start + 10_000]
        ])  # fmt: skip
    stride = max(len(each.rows["resource"]) for each in templates)
    # All of them lie in the past: the clock stays as it is.
    first_at = now_ms() - 86_400_000 - len(numbers) * APART_MS
    for table in _COPIED:
        for template in templates:
            _copy_table(connection, table, template, into, stride, first_at, len(numbers))
        rig.say(f"  {table.name} copied")
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('resource', 'rid'), (SELECT max(rid) "
                                   "FROM resource))"))  # fmt: skip


def _copy_table(
    connection: sa.Connection, table: sa.Table, template: Template, into: Any, stride: int,
    first_at: int, count: int,
) -> None:  # fmt: skip
    if not template.rows[table.name]:
        return
    held = sa.Table(f"held_{table.name}", sa.MetaData(), *(sa.Column(c.name, c.type) for c in table.c),
                    prefixes=["TEMPORARY"])  # fmt: skip
    kinds = {row["rid"]: row["type"] for row in template.rows["resource"]}
    for files in (True, False) if table is tables.version else (True,):
        held.create(connection)
        rows = template.rows[table.name]
        kept = rows if files else [{**row, **_without_files(row, kinds)} for row in rows]
        connection.execute(sa.insert(held), kept)
        n = into.c.n
        rid, at = n * _big(stride) + _big(1), n * _big(APART_MS) + _big(first_at)
        values = [_moved(held.c[c.name], template, into, rid, at) for c in table.c]
        which = n >= count - WITH_FILES if files else n < count - WITH_FILES
        wanted = sa.and_(into.c.kind == template.kind, which if table is tables.version else sa.true())
        chosen = sa.select(*values).select_from(into.join(held, sa.true())).where(wanted)
        connection.execute(sa.insert(table).from_select([c.name for c in table.c], chosen))
        held.drop(connection)
    connection.commit()


def _big(number: int) -> Any:
    return sa.literal(number, sa.BigInteger)


def _without_files(row: Row, kinds: dict[int, str]) -> Row:
    """The body and the cut of a version: of a document nothing but its type, of others all but what is in files."""
    kind = kinds[row["rid"]]
    if kind in _DOCUMENTS:
        head = f'{{"resourceType":"{kind}"'
        return {"body": head + "}", "cut": len(head)}
    head, tail = (_FILE.sub('"data":"AAAA"', part) for part in (row["body"][: row["cut"]], row["body"][row["cut"] :]))
    return {"body": head + tail, "cut": len(head)}


def _moved(column: Any, template: Template, into: Any, rid: Any, at: Any) -> Any:
    if column.name == "rid":
        return column + rid
    if column.name in ("updated", "at", *_MOMENTS):
        return column + at
    if not isinstance(column.type, sa.String) or column.name in ("type", "param", "kind", "part", "stage", "state"):
        return column
    value = sa.func.replace(column, template.mark, into.c.mark)
    value = sa.func.replace(value, PROVIDER, into.c.provider)
    return sa.func.replace(value, REVIEWER, into.c.reviewer)
