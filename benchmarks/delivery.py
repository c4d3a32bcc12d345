"""Deliveries to an EHR that takes 50 ms for each answer, 16 at once: ours against the same requests without us.

A case per delivery is signed beforehand, in a database that every run begins with a copy of. Interleaved, `--repeat`
times:

  bare     16 threads of requests.Session send what our deliveries sent, delivery by delivery, bodies and all
  threads  service.delivery.attempt from 16 threads: our code, without the durable queue
  worker   the service as an operator starts it: its worker takes them from the queue, 32 deliveries under way and never
           more than 16 requests at once (deliveries_per_ehr = 32, concurrency = 16)

Requests a second are counted by the stand-in, on its own clock, from the first request to the last answer, and the
most that it ever had at once.

Example: python benchmarks/delivery.py --deliveries 64 --repeat 3
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
import rig
import standin

from fhir_secondop.model import Connection
from fhir_secondop.service import delivery
from fhir_secondop.service.delivering import orders

TEMPLATE = "signed.sqlite"


def prepare(folder: Path, connections: Sequence[Connection], count: int) -> None:
    """A database with `count` signed cases, each with one delivery that has not begun."""
    service = rig.service(folder, connections, TEMPLATE)
    for number in range(count):
        patient = rig.Patient(((standin.SYSTEM, f"P-{number + 1}"),))
        case_id = service.call("", rig.request(patient, number, connections, gather=False))["id"]
        service.call(f"/{case_id}/ask-reviewer", {"reviewer": rig.REVIEWER})
        service.call(f"/{case_id}/accept", {"declaration": {"interests": "none"}}, "reviewer")
        gaps = service.call(f"/{case_id}/completeness", who="reviewer", method="GET")["gaps"]
        service.call(f"/{case_id}/submit-report", {**rig.DRAFT, "gapsConfirmed": gaps}, "reviewer")
        service.call(f"/{case_id}/sign", {}, "reviewer")
        if number % 16 == 15:
            rig.say(f"  {number + 1} of {count} cases signed")
    (folder / "tasks.json").write_text(json.dumps([w[3] for w in service.enqueued if w[0] == orders.WORKFLOW]))
    service.close()


def fresh(folder: Path) -> list[str]:
    """A new copy of the database; the delivery Tasks in it."""
    for old in folder.glob("run.sqlite*"):
        old.unlink()
    shutil.copy(folder / TEMPLATE, folder / "run.sqlite")
    tasks: list[str] = json.loads((folder / "tasks.json").read_text())
    return tasks


def in_threads(service: rig.Service, tasks: Sequence[str], at_once: int) -> None:
    """Every delivery, so many at once."""
    context = service.parts.context
    with ThreadPoolExecutor(at_once) as pool:
        outcomes = list(pool.map(lambda task: delivery.attempt(context, task, 1), tasks))
    if set(outcomes) != {"verified"}:
        sys.exit(f"Not everything was delivered: {sorted(set(outcomes))}")


def threads(folder: Path, connections: Sequence[Connection], base: str, at_once: int) -> dict[str, float]:
    """Our code, driven by threads."""
    tasks = fresh(folder)
    service = rig.service(folder, connections, "run.sqlite")
    rig.forget(base)
    cpu = time.process_time()
    in_threads(service, tasks, at_once)
    cpu = time.process_time() - cpu
    service.close()
    return {**rig.stats(base), "deliveries": len(tasks), "cpu": cpu}


def worker(folder: Path, connections: Sequence[Connection], base: str, at_once: int) -> dict[str, float]:
    """The whole service."""
    tasks = fresh(folder)
    rig.forget(base)
    with rig.served(folder, connections, "run.sqlite", deliveries_per_ehr=2 * at_once) as (url, _):
        ends, before = time.monotonic() + 300, 0.0
        while time.monotonic() < ends:
            time.sleep(1)
            told = rig.stats(base)
            # Asking the service would cost it: when the stand-in hears nothing more, it is done, or waits.
            if told["requests"] > before or not before:
                before = told["requests"]
            elif _completed(url) == len(tasks):
                return {**told, "deliveries": len(tasks)}
    sys.exit("The worker did not deliver everything in five minutes.")


def _completed(service_url: str) -> int:
    """The deliveries that the service says are done."""
    url, found = f"{service_url}/fhir/Task?status=completed&code=deliver-report&_count=500", 0
    while url:
        bundle = requests.get(url, headers={"Authorization": "Bearer desk"}, timeout=60).json()
        found += len(bundle.get("entry", []))
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
    return found


def record(folder: Path, connections: Sequence[Connection], base: str) -> list[list[rig.Sent]]:
    """What each delivery sends: one run that is not timed, one after the other."""
    tasks = fresh(folder)
    service = rig.service(folder, connections, "run.sqlite")
    rig.forget(base)
    conversations: list[list[rig.Sent]] = []
    for task in tasks:
        conversations.append([])
        with rig.recording(conversations[-1]):
            # A session is kept for the life of a client: each delivery of the recording gets new ones.
            service.parts.context.client.cache_clear()  # type: ignore[attr-defined]
            in_threads(service, [task], 1)
    service.close()
    # The CapabilityStatement is fetched once for the life of a client.
    return [[s for s in c if not s.url.endswith("/metadata")] for c in conversations]


def bare(conversations: Sequence[Sequence[rig.Sent]], base: str, at_once: int) -> dict[str, float]:
    """The same requests without us."""
    rig.forget(base)
    local = threading.local()

    def one(conversation: Sequence[rig.Sent]) -> None:
        if not hasattr(local, "session"):
            local.session = requests.Session()
            local.session.trust_env = False
        for sent in conversation:
            rig.ask(local.session, sent)

    cpu = time.process_time()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, conversations))
    return {**rig.stats(base), "deliveries": len(conversations), "cpu": time.process_time() - cpu}


def main() -> None:
    """Runs it."""
    parser = rig.arguments(__doc__)
    parser.add_argument("--deliveries", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--without-worker", action="store_true", help="leave out the whole service")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-delivery-") as name:
        folder = Path(name)
        options = ["--latency-ms", str(chosen.latency_ms), "--patients", str(chosen.deliveries)]
        with rig.standin(folder, *options) as base:
            connections = [rig.connection("ehr", base, 1, standin.SYSTEM, concurrency=chosen.at_once)]
            rig.say(f"signing {chosen.deliveries} cases")
            prepare(folder, connections, chosen.deliveries)
            conversations = record(folder, connections, base)
            variants: dict[str, Callable[[], dict[str, float]]] = {
                "bare": lambda: bare(conversations, base, chosen.at_once),
                "threads": lambda: threads(folder, connections, base, chosen.at_once),
                "worker": lambda: worker(folder, connections, base, chosen.at_once),
            }
            if chosen.without_worker:
                del variants["worker"]
            runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
            for number in range(chosen.repeat):
                for variant, run in variants.items():
                    found = run()
                    found["requests/s"] = found["requests"] / found["seconds"]
                    found["deliveries/s"] = found["deliveries"] / found["seconds"]
                    runs[variant].append(found)
                    rig.say(f"  {number + 1}/{chosen.repeat} {variant}: {found['requests/s']:.0f} requests/s")
    report(runs, chosen.json)


def report(runs: dict[str, list[dict[str, float]]], as_json: bool) -> None:
    """The medians and the ratios."""
    said: dict[str, Any] = {
        variant: {k: rig.median([f[k] for f in found]) for k in found[0]} for variant, found in runs.items()
    }
    for variant in ("threads", "worker"):
        if variant in said:
            said[f"{variant}/bare"] = said[variant]["requests/s"] / said["bare"]["requests/s"]
    if as_json:
        print(json.dumps(said, indent=1))
        return
    rows = [[v, int(f["requests"]), f["seconds"], f["requests/s"], f["deliveries/s"], int(f["most at once"]),
             f.get("cpu", "")] for v, f in said.items() if isinstance(f, dict)]  # fmt: skip
    print(rig.table(["", "requests", "s", "requests/s", "deliveries/s", "most at once", "our CPU, s"], rows))
    print("\n" + ", ".join(f"{k}: {v:.2f}" for k, v in said.items() if "/" in k))


if __name__ == "__main__":
    main()
