"""One row that every request looks up, by a statement that was built once.

What is asked for by its key and answered with one row needs no transaction of its own: begun and ended, and through
all that SQLAlchemy does for a statement, it took five times as long. It is still asked of the database each time.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from fhir_secondop.errors import Unavailable
from fhir_secondop.store.database import Database
from fhir_secondop.store.prepared import compiled

log = logging.getLogger(__name__)


def one_row(database: Database, statement: sa.Select[Any], **values: Any) -> tuple[Any, ...] | None:
    """The first row of a statement that was built once, as it is committed now. Raises Unavailable.

    Its columns must be of types that the driver gives as they are.
    """
    dialect = database.engine.dialect
    driver: Any = dialect.loaded_dbapi
    try:
        text, place = compiled(statement, dialect)
        with database.one_statement() as connection, closing(connection.cursor()) as cursor:
            cursor.execute(text, place(values))
            found: tuple[Any, ...] | None = cursor.fetchone()
            return found
    except (driver.OperationalError, driver.InterfaceError) as error:
        log.error("the database does not answer: %s", type(error).__name__)
        raise Unavailable("The database does not answer; try again.") from error
