"""Waiting for the events of a case: across processes, bounded, holding nothing, and no longer than the server runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.service import following, workflows
from fhir_secondop.web import events, gate
from fhir_secondop.web.app import create
from tests.rest.servers import Service, serving
from tests.service.conftest import Bench, bench  # noqa: F401
from tests.service.test_review import example

WAITERS = 8


def opened(bench: Bench) -> tuple[str, int]:  # noqa: F811
    """A case without sources, and the number of its last event."""
    answer = bench.call("POST", "/api/second-opinions", {**example("request.json"), "sources": []})
    case_id = answer.get_json()["id"]
    return case_id, bench.call("GET", f"/api/second-opinions/{case_id}/events").get_json()["last"]


def until(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.01)


def by_command(url: str, *given: str) -> dict[str, Any]:
    """What the command says of it."""
    command = [sys.executable, "-m", "fhir_secondop.cli", "events", *given, "--url", url, "--json"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    return dict(json.loads(said.stdout))


@pytest.fixture
def aside(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same service once more, in this process: what it writes, the servers have not written."""
    monkeypatch.setattr(workflows, "enqueuer", lambda database: lambda *args, **options: None)
    named = {"link_secret_file": str(tmp_path / "secret"), "document_keys_file": str(tmp_path / "keys.json")}
    service = bootstrap.build(Settings(database=database_url, auth="none", log_level="WARNING", **named))  # type: ignore[arg-type]
    yield Bench(service, create(service).test_client())
    service.context.database.dispose()


def test_what_another_process_writes_is_told_to_all_who_wait_and_all_of_them_end_with_the_server(
    aside: Bench, database_url: str, tmp_path: Path
) -> None:
    case_id, last = opened(aside)
    with serving(tmp_path, database_url, 2, Service) as servers, ThreadPoolExecutor(WAITERS) as threads:
        url = servers.bases[0].removesuffix("/fhir") + f"/api/second-opinions/{case_id}/events"

        def ask(after: int) -> dict[str, Any]:
            # each on a connection of its own: the system deals them out to the two processes
            answer = requests.get(f"{url}?after={after}&wait=30", timeout=60)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        def all_wait(after: int) -> list[Future[dict[str, Any]]]:
            waiting = [threads.submit(ask, after) for _ in range(WAITERS)]
            time.sleep(0.7)
            assert not any(one.done() for one in waiting)
            return waiting

        begun = time.monotonic()
        waiting = all_wait(last)
        paused = aside.call("POST", f"/api/second-opinions/{case_id}/pause", {"reason": "awaiting-tests"})
        assert paused.status_code == 200, paused.get_data(as_text=True)
        told = [one.result(60) for one in waiting]
        assert {event["kind"] for event in told[0]["events"]} == {"case-held"}
        assert told == [told[0]] * WAITERS
        assert told[0]["events"][0]["number"] == last + 1
        assert by_command(url.partition("/api")[0], case_id, "--after", str(last)) == told[0]

        waiting = all_wait(told[0]["last"])
        servers.close()
        assert [one.result(60)["events"] for one in waiting] == [[]] * WAITERS
        assert time.monotonic() - begun < 25, "somebody waited to the end"


def test_who_waits_holds_no_connection_and_no_lock_and_is_answered_when_the_time_is_over(bench: Bench) -> None:  # noqa: F811
    case_id, last = opened(bench)
    pool: Any = bench.service.context.database.engine.pool
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(bench.call, "GET", f"/api/second-opinions/{case_id}/events?after={last}&wait=2")
        until(lambda: bench.service.followers._cases.total() == 1)
        held = []
        while not waiting.done():
            held.append(pool.checkedout())
            time.sleep(0.01)
    assert held.count(0) > len(held) / 2
    answer = waiting.result().get_json()
    assert (answer["events"], answer["last"]) == ([], last)
    assert not bench.service.followers._cases
    assert not bench.service.followers._callers


def test_so_many_wait_and_no_more_and_who_does_not_wait_is_answered(
    bench: Bench,  # noqa: F811
) -> None:
    case_id, last = opened(bench)
    followers = bench.service.followers
    followers._most, followers._most_of_one = 3, 2
    path = f"/api/second-opinions/{case_id}/events?after={last}"
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(bench.call, "GET", f"{path}&wait=30", who=who) for who in ("desk", "desk")]
        until(lambda: followers._cases.total() == 2)
        refused = bench.call("GET", f"{path}&wait=30")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
        assert "2 of them yours" in refused.get_json()["issue"][0]["diagnostics"]
        waiting.append(threads.submit(bench.call, "GET", f"{path}&wait=30", who="pcp"))
        until(lambda: followers._cases.total() == 3)
        assert bench.call("GET", f"{path}&wait=30", who="pcp").status_code == 503
        assert bench.call("GET", path, who="pcp").get_json()["events"] == []
        bench.call("POST", f"/api/second-opinions/{case_id}/pause", {"reason": "awaiting-tests"})
        told = [one.result(60).get_json()["events"] for one in waiting]
    assert [e["kind"] for e in told[0]] == ["case-held"]
    assert told == [told[0]] * 3
    assert bench.call("GET", f"{path}&wait=1").get_json()["events"] == told[0]


def test_waiting_leaves_places_for_those_who_do_not_wait() -> None:
    assert gate.ROOMS["events"].at_once > following.MOST
    assert following.MOST_OF_ONE < following.MOST


def test_one_look_is_enough_for_all_who_wait(bench: Bench) -> None:  # noqa: F811
    looks: list[int] = []
    case_id, last = opened(bench)
    followers = bench.service.followers
    reading = followers._database.reading

    def counted() -> Any:
        looks.append(followers._cases.total())
        return reading()

    followers._database = type("", (), {"reading": staticmethod(counted)})()  # type: ignore[assignment]
    threads = [threading.Thread(target=followers.wait, args=(f"c{n}", case_id, last, 1.0)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 <= len(looks) <= 1 + 1 / following.LOOKS_S


def test_a_database_that_does_not_answer_keeps_who_looks_and_nobody_else(bench: Bench) -> None:  # noqa: F811
    case_id, last = opened(bench)
    followers = bench.service.followers
    reading, asked, answers = followers._database.reading, threading.Event(), threading.Event()

    def silent() -> Any:
        asked.set()
        answers.wait(60)
        return reading()

    followers._database = type("", (), {"reading": staticmethod(silent)})()  # type: ignore[assignment]
    looking = threading.Thread(target=followers.wait, args=("a", case_id, last, 0.1))
    looking.start()
    assert asked.wait(10)
    other = threading.Thread(target=followers.wait, args=("b", case_id, last, 0.3), daemon=True)
    other.start()
    other.join(10)
    waits = other.is_alive()
    answers.set()
    looking.join(10)
    assert not waits


def test_the_openapi_document_says_what_may_be_asked_and_its_example_is_as_it_is_answered(bench: Bench) -> None:  # noqa: F811
    case_id, _ = opened(bench)
    said = bench.call("GET", "/api/openapi.json").get_json()["paths"]["/api/second-opinions/{id}/events"]["get"]
    asked = {one["name"]: one for one in said["parameters"]}
    assert set(asked) == {"id", *events.PARAMETERS}
    query = "&".join(f"{name}={0 if name == 'after' else asked[name]['example']}" for name in events.PARAMETERS)
    answer = bench.call("GET", f"/api/second-opinions/{case_id}/events?{query}").get_json()
    example_ = said["responses"]["200"]["content"]["application/json"]["example"]
    assert (set(answer), set(answer["events"][0])) == (set(example_), set(example_["events"][0]))
