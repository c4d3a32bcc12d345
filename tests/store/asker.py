"""A process that asks for slots or documents, for tests in which two workers share an EHR's limits.

python -m tests.store.asker URL WHAT COUNT CLOCK. `slots` and `documents` print what each call answered, by a clock that
stands still at CLOCK (ms); `requests` are sent as a client would, for COUNT seconds by the real clock, and each prints
when it went out (ms).
"""

from __future__ import annotations

import sys
import time

from fhir_secondop.ehr import limits
from fhir_secondop.store.database import Database, now_ms
from fhir_secondop.store.quota import Counted

NAME = "there"
RATE_PER_S = 10.0
LONGEST_S = 3.0
PER_DAY = 50


def main(url: str, what: str, count: int, clock: int) -> None:
    """See the module."""
    counted = Counted(Database(url), now_ms if what == "requests" else lambda: clock)
    print("ready", flush=True)
    sys.stdin.readline()
    if what == "requests":
        ends = time.monotonic() + count
        while time.monotonic() < ends:
            limits.wait(counted, NAME, RATE_PER_S)
            print(now_ms(), flush=True)
    for _ in range(count if what != "requests" else 0):
        if what == "slots":
            print(counted.slot(NAME, RATE_PER_S, LONGEST_S), flush=True)
        else:
            print(counted.document(NAME, PER_DAY), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
