"""How a process is: measured every few seconds, so that whichever of several is scraped knows of all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fhir_secondop import meters
from fhir_secondop.store.database import Database

log = logging.getLogger(__name__)
EVERY_S = 5.0


def measure(database: Database) -> None:
    """Measures this process now. Where it has no file left, say, the numbers stay as they were."""
    pool: Any = database.engine.pool
    try:
        meters.look_at_process(pool.checkedout())
    except OSError as error:
        log.warning("this process could not be measured (%s)", error.strerror)


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
