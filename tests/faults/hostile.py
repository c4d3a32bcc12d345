"""Deliveries to the hostile peer, by threads that take what is due.

Only the clock is not real: when nothing is due it is set ahead, here and at the peer. The service, its database, its
HTTP client and the peer are.
"""

from __future__ import annotations

import heapq
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion.case import Case
from fhir_secondop.service.context import load
from fhir_secondop.service.delivering import orders
from tests.conftest import ROOT, free_port, wait_for
from tests.faults.peer import DATES, NPI, SHAPES, SYSTEM
from tests.service.test_review import example
from tests.service.world import Job, World

Plain = dict[str, Any]
SETTLE_S = 60.0
TIMEOUT_S = 0.5
TOKEN = "not-for-anybody-else"
REVIEWER = example("review.json")["reviewer"]
SPECIALTY = {"system": "http://nucc.org/provider-taxonomy", "code": "207Q00000X"}
DRAFT: Plain = {
    "conclusion": "The plan is agreed with.",
    "items": [{"item": 0, "axis": "treatment", "concordance": "agreed", "significance": "none", "basis": "The record.",
               "confidence": "moderate", "wouldChange": "Other stage."}],
    "history": "As in the record.", "findings": "As in the record.", "assessment": "As in the record.",
    "answers": [{"question": 0, "text": "Yes."}],
    "recommendations": [{"text": "Go ahead.", "strength": "strong", "kind": "plan"}],
}  # fmt: skip


class Peer:
    """The hostile peer as a process; its control port."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.ports = {name: free_port() for name in (*SHAPES, "control", "elsewhere")}
        told = {"seed": seed, "control": self.ports["control"], "elsewhere": self.ports["elsewhere"],
                "places": {name: self.ports[name] for name in SHAPES}, "folder": str(folder),
                "timeout_s": TIMEOUT_S}  # fmt: skip
        with open(folder / "peer.log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.peer", json.dumps(told)], stdout=log, stderr=log, cwd=ROOT
            )
        self._control = f"http://127.0.0.1:{self.ports['control']}"
        wait_for(f"{self._control}/ready", self.process)
        self._session = requests.Session()

    def base(self, name: str) -> str:
        return f"https://localhost:{self.ports[name]}/fhir" if name == "tls" else (
            f"http://127.0.0.1:{self.ports[name]}/fhir")  # fmt: skip

    def tell(self, what: str) -> Plain:
        """One word to the control port."""
        told: Plain = self._session.get(f"{self._control}/{what}", timeout=60).json()
        return told

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Hurried(World):
    """A world whose jobs are run by several threads at once; `jobs` is a heap, and a case of ours is a job too."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    heap: list[tuple[int, int, Job]] = field(default_factory=list)
    count: int = 0
    mine: threading.local = field(default_factory=threading.local)

    def _enqueue(self, tx: Any, workflow: str, key: str, partition: str, *args: Any, delay_s: float = 0) -> None:
        due = self.clock() + int(delay_s * 1000)
        # Others see it when its transaction has been committed, which is when this thread is done.
        self.mine.__dict__.setdefault("jobs", []).append(Job(workflow, key, partition, args, due))

    def committed(self) -> None:
        """What this thread has enqueued is there for all."""
        for job in self.mine.__dict__.pop("jobs", []):
            with self.lock:
                if job.key not in self.keys:
                    self.keys.add(job.key)
                    self.put(job)

    def put(self, job: Job) -> None:
        """Takes a job; of the service's own those that deliver."""
        with self.lock:
            self.count += 1
            if job.workflow in (orders.WORKFLOW, *OURS):
                heapq.heappush(self.heap, (job.at, self.count, job))


OURS = ("open", "amend")


class Run:
    """So many cases, each with a recipient at every place and one to three versions, until nothing is due any more."""

    def __init__(self, world: Hurried, peer: Peer, cases: int, seed: int, threads: int) -> None:
        self.world, self.peer, self.seed, self.threads = world, peer, seed, threads
        self.cases: dict[str, int] = {}
        self.said: Counter[str] = Counter()
        self.failed: list[BaseException] = []
        self._busy = 0
        self._changed = threading.Condition(world.lock)
        for number in range(1, cases + 1):
            world.put(Job("open", f"open-{number}", "", (number,), world.clock() + number * 1_000))

    def work(self) -> None:
        """Runs what is due, in threads, until there is nothing; whatever fails on our side is the test's failure."""
        began = [threading.Thread(target=self._take, daemon=True) for _ in range(self.threads)]
        for thread in began:
            thread.start()
        for thread in began:
            thread.join()
        if self.failed:
            raise self.failed[0]

    def _take(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._do(job)
            except BaseException as error:
                self.failed.append(error)
            finally:
                self.world.committed()
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def _next(self) -> Job | None:
        """What is due; when nothing is, and nobody works, time goes on to what comes next."""
        world = self.world
        with self._changed:
            while not self.failed:
                if world.heap and world.heap[0][0] <= world.clock():
                    self._busy += 1
                    return heapq.heappop(world.heap)[2]
                if not self._busy:
                    if not world.heap:
                        self.forward(SETTLE_S)  # what is still under way lands
                        self._changed.notify_all()
                        return None
                    self.forward((world.heap[0][0] - world.clock()) / 1000)
                    continue
                self._changed.wait(0.2)
        return None

    def forward(self, seconds: float) -> None:
        """Sets both clocks ahead; what was to land by then has landed at the peer before anything else is done."""
        self.world.clock.forward(max(0.001, seconds))
        self.peer.tell(f"advance?ahead={self.world.clock.ahead_ms}")

    def _do(self, job: Job) -> None:
        if job.workflow == "open":
            self._open(job.args[0])
        elif job.workflow == "amend":
            self._amend(*job.args)
        else:
            said = self.world.workflows[job.workflow](*job.args)
            self.said[said.partition(":")[0].partition(" in ")[0]] += 1

    # ---- cases

    def _post(self, path: str, body: Plain, who: str = "desk", method: str = "POST") -> Plain:
        client = self.world.client.application.test_client()  # type: ignore[attr-defined]
        for _ in range(50):
            answer = client.open(f"/api/second-opinions{path}", method=method, json=body if method == "POST" else None,
                                 headers={"Authorization": f"Bearer {who}"})  # fmt: skip
            # A delivery wrote to the case meanwhile: who signs looks again, and signs. Or it is busy, and says so.
            changed = answer.status_code == 409 and b"while it was being signed" in answer.data
            if not changed and answer.status_code != 503:
                break
            time.sleep(0.05)
        assert answer.status_code < 400, f"{path}: {answer.get_data(as_text=True)}"
        plain: Plain = answer.get_json()
        return plain

    def _open(self, number: int) -> None:
        case_id = self._post("", asked(number))["id"]
        self.cases[case_id] = number
        self._post(f"/{case_id}/ask-reviewer", {"reviewer": REVIEWER})
        self._post(f"/{case_id}/accept", {"declaration": {"interests": "none"}}, "reviewer")
        gaps = self._post(f"/{case_id}/completeness", {}, "reviewer", "GET")["gaps"]
        self._post(f"/{case_id}/submit-report", {**DRAFT, "gapsConfirmed": gaps}, "reviewer")
        self._post(f"/{case_id}/sign", {}, "reviewer")
        rng = random.Random(f"{self.seed}/case/{number}")
        delay_s = 0.0
        for version in range(2, rng.choice((2, 3, 4))):  # none, one or two amendments
            delay_s += rng.choice((0.5, 5.0, 30.0, 120.0, 600.0))
            due = self.world.clock() + int(delay_s * 1000)
            self.world.put(Job("amend", f"amend-{case_id}-{version}", "", (case_id, version), due))

    def _amend(self, case_id: str, version: int) -> None:
        changes = {"conclusion": f"A dose was wrong in version {version - 1}. The rest stands."}
        body = {"kind": "amended", "reason": "A dose was wrong.", "changes": changes}
        self._post(f"/{case_id}/amend-report", body, "reviewer")
        self._post(f"/{case_id}/sign", {}, "reviewer")

    def replay(self) -> int:
        """A person replays whatever is on hold; how many there were."""
        held = [(case_id, task) for case_id, case in self.loaded().items() for task in case.deliveries
                if task["status"] == "on-hold"]  # fmt: skip
        for case_id, task in held:
            self._post(f"/{case_id}/replay", {"task": task["id"], "changed": "It is quiet there now."})
        self.world.committed()
        return len(held)

    def loaded(self) -> dict[str, Case]:
        """Each case as it stands in the database."""
        with self.world.context.database.reading() as connection:
            return {case_id: load(connection, EVERYTHING, case_id) for case_id in self.cases}


def asked(number: int) -> Plain:
    """The request of a case: a doctor at each place, and a second one where documents are filed without conditions."""
    at = [*SHAPES, "filing"]
    return {
        "placer": {"system": "https://hostile.example/orders", "value": f"H-{number}"},
        "patient": {"identifier": [{"system": SYSTEM, "value": f"H-{number}"}], "family": "Benchley",
                    "given": ["Pat"], "birthDate": DATES.format(1 + number % 28), "gender": "female"},
        "reasons": [{"code": "doubt-treatment-plan"}],
        "pathway": "pcp-referral",
        "underReview": [{"kind": "plan", "text": "Treatment as planned", "author": "d0"}],
        "decision": {"text": "Go ahead, or not", "owner": "d0"},
        "questions": ["Is the plan right?"],
        "organizations": {name: {"name": f"At {name}", "identifier": {"system": NPI, "value": organization(n)}}
                          for n, name in enumerate(SHAPES)},
        "providers": {f"d{n}": {"family": f"Doctor {n}", "npi": str(8_100_000_000 + n), "organization": name,
                                "specialty": SPECIALTY}
                      for n, name in enumerate(at)},
        "pcp": "d0", "requester": "d0", "sources": [],
        "inform": [f"d{n}" for n in range(1, len(at))],
    }  # fmt: skip


def organization(number: int) -> str:
    """The NPI of the place of that number."""
    return str(8_000_000_000 + number)


@contextmanager
def hostile(folder: Path, url: str, *, cases: int, seed: int, threads: int) -> Iterator[Run]:
    """A run on that database against a peer of its own."""
    peer = Peer(folder, seed)
    (folder / "token").write_text(TOKEN)
    with pytest.MonkeyPatch.context() as patch:
        world = Hurried(folder, url, patch)
        try:
            for number, name in enumerate(SHAPES):
                world.connect(
                    name, peer.base(name), organization=f"{NPI}|{organization(number)}", patient_system=SYSTEM,
                    settle_s=SETTLE_S, timeout_s=TIMEOUT_S, auth="bearer", secret_file=str(folder / "token"),
                    concurrency=0, text_only=name == "notes", ca_bundle=str(folder / "ca.pem") if name == "tls" else "",
                )  # fmt: skip
            world.start()
            yield Run(world, peer, cases, seed, threads)
        finally:
            world.close()
            peer.close()
