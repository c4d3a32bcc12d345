"""How many workflows wait and run, by queue: counted in DBOS's own table, which says no more than ids."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

# https://docs.dbos.dev/explanations/system-tables
STATES = {"ENQUEUED": "waiting", "DELAYED": "later", "PENDING": "running"}
_SCHEMA = "dbos"


def counts(connection: Connection) -> dict[tuple[str, str], int]:
    """(queue, state) → how many; nothing before the first worker has made the tables."""
    schema = None if connection.dialect.name == "sqlite" else _SCHEMA
    if not sa.inspect(connection).has_table("workflow_status", schema=schema):
        return {}
    status, queue = sa.column("status", sa.Text), sa.column("queue_name", sa.Text)
    jobs = sa.table("workflow_status", status, queue, schema=schema)
    query = (
        sa.select(queue, status, sa.func.count())
        .select_from(jobs)
        .where(status.in_(sorted(STATES)), queue.is_not(None))
        .group_by(queue, status)
    )
    return {(name, STATES[state]): number for name, state, number in connection.execute(query)}
