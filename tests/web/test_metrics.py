"""What /metrics says is what happened, at whichever process it is asked, and names nobody."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from fhir_secondop import meters
from fhir_secondop.service.context import SERVICE
from fhir_secondop.service.executors import started
from fhir_secondop.store import executors
from fhir_secondop.web import metrics
from tests.conftest import free_port
from tests.service.world import World, opened
from tests.web.test_processes import Service, both, service, until  # noqa: F401  the fixture of two processes

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        monkeypatch.setattr("fhir_secondop.web.gauges.KEPT_MS", 0)
        yield made


def samples(text: str) -> Samples:
    found = (s for family in text_string_to_metric_families(text) for s in family.samples)
    return {(s.name, frozenset(s.labels.items())): s.value for s in found}


def scraped(world: World) -> Samples:
    answer = world.client.get("/metrics", headers={"Authorization": "Bearer desk"})
    assert answer.status_code == 200
    return samples(answer.get_data(as_text=True))


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


def test_requests_are_counted_by_their_template(world: World) -> None:
    before = scraped(world)
    case_id = world.open()
    for _ in range(3):
        world.get(case_id)
    world.call("GET", "/fhir/Patient/nobody")
    world.call("GET", "/fhir/Patient?family=Placeholder")
    after = scraped(world)
    name, case = "secondop_http_requests_total", "/api/second-opinions/<case_id>"
    assert grown(before, after, name, route=case, method="GET", status="2xx") == 3
    assert grown(before, after, name, route="/api/second-opinions", method="POST", status="2xx") == 1
    assert grown(before, after, name, route="/fhir/<t>/<i>", method="GET", status="4xx") == 1
    assert grown(before, after, name, route="/fhir/<t>", method="GET", status="2xx") == 1
    assert grown(before, after, "secondop_http_request_seconds_count", route=case, method="GET") == 3


def test_a_bundle_is_one_request_however_many_entries_it_has(world: World) -> None:
    before = scraped(world)
    entries = [{"request": {"method": "GET", "url": "Patient?_count=1"}}] * 4
    assert (
        world.call("POST", "/fhir/", {"resourceType": "Bundle", "type": "batch", "entry": entries}).status_code == 200
    )
    after = scraped(world)
    name = "secondop_http_requests_total"
    assert grown(before, after, name, route="/fhir/", method="POST", status="2xx") == 1
    assert grown(before, after, name, route="/fhir/<t>", method="GET", status="2xx") == 0


def test_no_label_says_more_than_the_program_and_its_configuration(world: World) -> None:
    known = [dict(labels) for _, labels in scraped(world)]
    before, told = ({labels.get(name, "-") for labels in known} for name in ("route", "connection"))
    world.ehr("riverside")
    world.ehr("lakeside")
    case_id = world.signed()
    world.work()
    world.call("GET", f"/nothing/{case_id}/Placeholder?family=Placeholder")
    world.client.open("/fhir/Patient/x", method="BREW", headers={"Authorization": "Bearer desk"})
    text = world.client.get("/metrics", headers={"Authorization": "Bearer desk"}).get_data(as_text=True)
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}|Placeholder|Mockridge|BREW|nothing", text)
    # What other tests of this process have counted was of other applications.
    rules = {rule.rule for rule in world.client.application.url_map.iter_rules()} | {"-"} | before
    for (_, labels), _ in ((key, v) for key, v in samples(text).items()):
        said = dict(labels)
        if "route" in said:
            assert said["route"] in rules
        if "connection" in said:
            assert said["connection"] in {*world.connections, "link"} | told


def test_deliveries_are_counted_by_ehr_and_state_and_the_oldest_has_an_age(world: World) -> None:
    world.ehr("riverside")
    world.ehr("lakeside")
    case_id = world.signed()
    before = scraped(world)
    planned = {
        name: value(before, "secondop_deliveries", connection=name, state="waiting")
        for name in ("riverside", "lakeside", "link")
    }
    assert planned == {"riverside": 1, "lakeside": 2, "link": 1}
    world.clock.forward(90)
    assert 90 <= value(scraped(world), "secondop_oldest_undelivered_seconds", connection="riverside") < 120
    world.ehrs["lakeside"].close()  # it does not answer any more
    world.work()
    after = scraped(world)
    assert value(after, "secondop_deliveries", connection="riverside", state="waiting") == 0
    assert value(after, "secondop_oldest_undelivered_seconds", connection="riverside") == 0
    assert value(after, "secondop_deliveries", connection="lakeside", state="waiting") == 2
    attempts = "secondop_delivery_attempts_total"
    assert grown(before, after, attempts, connection="riverside", outcome="verified") == 1
    assert grown(before, after, attempts, connection="link", outcome="link") == 1
    assert grown(before, after, attempts, connection="lakeside", outcome="again") == 2
    assert grown(before, after, "secondop_ehr_failures_total", connection="lakeside", kind="unreachable") >= 2
    assert grown(before, after, "secondop_ehr_requests_total", connection="riverside", status="2xx") >= 3
    assert world.get(case_id)["status"]


def test_what_waits_for_a_person_is_counted_so_and_goes_on_ageing(world: World) -> None:
    world.ehr("riverside")
    world.ehr("lakeside", record=[])  # nobody there is the patient
    world.signed()
    world.work()
    world.clock.forward(3600)
    found = scraped(world)
    states = {s: value(found, "secondop_deliveries", connection="lakeside", state=s) for s in ("waiting", "on-hold")}
    assert states == {"waiting": 0, "on-hold": 2}
    assert value(found, "secondop_gatherings", connection="lakeside", state="on-hold") == 0
    assert value(found, "secondop_oldest_undelivered_seconds", connection="lakeside") >= 3600


def test_gatherings_under_way_are_counted(world: World) -> None:
    world.ehr("riverside")
    world.ehr("lakeside")
    world.open()
    found = scraped(world)
    for name in ("riverside", "lakeside"):
        assert value(found, "secondop_gatherings", connection=name, state="under-way") == 1
    world.work()
    for name in ("riverside", "lakeside"):
        assert value(scraped(world), "secondop_gatherings", connection=name, state="under-way") == 0


def test_the_process_and_the_database_are_measured(world: World) -> None:
    found = scraped(world)
    own = meters.place()
    assert value(found, "secondop_process_memory_bytes", process=own) > 10_000_000
    assert value(found, "secondop_process_open_files", process=own) > 3
    assert value(found, "secondop_database_bytes") > 100_000
    before = value(found, "secondop_write_wait_seconds_count")
    world.open()
    assert value(scraped(world), "secondop_write_wait_seconds_count") > before


def test_living_workers_and_their_beats_are_told(world: World) -> None:
    now = world.clock()
    with world.context.database.transaction(SERVICE) as tx:
        for name, state in (("a", "working"), ("b", "working"), ("c", "draining"), ("d", "gone")):
            executors.join(tx.connection, replace(started(name, "1", now - 5_000), state=state))
    found = scraped(world)
    told = {state: value(found, "secondop_workers", state=state) for state in ("working", "draining", "gone")}
    assert told == {"working": 2, "draining": 1, "gone": 0}
    assert 5 <= value(found, "secondop_oldest_beat_seconds") < 30


def scrape(url: str) -> Samples:
    return samples(requests.get(f"{url}/metrics", timeout=20).text)


def asked(found: Samples) -> float:
    labels = {"route": "/fhir/<t>/<i>", "method": "GET", "status": "4xx"}
    return value(found, "secondop_http_requests_total", **labels)


def test_whichever_of_several_processes_is_scraped_tells_of_all(service: Service) -> None:  # noqa: F811
    pids = both(service)

    def ask(number: int) -> None:
        for _ in range(number):  # a connection each: the system deals them out
            assert requests.get(f"{service.url}/fhir/Patient/nobody", timeout=20).status_code == 404

    ask(30)
    assert {asked(scrape(service.url)) for _ in range(8)} == {30}
    shown = {dict(labels).get("process") for name, labels in scrape(service.url) if name.endswith("memory_bytes")}
    assert shown == {"0", "1"}

    # One that is made anew goes on where its place had stopped: nothing is lost of what was counted.
    victim = min(pids)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(both(service) - pids) == 1)
    assert {asked(scrape(service.url)) for _ in range(8)} == {30}
    ask(10)
    assert {asked(scrape(service.url)) for _ in range(8)} == {40}


def test_a_worker_tells_what_it_counts_to_who_may_ask(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "metrics.token").write_text("scrape-me\n")
    (tmp_path / "tokens.toml").write_text('[callers.x]\nname = "X"\ntoken = "x"\nroles = ["provider"]\nscopes = []\n')
    (tmp_path / "tokens.toml").chmod(0o600)
    (tmp_path / "secondop.toml").write_text('auth = "tokens"\nmetrics_token_file = "metrics.token"\n')
    command = [
        sys.executable,
        "-m",
        "fhir_secondop.cli",
        "work",
        "--name",
        "worker-1",
        "--config",
        "secondop.toml",
        "--metrics-port",
        str(port),
    ]
    with open(tmp_path / "log", "wb") as log:
        worker = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        until(lambda: "worker-1 works" in (tmp_path / "log").read_text("utf-8") or worker.poll() is not None)

        def get(token: str) -> Any:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return requests.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=20)

        assert [get(token).status_code for token in ("", "wrong", "x")] == [401, 401, 403]
        answer = get("scrape-me")
        assert answer.headers["Content-Type"] == metrics.CONTENT_TYPE
        found = samples(answer.text)
        assert value(found, "secondop_process_memory_bytes", process="work") > 10_000_000
        assert "secondop_deliveries" not in answer.text, "the service tells of the database, and it alone"
        assert requests.get(f"http://127.0.0.1:{port}/fhir/metadata", timeout=20).status_code == 404
        # Whoever is not let in can't make it work: no body is taken, and of guessing there is an end.
        with socket.create_connection(("127.0.0.1", port), timeout=20) as large:
            large.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 1000)
            assert large.recv(100).startswith(b"HTTP/1.1 413 ")
        assert 429 in [get("wrong").status_code for _ in range(40)]
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


_WITHOUT_FILES = """
import resource, sys, threading, time
from fhir_secondop.store.database import Database
from fhir_secondop.web import vitals

vitals.EVERY_S = 0.01
database = Database(sys.argv[1])
allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
with vitals.measured(database):
    (thread,) = [one for one in threading.enumerate() if one.name == "vitals"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, allowed[1]))
    try:
        vitals.measure(database)  # who asks for the numbers gets those that there are
        time.sleep(0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
    time.sleep(0.1)
    assert thread.is_alive()
"""


def test_a_process_that_has_no_file_left_is_measured_again_when_it_has(database_url: str) -> None:
    # Of its own: whatever else a process listens to or opens meanwhile fails, too.
    subprocess.run([sys.executable, "-c", _WITHOUT_FILES, database_url], check=True, timeout=60)
