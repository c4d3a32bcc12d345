"""What a worker runs: counted, carried through an outage of the database, and missed when it is not there.

A workflow that was taken from its queue belongs to this worker alone. When the database was lost in the very moment of
its start or of its end, it stands there as running, and nobody runs it: such strays are looked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Unavailable
from fhir_secondop.store.database import is_away

if TYPE_CHECKING:
    from dbos import DBOSClient

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
OUTAGE_S = 600.0  # after which the step fails; its workflow begins anew then (`service.takeover`)


def is_outage(error: BaseException) -> bool:
    """Whether the database could not do it: what failed is no fault of an EHR, nor of ours."""
    return is_away(error) or (isinstance(error, Unavailable) and not isinstance(error, EhrFailure))


class Running:
    """The workflows of this process."""

    def __init__(self) -> None:
        self._ids: dict[object, str] = {}  # by run: an id may be there twice
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def number(self) -> int:
        """How many run."""
        return len(self._ids)

    @property
    def ids(self) -> set[str]:
        """Which run."""
        with self._lock:
            return set(self._ids.values())

    def counted(self, function: Callable[..., str]) -> Callable[..., str]:
        """The function of a workflow, counted while it runs."""
        from dbos import DBOS

        @wraps(function)
        def run(*args: Any) -> str:
            mine = object()  # not the thread: one within another is one more
            with self._lock:
                self._ids[mine] = DBOS.workflow_id or ""
            try:
                return function(*args)
            finally:
                with self._lock:
                    del self._ids[mine]

        return run

    def stop(self) -> None:
        """Waits for no database any more."""
        self._stopped.set()

    def through_outages(self, function: Callable[..., Any], *args: Any) -> Any:
        """Does what may be done twice; while the database can't, again and again, for OUTAGE_S at most."""
        ends, pause_s = time.monotonic() + OUTAGE_S, FIRST_PAUSE_S
        while True:
            try:
                return function(*args)
            except Exception as error:
                if not is_outage(error) or time.monotonic() > ends:
                    raise
                log.warning(
                    "the database does not do it now (%s); tried again in %.0f s", type(error).__name__, pause_s
                )
                if self._stopped.wait(pause_s):
                    raise
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class Strays:
    """Those workflows that are this worker's by the database, and that it does not run."""

    def __init__(self, client: DBOSClient, executor_id: str, running: Running, after_s: float) -> None:
        self._client = client
        self._executor_id = executor_id
        self._running = running
        self._after_s = after_s
        self._missed: dict[str, float] = {}

    def look(self, monotonic_s: float) -> int:
        """Puts those back into their queues that were missed for `after_s`: one may just be about to begin or to end.

        Answers how many. Of one that was running after all DBOS records one end.
        """
        mine = self._client.list_workflows(
            status="PENDING", executor_id=[self._executor_id], load_input=False, load_output=False
        )
        running = self._running.ids
        missing = {w.workflow_id: w.queue_name for w in mine if w.workflow_id not in running}
        self._missed = {one: self._missed.get(one, monotonic_s) for one in missing}
        stray = [one for one, since in self._missed.items() if monotonic_s - since > self._after_s]
        for workflow_id in stray:
            self._client.resume_workflow(workflow_id, queue_name=missing[workflow_id])
            del self._missed[workflow_id]
        if stray:
            log.warning("%d workflows that this worker had taken and does not run go back to their queues", len(stray))
        return len(stray)
