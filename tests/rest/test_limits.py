"""Each limit of a request over HTTP: what reaches it is done, one more is refused with its name and what to do."""

from __future__ import annotations

import json
import re
import time
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop import config
from fhir_secondop.errors import TooCostly
from fhir_secondop.limits import RANGES, Limits
from fhir_secondop.model import Caller
from fhir_secondop.store import deadline, tables
from fhir_secondop.store.database import Database
from tests.conftest import new_postgres
from tests.rest.served import client_of
from tests.store.rows import named

FHIR, XML = "application/fhir+json", "application/fhir+xml"
RUN = Path(__file__).parents[2] / "docs" / "run.md"
SMALL = Limits(
    max_body_bytes=2000, max_values=1000, max_depth=11, max_entries=3, max_page=4,
    max_parameters=5, max_alternatives=9, max_chain=2, max_chain_types=6, max_included=4, max_sorted=6,
    max_asked=4,
)  # fmt: skip
PATIENT = {"resourceType": "Patient", "active": True}
PEOPLE = [(f"p{n}", {"active": n < 6}) for n in range(7)]


def padded(length: int) -> bytes:
    text = json.dumps(PATIENT)
    return (text + " " * (length - len(text))).encode()


def nested(levels: int) -> dict[str, Any]:
    """A Patient whose objects and lists stand so deep in each other."""
    inner: dict[str, Any] = {"url": "http://x.example/e", "valueString": "x"}
    if levels % 2 == 0:
        inner = {"url": "http://x.example/e", "valuePeriod": {"start": "2024"}}
    while levels > 4:
        inner = {"url": "http://x.example/e", "extension": [inner]}
        levels -= 2
    return {"resourceType": "Patient", "extension": [inner]}


def nested_xml(levels: int) -> str:
    inner, closed = '<extension url="http://x.example/e">', "</extension>"
    deep = (levels - 1) // 2
    return ('<Patient xmlns="http://hl7.org/fhir">' + inner * deep + '<valueString value="x"/>' + closed * deep
            + "</Patient>")  # fmt: skip


def bundle(entries: int) -> dict[str, Any]:
    entry = {"request": {"method": "POST", "url": "Patient"}, "resource": PATIENT}
    return {"resourceType": "Bundle", "type": "transaction", "entry": [entry] * entries}


# limit → (what reaches it, what goes beyond, the status and issue code then)
ASKED: dict[str, tuple[Any, Any, int, str]] = {
    "max_body_bytes": (padded(2000), padded(2001), 413, "too-costly"),
    "max_values": (
        {"resourceType": "Patient", "language": "," * 990},
        b'{"resourceType":"Patient","active":' + b"[" * 1000, 413, "too-costly",
    ),
    "max_depth": (nested(11), nested(12), 400, "structure"),
    "max_depth in XML": (nested_xml(11), nested_xml(13), 400, "structure"),
    "max_entries": (bundle(3), bundle(4), 413, "too-costly"),
    "max_parameters": ("&".join(["active=true"] * 5), "&".join(["active=true"] * 6), 422, "too-costly"),
    "max_alternatives": ("_id=" + ",".join("abcdefghi"), "_id=" + ",".join("abcdefghij"), 422, "too-costly"),
    "max_asked": ("_type=Patient,Observation&_id=a,b", "_type=Patient,Observation&_id=a,b,c", 422, "too-costly"),
    "max_chain": ("link:Patient.link:Patient.active=true", "link:Patient.link:Patient.link:Patient.active=true",
                  422, "too-costly"),
    "max_chain_types": ("general-practitioner.identifier=x", "_has:Provenance:target:entity.identifier=x",
                        422, "too-costly"),
    "max_included": ("_id=p1&_revinclude=Observation:subject", "_id=p1,p2&_revinclude=Observation:subject",
                     422, "too-costly"),
    "max_sorted": ("_sort=_id&active=true", "_sort=_id", 422, "too-costly"),
}  # fmt: skip


@pytest.fixture
def client(database: Database) -> Any:
    named(database, "Patient", PEOPLE)
    said = {"status": "final", "code": {"text": "x"}}
    named(database, "Observation", [
        (f"o{n}", {**said, "subject": {"reference": f"Patient/p{1 if n < 4 else 2}"}}) for n in range(5)
    ])  # fmt: skip
    caller = Caller("them", "Them", frozenset({"coordinator"}), ("system/*.cruds",))
    return client_of(database, lambda request: caller, limits=SMALL, xml=True)


def ask(client: Any, sent: Any) -> Any:
    """A search, where it is a query; else what is sent, a Bundle to the base."""
    if isinstance(sent, str) and not sent.startswith("<"):
        return client.get(f"/fhir?{sent}" if sent.startswith("_type") else f"/fhir/Patient?{sent}")
    if isinstance(sent, dict):
        where = "/fhir/" if sent["resourceType"] == "Bundle" else "/fhir/Patient"
        return client.post(where, data=json.dumps(sent), content_type=FHIR)
    return client.post("/fhir/Patient", data=sent, content_type=XML if isinstance(sent, str) else FHIR)


@pytest.mark.parametrize("row", ASKED)
def test_what_reaches_a_limit_is_done_and_one_more_is_refused_by_name(client: Any, row: str) -> None:
    within, beyond, status, code = ASKED[row]
    name = row.partition(" ")[0]
    done = ask(client, within)
    assert name not in done.text
    assert done.status_code in (200, 201) or row == "max_values", done.text
    refused = ask(client, beyond)
    assert refused.status_code == status, refused.text
    [issue] = refused.get_json()["issue"]
    assert issue["code"] == code
    assert re.search(rf"\b{name}\b", issue["diagnostics"]), issue
    # It is that number, and not another end, that refuses it.
    wider = client_of_wider(client, name)
    assert name not in ask(wider, beyond).text


def client_of_wider(client: Any, name: str) -> Any:
    endpoint = client.endpoint
    return client_of(
        endpoint.database, endpoint.authenticate, xml=True,
        limits=replace(endpoint.limits, **{name: getattr(Limits(), name)}),
    )  # fmt: skip


def test_a_page_has_as_many_as_it_may_and_a_link_to_the_rest(client: Any) -> None:
    page = client.get("/fhir/Patient?_count=1000").get_json()
    assert len(page["entry"]) == SMALL.max_page
    assert [link["relation"] for link in page["link"]] == ["self", "next"]
    assert len(client.get("/fhir/Patient/_history?_count=1000").get_json()["entry"]) == SMALL.max_page


ENDLESS = "&".join(f"name:contains={'a' * 900}b{'c' * n}" for n in range(3))  # each compared at every place of a name


def unhurried(database: Database, **limits: float) -> Any:
    caller = Caller("them", "Them", frozenset({"coordinator"}), ("system/*.cruds",))
    return client_of(database, lambda request: caller, limits=replace(Limits(), **limits))


def is_ended(answer: Any) -> bool:
    """Whether that is a refusal, and nothing of an answer."""
    said = answer.get_json()
    [issue] = said["issue"]
    assert (answer.status_code, said["resourceType"], issue["code"]) == (422, "OperationOutcome", "too-costly")
    return "max_search_s" in issue["diagnostics"]


@pytest.mark.parametrize("asked", [f"Patient?{ENDLESS}", f"Patient?{ENDLESS}&_sort=_id", f"Patient?{ENDLESS}&_count=0"],
    ids=["page", "sorted", "count"])  # fmt: skip
def test_a_search_that_takes_too_long_is_ended_as_it_works(sqlite_template: Path, tmp_path: Path, asked: str) -> None:
    path = tmp_path / "slow.sqlite"
    path.write_bytes(sqlite_template.read_bytes())
    database = Database(f"sqlite:///{path}", pool_size=1)
    named(database, "Patient", [(f"p{n}", {"name": [{"family": "a" * 1900}]}) for n in range(600)])
    began = time.perf_counter()
    assert unhurried(database, max_search_s=600).get(f"/fhir/{asked}").status_code == 200
    whole_s = time.perf_counter() - began
    assert whole_s > 0.3
    began = time.perf_counter()
    assert is_ended(unhurried(database, max_search_s=0.05).get(f"/fhir/{asked}"))
    assert time.perf_counter() - began < whole_s * 0.7
    # The connection serves the next one, which has its own time, and writes without an end.
    assert unhurried(database, max_search_s=0.1).get("/fhir/Patient?_id=p1").get_json()["entry"]
    named(database, "Patient", [("more", {"active": True})])
    database.dispose()


def test_a_search_that_waits_for_ever_is_ended_by_postgresql(postgres: str) -> None:
    database = Database(new_postgres(postgres), pool_size=2)
    database.migrate()
    named(database, "Patient", PEOPLE)
    client = unhurried(database, max_search_s=0.2)
    with database.engine.connect() as other:
        other.execute(sa.text("LOCK TABLE resource IN ACCESS EXCLUSIVE MODE"))
        began = time.perf_counter()
        assert is_ended(client.get("/fhir/Patient?active=true"))
        assert is_ended(client.get("/fhir/Patient/_history"))
        assert 0.4 <= time.perf_counter() - began < 5
        other.rollback()
    assert len(client.get("/fhir/Patient?active=true").get_json()["entry"]) == 6
    with database.engine.connect() as connection:
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar_one() == "0"
    database.dispose()


def test_the_criteria_of_a_write_that_take_too_long_hold_nobody_up(sqlite_template: Path, tmp_path: Path) -> None:
    path = tmp_path / "slow.sqlite"
    path.write_bytes(sqlite_template.read_bytes())
    database = Database(f"sqlite:///{path}", pool_size=1)
    named(database, "Patient", [(f"p{n}", {"name": [{"family": "a" * 1900}]}) for n in range(600)])
    client = unhurried(database, max_search_s=0.05)
    entry = {"resource": PATIENT, "request": {"method": "POST", "url": "Patient", "ifNoneExist": ENDLESS}}
    for path_, sent, headers in [
        ("/fhir/Patient", PATIENT, {"If-None-Exist": ENDLESS}),
        ("/fhir/", {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}, {}),
    ]:
        assert is_ended(client.post(path_, json=sent, headers=headers, content_type=FHIR))
        assert client.post("/fhir/Patient", json=PATIENT, content_type=FHIR).status_code == 201
    database.dispose()


def test_what_a_transaction_reads_ends_at_its_bytes(database: Database) -> None:
    named(database, "Basic", [(f"b{n}", {"code": {"text": "x" * 1000}}) for n in range(3)])
    reading = [{"request": {"method": "GET", "url": f"Basic/b{n}"}} for n in range(3)]
    writing = {"resource": PATIENT, "request": {"method": "POST", "url": "Patient"}}
    sent = {"resourceType": "Bundle", "type": "transaction", "entry": [writing, *reading]}
    refused = unhurried(database, max_page_bytes=2500).post("/fhir/", json=sent, content_type=FHIR)
    [issue] = refused.get_json()["issue"]
    assert (refused.status_code, issue["code"], issue["expression"]) == (422, "too-costly", ["Bundle.entry[3].request"])
    assert "max_page_bytes" in issue["diagnostics"]
    assert unhurried(database).get("/fhir/Patient?_total=accurate").get_json()["total"] == 0
    sent["entry"] = [writing, *reading[:2]]
    assert unhurried(database, max_page_bytes=2500).post("/fhir/", json=sent, content_type=FHIR).status_code == 200


def test_many_statements_together_have_the_time_of_one_search(database: Database) -> None:
    def many(connection: sa.Connection) -> None:
        with deadline.within(connection, 0.05):
            for _ in range(1000):
                connection.execute(sa.select(sa.func.count()).select_from(tables.resource)).scalar_one()
                time.sleep(0.01)

    named(database, "Patient", [(f"p{n}", {"active": True}) for n in range(300)])  # SQLite looks as it works
    with database.reading() as connection, pytest.raises(TooCostly):
        many(connection)


def test_every_limit_is_a_setting_of_the_file_and_of_a_variable(tmp_path: Path) -> None:
    assert set(RANGES) == {f.name for f in fields(Limits)}
    for name, (least, most) in RANGES.items():
        file = tmp_path / "secondop.toml"
        for value in (least, most):
            file.write_text(f"{name} = {value}")
            assert getattr(config.load(str(file), {}).limits, name) == value
            assert getattr(config.load("", {f"SECONDOP_{name.upper()}": str(value)}).limits, name) == value
        assert least <= getattr(Limits(), name) <= most


def test_the_page_about_running_it_lists_every_limit_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(max_\w+)` \| ([\d,.]+) \|", RUN.read_text("utf-8"), re.MULTILINE))
    said = {name: tomllib.loads(f"x = {value.replace(',', '_')}")["x"] for name, value in rows.items()}
    assert said == {f.name: getattr(Limits(), f.name) for f in fields(Limits)}
