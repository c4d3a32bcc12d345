"""The demo's faults: an EHR that stops in mid-delivery, and a machine with a worker that is lost.

The EHR answers its writes two seconds late, so that there is a middle to stop it in: what was sent has been stored, and
nobody has said so. The worker that is lost is the one that delivers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dbos import DBOSClient

from fhir_secondop import config
from fhir_secondop.sandbox import demo
from fhir_secondop.sandbox.demo import Layout, Plain, Processes
from fhir_secondop.sandbox.story import COORDINATOR, Story
from fhir_secondop.service import workflows
from fhir_secondop.service.delivering import orders
from fhir_secondop.store.database import normalised

T = TypeVar("T")
WORKERS = ("machine-1", "machine-2")
STOPS = "lakeside"
LATE_S = 2
AWAY_S = 4.0
PATIENCE_S = 60.0


@contextmanager
def driven(layout: Layout, say: Callable[[str], None]) -> Iterator[tuple[Processes, Plain, list[Plain]]]:
    """The demo after its story with the two faults, while its processes go on: they, the board and the timeline."""
    with demo.running(layout, WORKERS, {STOPS: f"late-answer={LATE_S}"}) as processes:
        yield processes, *_drive(layout, processes, say)


def run_to_end(layout: Layout, say: Callable[[str], None]) -> tuple[Plain, list[Plain]]:
    """Starts the processes, drives the story with the two faults, stops them; the board and the timeline."""
    with driven(layout, say) as (_, board, timeline):
        return board, timeline


def _drive(layout: Layout, processes: Processes, say: Callable[[str], None]) -> tuple[Plain, list[Plain]]:
    story = Story(layout.case, demo.people(layout), say)
    story.request()
    story.gathered()
    with _meanwhile(lambda: _ehr_stops(layout, processes, story)):
        story.review()
        story.delivered("report")
    story.respond()
    with _meanwhile(lambda: _machine_is_lost(layout, processes, story)):
        story.plan_of_record()
    board = story.board()
    story.tell("every provider is aligned" if board["case"]["aligned"] else "not everybody is aligned")
    return board, story.timeline


@contextmanager
def _meanwhile(fault: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=fault, daemon=True)
    thread.start()
    yield
    thread.join()


def _ehr_stops(layout: Layout, processes: Processes, story: Story) -> None:
    if not _until(lambda: _sending(story, "report")):
        return
    time.sleep(LATE_S / 2)  # by now it is stored there, and not yet answered
    processes.kill(STOPS)
    story.tell(f"FAULT: the EHR of {STOPS} was stopped in mid-delivery; nobody knows what has landed")
    time.sleep(AWAY_S)
    processes.begin_ehr(STOPS)
    processes.await_ehr(STOPS)
    story.tell(f"the EHR of {STOPS} is back: what is there is looked for before anything is sent again")


def _machine_is_lost(layout: Layout, processes: Processes, story: Story) -> None:
    lost = _until(lambda: next(iter(_delivering(layout)), ""))
    if lost:
        processes.kill(lost)
        story.tell(f"FAULT: {lost} was lost with its worker, which was delivering; nobody starts it again")


def _sending(story: Story, what: str) -> bool:
    """Whether something is being sent on the first rung, which is that EHR's."""
    case = story.people[COORDINATOR].get(f"/{story.case_id}")
    return any(
        d["what"] == what and d["businessStatus"] == "sending" and d["evidence"].get("rung") == "1"
        for d in case["deliveries"]
    )


def _delivering(layout: Layout) -> list[str]:
    """The workers that deliver at this moment."""
    settings = config.load(str(layout.folder / "secondop.toml"))
    client = DBOSClient(
        system_database_url=normalised(settings.database), application_name=workflows.APPLICATION, lazy=True
    )
    try:
        running = client.list_workflows(name=orders.WORKFLOW, status="PENDING", load_input=False, load_output=False)
        return [str(workflow.executor_id).partition(":")[0] for workflow in running]
    finally:
        client.destroy()


def _until(ready: Callable[[], T]) -> T:
    ends = time.monotonic() + PATIENCE_S
    while not (found := ready()) and time.monotonic() < ends:
        time.sleep(0.05)
    return found
