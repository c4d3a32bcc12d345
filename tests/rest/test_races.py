"""Server processes on one database that are asked for the same at once: one resource, and no update lost.

Four processes and many more rounds: python -m pytest -m slow tests/rest/test_races.py
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import requests

from tests.rest.served import URN, bundle, posting
from tests.rest.servers import JSON, Servers, found, serving

Plain = dict[str, Any]
CRITERIA = (
    "identifier=urn:a|{n}", "identifier=urn:b|{n}", "family:exact=Racer{n}&birthdate=1980-01-01",
    "identifier=urn:b|{n}&given=ida", "birthdate=ge1980&identifier=urn:a|{n}",
)  # fmt: skip
"""Each finds patient n, and no other."""


def patient(number: int | str, marked: str = "") -> Plain:
    return {
        "resourceType": "Patient", "birthDate": "1980-01-01", "name": [{"family": f"Racer{number}", "given": ["Ida"]}],
        "identifier": [{"system": "urn:a", "value": f"{number}"}, {"system": "urn:b", "value": f"{number}"}],
        **({"telecom": [{"system": "email", "value": marked}]} if marked else {}),
    }  # fmt: skip


def created(session: requests.Session, base: str, number: int, criteria: str, marked: str) -> requests.Response:
    headers = {**JSON, "If-None-Exist": criteria}
    return session.post(f"{base}/Patient", json=patient(number), headers=headers, timeout=60)


def put(session: requests.Session, base: str, number: int, criteria: str, marked: str) -> requests.Response:
    return session.put(f"{base}/Patient?{criteria}", json=patient(number, marked), headers=JSON, timeout=60)


def in_transaction(session: requests.Session, base: str, number: int, criteria: str, marked: str) -> requests.Response:
    observed = {
        "resourceType": "Observation", "status": "final", "code": {"text": marked},
        "subject": {"reference": f"{URN}1"}, "identifier": [{"system": "urn:round", "value": f"{number}"}],
    }  # fmt: skip
    sent = bundle(posting(patient(number), f"{URN}1", ifNoneExist=criteria), posting(observed))
    return session.post(base, json=sent, headers=JSON, timeout=60)


WAYS = (created, put, in_transaction)
Answer = tuple[Callable[..., requests.Response], str, requests.Response]


def race(servers: Servers, *, rounds: int, clients: int) -> None:
    """In each round all clients ask at once, each its own process in its own way and by other criteria."""
    start = Barrier(clients)
    chosen = random.Random(7)
    plan = [[(chosen.choice(WAYS), chosen.choice(CRITERIA)) for _ in range(clients)] for _ in range(rounds)]
    bases = servers.bases

    def client(number: int) -> list[Answer]:
        answers: list[Answer] = []
        with requests.Session() as session:
            for n in range(rounds):
                way, criteria = plan[n][number]
                marked = f"{n}.{number}@racer.example"
                start.wait(60)
                base = bases[number % len(bases)]
                answers.append((way, marked, way(session, base, n, criteria.format(n=n), marked)))
        return answers

    with ThreadPoolExecutor(clients) as threads:
        by_client = list(threads.map(client, range(clients)))
    for n in range(rounds):
        check_round(bases, n, [answers[n] for answers in by_client])


def check_round(bases: list[str], number: int, answers: list[Answer]) -> None:
    assert {answer.status_code for _, _, answer in answers} <= {200, 201}, [a.text for _, _, a in answers]
    [one] = found(bases[0], f"Patient?identifier=urn:a|{number}")
    assert found(bases[-1], f"Patient?identifier=urn:b|{number}") == [one]
    history = requests.get(f"{bases[0]}/Patient/{one['id']}/_history", timeout=30).json()["entry"]
    versions = [entry["resource"] for entry in history]
    assert sorted(int(each["meta"]["versionId"]) for each in versions) == list(range(1, len(versions) + 1))
    # Each update that was acknowledged is a version of its own; one of all is the creation.
    marks = Counter(each["telecom"][0]["value"] for each in versions if "telecom" in each)
    assert marks == Counter(marked for way, marked, _ in answers if way is put)
    others = sum(way is not put for way, _, _ in answers)
    made = [a for way, _, a in answers if way is not in_transaction and a.status_code == 201]
    entries = [a.json()["entry"][0]["response"] for way, _, a in answers if way is in_transaction]
    assert len(made) + sum(entry["status"].startswith("201") for entry in entries) == 1
    assert len(versions) - len(marks) == (1 if "telecom" not in versions[-1] else 0) <= others
    assert {a.json()["id"] for way, _, a in answers if way is not in_transaction} <= {one["id"]}
    observed = found(bases[0], f"Observation?identifier=urn:round|{number}&_count=100")
    assert len(observed) == len(entries)
    assert {each["subject"]["reference"] for each in observed} <= {f"Patient/{one['id']}"}  # type: ignore[index]


def one_of_each_version(servers: Servers, *, rounds: int, clients: int) -> None:
    """If-Match by clients that know the same version: a 200 and clear 412s, and each 200 builds upon the one before."""
    start, wanted = Barrier(clients), "last"
    made = requests.post(f"{servers.bases[0]}/Patient", json=patient(wanted), headers=JSON, timeout=30).json()

    def client(number: int) -> list[requests.Response]:
        at = f"{servers.bases[number % len(servers.bases)]}/Patient"
        is_plain = number % 4 < 2
        where = f"{at}/{made['id']}" if is_plain else f"{at}?identifier=urn:{'ab'[number % 2]}|{wanted}"
        body = {**patient(wanted, f"{number}@racer.example"), **({"id": made["id"]} if is_plain else {})}
        answers = []
        with requests.Session() as session:
            for version in range(1, rounds + 1):
                start.wait(60)
                answers.append(session.put(where, json=body, headers={**JSON, "If-Match": f'W/"{version}"'}))
        return answers

    with ThreadPoolExecutor(clients) as threads:
        for answers in zip(*threads.map(client, range(clients)), strict=True):
            assert sorted(a.status_code for a in answers) == [200, *[412] * (clients - 1)]
            assert {a.json()["issue"][0]["code"] for a in answers if a.status_code == 412} == {"conflict"}


def test_two_processes_make_one_resource_and_lose_no_update(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url, 2) as servers:
        race(servers, rounds=8, clients=6)
        one_of_each_version(servers, rounds=5, clients=4)
        along_references(servers, rounds=6, clients=6)


THROUGH = ("subject:Patient.identifier=urn:a|of", "subject.identifier=urn:b|of", "patient.family:exact=Racerof")


def along_references(servers: Servers, *, rounds: int, clients: int) -> None:
    """Criteria that go through what the resource points to, each client by others: one a round, and one is changed."""
    start = Barrier(clients)
    made = requests.post(f"{servers.bases[0]}/Patient", json=patient("of"), headers=JSON, timeout=30).json()
    observed = {"resourceType": "Observation", "status": "final", "code": {"text": "x"},
                "subject": {"reference": f"Patient/{made['id']}"}}  # fmt: skip

    def client(number: int) -> list[requests.Response]:
        at = f"{servers.bases[number % len(servers.bases)]}/Observation"
        answers = []
        with requests.Session() as session:
            for n in range(rounds):
                body = {**observed, "identifier": [{"system": "urn:round", "value": f"{n}"}]}
                criteria = f"{THROUGH[number % len(THROUGH)]}&identifier=urn:round|{n}"
                start.wait(60)
                if number % 2:
                    answers.append(session.put(f"{at}?{criteria}", json=body, headers=JSON, timeout=60))
                else:
                    headers = {**JSON, "If-None-Exist": criteria}
                    answers.append(session.post(at, json=body, headers=headers, timeout=60))
        return answers

    with ThreadPoolExecutor(clients) as threads:
        for answers in zip(*threads.map(client, range(clients)), strict=True):
            assert sorted(a.status_code for a in answers) == [*[200] * (clients - 1), 201], [a.text for a in answers]
            assert len({a.json()["id"] for a in answers}) == 1


@pytest.mark.slow
def test_four_processes_do_so_many_times(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url, 4) as servers:
        race(servers, rounds=300, clients=12)
        one_of_each_version(servers, rounds=100, clients=12)
        along_references(servers, rounds=100, clients=12)
