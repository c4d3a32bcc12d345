"""Clients at two server processes on a few resources: what they see is one order of events, whoever is killed.

Minutes instead of seconds: python -m pytest -m slow -s tests/scenarios/test_linearisable.py
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from tests.rest.servers import JSON, Servers, Service, serving
from tests.scenarios.linearisability import Done, is_linearisable

State = tuple[int, str]
"""Version and text of a register; the text of a deleted one is empty."""


class Asked(NamedTuple):
    """`kind` is read, search, write or delete; a write may demand the version that is there."""

    kind: str
    text: str = ""
    version: int | None = None


Answer = tuple[int, int, str]
"""HTTP status, version and text; 0 and "" where it says none."""
Ask = Callable[[str, Asked], "Answer | None"]
NOT_SENT: Answer = (0, 0, "")


def run(state: State, asked: Asked) -> tuple[State, Answer]:
    """A register as it should be."""
    version, text = state
    if asked.kind in ("read", "search"):
        return state, ((200, version, text) if text else (410, 0, ""))
    if asked.kind == "delete":
        following = (version + 1, "") if text else state
        return following, (204, following[0], "")
    if asked.version not in (None, version):
        return state, (412, 0, "")
    return (version + 1, asked.text), (200, version + 1, asked.text)


def basic(register: str, text: str) -> dict[str, Any]:
    return {
        "resourceType": "Basic", "code": {"text": text}, "identifier": [{"system": "urn:register", "value": register}],
    }  # fmt: skip


class Client:
    """One server as a client sees it; None where it gave no answer that counts."""

    def __init__(self, base: str, names: dict[str, str]) -> None:
        self._base, self._names, self._session = base, names, requests.Session()

    def __call__(self, register: str, asked: Asked) -> Answer | None:
        at = f"{self._base}/Basic/{self._names[register]}"
        headers = dict(JSON) if asked.version is None else {**JSON, "If-Match": f'W/"{asked.version}"'}
        try:
            if asked.kind == "search":
                return self._searched(register)
            if asked.kind == "write":
                body = {**basic(register, asked.text), "id": self._names[register]}
                answer = self._session.put(at, json=body, headers=headers, timeout=20)
            else:
                answer = self._session.request("GET" if asked.kind == "read" else "DELETE", at, timeout=20)
        except requests.RequestException as error:
            return NOT_SENT if "Connection refused" in str(error) else None
        if answer.status_code >= 500:
            return None
        if answer.status_code == 200:
            return 200, int(answer.json()["meta"]["versionId"]), answer.json()["code"]["text"]
        return answer.status_code, int(answer.headers["ETag"][3:-1]) if answer.status_code == 204 else 0, ""

    def _searched(self, register: str) -> Answer | None:
        answer = self._session.get(f"{self._base}/Basic?identifier=urn:register|{register}", timeout=20)
        if answer.status_code != 200:
            return None
        entries = answer.json().get("entry", [])
        if not entries:
            return 410, 0, ""
        [one] = entries
        return 200, int(one["resource"]["meta"]["versionId"]), one["resource"]["code"]["text"]


Wrap = Callable[[Ask], Ask]
Histories = dict[str, list[Done]]


class Run(NamedTuple):
    """What clients saw, by register, and what is stored of it in the end: version → text."""

    histories: Histories
    stored: dict[str, dict[int, str]]


def work(servers: Servers, seed: int, *, clients: int, seconds: float, kills: int, wrap: Wrap = lambda a: a) -> Run:
    """Clients ask at random, each one server; meanwhile servers are killed, in turn."""
    names = {}
    for register in (uuid.uuid4().hex for _ in range(3)):
        posted = requests.post(f"{servers.bases[0]}/Basic", json=basic(register, "first"), headers=JSON, timeout=30)
        names[register] = posted.json()["id"]
    histories: Histories = defaultdict(list)
    over = threading.Event()

    def client(number: int) -> None:
        chosen = random.Random(f"{seed} {number}")
        ask = wrap(Client(servers.bases[number % len(servers.bases)], names))
        known = dict.fromkeys(names, 1)
        count = 0
        while not over.is_set():
            register, count = chosen.choice(sorted(names)), count + 1
            kind = chosen.choices(["read", "search", "write", "delete"], [4, 2, 5, 1])[0]
            version = known[register] if kind == "write" and chosen.random() < 0.6 else None
            asked = Asked(kind, f"{number}.{count}" if kind == "write" else "", version)
            began = time.monotonic()
            answer = ask(register, asked)
            if answer in (None, NOT_SENT):
                if answer is None:
                    histories[register].append(Done(asked, None, began))
                time.sleep(0.1)
                continue
            histories[register].append(Done(asked, answer, began, time.monotonic()))
            known[register] = answer[1] or known[register]

    with ThreadPoolExecutor(clients) as threads:
        running = [threads.submit(client, number) for number in range(clients)]
        try:
            for number in range(kills):
                time.sleep(seconds / (kills + 1))
                servers.kill(number % len(servers.bases))
            time.sleep(seconds / (kills + 1))
        finally:
            over.set()
    for each in running:
        each.result()
    return Run(histories, {register: versions(servers, name) for register, name in names.items()})


def asked_until_there(url: str) -> Any:
    """What it answers; a process that was killed may just be starting again."""
    ends = time.monotonic() + 60
    while True:
        try:
            return requests.get(url, timeout=30).json()
        except requests.ConnectionError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)


def versions(servers: Servers, name: str) -> dict[int, str]:
    """What is stored of a register; each version stands there once."""
    found: list[tuple[int, str]] = []
    pages = [f"{servers.bases[-1]}/Basic/{name}/_history?_count=500"]
    while pages:
        answer = asked_until_there(pages.pop())
        for entry in answer["entry"]:
            is_deleted = entry["request"]["method"] == "DELETE"
            version = int(entry["response"]["etag"][3:-1])
            found.append((version, "" if is_deleted else entry["resource"]["code"]["text"]))
        pages = [link["url"] for link in answer["link"] if link["relation"] == "next"]
    assert sorted(version for version, _ in found) == list(range(1, len(found) + 1))
    return dict(found)


def faults(seen: Run) -> list[str]:
    """What can't have been so, and what was acknowledged and is not stored."""
    wrong = []
    for register, history in sorted(seen.histories.items()):
        kept = seen.stored[register]
        # Texts are written once: a write that was lost, and whose text is nowhere, has not happened.
        happened = [done for done in history if done.answer or not done.asked.text or done.asked.text in kept.values()]
        if not is_linearisable(happened, (1, "first"), run):
            wrong.append(f"{register}: {len(history)} requests in no order")
        for done in history:
            if done.answer and done.answer[0] in (200, 204) and kept.get(done.answer[1]) != done.answer[2]:
                wrong.append(f"{register}: {done.asked} was answered {done.answer}, stored is otherwise")
    return wrong


def test_what_clients_see_is_one_order_of_events_also_when_servers_are_killed(
    tmp_path: Path, database_url: str
) -> None:
    with serving(tmp_path, database_url, 2) as servers:
        seen = work(servers, 7, clients=6, seconds=2, kills=1)
    assert faults(seen) == []
    answered = [done for history in seen.histories.values() for done in history if done.answer]
    assert {done.answer[0] for done in answered} == {200, 204, 410, 412}
    assert len(answered) > 60


def test_nor_does_the_service_itself_lose_or_reorder_when_its_processes_are_killed(
    tmp_path: Path, database_url: str
) -> None:
    with serving(tmp_path, database_url, 2, Service) as servers:
        seen = work(servers, 8, clients=6, seconds=3, kills=2)
    assert faults(seen) == []
    assert sum(len(history) for history in seen.histories.values()) > 60


@pytest.mark.slow
def test_minutes_of_the_service_itself(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url, 2, Service) as servers:
        seen = work(servers, 9, clients=10, seconds=60, kills=30)
    print(f"\n{ {name: len(history) for name, history in seen.histories.items()} } requests to the service")
    assert faults(seen) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_minutes_of_it_with_many_kills(tmp_path: Path, database_url: str, seed: int) -> None:
    with serving(tmp_path, database_url, 4) as servers:
        seen = work(servers, seed, clients=10, seconds=40, kills=12)
    print(f"\n{ {name: len(history) for name, history in seen.histories.items()} } requests, seed {seed}")
    assert faults(seen) == []


# ---- that these tests can fail


def cached(ask: Ask) -> Ask:
    """A server that answers a read as it did within the last half second."""
    kept: dict[str, tuple[float, Answer | None]] = {}

    def stale(register: str, asked: Asked) -> Answer | None:
        if asked.kind != "read":
            return ask(register, asked)
        if register not in kept or time.monotonic() - kept[register][0] > 0.5:
            kept[register] = time.monotonic(), ask(register, asked)
        return kept[register][1]

    return stale


def heedless(ask: Ask) -> Ask:
    """A server that takes no notice of If-Match."""
    return lambda register, asked: ask(register, asked._replace(version=None))


def hasty(ask: Ask) -> Ask:
    """A server that acknowledges some writes and keeps none of them."""
    chosen = random.Random(7)

    def acknowledging(register: str, asked: Asked) -> Answer | None:
        if asked.kind == "write" and chosen.random() < 0.2:
            _, version, _ = ask(register, Asked("read")) or (0, 0, "")
            return 200, version + 1, asked.text
        return ask(register, asked)

    return acknowledging


def test_a_server_that_is_stale_heedless_or_hasty_is_seen(tmp_path: Path, sqlite_template: Path) -> None:
    with serving(tmp_path, f"sqlite:///{tmp_path / 'one.sqlite'}", 1) as servers:
        for wrap in (cached, heedless, hasty):
            assert any("in no order" in fault for fault in faults(work(servers, 7, clients=3, seconds=1, kills=0,
                                                                       wrap=wrap))), wrap  # fmt: skip


READ, WRITE = Asked("read"), Asked("write", "x")
FIRST, SECOND = (200, 1, "first"), (200, 2, "x")


@pytest.mark.parametrize(
    ("history", "is_possible"),
    [
        ([Done(WRITE, SECOND, 0, 1), Done(READ, SECOND, 2, 3)], True),
        ([Done(WRITE, SECOND, 0, 1), Done(READ, FIRST, 2, 3)], False),  # stale
        ([Done(WRITE, SECOND, 0, 5), Done(READ, FIRST, 2, 3)], True),  # not yet
        ([Done(WRITE, SECOND, 0, 5), Done(READ, SECOND, 1, 2), Done(READ, FIRST, 3, 4)], False),  # back again
        ([Done(WRITE, None, 0), Done(READ, FIRST, 2, 3), Done(READ, SECOND, 4, 5)], True),  # later than it was lost
        ([Done(WRITE, None, 0), Done(READ, SECOND, 2, 3), Done(READ, FIRST, 4, 5)], False),
        ([Done(WRITE, SECOND, 0, 1), Done(WRITE, SECOND, 0, 1)], False),  # one version twice
        ([Done(Asked("write", "x", 1), SECOND, 0, 1), Done(Asked("write", "y", 1), (412, 0, ""), 0, 1)], True),
        ([Done(Asked("write", "x", 1), SECOND, 0, 1), Done(Asked("write", "y", 1), (200, 3, "y"), 0, 1)], False),
    ],
)
def test_the_checker_tells_what_can_have_been_from_what_can_not(history: list[Done], is_possible: bool) -> None:
    assert is_linearisable(history, (1, "first"), run) is is_possible
