"""A search parameter of ours is indexed while the service runs: by real processes, killed on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from fhir_secondop.access import rights
from fhir_secondop.errors import Unavailable
from fhir_secondop.fhir import query
from fhir_secondop.model import EVERYTHING, Caller
from fhir_secondop.store import bundles, includes, pending, reindex, search, tables
from fhir_secondop.store.database import Database
from tests.conftest import free_port, wait_for
from tests.rest.served import client_of
from tests.store.rows import BASE, DESK, named

NUMBER = 60
FHIR = {"Content-Type": "application/fhir+json"}


def parameter(expression: str) -> list[dict[str, Any]]:
    return [{"resourceType": "SearchParameter", "url": "https://secondop.example.org/SearchParameter/contact",
             "name": "contact", "status": "active", "description": "x", "code": "contact-name", "base": ["Patient"],
             "type": "string", "expression": expression}]  # fmt: skip


def patient(number: int) -> dict[str, Any]:
    return {"active": True, "contact": [{"name": {"family": "Sampleton", "given": [f"Given{number}"]}}]}


class Program:
    """The program in a folder, on a database, with the search parameters that its file has."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder, self.port = folder, free_port()
        lines = [f"port = {self.port}", 'auth = "none"', f"database = {json.dumps(database_url)}", "requests_per_s = 0"]
        (folder / "secondop.toml").write_text("\n".join(lines))
        self.has([])

    def has(self, parameters: list[dict[str, Any]]) -> None:
        (self.folder / "parameters.json").write_text(json.dumps(parameters))

    def command(self, *arguments: str) -> list[str]:
        file = str(self.folder / "parameters.json")
        config = ["--config", str(self.folder / "secondop.toml")]
        return [sys.executable, "-m", "tests.store.with_parameters", file, *arguments, *config]

    @contextmanager
    def serving(self, how: str = "terminate") -> Iterator[None]:
        with open(self.folder / "service.log", "ab") as log:
            process = subprocess.Popen(self.command("serve"), stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{self.port}/healthz", process)
            yield
        finally:
            getattr(process, how)()
            process.wait()

    def get(self, asked: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}/fhir/{asked}", timeout=30)

    def create(self, rest: dict[str, Any]) -> str:
        body = {"resourceType": "Patient", **rest}
        answer = requests.post(f"http://127.0.0.1:{self.port}/fhir/Patient", json=body, headers=FHIR, timeout=30)
        assert answer.status_code == 201, answer.text
        found: str = answer.json()["id"]
        return found

    def until_complete(self, asked: str) -> int:
        """The total, once there is an answer; each answer before says that there is none."""
        ends = time.monotonic() + 60
        while (answer := self.get(f"{asked}&_total=accurate")).status_code == 503:
            assert time.monotonic() < ends, "the index was never complete"
            time.sleep(0.1)
        assert answer.status_code == 200, answer.text
        total: int = answer.json()["total"]
        return total


def progress(database: Database) -> list[tuple[int, bool]]:
    with database.reading() as connection:
        rows = connection.execute(sa.select(tables.index_state).where(tables.index_state.c.id != 1)).all()
    return [(row.done, bool(row.complete)) for row in rows]


@pytest.fixture
def program(database: Database, database_url: str, tmp_path: Path) -> Program:
    named(database, "Patient", [(f"p{number}", patient(number)) for number in range(NUMBER)])
    named(database, "Observation", [("o", {"status": "final", "code": {"text": "x"},
                                           "subject": {"reference": "Patient/p59"}})])  # fmt: skip
    return Program(tmp_path, database_url)


REFUSED = (
    "Patient?contact-name=sampleton", "Patient?contact-name:missing=true", "Patient?_sort=contact-name&_count=1",
    "Observation?patient.contact-name=sampleton", "?_type=Patient&contact-name=sampleton",
    "Patient?contact-name=sampleton&_summary=count", "Patient/p1/Patient?contact-name=x",
    "Observation?_has:Patient:link:contact-name=x", "Patient?_has:Observation:patient:subject:Patient.contact-name=x",
)  # fmt: skip


def test_a_new_parameter_is_indexed_while_the_service_runs_and_after_it_was_killed(
    program: Program, database: Database
) -> None:
    with program.serving():
        assert program.get("Patient?contact-name=sampleton").status_code == 422
    program.has(parameter("Patient.contact.name.family"))
    with program.serving("kill"):
        for asked in REFUSED:
            answer = program.get(asked)
            assert answer.status_code == 503, (asked, answer.text)
            assert answer.json()["issue"][0]["code"] == "transient"
            assert answer.json()["issue"][0]["expression"] == ["contact-name"]
            assert int(answer.headers["Retry-After"]) == 30
        headers = {**FHIR, "If-None-Exist": "contact-name=sampleton"}
        body = {"resourceType": "Patient", **patient(0)}
        url = f"http://127.0.0.1:{program.port}/fhir/Patient"
        assert requests.post(url, json=body, headers=headers, timeout=30).status_code == 503
        # Everything else is answered, and what is written is indexed by it.
        assert program.get("Patient?_total=accurate&active=true&_count=1").json()["total"] == NUMBER
        program.create(patient(100))
        [(done, complete)] = progress(database)
        assert not complete
    assert 0 < done < NUMBER
    [(stopped_at, complete)] = progress(database)
    assert (stopped_at >= done, complete) == (True, False)
    with program.serving():
        assert program.until_complete("Patient?contact-name=sampleton") == NUMBER + 1
        [(_, complete)] = progress(database)
        assert complete
        assert program.get("Observation?patient.contact-name=sampleton").json()["entry"][0]["resource"]["id"] == "o"
        program.create(patient(101))
        assert program.until_complete("Patient?contact-name=sampleton") == NUMBER + 2


def test_a_changed_parameter_is_another_and_a_removed_one_is_forgotten(program: Program, database: Database) -> None:
    program.has(parameter("Patient.contact.name.family"))
    indexed = subprocess.run(program.command("db", "upgrade", "--json"), capture_output=True, text=True, check=True)
    assert json.loads(indexed.stdout)["indexed"] >= NUMBER
    with program.serving():
        answer = program.get("Patient?contact-name=sampleton&_summary=count")
        assert (answer.status_code, answer.json()["total"]) == (200, NUMBER), "indexed beforehand"
    program.has(parameter("Patient.contact.name.given"))
    with program.serving():
        assert program.get("Patient?contact-name=given7").status_code == 503
        assert program.until_complete("Patient?contact-name=sampleton") == 0
        assert program.until_complete("Patient?contact-name:exact=Given7") == 1
    program.has([])
    with program.serving():
        assert program.get("Patient?contact-name=given7").status_code == 422
        program.create({"contact": [{"name": {"given": ["Given7"]}}]})
    assert progress(database) == []
    # Nothing was indexed by it meanwhile: it begins anew, here by the command beside the service.
    program.has(parameter("Patient.contact.name.given"))
    with program.serving():
        assert program.get("Patient?contact-name=given7").status_code == 503
        subprocess.run(program.command("db", "upgrade"), capture_output=True, check=True)
        answer = program.get("Patient?contact-name:exact=Given7&_summary=count")
        assert (answer.status_code, answer.json()["total"]) == (200, 2)


# ---- whatever goes by it


@pytest.fixture
def being_indexed(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """As if Patient.active and Observation.subject were ours, and their index not complete."""
    named(database, "Patient", [("p", {"active": True})])
    reindex.bring_up_to_date(database, BASE)
    ours = {f"test-{code}": {"code": code, "base": [kind]}
            for code, kind in (("active", "Patient"), ("subject", "Observation"))}  # fmt: skip
    monkeypatch.setattr(pending, "own", lambda: ours)
    pending.begin(database)
    pending.begin(database)
    assert progress(database) == [(0, False)] * 2
    return database


def test_what_goes_by_it_is_refused_wherever_it_stands(being_indexed: Database) -> None:
    for kind, asked in (("Patient", "active=true"), ("Patient", "active:not=true"), ("Patient", "_sort=name,-active"),
                        ("Observation", "subject:Patient.name=x"), ("Patient", "_has:Observation:subject:code=x"),
                        ("Patient", "_revinclude=Observation:subject"),
                        ("Observation", "patient.active=true")):  # fmt: skip
        with being_indexed.reading() as connection, pytest.raises(Unavailable, match="being made"):
            search.run(connection, query.parse(kind, asked), EVERYTHING, BASE)
    with being_indexed.transaction(DESK) as tx, pytest.raises(Unavailable):
        bundles.match_one(tx.connection, "Patient", "active=true", EVERYTHING, BASE)
    for kind, asked in (("Patient", "name=x&_sort=name"), ("Observation", "_include=Observation:subject"),
                        ("Task", "subject=Patient/p")):  # fmt: skip
        with being_indexed.reading() as connection:
            found = search.run(connection, query.parse(kind, asked), EVERYTHING, BASE)
            includes.included(connection, found.matches, (), EVERYTHING, BASE, lambda *of: True)


def test_who_sees_only_what_it_finds_sees_nothing_yet(being_indexed: Database) -> None:
    """By half an index `active:not=true` would show more than it may."""
    scopes = ("system/Patient.rs?active=false", "system/Task.rs")
    client = client_of(
        being_indexed, lambda request: Caller("them", "Them", frozenset({"coordinator"}), scopes),
        restrictions=rights.restrictions,
    )  # fmt: skip
    for path in ("Patient/p", "Patient?name=x", "Patient/p/_history", "Patient/_history", "?_type=Patient"):
        assert client.get(f"/fhir/{path}").status_code == 503, path
    assert client.get("/fhir/Task").status_code == 200
    reindex.finish(being_indexed, BASE)
    assert progress(being_indexed) == [(1, True)] * 2
    assert [client.get(f"/fhir/{path}").status_code for path in ("Patient/p", "Patient?name=x")] == [404, 200]


def test_in_an_empty_store_nothing_is_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    reindex.bring_up_to_date(database, BASE)
    monkeypatch.setattr(pending, "own", lambda: {"test-empty": {"code": "active", "base": ["Patient"]}})
    pending.begin(database)
    with database.reading() as connection:
        assert search.run(connection, query.parse("Patient", "active=true"), EVERYTHING, BASE).matches == ()


def test_the_thread_tries_again_after_a_failure(
    being_indexed: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, calls = reindex._index, []

    def fails_once(*of: Any) -> tuple[int, int]:
        calls.append(of)
        if len(calls) == 1:
            raise sa.exc.OperationalError("a statement with a value", {}, Exception("gone"))
        return real(*of)

    monkeypatch.setattr(reindex, "_index", fails_once)
    monkeypatch.setattr(reindex, "AGAIN_S", 0.1)
    with reindex.beside(being_indexed, BASE):
        ends = time.monotonic() + 20
        while not all(complete for _, complete in progress(being_indexed)):
            assert time.monotonic() < ends
            time.sleep(0.02)
    assert "a statement" not in caplog.text
    assert "OperationalError" in caplog.text
