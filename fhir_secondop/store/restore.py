"""A backup put back into an empty database, either kind, and proved: every file, every row, every audit chain.

The rows are committed at once, when all of that is proved: what was cut off has left tables without rows.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Conflict, Invalid
from fhir_secondop.store import backup
from fhir_secondop.store.audit import anchors, verify
from fhir_secondop.store.backup import MANIFEST, Rows, Step
from fhir_secondop.store.database import Database, newest

_ROWS_AT_ONCE = 2_000
_BYTES_AT_ONCE = 1024 * 1024
_decode = msgspec.json.Decoder(list[Any]).decode
Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Proved:
    """What was put back and found to be what was backed up; `audit` is the verdict over its chains."""

    tables: int
    rows: int
    resources: int
    audit: verify.Verdict


def read(folder: Path) -> Plain:
    """The manifest of a backup, whose every file is what was written. Raises Invalid, naming the one that isn't."""
    file = folder / MANIFEST
    if not file.is_file():
        raise Invalid(f"{folder} is no whole backup: it has no {MANIFEST}, which is written last.")
    try:
        manifest: Plain = json.loads(file.read_bytes())
        listed = {entry["file"]: entry["sha256"] for entry in manifest["tables"].values()}
        revision = str(manifest["revision"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{file} is no manifest of a backup.") from error
    if manifest.get("format") != backup.FORMAT or revision > newest():
        raise Invalid(f"{folder} was written by a later version ({manifest.get('program')}); restore it with that one.")
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise Invalid(f"{folder / name} is missing.")
        if backup.sha256(folder / name) != digest:
            raise Invalid(f"{folder / name} is not what was written: its SHA-256 differs from the manifest's.")
    return manifest


def size(manifest: Plain) -> int:
    """How many rows there are to put back, each written and read again."""
    rows: int = 2 * sum(entry["rows"] for entry in manifest["tables"].values())
    return rows


def into(database: Database, folder: Path, manifest: Plain, step: Step = lambda n: None) -> Proved:
    """Puts a backup back, and brings its tables to this version's. `step(n)` is called when n more rows are done.

    Raises Conflict unless the database is empty; Invalid where what is in it then differs from what was backed up, in
    which case there is nothing in it.
    """
    _require_empty(database)
    database.migrate(manifest["revision"])
    with database.appending() as connection:
        for name, entry in manifest["tables"].items():
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            connection.execute(sa.delete(table))  # what the migrations put there
            _fill(connection, table, entry, folder, step)
            _number_on(connection, table)
            _compare(connection, table, entry, step)
        verdict = verify.verify(connection, anchors.of_lines("\n".join(manifest["anchors"])))
        if verdict.bad:
            raise Invalid(f"The audit is broken: {verdict.bad}")
        counted = sum(manifest["resources"].values())
    database.migrate()
    return Proved(len(manifest["tables"]), size(manifest) // 2, counted, verdict)


def _require_empty(database: Database) -> None:
    with database.reading() as connection:
        inspected = sa.inspect(connection)
        found = inspected.get_table_names()
        jobs = not database.is_sqlite and "dbos" in inspected.get_schema_names()
    if found or jobs:
        raise Conflict("The database is not empty; a backup is restored into a new one. Name another --database.")


def _rows(file: Path) -> Iterator[list[list[Any]]]:
    """The rows of a file, some at a time: fewer of large ones."""
    some: list[list[Any]] = []
    size = 0
    with gzip.open(file, "rb") as opened:
        for line in opened:
            some.append(_decode(line))
            size += len(line)
            if len(some) == _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
                yield some
                some, size = [], 0
    if some:
        yield some


def _fill(connection: Connection, table: sa.Table, entry: Plain, folder: Path, step: Step) -> None:
    columns = [table.c[name] for name in entry["columns"]]
    if connection.dialect.name == "sqlite":
        statement = sa.insert(table)
        for some in _rows(folder / entry["file"]):
            connection.execute(statement, [dict(zip(entry["columns"], row, strict=True)) for row in some])
            step(len(some))
        return
    # https://www.psycopg.org/psycopg3/docs/basic/copy.html: some times as fast as INSERT
    quote = connection.dialect.identifier_preparer
    named = f"{quote.format_table(table)} ({', '.join(quote.format_column(column) for column in columns)})"
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {named} FROM STDIN") as copy:
        for some in _rows(folder / entry["file"]):
            for row in some:
                copy.write_row(row)
            step(len(some))


def _compare(connection: Connection, table: sa.Table, entry: Plain, step: Step) -> None:
    """Reads what is in the database now, and compares it with what was in the other one."""
    rows = Rows()
    for line in backup.lines(connection, table, entry["columns"]):
        rows.add(line)
        if rows.number % _ROWS_AT_ONCE == 0:
            step(_ROWS_AT_ONCE)
    step(rows.number % _ROWS_AT_ONCE)
    if (rows.number, rows.digest) != (entry["rows"], entry["rowsDigest"]):
        raise Invalid(f"Table {table.name} has {rows.number} rows that differ from the {entry['rows']} backed up.")


def _number_on(connection: Connection, table: sa.Table) -> None:
    """PostgreSQL numbers new rows after those that came with their numbers; SQLite does so by itself."""
    if connection.dialect.name == "sqlite":
        return
    quoted = connection.dialect.identifier_preparer.format_table(table)
    for column in table.primary_key:
        sequence = connection.execute(sa.select(sa.func.pg_get_serial_sequence(quoted, column.name))).scalar_one()
        last = connection.execute(sa.select(sa.func.max(column))).scalar_one() if sequence else None
        if last is not None:
            connection.execute(sa.select(sa.func.setval(sequence, last)))
