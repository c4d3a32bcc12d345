"""How long it is since something was sent that nobody has answered, by a clock that nobody can set.

The Task says when it was sent, by the wall clock of who sent it. Clocks of machines differ, and are set: by them a
minute may seem over at once. So a process measures by its own monotonic clock, from when it sent, or first saw that
somebody had sent.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

MOST = 10_000  # Tasks; the oldest is forgotten then, and seen as new: that only waits longer


class Settling:
    """What this process knows to be sent and unanswered. `monotonic_s` gives seconds since whenever."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._seen: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def since_s(self, task_id: str, mark: str) -> float:
        """Seconds since this process first saw that sending of the Task; 0 when it does now.

        `mark` is what the Task says of it: the next sending has another one.
        """
        now = self._monotonic_s()
        with self._lock:
            known = self._seen.get(task_id)
            if known is None or known[0] != mark:
                self._seen[task_id] = known = (mark, now)
                self._seen.move_to_end(task_id)
                while len(self._seen) > MOST:
                    self._seen.popitem(last=False)
        return now - known[1]
