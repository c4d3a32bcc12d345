"""The program itself, which dies at points that a folder names: python -m tests.faults.dying FOLDER serve …

A point is what a thread is at (a step of a workflow, a request, the heart) and what it is about to do or has just done:
to commit, to send a request to an EHR, to be done with a step. Every process passes its points; for one that lies in
FOLDER/plan the process that comes first takes it away and is dead in the same moment. What was passed is noted in
FOLDER/seen.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

PLAN, SEEN, STRUCK = "plan", "seen", "struck"


class Points:
    """The points of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self._at = threading.local()

    @contextlib.contextmanager
    def at(self, what: str) -> Iterator[None]:
        """What this thread is at, inside."""
        before = getattr(self._at, "what", "")
        self._at.what = what
        try:
            yield
        finally:
            self._at.what = before

    def passed(self, what: str) -> None:
        """This thread is at that point: it may be the last one of the process."""
        label = re.sub(r"[^A-Za-z0-9.]+", "-", f"{getattr(self._at, 'what', '') or 'request'} {what}").strip("-")
        if label not in self._seen:
            self._seen.add(label)
            (self._folder / SEEN / label).touch()
        planned = self._folder / PLAN / label
        if planned.exists():
            try:
                planned.rename(self._folder / STRUCK / label)
            except FileNotFoundError:
                return  # another process was first
            os.kill(os.getpid(), signal.SIGKILL)


def wrapped(points: Points) -> None:
    """Puts the points into the program."""
    from fhir_secondop.service import executors, takeover, workflows
    from fhir_secondop.store.audit import origin
    from fhir_secondop.store.commits import Shared

    end, send, step = Shared.end, requests.Session.send, origin.workflow
    counted, beat, turn = workflows.Running.counted, executors.Lease.beat, takeover.TakeOver.turn

    def ended(self: Any, *, keeps: bool) -> None:
        points.passed("before commit")
        end(self, keeps=keeps)
        points.passed("after commit")

    def sent(self: Any, request: Any, **options: Any) -> Any:
        kind = request.path_url.partition("?")[0].partition("/fhir")[2].strip("/").partition("/")[0]
        points.passed(f"before {request.method} {kind}")
        answer = send(self, request, **options)
        points.passed(f"after {request.method} {kind}")
        return answer

    @contextlib.contextmanager
    def stepped(name: str) -> Iterator[None]:
        with points.at(name), step(name):
            points.passed("begins")
            yield
            points.passed("done, not journalled")

    def running(self: Any, function: Any) -> Any:
        inner = counted(self, function)
        name = function.__name__

        def run(*args: Any) -> Any:
            with points.at(name):
                points.passed("dequeued")
                found = inner(*args)
                points.passed("over, not recorded")
                return found

        run.__name__, run.__qualname__ = function.__name__, function.__qualname__
        return run

    def beaten(self: Any, now: int) -> None:
        with points.at("heart"):
            beat(self, now)

    def turned(self: Any, every_s: float) -> None:
        with points.at("take-over"):
            turn(self, every_s)

    Shared.end = ended  # type: ignore[method-assign]
    requests.Session.send = sent  # type: ignore[method-assign, assignment]
    origin.workflow = stepped
    workflows.Running.counted = running  # type: ignore[method-assign]
    executors.Lease.beat = beaten  # type: ignore[method-assign]
    takeover.TakeOver.turn = turned  # type: ignore[method-assign]


def main() -> None:
    """Runs the command line, dying."""
    from fhir_secondop.cli import main as command

    folder = Path(sys.argv.pop(1))
    wrapped(Points(folder))
    command()


if __name__ == "__main__":
    main()
