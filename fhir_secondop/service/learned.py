"""What was learned, over all cases whose report is signed: numbers only, and none of a few."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from fhir_secondop.access import rights
from fhir_secondop.model import EVERYTHING, Caller
from fhir_secondop.opinion import clocks as both
from fhir_secondop.opinion import learned
from fhir_secondop.opinion.learned import Group, Outcome
from fhir_secondop.service import case_states, cases, clocks, worklist
from fhir_secondop.service.context import SERVICE, Context

_AT_ONCE = 200  # cases in memory
KEPT_MS = 300_000


class Learned:
    """The numbers, counted anew at most once in five minutes: it reads every case."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._at: int | None = None
        self._groups: tuple[Group, ...] = ()

    def groups(self, caller: Caller) -> tuple[Group, ...]:
        """All cases and each group. Raises Forbidden unless the caller coordinates, operates or audits."""
        rights.require_role(caller, "operator", "auditor")
        with self._lock:
            now = self._context.now()
            if self._at is None or not 0 <= now - self._at < KEPT_MS:
                self._groups = learned.aggregate(list(_outcomes(self._context)))
                self._at = now
            return self._groups


def _outcomes(context: Context) -> Iterator[Outcome]:
    """The service itself counts: who reads the numbers sees no case."""
    now, before = context.now(), ""
    case_states.follow(context)
    with context.database.reading() as connection:
        while True:
            ids, before = worklist.newest(context, connection, SERVICE, _AT_ONCE, before)
            found_cases = cases.read(connection, EVERYTHING, ids)
            versions = clocks.versions(connection, found_cases)
            for case in found_cases:
                clock = both.of_case(case.request, versions[case.id], context.clocks, now)
                found = learned.of_case(case, clock, versions[case.id], context.clocks.calendar, now)
                if found is not None:
                    yield found
            if not before:
                return
