"""The number that the workflows of one Task count by: which try it is, after which replay, and how often it waited.

One number, so that workflows which an earlier version has enqueued go on, and a try that is enqueued twice has the
same key both times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_REPLAY, _WAIT = 1_000, 1_000_000
MAX_ATTEMPTS = 12
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 900.0


@dataclass(frozen=True, slots=True)
class Try:
    """A try of a Task. Only `attempt` is counted against the most there may be; `waits` may go on for days."""

    attempt: int = 1
    replay: int = 0
    waits: int = 0

    @classmethod
    def of(cls, number: int) -> Try:
        """The try with that number."""
        waits, rest = divmod(number, _WAIT)
        replay, attempt = divmod(rest, _REPLAY)
        return cls(attempt, replay, waits)

    @property
    def number(self) -> int:
        """4 is the fourth attempt, 2004 that after the second replay, 7_002_004 the same after seven waits."""
        return self.waits * _WAIT + self.replay * _REPLAY + self.attempt

    @property
    def next(self) -> Try:
        """The next attempt."""
        return Try(self.attempt + 1, self.replay)

    @property
    def waited(self) -> Try:
        """The same attempt, which was not made yet."""
        return replace(self, waits=self.waits + 1)


def backoff(attempt: int) -> float:
    """Seconds until the next attempt."""
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt - 1, MAX_ATTEMPTS))
