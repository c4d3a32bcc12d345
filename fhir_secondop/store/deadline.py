"""An end to what a search may take: SQLite is interrupted as it works, PostgreSQL ends each statement itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from fhir_secondop.errors import TooCostly

_STEPS = 1000  # of the machine between two looks at the clock: one may compare two long texts
_CANCELED = "57014"  # PostgreSQL's query_canceled
_INTERRUPTED = 9  # SQLITE_INTERRUPT


@contextmanager
def within(connection: Connection, seconds: float) -> Iterator[None]:
    """Ends what is read in this block after so many seconds. Raises TooCostly then; nothing of it is answered."""
    ends = time.monotonic() + seconds
    bounded = _sqlite if connection.dialect.name == "sqlite" else _postgresql
    try:
        with bounded(connection, ends, seconds):
            yield
    except OperationalError as error:
        if not _is_ended(error.orig):
            raise
        raise _late(seconds) from error


@contextmanager
def _sqlite(connection: Connection, ends: float, seconds: float) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


@contextmanager
def _postgresql(connection: Connection, ends: float, seconds: float) -> Iterator[None]:
    """Each statement has what is left of the time: the first is given it all, and the clock is read before others."""
    connection.execute(_SET, {"ms": str(max(1, int(seconds * 1000)))})

    def look(*_: Any) -> None:
        if time.monotonic() > ends:
            raise _late(seconds)

    sa.event.listen(connection, "before_cursor_execute", look)
    try:
        yield
    finally:
        sa.event.remove(connection, "before_cursor_execute", look)
    if connection.get_execution_options().get("secondop_write"):
        connection.execute(_SET, {"ms": "0"})  # what is written afterwards may take longer


_SET = sa.text("SELECT set_config('statement_timeout', :ms, true)")


def _is_ended(error: BaseException | None) -> bool:
    if getattr(error, "sqlite_errorcode", None) == _INTERRUPTED:
        return True
    return getattr(error, "sqlstate", None) == _CANCELED


def _late(seconds: float) -> TooCostly:
    return TooCostly(
        f"The search was ended after {seconds:g} seconds (max_search_s) without an answer; make it narrower, or ask "
        "for less at once."
    )
