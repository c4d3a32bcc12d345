"""A statement that every request runs: built once, compiled once, run as the driver runs it.

What is asked for by its key and answered with one row needs no transaction of its own: begun and ended, and through
all that SQLAlchemy does for a statement, it took five times as long. It is still asked of the database each time.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from fhir_secondop.errors import Unavailable
from fhir_secondop.store.database import Database

log = logging.getLogger(__name__)


def one_row(database: Database, statement: sa.Select[Any], **values: Any) -> tuple[Any, ...] | None:
    """The first row of a statement that was built once, as it is committed now. Raises Unavailable.

    Its columns must be of types that the driver gives as they are.
    """
    dialect = database.engine.dialect
    text, places = _compiled(statement, dialect)
    driver: Any = dialect.loaded_dbapi
    try:
        with database.one_statement() as connection:
            cursor = connection.cursor()
            try:
                cursor.execute(text, values if places is None else [values[name] for name in places])
                found: tuple[Any, ...] | None = cursor.fetchone()
            finally:
                cursor.close()
    except (driver.OperationalError, driver.InterfaceError) as error:
        log.error("the database does not answer: %s", type(error).__name__)
        raise Unavailable("The database does not answer; try again.") from error
    return found


@lru_cache(maxsize=64)
def _compiled(statement: sa.Select[Any], dialect: Dialect) -> tuple[str, list[str] | None]:
    """The statement's text, and the order of its values where they have no names in it."""
    compiled: Any = statement.compile(dialect=dialect)
    return str(compiled), compiled.positiontup
