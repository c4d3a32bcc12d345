"""How a process is: measured every few seconds, so that whichever of several is scraped knows of all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fhir_secondop import meters
from fhir_secondop.store.database import Database

EVERY_S = 5.0


def measure(database: Database) -> None:
    """Measures this process now."""
    pool: Any = database.engine.pool
    meters.look_at_process(pool.checkedout())


@contextmanager
def measured(database: Database) -> Iterator[None]:
    """Measures this process until it ends."""
    over = threading.Event()

    def run() -> None:
        measure(database)
        while not over.wait(EVERY_S):
            measure(database)

    thread = threading.Thread(target=run, name="vitals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
