"""Every shape of search goes along indexes, on both databases: nothing that grows is read through."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.fhir import criteria, query
from fhir_secondop.model import EVERYTHING, Caller, Visibility
from fhir_secondop.store import includes, narrowing, ordering, resources, search, tables
from fhir_secondop.store.database import Database
from tests.store.rows import BASE, DESK, create, named, sees

# Grow with what is stored; the rest are one row, or one for each of something small.
GROWING = {each.name for each in (tables.resource, tables.version, tables.audience, *tables.INDEXES)}
SHAPES = {
    "default page": ("Observation", ""),
    "id": ("Observation", "_id=o1"),
    "ids": ("Observation", "_id=o1,o2"),
    "not an id": ("Observation", "_id:not=o1"),
    "changed since": ("Observation", "_lastUpdated=gt2020-01-01"),
    "changed until": ("Observation", "_lastUpdated=le2020-01-01"),
    "changed in": ("Observation", "_lastUpdated=2026"),
    "changed in about": ("Observation", "_lastUpdated=ap2026"),
    "token": ("Observation", "code=urn:s|c1"),
    "token, any system": ("Observation", "code=c1"),
    "token, no system": ("Observation", "code=|c1"),
    "token, all of a system": ("Observation", "code=urn:s|"),
    "tokens": ("Observation", "code=urn:s|c1,c2"),
    "not a token": ("Observation", "code:not=c1"),
    "a token's text": ("Observation", "code:text=glu"),
    "a token of a type": ("Patient", "identifier:of-type=urn:t|MR|1"),
    "no token": ("Observation", "code:missing=true"),
    "any token": ("Observation", "code:missing=false"),
    "string": ("Patient", "family=abe"),
    "string, exact": ("Patient", "family:exact=Abel"),
    "string, within": ("Patient", "family:contains=be"),
    "no string": ("Patient", "family:missing=true"),
    **{f"date {prefix}": ("Observation", f"date={prefix}2026-01-02")
       for prefix in ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")},
    "no date": ("Observation", "date:missing=true"),
    "reference": ("Observation", "patient=Patient/p1"),
    "reference, bare": ("Observation", "subject=p1"),
    "reference of a type": ("Observation", "subject:Patient=p1"),
    "reference elsewhere": ("Observation", "subject=https://elsewhere.example/Patient/1"),
    "reference by identifier": ("Observation", "subject:identifier=urn:s|1"),
    "no reference": ("Observation", "patient:missing=true"),
    **{f"quantity {prefix}": ("Observation", f"value-quantity={prefix}5")
       for prefix in ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")},
    "quantity with unit": ("Observation", "value-quantity=5|http://unitsofmeasure.org|mg"),
    "number": ("RiskAssessment", "probability=gt0.5"),
    "uri": ("ValueSet", "url=http://x.example/v1"),
    "uri below": ("ValueSet", "url:below=http://x.example/"),
    "uri above": ("ValueSet", "url:above=http://x.example/v1/2"),
    "composite": ("Observation", "code-value-quantity=urn:s|c1$gt1"),
    "composite of a part": ("Observation", "component-code-value-quantity=a$1"),
    "two": ("Observation", "patient=Patient/p1&status=final"),
    "three": ("Observation", "patient=Patient/p1&status=final&date=ge2026"),
    "chain": ("Observation", "subject:Patient.identifier=urn:s|1"),
    "chain of any type": ("Observation", "subject.identifier=urn:s|1"),
    "chain of two": ("Observation", "encounter.subject:Patient.family=abe"),
    "chain and another": ("Observation", "subject:Patient.identifier=urn:s|1&status=final"),
    "has": ("Patient", "_has:Observation:patient:code=urn:s|c1"),
    "has of a chain": ("Patient", "_has:Observation:patient:encounter.status=finished"),
    "has and another": ("Patient", "_has:Observation:patient:code=urn:s|c1&family=abe"),
    "profile": ("Observation", "_profile=http://x.example/p"),
    "tag": ("Observation", "_tag=urn:s|t"),
    "compartment": ("Observation", "within Patient/p1"),
    "compartment and another": ("Observation", "within Patient/p1&status=final"),
    "include": ("Observation", "patient=Patient/p1&_include=Observation:patient"),
    "include all": ("Observation", "patient=Patient/p1&_include=*"),
    "revinclude": ("Patient", "identifier=urn:s|1&_revinclude=Observation:patient"),
    "revinclude on and on": ("Patient", "identifier=urn:s|1&_revinclude:iterate=Observation:patient"),
    "sorted": ("Observation", "patient=Patient/p1&_sort=-date"),
    "sorted by several": ("Observation", "patient=Patient/p1&_sort=code,-date,value-quantity,_lastUpdated,_id"),
    "all sorted": ("Observation", "_sort=-date"),
    "counted": ("Observation", "patient=Patient/p1&_summary=count"),
    "all counted": ("Observation", "_summary=count"),
    "with total": ("Observation", "status=final&_total=accurate"),
    "types": ("Observation,Encounter", ""),
    "types, ids": ("Observation,Encounter", "_id=o1,e1"),
    "types, changed since": ("Observation,Encounter", "_lastUpdated=gt2020-01-01"),
    "types, reference": ("Observation,Encounter", "patient=Patient/p1"),
    "types, chain and another": ("Observation,Encounter", "subject:Patient.family=abe&_profile=http://x.example/p"),
    "types sorted": ("Observation,Encounter", "patient=Patient/p1&_sort=-date,_id"),
    "types counted": ("Observation,Encounter", "patient=Patient/p1&_summary=count"),
}  # fmt: skip
# What R4 lets nobody look up goes through the resources of its type, and through nothing else.
BY_TYPE = re.compile(r"ix_resource_created \(type=\? AND deleted=\?\)")
READER = sees(Caller("dr", "Dr", frozenset({"provider"}), ("user/*.rs",), parties=("urn:npi|1",)))


@pytest.fixture
def filled(database: Database) -> Database:
    """A few of each, and in PostgreSQL what it must know to plan."""
    with database.transaction(DESK) as tx:
        for number in range(12):
            create(tx, {
                "resourceType": "Patient", "name": [{"family": "Abel"}],
                "identifier": [{"system": "urn:s", "value": str(number),
                                "type": {"coding": [{"system": "urn:t", "code": "MR"}]}}],
            }, resource_id=f"p{number}")  # fmt: skip
            create(tx, {"resourceType": "Encounter", "status": "finished",
                        "subject": {"reference": f"Patient/p{number}"}}, resource_id=f"e{number}")  # fmt: skip
            for one in range(3):
                create(tx, {
                    "resourceType": "Observation", "status": "final", "effectiveDateTime": f"2026-01-0{one + 1}",
                    "meta": {"profile": ["http://x.example/p"], "tag": [{"system": "urn:s", "code": "t"}]},
                    "code": {"coding": [{"system": "urn:s", "code": f"c{one}", "display": "Glucose"}]},
                    "subject": {"reference": f"Patient/p{number}"}, "encounter": {"reference": f"Encounter/e{number}"},
                    "valueQuantity": {"value": one, "system": "http://unitsofmeasure.org", "code": "mg"},
                    "component": [{"code": {"coding": [{"code": "a"}]}, "valueQuantity": {"value": 1}}],
                }, resource_id=f"o{3 * number + one}")  # fmt: skip
    named(database, "ValueSet", [(f"v{n}", {"status": "draft", "url": f"http://x.example/v{n}"}) for n in range(3)])
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE"))
    return database


@contextmanager
def asked(database: Database, into: list[tuple[str, Any]]) -> Iterator[None]:
    """Notes each statement that is executed meanwhile."""

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        into.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)


def statements(database: Database, kind: str, text: str, visibility: Visibility = EVERYTHING) -> list[tuple[str, Any]]:
    """What a search of two pages asks the database."""
    found: list[tuple[str, Any]] = []
    first, _, rest = text.partition("&")
    within = first.removeprefix("within ") if first.startswith("within ") else ""
    text = rest if within else text
    page = ""
    for _ in range(2):
        more = "&_count=2" if "_summary" not in text else ""
        types = kind.split(",") if "," in kind else kind
        wanted = query.parse(types, f"{text}{more}".removeprefix("&") + (f"&_page={page}" if page else ""))
        if within:
            way = criteria.in_compartment(*within.split("/"), kind)
            wanted = query.Search(**{**_fields(wanted), "criteria": (way, *wanted.criteria)})
        with database.reading() as connection, asked(database, found):
            said = search.run(connection, wanted, visibility, BASE)
            includes.included(connection, said.matches, wanted.includes, visibility, BASE, lambda kind, is_search: True)
        page = ordering.keep(database, wanted, visibility, said.to_keep, said.shown) if said.to_keep else said.next_page
        if not page:
            break
    return found


def _fields(wanted: query.Search) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in wanted.__dataclass_fields__}


def scans(database: Database, asked: list[tuple[str, Any]]) -> list[str]:
    """Where these statements read through what grows."""
    with database.reading() as connection:
        return [each for statement in asked for each in _scans(database, connection, *statement)]


def _scans(database: Database, connection: sa.Connection, statement: str, parameters: Any) -> list[str]:
    if database.is_sqlite:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        return [row[3] for row in rows if _is_scan(row[3])]
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return [
        f"{node['Node Type']} {node.get('Relation Name')} {node.get('Index Name', '')}"
        for node in _nodes(plan[0]["Plan"])
        if node.get("Relation Name") in GROWING and node["Node Type"] == "Seq Scan"
    ]


def _is_scan(line: str) -> bool:
    name = re.match(r"SCAN (\w+?)(?:_\d+)?\b", line)
    return "AUTOMATIC" in line or (name is not None and name[1] in GROWING)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


@pytest.mark.parametrize("visibility", [EVERYTHING, READER], ids=["all", "reader"])
@pytest.mark.parametrize("few", [2000, 0], ids=["few", "many"])
def test_no_search_reads_through_a_table(
    filled: Database, monkeypatch: pytest.MonkeyPatch, few: int, visibility: Visibility
) -> None:
    monkeypatch.setattr(narrowing, "FEW", few)
    found = {name: scans(filled, statements(filled, *shape, visibility)) for name, shape in SHAPES.items()}
    assert {name: where for name, where in found.items() if where} == {}


# What a resource does not have, or has otherwise, stands in no list: these go from one of the type to the next.
ALONG_THE_TYPE = {
    "default page", "not an id", "not a token", "no token", "any token", "no string", "no date", "no reference",
    "all sorted", "all counted", "types",
}  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL plans by its statistics
def test_what_matches_few_is_not_found_by_going_through_its_type(filled: Database) -> None:
    through = set()
    for name, shape in SHAPES.items():
        with filled.reading() as connection:
            for statement, parameters in statements(filled, *shape):
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                if any(BY_TYPE.search(row[3]) for row in rows):
                    through.add(name)
    assert through == ALONG_THE_TYPE


@pytest.mark.parametrize("few", [2000, 0], ids=["few", "many"])
def test_reads_and_histories_go_along_indexes(filled: Database, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(narrowing, "FEW", few)
    found: list[tuple[str, Any]] = []
    for seen in (EVERYTHING, READER):
        with filled.reading() as connection, asked(filled, found):
            assert (resources.find(connection, seen, "Observation", "o1") is not None) == (seen is EVERYTHING)
            if seen is EVERYTHING:
                resources.history(connection, seen, "Observation", "o1")
            resources.history_of_types(connection, seen, ["Observation"], 3, since_ms=1, most_bytes=10**6)
            resources.history_of_types(connection, seen, ["Observation"], 3, before_ms=2**50, most_bytes=10**6)
    if few:
        assert scans(filled, found) == []
    else:  # the newest versions of all, until the page is full
        assert set(scans(filled, found)) <= {"SCAN version USING INDEX sqlite_autoindex_version_2"}


def test_a_shape_without_its_index_is_seen(filled: Database) -> None:
    with filled.appending() as connection:
        connection.execute(sa.text("DROP INDEX ix_reference_target"))
        connection.execute(sa.text("DROP INDEX ix_reference_rid"))
    narrowing_on = "SELECT rid FROM ix_reference WHERE target = 'Patient/p1'"
    assert scans(filled, [(narrowing_on, () if filled.is_sqlite else {})])
