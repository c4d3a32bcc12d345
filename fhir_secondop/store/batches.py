"""Many resources gone through a few at a time, others writing in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from fhir_secondop.store.database import Database


def of_rows(database: Database, wanted: sa.Select[Any], at_once: int) -> Iterator[list[int]]:
    """The rids that `wanted` selects, in the order of creation, so many at once.

    It is asked once: asked anew for each batch, what finds them by an index would be gone through as often as there are
    batches. What a rid says is read with its batch, and may be no longer what was wanted.
    """
    with database.reading() as connection:
        rids = sorted(set(connection.scalars(wanted)))
    for start in range(0, len(rids), at_once):
        yield rids[start : start + at_once]
