"""One row that every request looks up, by a statement that was built once.

What is asked for by its key and answered with one row needs no transaction of its own: begun and ended, and through
all that SQLAlchemy does for a statement, it took five times as long. It is still asked of the database each time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

from fhir_secondop.errors import Unavailable
from fhir_secondop.store.database import Database
from fhir_secondop.store.prepared import compiled

log = logging.getLogger(__name__)


def one_row(database: Database, statement: sa.Select[Any], **values: Any) -> tuple[Any, ...] | None:
    """The first row of a statement that was built once, as it is committed now. Raises Unavailable.

    Its columns must be of types that the driver gives as they are.
    """
    with _available(database.engine.dialect), database.one_statement() as connection:
        found = _run(connection, statement, database.engine.dialect, values, 1)
    return found[0] if found else None


def all_rows(connection: Connection, statement: sa.Select[Any], **values: Any) -> list[tuple[Any, ...]]:
    """All rows of such a statement, in the snapshot of a connection that reads. Raises Unavailable.

    Of a record of 150 resources SQLAlchemy takes longer to make the statement and its rows than the database to answer.
    """
    if not connection.in_transaction():
        connection.begin()
    with _available(connection.dialect):
        return _run(connection.connection, statement, connection.dialect, values, None)


def _run(
    driver: Any, statement: sa.Select[Any], dialect: Dialect, values: dict[str, Any], most: int | None
) -> list[tuple[Any, ...]]:
    text, place = compiled(statement, dialect)
    cursor = driver.cursor()
    try:
        cursor.execute(text, place(values))
        found: list[tuple[Any, ...]] = cursor.fetchall() if most is None else cursor.fetchmany(most)
    finally:
        cursor.close()
    return found


@contextmanager
def _available(dialect: Dialect) -> Iterator[None]:
    driver: Any = dialect.loaded_dbapi
    try:
        yield
    except (driver.OperationalError, driver.InterfaceError) as error:
        log.error("the database does not answer: %s", type(error).__name__)
        raise Unavailable("The database does not answer; try again.") from error
