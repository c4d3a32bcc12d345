"""A database as it is seen in a write transaction that is under way: what reads there sees what that has written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection

from fhir_secondop.store.database import Database


class Joined(Database):
    """For who only reads, and keeps at most a list of what it found (`store.ordering`): that ends with the transaction.

    Another connection would see nothing of the transaction, and one that writes would wait for it for ever.
    """

    def __init__(self, whole: Database, connection: Connection) -> None:
        self.url, self.engine, self.is_sqlite, self.audit = whole.url, whole.engine, whole.is_sqlite, whole.audit
        self._connection = connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """The transaction's own connection."""
        yield self._connection

    @contextmanager
    def one_statement(self) -> Iterator[Any]:
        """The driver's own connection of the transaction."""
        yield self._connection.connection.driver_connection

    @contextmanager
    def appending(self) -> Iterator[Connection]:
        """The transaction's own connection: what is written becomes durable with it."""
        yield self._connection
