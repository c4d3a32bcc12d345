"""What nobody carries on is carried on: workflows of workers that are gone, of program versions that are gone, and
those that failed on our side.

The Tasks are the ledger: a workflow that begins anew finds there how far it has come. So each of these may be done
twice, and two who do it at once do no harm: of two runs of a workflow DBOS records one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fhir_secondop.service import coverage, gather
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.service.delivering import orders
from fhir_secondop.store import executors, turns

if TYPE_CHECKING:
    from dbos import DBOSClient, WorkflowStatus

log = logging.getLogger(__name__)
FORGOTTEN_MS = 86_400_000  # after which the row of a worker that is gone is deleted
BACK_MS = 900_000  # for which a newer version must be gone before its workflows go back to an older one
AGAIN_S = 60.0  # before what failed on our side is tried again
MOST_TAKEN = 20  # times that a workflow may lose its worker within one step: then it is what ends them
AT_ONCE = 200
PAGE = 5_000
ABOUT = 25  # Tasks asked about at once
HASTEN_MS = 60_000  # between two looks for what waits by a wrong clock
LONGEST_MS = 90_000_000  # more than an EHR's daily budget makes a delivery wait, which is a day at most
_RETRIED = (orders.WORKFLOW, gather.WORKFLOW, coverage.WORKFLOW)  # others may wait for a date
_WAITING = ["ENQUEUED", "DELAYED"]
_FAILED = ["ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
GiveUp = Callable[[Context, str, str], object]
"""(context, Task id, why) → leaves it to a person."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Looks for what is left behind when it is this worker's turn.

    `version` is that of its workflows; `give_up` says by the name of a workflow how one is left to a person.
    """

    context: Context
    client: DBOSClient
    version: str
    give_up: Mapping[str, GiveUp]

    def turn(self, every_s: float) -> None:
        """Everything, if the turn is ours."""
        context = self.context
        if not turns.taken(context.database, "take-over", int(1000 * every_s), context.now()):
            return
        for what, count in (
            ("of workers that are gone", self.resume()),
            ("of a version that nobody runs any more", self.adopt()),
            ("that failed on our side", self.retry()),
            ("that waited by a clock that was wrong", self.hasten()),
        ):
            if count:
                log.warning("%d workflows %s are taken over", count, what)
        with context.database.appending() as connection:
            executors.forget(connection, context.now() - FORGOTTEN_MS)

    def resume(self) -> int:
        """Puts the workflows of workers that are gone back into their queues, each at the step that was interrupted."""
        pending = self.client.list_workflows(status="PENDING", load_output=False)
        with self.context.database.reading() as connection:
            # Looked at afterwards: a worker that has joined since is among the living.
            living = {executor.id for executor in executors.living(connection)}
        left = [workflow for workflow in pending if workflow.executor_id not in living]
        for workflow in left:
            before = workflow.attributes or {}
            steps = len(self.client.list_workflow_steps(workflow.workflow_id, load_output=False))
            # Whoever gets on is not what ends its workers.
            taken = 1 + (int(before.get("taken", 0)) if steps == int(before.get("steps", steps)) else 0)
            if taken > MOST_TAKEN:
                self._poison(workflow, taken)
                continue
            self.client.update_workflow_attributes(workflow.workflow_id, {"taken": taken, "steps": steps}, merge=True)
            self.client.resume_workflow(workflow.workflow_id, queue_name=workflow.queue_name)
        return len(left)

    def _poison(self, workflow: WorkflowStatus, taken: int) -> None:
        log.error("workflow %s has lost its worker %d times; it is not tried again", workflow.workflow_id, taken)
        give_up = self.give_up.get(workflow.name)
        if give_up is not None and workflow.input is not None:
            why = f"It has ended the worker that carried it {taken} times, each at the same step."
            try:
                give_up(self.context, workflow.input["args"][0], why)
            except Exception as error:  # the others are still taken over, and this one is looked at each time
                log.error("workflow %s is left to nobody: %s", workflow.workflow_id, type(error).__name__)
                return
        self.client.cancel_workflow(workflow.workflow_id)

    def adopt(self) -> int:
        """Begins the waiting workflows of versions that no worker runs any more anew, in our version.

        Those of an older one at once; of a newer one when it has not been seen for BACK_MS, for it may come back.
        """
        now = self.context.now()
        with self.context.database.reading() as connection:
            served = executors.versions(connection) | {self.version}
            recent = executors.versions(connection, seen_after=now - BACK_MS)
        known = {found.get("version_name", "") for found in self.client.list_application_versions()}
        count = 0
        for version in sorted(known - served):
            if not _is_older(version, self.version) and version in recent:
                continue
            waiting = self.client.list_workflows(
                app_version=version, status=_WAITING, load_output=False, limit=AT_ONCE
            )  # fmt: skip
            count += self._begin_anew(waiting, 0)
        return count

    def retry(self) -> int:
        """Begins anew what ended in an error, which is none of an EHR's: those are no errors of a workflow."""
        failed = self.client.list_workflows(status=_FAILED, load_output=False, limit=AT_ONCE)
        return self._begin_anew(failed, AGAIN_S)

    def hasten(self) -> int:
        """Wakes what would wait longer than anything is made to wait: the clock by which it waits ran ahead.

        What then asks an EHR too early is refused there, or waits until what was sent before has settled.
        """
        now = self.context.now()
        if not turns.taken(self.context.database, "hasten", HASTEN_MS, now):
            return 0
        waiting = self.client.list_workflows(status="DELAYED", name=list(_RETRIED), load_input=False, load_output=False)
        stuck = [w.workflow_id for w in waiting if (w.delay_until_epoch_ms or 0) > now + LONGEST_MS]
        for workflow_id in stuck:
            self.client.set_workflow_delay(workflow_id, delay_seconds=0)
        return len(stuck)

    def _begin_anew(self, workflows: Iterable[WorkflowStatus], delay_s: float) -> int:
        """The new ones are there before the old ones are deleted, under names that a second try finds again."""
        now, begun = self.context.now(), []
        with self.context.database.transaction(SERVICE) as tx:
            for old in workflows:
                if old.input is None:
                    continue
                queue = old.queue_name or old.name
                left_s = max(0, (old.delay_until_epoch_ms or 0) - now) / 1000
                self.context.enqueue(
                    tx, old.name, _next(old.workflow_id), old.queue_partition_key or queue, *old.input["args"],
                    delay_s=max(delay_s, left_s),
                )  # fmt: skip
                begun.append(old.workflow_id)
        if begun:
            self.client.delete_workflows(begun)
        return len(begun)


def live(client: DBOSClient, names: tuple[str, ...], about: Collection[str] = ()) -> set[tuple[str, str]]:
    """The workflows of these names that wait or run: (name, its first argument, which says what it is about).

    Of all of them some may be missing: what ends between two pages moves others from the next page to the one that was
    read. Of the Tasks that it is asked `about` none is: a workflow that follows is there before the one before ends.
    """
    if about:
        ids = sorted(about)
        parts = [ids[start : start + ABOUT] for start in range(0, len(ids), ABOUT)]
        return {one for part in parts for one in _listed(client, names, prefixes=_prefixes(names, part))}
    found: set[tuple[str, str]] = set()
    offset = 0
    while True:
        page = _listed(client, names, limit=PAGE, offset=offset)
        found.update(page)
        if len(page) < PAGE:
            return found
        offset += PAGE


def _listed(
    client: DBOSClient, names: tuple[str, ...], *, prefixes: list[str] | None = None, limit: int | None = None,
    offset: int | None = None,
) -> list[tuple[str, str]]:  # fmt: skip
    listed = client.list_workflows(
        name=list(names), status=[*_WAITING, "PENDING"], load_output=False, workflow_id_prefix=prefixes, limit=limit,
        offset=offset,
    )  # fmt: skip
    return [(w.name, str(w.input["args"][0]) if w.input is not None else "") for w in listed]


def _prefixes(names: tuple[str, ...], ids: Iterable[str]) -> list[str]:
    """How the keys begin of those that carry a Task."""
    return [f"{name}-{task_id}" for name in names for task_id in ids]


def _next(workflow_id: str) -> str:
    base, _, number = workflow_id.partition("@")
    return f"{base}@{int(number or 0) + 1}"


def _is_older(version: str, than: str) -> bool:
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
