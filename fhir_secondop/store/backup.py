"""A backup: every table in one snapshot, a file each, as rows that either database can take; while the service runs.

A file is lines of JSON, packed. The manifest stands for all of it, and is written last: a folder without one is no
backup. What DBOS keeps is not in it: jobs are made anew from the Tasks (service/requeue).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop import durable
from fhir_secondop.errors import Conflict
from fhir_secondop.store import tables
from fhir_secondop.store.audit import anchors
from fhir_secondop.store.database import Database, newest, revision

FORMAT = 1
MANIFEST = "manifest.json"
# Who is signed in signs in again: a token that was revoked after the backup must not come alive with it. The others
# are about processes and pages that are no more.
LEFT_OUT = frozenset({"access_token", "session", "attempt", "search_list", "executor", "round"})
_ROWS_AT_ONCE = 2_000
Step = Callable[[int], None]
encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Rows:
    """How many rows there were, and the sum of their SHA-256 modulo 2^256: the same in whatever order they come."""

    number: int = 0
    _sum: int = field(default=0, repr=False)

    def add(self, line: bytes) -> None:
        """One more, as it is written."""
        self.number += 1
        self._sum += int.from_bytes(hashlib.sha256(line).digest(), "big")

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return f"{self._sum % (1 << 256):064x}"


def kept() -> list[sa.Table]:
    """The tables that a backup has, in an order in which they can be filled."""
    return [table for table in tables.metadata.sorted_tables if table.name not in LEFT_OUT]


def size(connection: Connection) -> int:
    """How many rows there are to write."""
    counts = (connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in kept())
    return sum(counts)


def lines(connection: Connection, table: sa.Table, columns: Iterable[str]) -> Iterator[bytes]:
    """The rows of a table as they are written: a JSON array of these columns each. One row is in memory at a time:
    one of `version` may have as many bytes as a request (max_body_bytes).
    """
    query = sa.select(*(table.c[name] for name in columns))
    if connection.dialect.name == "sqlite":
        yield from (encode(tuple(row)) for row in connection.execute(query))
        return
    # A cursor of the server, as SQLAlchemy's, would give so many rows at once, however large they are.
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        yield from map(encode, cursor.stream(str(query.compile(dialect=connection.dialect))))


def write(
    database: Database, folder: Path, said: dict[str, Any], *, begin: Step = lambda n: None, step: Step = lambda n: None
) -> dict[str, Any]:  # fmt: skip
    """Writes a backup, and answers its manifest, in which `said` stands, too. All of it is durable, or nothing there.

    `begin` is told how many rows there are, `step` when so many more are written. Raises Conflict where something is in
    the way.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is there already; a backup is written into a new folder.")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True, mode=0o700)
    try:
        with database.reading() as connection:
            manifest = _written(connection, partial, said, begin, step)
        _durable(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
        durable.keep_names(partial)
        os.rename(partial, folder)
        durable.keep_names(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _written(connection: Connection, folder: Path, said: dict[str, Any], begin: Step, step: Step) -> dict[str, Any]:
    found = revision(connection)
    if found != newest():
        raise Conflict(f"The database has the tables of version {found or 'none'}, this program those of {newest()}: "
                       "back it up with its own version, or bring it up to date: fhir-secondop db upgrade")  # fmt: skip
    begin(size(connection))
    by_type = sa.select(tables.resource.c.type, sa.func.count()).group_by(tables.resource.c.type)
    return {
        "format": FORMAT,
        "revision": found,
        "database": connection.dialect.name,
        **said,
        "resources": dict(sorted((kind, number) for kind, number in connection.execute(by_type))),
        "anchors": [anchors.line(head) for head in anchors.newest(connection)],
        "leftOut": sorted(LEFT_OUT),
        "tables": {table.name: _table(connection, table, folder, step) for table in kept()},
    }


def _table(connection: Connection, table: sa.Table, folder: Path, step: Step) -> dict[str, Any]:
    file = folder / f"{table.name}.ndjson.gz"
    columns = [column.name for column in table.columns]
    rows = Rows()
    with open(file, "xb") as raw:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed:
            for line in lines(connection, table, columns):
                rows.add(line)
                packed.write(line + b"\n")
                if rows.number % _ROWS_AT_ONCE == 0:
                    step(_ROWS_AT_ONCE)
        raw.flush()
        os.fsync(raw.fileno())
    step(rows.number % _ROWS_AT_ONCE)
    return {"file": file.name, "columns": columns, "rows": rows.number, "rowsDigest": rows.digest,
            "bytes": file.stat().st_size, "sha256": sha256(file)}  # fmt: skip


def sha256(file: Path) -> str:
    """Of a file's bytes, hex."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _durable(file: Path, content: bytes) -> None:
    with open(file, "xb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
