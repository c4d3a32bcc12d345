"""What a gathering under way has finished of its parts: kept until it ends, so that a crash costs one part and not all.

It is no record of the case: with these rows deleted, everything is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables
from fhir_secondop.store.database import Transaction

_PART = tables.gathered_part.c
# Built once: a gathering runs it hundreds of times.
_FORGET_PART = sa.delete(tables.gathered_part).where(
    _PART.task_id == sa.bindparam("of"), _PART.part == sa.bindparam("named")
)


def finished(connection: Connection, task_id: str) -> dict[str, Any]:
    """What each finished part said."""
    rows = connection.execute(sa.select(_PART.part, _PART.said).where(_PART.task_id == task_id))
    return {row.part: json.loads(row.said) for row in rows}


def finish(tx: Transaction, task_id: str, parts: Mapping[str, Any]) -> None:
    """Marks parts as finished; again is the same."""
    if not parts:
        return
    tx.connection.execute(_FORGET_PART, [{"of": task_id, "named": part} for part in parts])
    tx.connection.execute(
        sa.insert(tables.gathered_part),
        [{"task_id": task_id, "part": part, "said": json.dumps(said)} for part, said in parts.items()],
    )


def forget(tx: Transaction, task_id: str) -> None:
    """The gathering has ended: its parts go."""
    tx.connection.execute(sa.delete(tables.gathered_part).where(_PART.task_id == task_id))
