"""What sign-in and audit cost a read, interleaved in one run.

  without  auth = "none", nothing recorded
  audit    auth = "none", recorded by default
  default  auth = "smart" with an access token that is looked up at each request, recorded by default
  strict   the same, each answer after its record is durable

All of them stand behind the doors of the service (limits of callers, gate), where a token is looked up first.

python benchmarks/audit.py [--rounds 7] [--seconds 2] [--database URL] [--json]. Each service runs in a process of its
own; 8 connections read one resource of a case, and search twenty. Progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from joserfc.jwk import ECKey

MODES = ("without", "audit", "default", "strict")
CLIENTS = 8
CLIENT = '[clients.desk]\nname = "Desk"\nroles = ["coordinator"]\nscopes = ["system/*.crus"]\njwks_file = "jwks.json"\n'


def serve(mode: str, folder: str, database: str, port: int) -> None:
    """The service in this process, without its worker; in mode "without" nothing is recorded."""
    from waitress import serve as waitress

    from fhir_secondop import bootstrap
    from fhir_secondop.config import Settings
    from fhir_secondop.service.authority import OwnAuthority
    from fhir_secondop.web import inbound, throttle
    from fhir_secondop.web.app import create

    signs_in = mode in ("default", "strict")
    settings = Settings(
        database=database, auth="smart" if signs_in else "none", clients_file=f"{folder}/clients.toml", port=port,
        link_secret_file=f"{folder}/link", document_keys_file=f"{folder}/document-keys.json",
        log_level="WARNING", audit="strict" if mode == "strict" else "default",
        requests_per_s=100_000, burst=100_000,  # each caller is counted, and nobody refused
    )  # fmt: skip
    service = throttle.remembering(bootstrap.build(settings))
    if mode == "without":
        service.context.database.audit = None
    if isinstance(service.systems, OwnAuthority):
        client = service.systems.registry.find("desk")
        assert client is not None
        token = service.systems.grants.give(client.id, client.registration, "system/*.crus", 3600)
        Path(folder, f"{mode}.token").write_text(token)
    app = inbound.complete(create(service).wsgi_app, throttle.Throttle(service, settings), "")
    waitress(app, host="127.0.0.1", port=port, threads=16, ident=None)


def fill(database: str) -> str:
    """Twenty resources of a case; the id of one."""
    from fhir_secondop.fhir import codec
    from fhir_secondop.model import Caller
    from fhir_secondop.store import creating, resources
    from fhir_secondop.store.database import Database

    opened = Database(database)
    opened.migrate()
    resource = {"resourceType": "Basic", "code": {"text": "x" * 500}}
    new = [creating.New(resources.new_id(), codec.compose(resource), resource) for _ in range(20)]
    with opened.transaction(Caller("bench", "bench")) as tx:
        creating.create_many(tx, new, base_url="http://127.0.0.1/fhir", case_id="bench", owner="bench")
    opened.dispose()
    return new[0].id


def cpu_s(pid: int) -> float:
    """The processor time of a process so far: what other programs on the machine disturb least (Linux)."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def load(url: str, seconds: float, token: str) -> tuple[int, float]:
    """How many answers 8 clients got that each wait for one before the next, and in how many seconds."""
    ends = time.perf_counter() + seconds

    def ask(_: int) -> int:
        number = 0
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {token}"
            while time.perf_counter() < ends:
                assert session.get(url, timeout=30).status_code == 200
                number += 1
        return number

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        total = sum(threads.map(ask, range(CLIENTS)))
    return total, time.perf_counter() - began


def measure(rounds: int, seconds: float, database: str) -> dict[str, Any]:
    """The medians of each mode, and their ratio to "without"."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "clients.toml").write_text(CLIENT)
        public = ECKey.generate_key("P-384", {"kid": "1", "use": "sig", "alg": "ES384"}).as_dict(private=False)
        Path(folder, "jwks.json").write_text(json.dumps({"keys": [public]}))
        url = database or f"sqlite:///{folder}/bench.sqlite"
        resource_id = fill(url)
        paths = {"read": f"/fhir/Basic/{resource_id}", "search of 20": "/fhir/Basic?_count=20"}
        found: dict[str, dict[str, list[tuple[float, float]]]] = {what: {mode: [] for mode in MODES} for what in paths}
        ports = dict(zip(MODES, range(18431, 18435), strict=True))
        running = [
            subprocess.Popen([sys.executable, __file__, "--serve", mode, folder, url, str(ports[mode])])
            for mode in MODES
        ]
        try:
            for mode in MODES:
                _wait(f"http://127.0.0.1:{ports[mode]}/healthz")
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
                order = MODES if number % 2 else tuple(reversed(MODES))
                for what, path in paths.items():
                    for mode in order:
                        pid = running[MODES.index(mode)].pid
                        before = cpu_s(pid)
                        file = Path(folder, f"{mode}.token")
                        token = file.read_text() if file.exists() else "none"
                        done, took = load(f"http://127.0.0.1:{ports[mode]}{path}", seconds, token)
                        found[what][mode].append((done / took, 1000 * (cpu_s(pid) - before) / done))
        finally:
            for process in running:
                process.terminate()
                process.wait()
    return {what: _compared(by) for what, by in found.items()}


def _compared(by: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians, and the median over the rounds of each round's ratio to "without"."""
    return {
        mode: {
            "per_s": round(statistics.median(rate for rate, _ in runs), 1),
            "cpu_ms": round(statistics.median(cpu for _, cpu in runs), 3),
            "rate_ratio": round(
                statistics.median(a / b for (a, _), (b, _) in zip(runs, by["without"], strict=True)), 2
            ),
            "cpu_ratio": round(statistics.median(a / b for (_, a), (_, b) in zip(runs, by["without"], strict=True)), 2),
        }
        for mode, runs in by.items()
    }


def _wait(url: str) -> None:
    for _ in range(300):
        try:
            if requests.get(url, timeout=2).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        mode, folder, database, port = sys.argv[2:]
        serve(mode, folder, database, int(port))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--database", default="", help="a PostgreSQL URL; SQLite in a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    found = measure(said.rounds, said.seconds, said.database)
    if said.json:
        print(json.dumps(found))
        return
    for what, by in found.items():
        for mode, row in by.items():
            print(f"{what:14}{mode:10}{row['per_s']:8.1f}/s ({row['rate_ratio']:.2f} of without)"
                  f"   CPU {row['cpu_ms']:6.3f} ms ({row['cpu_ratio']:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
