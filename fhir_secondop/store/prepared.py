"""A statement that every request runs: built once, compiled once, run as the driver runs it.

Built, looked up in SQLAlchemy's cache and taken through its execution, a statement costs 0.1 to 0.3 ms: ten times
what SQLite needs for it, and a create has a dozen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError

Row = tuple[Any, ...]
Ready = tuple[str, Callable[[Mapping[str, Any]], Any]]
"""A statement's text, and what makes of its values what the driver takes: by name, or in their order."""


class Prepared:
    """One statement, its values named by `bindparam`. What it gives must be of types that the driver gives as they are.

    It runs in the transaction of the connection, and fails with SQLAlchemy's errors.
    """

    __slots__ = ("_names", "_statement")

    def __init__(self, statement: sa.Executable, names: Sequence[str] = ()) -> None:
        """`names` are those of its values in the order in which the statement has them."""
        self._statement = statement
        self._names = names

    def all(self, connection: Connection, **values: Any) -> list[Row]:
        """Every row."""
        with self._executed(connection, values) as cursor:
            found: list[Row] = cursor.fetchall()
        return found

    def first(self, connection: Connection, **values: Any) -> Row | None:
        """The first row."""
        with self._executed(connection, values) as cursor:
            found: Row | None = cursor.fetchone()
        return found

    def run(self, connection: Connection, **values: Any) -> int:
        """How many rows it changed."""
        with self._executed(connection, values) as cursor:
            changed: int = cursor.rowcount
        return changed

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Once for each of these."""
        with self._executed(connection, rows):
            pass

    def in_order(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Once for each of these, whose values stand in the order of the statement's."""
        if connection.dialect.positional:
            with self._executed(connection, rows, as_they_are=True):
                pass
        else:
            self.many(connection, [dict(zip(self._names, row, strict=True)) for row in rows])

    def _executed(self, connection: Connection, values: Any, *, as_they_are: bool = False) -> closing[Any]:
        text, place = compiled(self._statement, connection.dialect)
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor()
        try:
            if as_they_are:
                cursor.executemany(text, values)
            elif isinstance(values, dict):
                cursor.execute(text, place(values))
            else:
                cursor.executemany(text, [place(row) for row in values])
        except connection.dialect.loaded_dbapi.Error as error:
            cursor.close()
            raise _failed(connection, text, error) from error
        return closing(cursor)


def inserting(table: sa.Table, *returning: sa.Column[Any]) -> Prepared:
    """An insert of all columns but those that it returns."""
    names = [column.name for column in table.c if column not in set(returning)]
    statement = sa.insert(table).values({name: sa.bindparam(name) for name in names})
    return Prepared(statement.returning(*returning) if returning else statement, names)


def each(connection: Connection, ready: Ready, values: Mapping[str, Any], *, at_once: int = 0) -> Generator[Row]:
    """Each row, in the snapshot of a connection that reads. Raises SQLAlchemy's errors.

    With `at_once` PostgreSQL sends so many at a time; else its client takes all of them.
    """
    if not connection.in_transaction():
        connection.begin()
    text, place = ready
    driver: Any = connection.connection.driver_connection
    cursor: Any
    if at_once and connection.dialect.name == "postgresql":
        cursor = driver.cursor("rows")
        cursor.itersize = at_once
    else:
        cursor = driver.cursor()
    placed = place(values)
    for listener in connection.dispatch.before_cursor_execute:  # whoever bounds or watches what is asked
        listener(connection, cursor, text, placed, None, False)
    try:
        cursor.execute(text, placed)
        yield from cursor
    except connection.dialect.loaded_dbapi.Error as error:
        raise _failed(connection, text, error) from error
    finally:
        cursor.close()


@lru_cache(maxsize=256)
def compiled(statement: Any, dialect: Dialect) -> Ready:
    """A statement of ours that does not change, compiled."""
    return ready(statement, dialect)


def ready(statement: Any, dialect: Dialect) -> Ready:
    """A statement, compiled. It is not kept: what is may be held for long."""
    # What stands in a list of values is written out: such a list is part of the statement.
    made: Any = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    names: list[str] | None = made.positiontup
    written = {name: value for name, value in made.params.items() if value is not None}  # what stands in it already
    if names is None:
        return str(made), lambda values: {**written, **values}
    if written or len(names) < 2:
        return str(made), lambda values: tuple(values[name] if name in values else written[name] for name in names)
    return str(made), itemgetter(*names)


def _failed(connection: Connection, text: str, error: Any) -> Exception:
    dialect = connection.dialect
    gone = dialect.is_disconnect(error, connection.connection.driver_connection, None)
    if gone:  # else the pool rolls it back, and logs that it could not
        connection.invalidate(error)
    # Without values: they may be a patient's.
    found: Exception = DBAPIError.instance(
        text, None, error, dialect.loaded_dbapi.Error,
        hide_parameters=True, connection_invalidated=gone, dialect=dialect,
    )  # fmt: skip
    return found
