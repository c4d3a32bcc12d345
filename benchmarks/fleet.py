"""Deliveries by one, two and four worker processes that share a database, with and without faults, in one run.

Each report goes to three EHRs (stand-ins that answer after --latency-ms). With faults the third one is dead (it refuses
connections, or takes them and answers nothing), and the second refuses every tenth report. "Healthy" are the deliveries
that no fault is about: the same ones in both runs. The reports are signed beforehand; a run begins with a copy of the
database, starts its workers, and makes every job at once. Seconds count from there to the version of the Task that says
it was read back, so the 99th percentile is that of the whole queue; rates are of what is healthy. "At once" is the most
requests that a stand-in had under way: with any number of workers no more than deliveries_per_ehr.

Example: python benchmarks/fleet.py --reports 1000 --database postgresql
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import rig
import sqlalchemy as sa
import standin

from fhir_secondop.model import Connection
from fhir_secondop.service import takeover, workflows
from fhir_secondop.service.context import Context
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.requeue import requeue
from fhir_secondop.store import executors, tables
from fhir_secondop.store.database import Database

EHRS = ("one", "two", "three")
POISONED = 10  # every such report
LONGEST_S = 1800


def sign(folder: Path, at: Sequence[Connection], url: str, count: int) -> dict[str, tuple[int, str]]:
    """Signs so many reports in a new database; delivery Task → the report's number and the EHR."""
    service, found = rig.service(folder, at, url), {}
    for number in range(1, count + 1):
        before = len(service.enqueued)
        patient = rig.Patient(((standin.SYSTEM, f"P-{number}"),))
        case_id = service.call("", rig.request(patient, number, at, gather=False))["id"]
        service.call(f"/{case_id}/ask-reviewer", {"reviewer": rig.REVIEWER})
        service.call(f"/{case_id}/accept", {"declaration": {"interests": "none"}}, "reviewer")
        gaps = service.call(f"/{case_id}/completeness", who="reviewer", method="GET")["gaps"]
        service.call(f"/{case_id}/submit-report", {**rig.DRAFT, "gapsConfirmed": gaps}, "reviewer")
        service.call(f"/{case_id}/sign", {}, "reviewer")
        for name, _, partition, *args in service.enqueued[before:]:
            if name == orders.WORKFLOW:
                found[args[0]] = (number, partition)
        if number % 50 == 0:
            rig.say(f"  {number} of {count} reports signed")
    service.close()
    return found


@contextmanager
def workers(folder: Path, context: Context, count: int) -> Iterator[None]:
    """So many `work` processes on the settings that `rig.served` has left in `folder`, from when all of them work."""
    command = [sys.executable, "-m", "fhir_secondop.cli", "work", "--config", str(folder / "secondop.toml")]
    running = []
    try:
        for number in range(count):
            with open(folder / f"work-{number}.log", "wb") as log:
                running.append(subprocess.Popen([*command, "--name", f"w{number}"], stdout=log, stderr=log, cwd=folder))
        ends = time.monotonic() + 180
        while _working(context.database) < count:
            if time.monotonic() > ends or any(each.poll() is not None for each in running):
                sys.exit(f"A worker did not start; see {folder}/work-*.log")
            time.sleep(0.2)
        yield
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.wait()


@contextmanager
def _silent() -> Iterator[int]:
    """A port that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as taken:
        yield taken.getsockname()[1]


def _working(database: Database) -> int:
    with database.reading() as connection:
        return sum(1 for each in executors.living(connection) if each.state == executors.WORKING)


def run(
    folder: Path,
    at: Sequence[Connection],
    url: str,
    count: int,
    tasks: dict[str, tuple[int, str]],
    alive: Sequence[str],
) -> dict[str, float]:
    """One run: seconds of what is healthy, and how many a second. `alive` are the bases of what answers."""
    from dbos import DBOSClient

    healthy = [
        task for task, (number, ehr) in tasks.items() if ehr != "three" and (ehr, number % POISONED) != ("two", 0)
    ]
    service = rig.service(folder, at, url, kept=False)
    context = service.parts.context
    workflows.prepare(context.database)
    client = DBOSClient(
        system_database_engine=context.database.engine, application_name=workflows.APPLICATION, lazy=True
    )
    with rig.served(folder, at, url, options=["--no-work"], deliveries_per_ehr=16), workers(folder, context, count):
        began = context.now()
        requeue(context, partial(takeover.live, client))
        ends = time.monotonic() + LONGEST_S
        while len(done := _verified(context.database, healthy)) < len(healthy):
            if time.monotonic() > ends:
                sys.exit(f"{len(healthy) - len(done)} healthy deliveries were not there after {LONGEST_S} s.")
            time.sleep(1)
    service.close()
    seconds = [(at_ms - began) / 1000 for at_ms in done.values()]
    return {"healthy": len(healthy), "deliveries/s": len(healthy) / max(seconds), "p50_s": rig.median(seconds),
            "p99_s": rig.percentile(seconds, 0.99),
            "at_once": max(rig.stats(base)["most at once"] for base in alive)}  # fmt: skip


def _verified(database: Database, tasks: Sequence[str]) -> dict[str, int]:
    """Task → when it was stored that the copy there was read back."""
    resource, version, status = tables.resource.c, tables.version.c, tables.token.alias()
    query = (
        sa.select(resource.id, version.updated)
        .select_from(tables.resource.join(tables.version, version.rid == resource.rid))
        .join(status, status.c.rid == resource.rid)
        .where(
            resource.type == "Task", version.version == resource.version, status.c.param == "status",
            status.c.code == "completed", status.c.type == "Task",
        )
    )  # fmt: skip
    with database.reading() as connection:
        found = {task: int(at) for task, at in connection.execute(query)}
    return {task: found[task] for task in tasks if task in found}


def main() -> None:
    """Runs it."""
    parser = rig.arguments(__doc__)
    parser.add_argument("--reports", type=int, default=1_000)
    parser.add_argument("--workers", default="", help="1,2,4; on SQLite 1,2")
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--dead", choices=["refuses", "hangs"], default="refuses")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    chosen = parser.parse_args()
    counts = [int(n) for n in (chosen.workers or ("1,2" if chosen.database == "sqlite" else "1,2,4")).split(",")]
    found: dict[int, dict[str, list[dict[str, float]]]] = {n: {"calm": [], "faults": []} for n in counts}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-fleet-")))
        new = stack.enter_context(rig.databases(chosen.database, folder))
        options = ["--patients", str(chosen.reports), "--latency-ms", str(chosen.latency_ms)]
        bases = [stack.enter_context(rig.standin(folder, *options)) for _ in EHRS]
        refusing = stack.enter_context(rig.standin(folder, *options, "--refuse-every", str(POISONED)))
        port = stack.enter_context(_silent()) if chosen.dead == "hangs" else rig.free_port()
        dead = f"http://127.0.0.1:{port}/fhir"

        def connections(*at: str) -> list[Connection]:
            return [rig.connection(name, base, n, standin.SYSTEM, concurrency=16)
                    for n, (name, base) in enumerate(zip(EHRS, at, strict=True))]  # fmt: skip

        kinds = {"calm": (connections(*bases), bases),
                 "faults": (connections(bases[0], refusing, dead), [bases[0], refusing])}  # fmt: skip
        signed = new()
        took, tasks = rig.timed(lambda: sign(folder, kinds["calm"][0], signed, chosen.reports))
        rig.say(f"{chosen.reports} reports signed in {took:.0f} s")
        for _ in range(chosen.repeat):
            for count in counts:
                for kind, (at, alive) in kinds.items():
                    for base in (*bases, refusing):
                        rig.forget(base)
                    one = run(folder, at, new(signed), count, tasks, alive)
                    found[count][kind].append(one)
                    rig.say(f"  {count} workers, {kind}: {one['deliveries/s']:.1f}/s, p99 {one['p99_s']:.1f} s")
    report(chosen.database, found, chosen.json)


def report(database: str, found: dict[int, dict[str, list[dict[str, float]]]], as_json: bool) -> None:
    """The medians; with faults over without."""
    said: dict[str, Any] = {"database": database, "workers": {}}
    for count, kinds in found.items():
        by = {kind: {k: rig.median([one[k] for one in runs]) for k in runs[0]} for kind, runs in kinds.items()}
        said["workers"][str(count)] = {
            **by, "p99 with faults/without": by["faults"]["p99_s"] / by["calm"]["p99_s"],
        }  # fmt: skip
    if as_json:
        print(json.dumps(said, indent=1))
        return
    rows = [[count, *(by[kind][k] for k in ("deliveries/s", "p50_s", "p99_s", "at_once")
                     for kind in ("calm", "faults")),
             by["p99 with faults/without"]] for count, by in said["workers"].items()]  # fmt: skip
    print(rig.table(["workers", "healthy/s", "with faults", "p50, s", "with faults", "p99, s", "with faults",
                     "at once", "with faults", "p99 ratio"], rows))  # fmt: skip


if __name__ == "__main__":
    main()
