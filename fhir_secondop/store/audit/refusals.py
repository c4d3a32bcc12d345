"""What was refused before anything was done for it: counted in memory, a row a minute for each caller and status.

A row for each would let whoever is refused for asking too often have us write as often.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from fhir_secondop.store.audit import rows
from fhir_secondop.store.audit.rows import Values

EVERY_MS = 60_000


class Refusals:
    """The counts of this process. All who did not sign in are one caller, "", so that there are never many."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, int]] = Counter()
        self._since = 0

    def count(self, caller: str, status: int) -> None:
        """One more request was refused with that status."""
        with self._lock:
            if not self._counts:
                self._since = self._now()
            self._counts[caller, status] += 1

    def due(self, ending: bool) -> list[Values]:
        """The rows of what was counted, a minute after the first of it or when `ending`; it is counted no more."""
        if not self._counts:
            return []
        with self._lock:
            now = self._now()
            if now - self._since < EVERY_MS and not ending:
                return []
            found, self._counts = self._counts, Counter()
        return [row(now, caller, status, number) for (caller, status), number in sorted(found.items())]


def row(at: int, caller: str, status: int, number: int) -> Values:
    """That so many requests were refused."""
    return dict.fromkeys(rows.FIELDS, "") | {
        "at": at, "kind": "refused", "caller": caller, "action": "E", "version": None, "case_id": None,
        "number": number, "status": status,
    }  # fmt: skip
