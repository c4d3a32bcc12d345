"""One row that every request looks up, by a statement that was built once.

What is asked for by its key and answered with one row needs no transaction of its own: begun and ended, and through
all that SQLAlchemy does for a statement, it took five times as long. It is still asked of the database each time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

from fhir_secondop.errors import Unavailable
from fhir_secondop.store.database import Database
from fhir_secondop.store.prepared import compiled, each

log = logging.getLogger(__name__)


def one_row(database: Database, statement: sa.Select[Any], **values: Any) -> tuple[Any, ...] | None:
    """The first row of a statement that was built once, as it is committed now. Raises Unavailable.

    Its columns must be of types that the driver gives as they are.
    """
    dialect = database.engine.dialect
    driver: Any = dialect.loaded_dbapi
    try:
        with database.one_statement() as connection:
            return next(_rows(connection, statement, dialect, values), None)
    except (driver.OperationalError, driver.InterfaceError) as error:
        log.error("the database does not answer: %s", type(error).__name__)
        raise Unavailable("The database does not answer; try again.") from error


def each_row(connection: Connection, statement: sa.Select[Any], **values: Any) -> Iterator[tuple[Any, ...]]:
    """Each row of such a statement, in the snapshot of a connection that reads. Raises SQLAlchemy's errors.

    Of a record of 150 resources SQLAlchemy takes longer to make the statement and its rows than the database to answer.
    """
    return each(connection, compiled(statement, connection.dialect), values)


def _rows(
    driver: Any, statement: sa.Select[Any], dialect: Dialect, values: dict[str, Any]
) -> Iterator[tuple[Any, ...]]:
    text, place = compiled(statement, dialect)
    cursor = driver.cursor()
    try:
        cursor.execute(text, place(values))
        yield from cursor
    finally:
        cursor.close()
