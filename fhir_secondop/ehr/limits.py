"""How fast and how much we may ask of one EHR: none of the vendors publishes limits one can rely on, so we keep ours.

`Limits` is what a client asks; the service's counts over all workers (`store.quota`), the command line's in its own
process.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from fhir_secondop.ehr.failures import EhrFailure

DAY_MS = 86_400_000
LONGEST_WAIT_S = 30.0
BURST_S = 2.0  # what was not used is saved up so long: a token bucket


class Limits(Protocol):
    """What counts requests and documents, by the name of the connection."""

    def slot(self, name: str, rate_per_s: float, longest_s: float) -> float:
        """Books the next request; the seconds to wait until it may go out.

        Where these are more than `longest_s` nothing is booked: nobody waits for it.
        """

    def document(self, name: str, per_day: int) -> bool:
        """Counts one document of today (by UTC); False when the day's budget is used up."""


class InProcess:
    """Limits of one process: for a command that asks an EHR a few things."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}

    def slot(self, name: str, rate_per_s: float, longest_s: float) -> float:
        """See Limits."""
        now = time.monotonic()
        with self._lock:
            at = max(now - BURST_S, self._next.get(name, now - BURST_S))
            if at - now <= longest_s:
                self._next[name] = at + 1.0 / rate_per_s
        return max(0.0, at - now)

    def document(self, name: str, per_day: int) -> bool:
        """See Limits; a command counts none."""
        return True


def at_once(requests: int) -> AbstractContextManager[Any]:
    """What a request is sent inside of: no more than that many are under way in this process; 0 is no limit."""
    return threading.BoundedSemaphore(requests) if requests > 0 else nullcontext()


def wait(limits: Limits, name: str, rate_per_s: float) -> None:
    """Returns when the next request may go out. Raises EhrFailure "capacity" rather than wait for very long."""
    if rate_per_s <= 0:
        return
    seconds = limits.slot(name, rate_per_s, LONGEST_WAIT_S)
    if seconds > LONGEST_WAIT_S:
        raise EhrFailure("capacity", f"{name}: our own limit of requests is used up.", retry_after_s=seconds)
    if seconds > 0:
        time.sleep(seconds)


def take_document(limits: Limits, name: str, per_day: int, now_ms: int) -> None:
    """Counts one document. Raises EhrFailure "quota" when the day's budget is used up."""
    if per_day > 0 and not limits.document(name, per_day):
        raise EhrFailure(
            "quota", f"{name}: the daily budget of {per_day} documents is used up.",
            retry_after_s=(DAY_MS - now_ms % DAY_MS) / 1000,
        )  # fmt: skip
