"""How large the database is, and how far its audit has come."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables
from fhir_secondop.store.database import Database


def size_bytes(database: Database, connection: Connection) -> int:
    """Bytes on disk: of SQLite the file and what is not yet in it, of PostgreSQL what the server says."""
    if not database.is_sqlite:
        return int(connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())
    file = Path(database.engine.url.database or "")
    beside = (file, file.with_name(f"{file.name}-wal"))
    return sum(one.stat().st_size for one in beside if one.exists())


def newest_anchor(connection: Connection) -> int:
    """When the newest audit anchor was written, in ms since 1970; 0 for none."""
    return int(connection.execute(sa.select(sa.func.max(tables.audit_anchor.c.at))).scalar_one() or 0)
