"""What holds of the events of every case, whatever died on the way."""

from __future__ import annotations

import sqlalchemy as sa

from fhir_secondop.opinion.case_events import TELLS
from fhir_secondop.store import case_events, tables
from fhir_secondop.store.case_events import Numbering
from fhir_secondop.store.database import Database


def check_events(database_url: str) -> int:
    """The events of each case are numbered without holes, and are what its stored versions tell; how many there are."""
    database, checked = Database(database_url, pool_size=1), 0
    try:
        with database.reading() as connection:
            counters = connection.execute(sa.select(tables.case_counter)).all()
            assert counters, "no case has events"
            for case_id, last in counters:
                events = case_events.after(connection, case_id, 0, last + 1)
                assert [event.n for event in events] == list(range(1, last + 1)), f"{case_id} has a hole"
                assert [event[1:6] for event in events] == list(Numbering(TELLS).told(connection, case_id))
                checked += last
    finally:
        database.dispose()
    return checked
