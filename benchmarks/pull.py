"""Gathering 19 Synthea patients from two EHRs: ours against the bare cost of the same requests, and smart-fetch.

For each server, interleaved, `--repeat` times:

  bare-1     requests.Session, the same URLs that ours asked for, one after the other, bodies read and thrown away
  bare-N     the same with as many threads as ours uses at once
  pull       our pull alone: plan, searches, pages, what is cited; nothing stored
  ours       a case per patient on a new SQLite file: matched ("begin") and collected, every page and file durable
             ("collect"), then merged ("merge": a copy of each resource with its index rows, manifest, checklist)
  smart-fetch  `smart-fetch export --export-mode crawl`, in a venv of its own (--peer), without its start-up

A ratio is their time by ours: over 1 we are faster. "collect" is begin and collect, "ours" all three steps.
smart-fetch knows fewer types: for the comparison with it everything is done once more with the types both know
("common"). SEKMET is left out when it is not installed, smart-fetch when --peer is not there.

Example: python benchmarks/pull.py --repeat 3
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import requests
import rig

from fhir_secondop.ehr import identity, plan, pull
from fhir_secondop.ehr.client import Client
from fhir_secondop.model import Page, Resource
from fhir_secondop.service import gather
from fhir_secondop.store.database import now_ms

# What smart-fetch 1.0.3 can be asked for, of what we ask for.
COMMON = ("Condition", "AllergyIntolerance", "MedicationRequest", "Observation", "DiagnosticReport",
          "DocumentReference", "Procedure", "Encounter", "Immunization", "ServiceRequest", "Device",
          "MedicationDispense")  # fmt: skip
HYDRATED = "practitioner,organization,location,medication"
TIMED = """
import asyncio, sys, time
from smart_fetch.cli import main
started = time.perf_counter()
try:
    asyncio.run(main.main(sys.argv[1:]))
finally:
    print(f"\\nSECONDS {time.perf_counter() - started}")
"""


class Bench:
    """One server with one set of types."""

    def __init__(self, folder: Path, base: str, types: Sequence[str], patients: Sequence[rig.Patient]) -> None:
        self.folder = folder
        self.base = base
        self.types = tuple(types)
        self.patients = patients
        self.connection = rig.connection("hospital", base, 1, rig.SYNTHEA_SYSTEM)
        self.threads = Client(self.connection, now=now_ms).site.concurrency
        self.sent: list[rig.Sent] = []
        self.resources = 0
        self._runs = 0

    def ours(self) -> dict[str, float]:
        """Seconds of the steps, over all patients, on a new database."""
        plan.TYPES = self.types  # type: ignore[assignment]
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        folder.mkdir()
        service = rig.service(folder, [self.connection])
        for number, patient in enumerate(self.patients):
            service.call("", rig.request(patient, number, [self.connection], gather=True))
        tasks = [task for workflow, _, _, task, *_ in service.enqueued if workflow == gather.WORKFLOW]
        context = service.parts.context
        spent = {"begin": 0.0, "collect": 0.0, "merge": 0.0}
        cpu = time.process_time()
        for task in tasks:
            seconds, begun = rig.timed(partial(gather.begin, context, task))
            spent["begin"] += seconds
            if begun == ["ended"]:
                sys.exit("A patient was not matched.")
            patient_id, page = begun
            spent["collect"] += rig.timed(partial(gather.fetch, context, task, patient_id, 1))[0]
            spent["merge"] += rig.timed(partial(gather.merge, context, task, patient_id, page, 1))[0]
        cpu = time.process_time() - cpu
        self.resources = _received(service)
        service.close()
        shutil.rmtree(folder)
        return {**spent, "all": sum(spent.values()), "cpu": cpu}

    def pull(self) -> dict[str, float]:
        """Seconds of the pull alone: everything is asked for and parsed, nothing stored."""
        plan.TYPES = self.types  # type: ignore[assignment]
        client = Client(self.connection, now=now_ms)

        def work() -> None:
            asks = list(plan.plan(client.capability, client.site, client.granted))
            for patient in self.patients:
                self._pull_one(client, asks, patient)

        cpu = time.process_time()
        return {"all": rig.timed(work)[0], "cpu": time.process_time() - cpu}

    def _pull_one(self, client: Client, asks: list[plan.Ask], patient: rig.Patient) -> None:
        (system, value) = patient.there[0]
        found = identity.find_patient(
            client, {"identifier": [{"system": system, "value": value}], "birthDate": patient.born}, system
        )
        cited: set[str] = set()

        def sink(number: int, page: Page, bundle: Resource) -> None:
            for entry in bundle.get("entry", []):
                cited.update(pull.cited(entry.get("resource", {}), client.base))

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(lambda ask: pull.fetch(client, ask, found.id, sink), asks))
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(lambda key: pull.read_cited(client, key), sorted(cited)))

    def bare(self, threads: int) -> dict[str, float]:
        """Seconds for the same requests without us."""
        local = threading.local()

        def one(sent: rig.Sent) -> int:
            if not hasattr(local, "session"):
                local.session = requests.Session()
                local.session.trust_env = False
            return rig.ask(local.session, sent)

        def work() -> int:
            if threads == 1:
                return sum(map(one, self.sent))
            with ThreadPoolExecutor(threads) as pool:
                return sum(pool.map(one, self.sent))

        cpu = time.process_time()
        return {"all": rig.timed(work)[0], "cpu": time.process_time() - cpu}

    def smart_fetch(self, python: str, ids: Sequence[str]) -> dict[str, float]:
        """Seconds of smart-fetch, without its start-up, and how many resources it wrote."""
        out = self.folder / "smart-fetch"
        shutil.rmtree(out, ignore_errors=True)
        command = [python, "-c", TIMED, "export", str(out), "--fhir-url", self.base, "--export-mode", "crawl",
                   "--id-list", ",".join(ids), "--type", ",".join(("Patient", *self.types)), "--no-default-filters",
                   "--hydration-tasks", HYDRATED, "--no-compression"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        if done.returncode or "SECONDS" not in done.stdout:
            sys.exit(f"smart-fetch failed ({done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        kept = [p for p in out.rglob("*.ndjson*") if not p.is_symlink() and "error" not in p.parts]
        errors = [p for p in out.rglob("*.ndjson*") if "error" in p.parts]
        if errors:
            rig.say(f"smart-fetch met errors: {errors[0].read_bytes()[:300]!r}")
        lines = sum((gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes()).count(b"\n")
                    for p in kept)  # fmt: skip
        return {"all": float(done.stdout.rpartition("SECONDS ")[2]), "resources": float(lines)}

    def record(self) -> None:
        """One run that is not timed: which requests ours are, and what they bring."""
        self.sent.clear()
        with rig.recording(self.sent):
            self.ours()
        if any(s.method != "GET" for s in self.sent):
            sys.exit("Gathering sent something else than GETs.")


def _received(service: rig.Service) -> int:
    """The resources of all manifests."""
    cases = service.call("", method="GET")
    listed = cases.get("cases") or next(v for v in cases.values() if isinstance(v, list))
    ids = [c["id"] for c in listed]
    manifests = [service.call(f"/{one}/manifest", method="GET") for one in ids]
    return sum(source["received"] for manifest in manifests for source in manifest["sources"])


def patient_ids(base: str, patients: Sequence[rig.Patient]) -> list[str]:
    """The ids there."""
    found = []
    for patient in patients:
        asked = {"identifier": "|".join(patient.there[0])}
        bundle = requests.get(f"{base}/Patient", params=asked, timeout=60).json()
        found.append(bundle["entry"][0]["resource"]["id"])
    return found


def measure(bench: Bench, repeat: int, peer: tuple[str, list[str]] | None) -> dict[str, Any]:
    """All variants, interleaved; the medians."""
    bench.record()
    variants: dict[str, Callable[[], dict[str, float]]] = {
        "bare-1": lambda: bench.bare(1),
        f"bare-{bench.threads}": lambda: bench.bare(bench.threads),
        "pull": bench.pull,
        "ours": bench.ours,
    }
    if peer is not None:
        variants["smart-fetch"] = lambda: bench.smart_fetch(*peer)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for number in range(repeat):
        for name, run in variants.items():
            runs[name].append(run())
            rig.say(f"  {number + 1}/{repeat} {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in runs[name][-1].items()))
    seconds = {name: {k: rig.median([r[k] for r in found]) for k in found[0]} for name, found in runs.items()}
    ours = seconds["ours"]
    collected = ours["begin"] + ours["collect"]
    bare_1, bare_n = seconds["bare-1"]["all"], seconds[f"bare-{bench.threads}"]["all"]
    said: dict[str, Any] = {
        "requests": len(bench.sent), "resources": bench.resources, "threads": bench.threads, "seconds": seconds,
        "pull/bare-1": bare_1 / seconds["pull"]["all"], "pull/bare-n": bare_n / seconds["pull"]["all"],
        "collect/bare-1": bare_1 / collected, "collect/bare-n": bare_n / collected,
        "ours/bare-1": bare_1 / ours["all"], "ours/bare-n": bare_n / ours["all"],
    }  # fmt: skip
    if peer is not None:
        theirs = seconds["smart-fetch"]["all"]
        said["pull/smart-fetch"] = theirs / seconds["pull"]["all"]
        said["collect/smart-fetch"] = theirs / collected
        said["ours/smart-fetch"] = theirs / ours["all"]
    return said


def show(server: str, kinds: str, said: dict[str, Any]) -> None:
    """Markdown of one server and set of types."""
    print(f"\n{server}, {kinds} types: {said['requests']} requests, {said['resources']} resources\n")
    rows = []
    for name, spent in said["seconds"].items():
        count = spent.get("resources", said["resources"])
        asked = f"{said['requests'] / spent['all']:.0f}" if name != "smart-fetch" else ""
        steps = ", ".join(f"{k} {v:.2f}" for k, v in spent.items() if k not in ("all", "resources"))
        rows.append([name, spent["all"], asked, f"{count / spent['all']:.0f}", steps])
    print(rig.table(["", "s", "requests/s", "resources/s", "steps, s"], rows))
    print()
    print(", ".join(f"{k}: {v:.2f}" for k, v in said.items() if "/" in k))


def main() -> None:
    """Runs it."""
    parser = rig.arguments(__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--patients", type=int, default=19, help="the first so many")
    parser.add_argument("--server", action="append", choices=["sandbox", "sekmet"], help="both by default")
    parser.add_argument("--types", action="append", choices=["all", "common"], help="both by default")
    parser.add_argument("--peer", default=".peers/bin/python",
                        help="the Python of a venv with smart-fetch (%(default)s)")  # fmt: skip
    chosen = parser.parse_args()
    bundles = rig.synthea_bundles()[: chosen.patients]
    patients = [rig.synthea_patient(b) for b in bundles]
    sets = {"all": plan.TYPES, "common": COMMON}
    said: dict[str, Any] = {}
    for server in chosen.server or (["sandbox", "sekmet"] if rig.has_sekmet() else ["sandbox"]):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-pull-")))
            rig.say(f"{server}: loading {len(bundles)} patients")
            base = stack.enter_context((rig.sandbox if server == "sandbox" else rig.sekmet)(folder, bundles))
            ids = patient_ids(base, patients)
            for kinds in chosen.types or ["all", "common"]:
                rig.say(f"{server}, {kinds} types")
                here = folder / kinds
                here.mkdir()
                python = Path(chosen.peer).absolute()  # not resolved: a venv is told by its own link
                peer = (str(python), ids) if kinds == "common" and python.exists() else None
                found = measure(Bench(here, base, sets[kinds], patients), chosen.repeat, peer)
                said[f"{server}/{kinds}"] = found
                if not chosen.json:
                    show(server, kinds, found)
    if chosen.json:
        print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
