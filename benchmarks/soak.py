"""An hour of steady work, and what grows meanwhile: memory, open files, threads and connections of each process.

A server and two workers, three EHRs (stand-ins). Every --every seconds a case is opened, gathered, reviewed, signed,
delivered and acknowledged, each fifth is amended; beside it lists, boards, searches, events that are waited for, and
resources that are written by plain FHIR. One EHR after the other hangs for --hangs seconds every five minutes: it takes
connections and answers nothing.

Looked at every five seconds. Printed is the median of each tenth of the time: what is needed at the start is there by
the second, and the last should be like the one before. The store grows with the cases; what is in memory must not.

Example: python benchmarks/soak.py --minutes 60 --database postgresql
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import rig
import sqlalchemy as sa
import standin

from fhir_secondop.model import Connection

Plain = dict[str, Any]
LOOK_S = 5.0
ROUND_S = 300.0
MEASURES = ("rss_mb", "files", "threads")  # and cpu_s, which only grows


@dataclass(frozen=True, slots=True)
class Look:
    """One process at one time. `who` is "server", "server 1" …, "worker 1" …"""

    at_s: float
    who: str
    pid: int
    rss_mb: float
    files: int
    threads: int
    cpu_s: float


class Watcher:
    """Looks at a process and its children every few seconds."""

    def __init__(self, pid: int, database: str) -> None:
        self.looks: list[Look] = []
        self.connections: list[tuple[float, int]] = []
        self._pid, self._over = pid, threading.Event()
        self._engine = sa.create_engine(database) if database.startswith("postgresql") else None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            at = time.monotonic() - self._began
            for number, pid in enumerate([self._pid, *_children(self._pid)]):
                with suppress(OSError, ValueError, StopIteration):
                    self.looks.append(Look(at, f"process {number}", pid, *_measured(pid)))
            if self._engine is not None:
                with self._engine.connect() as connection:
                    mine = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
                    self.connections.append((at, int(connection.execute(mine).scalar_one())))

    def stop(self) -> None:
        """Looks no more."""
        self._over.set()
        self._thread.join()


def _children(pid: int) -> list[int]:
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _measured(pid: int) -> tuple[float, int, int, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    threads = next(line for line in status.splitlines() if line.startswith("Threads:"))
    return rig.rss_mb(pid)[0], len(os.listdir(f"/proc/{pid}/fd")), int(threads.split()[1]), rig.cpu_s(pid)


class Busy(RuntimeError):
    """It has no place for the request now."""


class Clinic:
    """Who asks, reviews, reads and answers, by HTTP. `done` counts what was done, `failed` what was not, by what."""

    def __init__(self, url: str, at: Sequence[Connection]) -> None:
        self._url, self._at = url, at
        self._local = threading.local()
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.cases: list[str] = []

    def call(self, method: str, path: str, body: Plain | None = None, who: str = "desk") -> Plain:
        """One request, in a session of the thread's own."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
        headers = {"Authorization": f"Bearer {who}"}
        answer = session.request(method, f"{self._url}{path}", json=body, headers=headers, timeout=120)
        if answer.status_code == 503:
            raise Busy(f"{method} {path}: {answer.text[:300]}")
        if answer.status_code >= 400:
            raise RuntimeError(f"{method} {path.rpartition('/')[2]}: {answer.status_code} {answer.text[:300]}")
        self.done[f"{answer.status_code}"] += 1
        plain: Plain = answer.json()
        return plain

    def story(self, number: int) -> None:
        """One case, from the request to the acknowledgement."""
        patient = rig.Patient(((standin.SYSTEM, f"P-{number}"),))  # else each record had the reports before
        case_id = self.call("POST", "/api/second-opinions", rig.request(patient, number, self._at, gather=True))["id"]
        case = f"/api/second-opinions/{case_id}"
        self.cases.append(case_id)
        self._until(case, lambda told: all(g["status"] in ("completed", "failed") for g in told["gathering"]))
        self.call("POST", f"{case}/ask-reviewer", {"reviewer": rig.REVIEWER})
        self.call("POST", f"{case}/accept", {"declaration": {"interests": "none"}}, "reviewer")
        gaps = self.call("GET", f"{case}/completeness", who="reviewer")["gaps"]
        self.call("POST", f"{case}/submit-report", {**rig.DRAFT, "gapsConfirmed": gaps}, "reviewer")
        self.call("POST", f"{case}/sign", {}, "reviewer")
        if number % 5 == 0:
            change = {"conclusion": "The plan is agreed with; the dose is corrected."}
            amended = {"kind": "amended", "reason": "A dose was wrong.", "changes": change}
            self.call("POST", f"{case}/amend-report", amended, "reviewer")
            self.call("POST", f"{case}/sign", {}, "reviewer")
        self._until(case, lambda told: all(d["status"] in ("completed", "on-hold", "cancelled")
                                           for d in told["deliveries"]))  # fmt: skip
        version = self.call("GET", case)["report"]["version"]
        self.call("POST", f"{case}/acknowledge", {"version": version}, "provider")
        self.done["cases"] += 1

    def _until(self, case: str, fits: Any) -> None:
        """Waits for events of the case, as somebody does who follows it."""
        after, ends = 0, time.monotonic() + 2 * ROUND_S
        while not fits(self.call("GET", case)):
            if time.monotonic() > ends:
                raise RuntimeError("it did not come that far")
            try:
                after = self.call("GET", f"{case}/events?after={after}&wait=10")["last"]
            except Busy:
                time.sleep(5)  # so many wait already

    def look(self, number: int) -> None:
        """What others read and write meanwhile."""
        self.call("GET", "/api/second-opinions")
        for case_id in self.cases[-3:]:
            self.call("GET", f"/api/second-opinions/{case_id}/alignment")
            self.call("GET", "/fhir/Task?focus:missing=false&_count=20&_lastUpdated=gt2026-01-01&part-of:missing=true")
        made = {"resourceType": "Basic", "code": {"text": f"soak {number}"}}
        self.call("POST", "/fhir/Basic", made)

    def tried(self, what: str, act: Any, number: int) -> None:
        """Does it; what fails is counted, and said once."""
        try:
            act(number)
        except (RuntimeError, requests.RequestException) as error:
            if not self.failed[f"{what}: {type(error).__name__}"]:
                rig.say(f"  {what} failed: {error}")
            self.failed[f"{what}: {type(error).__name__}"] += 1


def soak(
    url: str, pids: Sequence[int], at: Sequence[Connection], minutes: float, every_s: float, hangs_s: float
) -> Clinic:
    """The hour. `pids` are the EHRs'."""
    clinic, began = Clinic(url, at), time.monotonic()
    threads: list[threading.Thread] = []
    number = 0
    while (now := time.monotonic() - began) < 60 * minutes:
        number += 1
        for what, act in (("case", clinic.story), ("look", clinic.look)):
            threads.append(threading.Thread(target=clinic.tried, args=(what, act, number), daemon=True))
            threads[-1].start()
        threads = [thread for thread in threads if thread.is_alive()]
        hanging = int(now // ROUND_S) % len(pids)
        for n, pid in enumerate(pids):
            hang = n == hanging and ROUND_S / 2 <= now % ROUND_S < ROUND_S / 2 + hangs_s
            os.kill(pid, signal.SIGSTOP if hang else signal.SIGCONT)
        if number % 30 == 0:
            rig.say(f"  {now / 60:.0f} min: {clinic.done['cases']} cases done, {len(threads)} under way, "
                    f"{sum(clinic.failed.values())} failed")  # fmt: skip
        time.sleep(max(0.0, began + number * every_s - time.monotonic()))
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for thread in threads:
        thread.join(2 * ROUND_S)
    return clinic


def grown(watcher: Watcher) -> list[Plain]:
    """Of each process what it had in each tenth of the time (medians), and at most."""
    found = []
    ends = max(look.at_s for look in watcher.looks)
    for who in sorted({look.who for look in watcher.looks}):
        mine = [look for look in watcher.looks if look.who == who]
        row: Plain = {"process": who, "starts": len({look.pid for look in mine}), "cpu_s": mine[-1].cpu_s}
        for measure in MEASURES:
            tenths: list[list[float]] = [[] for _ in range(10)]
            for look in mine:
                tenths[min(9, int(10 * look.at_s / ends))].append(getattr(look, measure))
            row[measure] = {"tenths": [round(rig.median(some), 1) for some in tenths if some],
                            "most": round(max(getattr(look, measure) for look in mine), 1)}  # fmt: skip
        found.append(row)
    return found


def main() -> None:
    """Runs it."""
    parser = rig.arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two cases")
    parser.add_argument("--hangs", type=float, default=30.0, help="seconds")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-soak-")))
        url = stack.enter_context(rig.databases(chosen.database, folder))()
        at, pids = [], []
        for n in range(3):
            port = rig.free_port()
            base = f"http://127.0.0.1:{port}/fhir"
            command = [sys.executable, str(Path(standin.__file__)), "--port", str(port), "--patients", "99999"]
            running = stack.enter_context(rig.process(command, f"{base}/metadata", folder / f"standin-{n}.log"))
            at.append(rig.connection(f"ehr{n}", base, n, standin.SYSTEM))
            pids.append(running.pid)
        served, process = stack.enter_context(rig.served(folder, at, url, options=["--workers", "2"]))
        watcher = Watcher(process.pid, url)
        clinic = soak(served, pids, at, chosen.minutes, chosen.every, chosen.hangs)
        watcher.stop()
        log = (folder / "service.log").read_text("utf-8", "replace")
    said = {
        "database": chosen.database, "minutes": chosen.minutes, "done": dict(clinic.done),
        "failed": dict(clinic.failed), "processes": grown(watcher),
        "errors": Counter(line.split(" ", 4)[-1] for line in log.splitlines() if " ERROR " in line).most_common(5),
    }  # fmt: skip
    if watcher.connections:
        ends = watcher.connections[-1][0]
        parts = [[n for at_s, n in watcher.connections if low * ends <= at_s <= high * ends]
                 for low, high in ((0.1, 0.2), (0.9, 1.0), (0, 1))]  # fmt: skip
        said["connections"] = [rig.median(parts[0]), rig.median(parts[1]), max(parts[2])]
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
