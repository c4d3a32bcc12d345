"""Our FHIR endpoint beside others, as an operator starts each: every interaction, interleaved, in one run.

  ours     as many server processes as --processes says, SQLite with an fsync for each commit, SMART sign-in, validation
           and audit as they are by default
  sekmet   SEKMET (PyPI sekmet-fhir), with --sekmet: the Python of an environment that has it
  hapi     HAPI's JPA server (tests/interop/hapi; Java 17, Maven), with --hapi: in memory, nothing is durable

python benchmarks/endpoint.py --sekmet .peers/bin/python --hapi   # 10 minutes
python benchmarks/endpoint.py --database postgresql://…           # ours alone, on PostgreSQL
python benchmarks/endpoint.py --growth 10000,100000               # ours alone, with so much stored

--plot FILE.svg; --rounds 3, --seconds 2 for each measurement, --only create,read … Each number is the median of the
rounds, with the least and the greatest; "CPU" is the processor time of the whole server, per request, which noise
disturbs least.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import rig
from joserfc import jwt
from joserfc.jwk import ECKey
from load import SYSTEM, Client, Said, forever, order, patient, twelve
from plot import bars

sys.path.insert(0, str(rig.ROOT))
SCOPE = "system/*.crus"
STARTS = 3


@dataclass
class Server:
    """A server under test, and what the measurements know of it."""

    name: str
    client: Client
    pid: int
    starts: list[float]
    patients: list[str] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    known: str = ""
    record: str = ""  # of a patient of Synthea's
    bundles: Iterator[bytes] = field(default_factory=lambda: iter(()))


# ---- processes


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(") ")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def cpu_s(pid: int) -> float:
    """Processor time of a process and all below it."""
    return sum(rig.cpu_s(each) for each in tree(pid))


def memory_mb(pid: int) -> list[float]:
    """The peak of each process of a server, in MB, the greatest first."""
    return sorted((rig.rss_mb(each)[1] for each in tree(pid)), reverse=True)


@contextmanager
def started(command: Sequence[str], ready: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A server, and how many seconds it took to the first 200."""
    began = time.perf_counter()
    with rig.process(command, ready, log) as running:
        yield running, time.perf_counter() - began


# ---- servers


@contextmanager
def ours(folder: Path, processes: int, database: str) -> Iterator[Server]:
    """Our service with a client that signs in by SMART."""
    port = rig.free_port()
    base = f"http://127.0.0.1:{port}"
    key = ECKey.generate_key("P-384", {"kid": "1", "use": "sig", "alg": "ES384"})
    (folder / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    (folder / "clients.toml").write_text(
        f'[clients.desk]\nname = "Desk"\nroles = ["coordinator"]\nscopes = ["{SCOPE}"]\njwks_file = "jwks.json"\n'
    )
    (folder / "secondop.toml").write_text(
        f'port = {port}\nauth = "smart"\nbase_url = "{base}"\ndatabase = "{database or "service.sqlite"}"\n'
        'clients_file = "clients.toml"\ntoken_s = 3600\nlog_level = "WARNING"\nrequests_per_s = 0\n'
        'writable_types = "all"\n'
    )
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--config", str(folder / "secondop.toml"),
               "--processes", str(processes)]  # fmt: skip
    starts = []
    for _ in range(STARTS):  # the first one makes the tables
        with started(command, f"{base}/fhir/metadata", folder / "service.log") as (running, took):
            starts.append(took)
    with started(command, f"{base}/fhir/metadata", folder / "service.log") as (running, took):
        token = _token(f"{base}/auth/token", key)
        client = Client(f"{base}/fhir", {"Authorization": f"Bearer {token}"})
        yield Server("ours", client, running.pid, [*starts[1:], took])


def _token(url: str, key: ECKey) -> str:
    now = int(time.time())
    claims = {"iss": "desk", "sub": "desk", "aud": url, "exp": now + 240, "iat": now, "jti": uuid.uuid4().hex}
    assertion = jwt.encode({"alg": "ES384", "kid": "1"}, claims, key, algorithms=["ES384"])
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    form = {"grant_type": "client_credentials", "scope": SCOPE, "client_assertion_type": kind,
            "client_assertion": assertion}  # fmt: skip
    answer = requests.post(url, form, timeout=20)
    if answer.status_code != 200:
        sys.exit(f"The token endpoint answered {answer.status_code}: {answer.text}")
    token: str = answer.json()["access_token"]
    return token


@contextmanager
def sekmet(folder: Path, python: str) -> Iterator[Server]:
    """SEKMET, run by the Python of its environment."""
    port = rig.free_port()
    base = f"http://127.0.0.1:{port}/fhir"
    settings = {"base_url": base, "host": "127.0.0.1", "port": port, "data_dir": str(folder),
                "simulator": {"enabled": False}}  # fmt: skip
    (folder / "settings.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [str(Path(python).absolute()), "-c", "from sekmet.cli import app; app()", "serve",
               "--config", str(folder / "settings.yaml"), "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    starts = []
    for _ in range(STARTS):
        with started(command, f"{base}/metadata", folder / "log") as (_, took):
            starts.append(took)
    with started(command, f"{base}/metadata", folder / "log") as (running, took):
        yield Server("sekmet", Client(base, {}), running.pid, [*starts[1:], took])


@contextmanager
def hapi(folder: Path) -> Iterator[Server]:
    """HAPI's JPA server as its interop tests have it, started once."""
    from tests.interop.hapi_server import JVM, MAIN, PROJECT, classpath

    port = rig.free_port()
    base = f"http://127.0.0.1:{port}/fhir"
    command = ["java", *JVM, "-cp", classpath(PROJECT), MAIN, str(port)]
    with started(command, f"{base}/Patient?_summary=count", folder / "log") as (running, took):
        yield Server("hapi", Client(base, {}), running.pid, [took])


# ---- what is measured


Measure = Callable[[Server, float], tuple[int, float, list[float]]]
"""(server, seconds) → how many (requests; of ingest resources), in how many seconds, and how long each took."""


def _driven(make: Callable[[Server], bytes], expected: int, at_once: int = 1) -> Measure:
    def measure(server: Server, seconds: float) -> tuple[int, float, list[float]]:
        run = server.client.drive(forever(lambda: make(server)), at_once, seconds)
        _check(server, run.answers, expected)
        return len(run.answers), run.seconds, run.latencies

    return measure


def _check(server: Server, answers: Sequence[Said], expected: int) -> None:
    wrong = [said for said in answers if said.status != expected]
    if wrong:
        counted = dict(Counter(said.status for said in answers))
        sys.exit(f"{server.name} answered {counted}, not {expected}: {wrong[0].body[:300]!r}")


def _create(server: Server) -> bytes:
    return server.client.request("POST", "/ServiceRequest", order(random.choice(server.patients)))


def _read(server: Server) -> bytes:
    return server.client.request("GET", f"/ServiceRequest/{random.choice(server.orders)}")


def _search(server: Server) -> bytes:
    subject = random.choice(server.patients)
    return server.client.request("GET", f"/ServiceRequest?patient={subject}&status=active&_count=20")


def _twelve(server: Server) -> bytes:
    return server.client.request("POST", "", twelve())


def _conditional(server: Server, value: str) -> bytes:
    criteria = f"identifier={SYSTEM}|{value}"
    return server.client.request("POST", "/Patient", patient(value), If_None_Exist=criteria)


def _miss(server: Server) -> bytes:
    return _conditional(server, uuid.uuid4().hex)


def _hit(server: Server) -> bytes:
    return _conditional(server, server.known)


def _ingest(server: Server, seconds: float) -> tuple[int, float, list[float]]:
    """One bundle of Synthea's: each server has the same ones in the same order."""
    request = next(server.bundles)
    run = server.client.drive(iter([request]), 1, 600)
    _check(server, run.answers, 200)
    entries = run.answers[0].json["entry"]
    if not all(str(each["response"]["status"]).startswith("201") for each in entries):
        sys.exit(f"{server.name} did not create every entry of a bundle.")
    made = (each["response"]["location"] for each in entries)
    server.record = (
        server.record or next(at for at in made if "Patient/" in at).split("/_history")[0].split("/fhir/")[-1]
    )
    return len(entries), run.seconds, run.latencies


def _everything(server: Server) -> bytes:
    return server.client.request("GET", f"/{server.record}/$everything?_count=500")


MEASURES: dict[str, Measure] = {
    "create": _driven(_create, 201),
    "create, 8 clients": _driven(_create, 201, 8),
    "read": _driven(_read, 200),
    "read, 8 clients": _driven(_read, 200, 8),
    "search of 20": _driven(_search, 200),
    "search of 20, 8 clients": _driven(_search, 200, 8),
    "transaction of 12": _driven(_twelve, 200),
    "conditional create, miss": _driven(_miss, 201),
    "conditional create, hit": _driven(_hit, 200),
    "Synthea ingest, resources": _ingest,
    "$everything": _driven(_everything, 200),
}
# Of Table "Speed and memory": how many times as fast as the better of the others.
GOALS = {"create": 1.4, "create, 8 clients": 2.0, "read": 1.1, "read, 8 clients": 1.1, "search of 20": 5.0,
         "transaction of 12": 3.0, "conditional create, miss": 1.2, "conditional create, hit": 1.2,
         "Synthea ingest, resources": 2.5, "$everything": 6.0}  # fmt: skip


def prepare(server: Server, *, wants_bundles: bool) -> None:
    """Ten patients with 25 active orders and 5 completed ones each; what each answer must hold is looked at once."""
    client = server.client
    server.known = uuid.uuid4().hex
    for _ in range(10):
        made = client.ask(client.request("POST", "/Patient", patient(), Prefer="return=representation"), 201)
        server.patients.append(f"Patient/{made.json['id']}")
        for status in ["active"] * 25 + ["completed"] * 5:
            body = order(server.patients[-1], status)
            made = client.ask(client.request("POST", "/ServiceRequest", body, Prefer="return=representation"), 201)
            server.orders.append(made.json["id"])
    client.ask(client.request("POST", "/Patient", patient(server.known)), 201)
    page = client.ask(_search(server)).json
    assert len(page["entry"]) == 20, f"{server.name}: {len(page['entry'])} found"
    assert client.ask(_read(server)).json["note"][0]["text"].startswith("Patient is fasting.")
    stored = client.ask(_twelve(server)).json
    assert [each["response"]["status"][:3] for each in stored["entry"]] == ["201"] * 12
    client.ask(_hit(server), 200)
    same = client.request("GET", f"/Patient?identifier={SYSTEM}|{server.known}")
    assert len(client.ask(same).json["entry"]) == 1, f"{server.name} made it twice"
    if wants_bundles:
        found = (gzip.decompress(each.read_bytes()) for each in rig.synthea_bundles())
        server.bundles = (client.request("POST", "", each) for each in itertools.cycle(list(found)))


def measured(servers: Sequence[Server], only: Sequence[str], rounds: int, seconds: float) -> dict[str, Any]:
    """The numbers of each measurement and server."""
    runs: dict[str, dict[str, list[tuple[float, float, list[float]]]]] = {}
    for number in range(rounds + 1):  # the first one warms up
        for name in only:
            for server in servers if number % 2 else reversed(servers):
                before = cpu_s(server.pid)
                done, took, latencies = MEASURES[name](server, seconds if number else min(seconds, 1.0))
                cpu_ms = 1000 * (cpu_s(server.pid) - before) / done
                if number:
                    runs.setdefault(name, {}).setdefault(server.name, []).append((done / took, cpu_ms, latencies))
            rig.say(f"round {number} of {rounds}: {name}")
    return {
        name: {
            server: {
                "per_s": round(rig.median([rate for rate, _, _ in each]), 1),
                "least": round(min(rate for rate, _, _ in each), 1),
                "greatest": round(max(rate for rate, _, _ in each), 1),
                "cpu_ms": round(rig.median([cpu for _, cpu, _ in each]), 3),
                "p50_ms": round(1000 * rig.median([one for _, _, all_ in each for one in all_]), 2),
                "p99_ms": round(1000 * _p99([one for _, _, all_ in each for one in all_]), 2),
            }
            for server, each in by.items()
        }
        for name, by in runs.items()
    }  # fmt: skip


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


# ---- growth


def grow(folder: Path, database: str, wanted: int, server: Server) -> float:
    """Puts so many more orders into our database; how many a second. What is asked for from then on is among them."""
    from fhir_secondop.fhir import codec
    from fhir_secondop.model import Caller
    from fhir_secondop.store import creating, resources
    from fhir_secondop.store.database import Database

    opened = Database(database or str(folder / "service.sqlite"))
    server.patients, server.orders = [], []
    began, made = time.perf_counter(), 0
    while made < wanted:
        new = []
        for _ in range(60):
            owner = resources.new_id()
            new.append(creating.New(owner, codec.compose(patient()), patient()))
            server.patients.append(f"Patient/{owner}")
            for status in ["active"] * 25 + ["completed"] * 5:
                body = order(f"Patient/{owner}", status)
                new.append(creating.New(resources.new_id(), codec.compose(body), body))
                server.orders.append(new[-1].id)
        with opened.transaction(Caller("bench", "Benchmark")) as tx:
            creating.create_many(tx, new, base_url="http://127.0.0.1/fhir", case_id="bench", owner="bench")
        made += len(new)
    took = time.perf_counter() - began
    opened.dispose()
    return made / took


def growth(folder: Path, database: str, sizes: Sequence[int], server: Server, seconds: float) -> dict[str, Any]:
    """Reads and searches with more and more stored."""
    found: dict[str, Any] = {}
    stored = 0
    for size in sizes:
        rate = grow(folder, database, size - stored, server)
        stored = size
        rig.say(f"{size} stored")
        found[str(size)] = {
            "ingest": {"ours": {"per_s": round(rate, 1)}},
            **measured([server], ["read", "search of 20"], 3, seconds),
        }
    return found


# ---- what is said


def said(found: dict[str, Any], servers: Sequence[Server]) -> str:
    """The table."""
    names = [server.name for server in servers]
    head = ["", *(f"{name}, per s (least–greatest) · CPU ms" for name in names), "ours / better other", "goal"]
    rows = []
    for what, by in found.items():
        others = [by[name]["per_s"] for name in names if name != "ours"]
        ratio = f"{by['ours']['per_s'] / max(others):.2f}" if others else "–"
        cells = [f"{by[n]['per_s']:,.0f} ({by[n]['least']:,.0f}–{by[n]['greatest']:,.0f}) · {by[n]['cpu_ms']:.2f}"
                 for n in names]  # fmt: skip
        rows.append([what, *cells, ratio, str(GOALS.get(what, "–"))])
    starts = [f"{rig.median(server.starts):.2f}" for server in servers]
    rows.append(["start to the first 200, s", *starts, "–", "< 1"])
    peaks = [", ".join(f"{mb:.0f}" for mb in memory_mb(server.pid)) for server in servers]
    return rig.table(head, [*rows, ["peak memory of each process, MB", *peaks, "–", "< 120"]])


def main() -> None:
    parser = rig.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--processes", type=int, default=2, help="server processes of ours")
    parser.add_argument("--sekmet", default="", help="the Python of an environment with sekmet-fhir")
    parser.add_argument("--hapi", action="store_true", help="HAPI's JPA server (Java, Maven)")
    parser.add_argument("--database", default="", help="a PostgreSQL URL for ours")
    parser.add_argument("--growth", default="", help="sizes, as 10000,100000")
    parser.add_argument("--only", default="", help="measurements, by the beginnings of their names")
    parser.add_argument("--plot", default="", help="an SVG file that is to show it")
    parser.add_argument("--folder", default="", help="where the databases go: on the disk that is to be measured")
    asked = parser.parse_args()
    wanted = asked.only.split(",")
    only = [name for name in MEASURES if any(name.startswith(each) for each in wanted)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=asked.folder or None)))
        for name in ("ours", "sekmet", "hapi"):
            (folder / name).mkdir()
        servers = [stack.enter_context(ours(folder / "ours", asked.processes, asked.database))]
        if asked.growth:
            sizes = [int(size) for size in asked.growth.split(",")]
            found = growth(folder / "ours", asked.database, sizes, servers[0], asked.seconds)
            print(json.dumps(found, indent=None if asked.json else 1))
            return
        if asked.sekmet:
            servers.append(stack.enter_context(sekmet(folder / "sekmet", asked.sekmet)))
        if asked.hapi:
            servers.append(stack.enter_context(hapi(folder / "hapi")))
        for server in servers:
            prepare(server, wants_bundles=any(name.startswith("Synthea") for name in only))
        found = measured(servers, only, asked.rounds, asked.seconds)
        table = said(found, servers)
        rest = {s.name: {"start_s": round(rig.median(s.starts), 2), "memory_mb": memory_mb(s.pid)} for s in servers}
    if asked.plot:
        title = "Requests a second (ingest: resources), each beside the fastest"
        Path(asked.plot).write_text(bars(found, [server.name for server in servers], title))
    print(json.dumps({"measured": found, "servers": rest}) if asked.json else table)


if __name__ == "__main__":
    main()
