"""Those who wait for what happens next in a case: so many of a process, and one look at the database for all of them.

Who waits holds a thread, and nothing else: no connection, no lock. What other processes and machines write is seen as
soon as what this one writes, for it is looked for in the database.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

from fhir_secondop.errors import Unavailable
from fhir_secondop.store import case_events
from fhir_secondop.store.database import Database

MOST = 32  # who wait at once in one process
MOST_OF_ONE = 16  # of one caller
LOOKS_S = 0.25  # between two looks


class Followers:
    """Who waits in this process."""

    def __init__(self, database: Database, most: int = MOST, most_of_one: int = MOST_OF_ONE) -> None:
        self._database = database
        self._most, self._most_of_one = most, most_of_one
        self._lock = threading.Lock()  # of the counts; never held while the database is asked
        self._looking = threading.Lock()  # of who looks; nobody waits for it
        self._cases: Counter[str] = Counter()  # that somebody waits for
        self._callers: Counter[str] = Counter()  # who wait
        self._last: dict[str, int] = {}  # as the last look has found them
        self._looked_at = float("-inf")
        self._ended = threading.Event()

    def wait(self, caller_id: str, case_id: str, after: int, longest_s: float) -> None:
        """Returns when the case has an event after that number, when the time is over, or at the end of the process.

        Raises Unavailable when as many wait as may, of all or of this caller.
        """
        ends = time.monotonic() + longest_s
        self._enter(caller_id, case_id)
        try:
            while self._last_of(case_id) <= after:
                left_s = ends - time.monotonic()
                if left_s <= 0 or self._ended.wait(min(LOOKS_S, left_s)):
                    return
        finally:
            self._leave(caller_id, case_id)

    def end(self) -> None:
        """Nobody waits any longer: the process stops."""
        self._ended.set()

    def _enter(self, caller_id: str, case_id: str) -> None:
        with self._lock:
            if self._callers.total() >= self._most or self._callers[caller_id] >= self._most_of_one:
                said = (
                    f"{self._callers.total()} requests wait for events here, {self._callers[caller_id]} of them yours: "
                    f"at most {self._most} may, {self._most_of_one} of one caller. Ask later, or without wait."
                )
                raise Unavailable(said, path="wait")
            self._callers[caller_id] += 1
            self._cases[case_id] += 1

    def _leave(self, caller_id: str, case_id: str) -> None:
        with self._lock:
            for counted, key in ((self._callers, caller_id), (self._cases, case_id)):
                counted[key] -= 1
                if not counted[key]:
                    del counted[key]  # bounded by who is here, not by who has ever been

    def _last_of(self, case_id: str) -> int:
        """The case's last number as of the last look; whoever comes when it is time looks for all.

        While the database does not answer the one who looks the others go on with what is known.
        """
        if time.monotonic() >= self._looked_at + LOOKS_S and self._looking.acquire(blocking=False):
            try:
                with self._lock:
                    cases = tuple(self._cases)
                with self._database.reading() as connection:
                    self._last = case_events.last_of(connection, cases)
                self._looked_at = time.monotonic()
            finally:
                self._looking.release()
        return self._last.get(case_id, 0)
