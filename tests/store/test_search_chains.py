"""Chains, reverse chains, includes and orders, on both databases, with what a caller may see."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.access import rights
from fhir_secondop.errors import Gone, Invalid, TooCostly
from fhir_secondop.fhir import query
from fhir_secondop.limits import Limits
from fhir_secondop.model import EVERYTHING, Caller, Visibility
from fhir_secondop.store import includes, ordering, search
from fhir_secondop.store.database import Database
from tests.store.rows import BASE, delete, everything, let_in, named, put, refused

CODE = {"coding": [{"system": "http://loinc.org", "code": "1-1"}]}


def observation(patient: str, *, code: str = "1-1", **rest: Any) -> dict[str, Any]:
    coding = {"coding": [{"system": "http://loinc.org", "code": code}]}
    return {"status": "final", "code": coding, "subject": {"reference": f"Patient/{patient}"}, **rest}


@pytest.fixture
def linked(database: Database) -> Database:
    named(database, "Organization", [("north", {"name": "North"}), ("south", {"name": "South"})])
    for name, family, of in (("ada", "Ek", "north"), ("bob", "Berg", "south"), ("cy", "Ek", "south")):
        patient = {"name": [{"family": family}], "managingOrganization": {"reference": f"Organization/{of}"}}
        named(database, "Patient", [(name, patient)])
    named(database, "Device", [("pump", {"deviceName": [{"name": "Ek", "type": "other"}]})])
    named(
        database,
        "Observation",
        [
            ("a1", observation("ada")),
            ("a2", observation("ada", code="2-2")),
            ("b1", observation("bob")),
            ("c1", observation("cy", hasMember=[{"reference": "Observation/a1"}])),
            ("own", {"status": "final", "code": CODE, "subject": {"reference": f"{BASE}/Patient/ada"}}),
            ("there", {"status": "final", "code": CODE, "subject": {"reference": "https://other.example/Patient/ada"}}),
            ("device", {"status": "final", "code": CODE, "subject": {"reference": "Device/pump"}}),
        ],
    )
    return database


CHAINS = (
    ("Observation", "subject:Patient.name=ek", "a1 a2 c1 own"),
    ("Observation", "patient.name=ek", "a1 a2 c1 own"),
    ("Observation", "subject:Device.device-name=ek", "device"),
    ("Observation", "subject:Patient.name:exact=Ek&code=2-2", "a2"),
    ("Observation", "patient.organization.name=south", "b1 c1"),
    ("Observation", "patient.organization.name=north,south", "a1 a2 b1 c1 own"),
    ("Observation", "patient.organization:missing=false", "a1 a2 b1 c1 own"),
    ("Observation", "patient.name=nobody", ""),
    ("Observation", "has-member.patient.name=ek", "c1"),
    ("Observation", "subject.identifier=1", ""),
    ("Patient", "_has:Observation:patient:code=2-2", "ada"),
    ("Patient", "_has:Observation:subject:code=1-1", "ada bob cy"),
    ("Patient", "_has:Observation:patient:_has:Observation:has-member:code=1-1", "ada"),
    ("Patient", "organization.name=south&_has:Observation:patient:code=1-1", "bob cy"),
    ("Organization", "_has:Patient:organization:_has:Observation:patient:code=2-2", "north"),
    ("Observation", "patient._has:Observation:patient:code=2-2", "a1 a2 own"),
)


def test_chains(linked: Database) -> None:
    found = {asked: " ".join(everything(linked, kind, asked)) for kind, asked, _ in CHAINS}
    assert found == {asked: names for _, asked, names in CHAINS}


def test_what_is_deleted_is_on_no_way(linked: Database) -> None:
    with linked.reading() as connection:
        patient = search.run(connection, query.parse("Patient", "_id=ada"), EVERYTHING, BASE).matches[0]
    delete(linked, patient)
    assert everything(linked, "Observation", "patient.name=ek") == ["c1"]


@pytest.mark.parametrize("asked", [
    "subject.nonsense=1", "subject:Nothing.name=x", "code.name=x", "_has:Observation:code:code=1", "_has:Patient=1",
    "_has:Nothing:patient:code=1", "subject:Patient.organization.partof.partof.partof.partof.name=x", "subject.=x",
    "_has:Observation:patient:nothing=1", "patient.name:below=x",
])  # fmt: skip
def test_a_chain_that_leads_nowhere_is_refused(linked: Database, asked: str) -> None:
    assert refused(linked, "Observation", asked)


def reader() -> Visibility:
    return rights.visibility(Caller("eve", "Eve", frozenset({"reviewer"}), (), parties=frozenset({"eve"})), 0)


def test_nothing_is_found_through_what_may_not_be_seen(database: Database) -> None:
    """Eve sees one case: the patient of another one is no way to find an observation of hers, nor the other way."""
    put(database, {"resourceType": "Patient", "name": [{"family": "Hidden"}]}, resource_id="theirs", case_id="other")
    put(database, {"resourceType": "Patient", "name": [{"family": "Seen"}]}, resource_id="hers", case_id="mine")
    for name, patient in (("o1", "theirs"), ("o2", "hers")):
        put(database, {"resourceType": "Observation", **observation(patient)}, resource_id=name, case_id="mine")
    put(database, {"resourceType": "Observation", **observation("hers", code="9-9")}, resource_id="o3", case_id="other")
    let_in(database, "mine", "eve")
    eve = reader()
    table = {
        ("Observation", ""): "o1 o2", ("Observation", "patient.name=hidden"): "",
        ("Observation", "patient.name=seen"): "o2",
        ("Patient", "_has:Observation:patient:code=9-9"): "", ("Patient", "_has:Observation:patient:code=1-1"): "hers",
    }  # fmt: skip
    assert {key: " ".join(everything(database, *key, visibility=eve)) for key in table} == table
    assert everything(database, "Observation", "patient.name=hidden") == ["o1"]
    assert came_with(database, "Observation", "_include=Observation:patient", eve) == ["hers"]
    assert came_with(database, "Patient", "_revinclude=Observation:patient", eve) == ["o2"]


# includes


def came_with(
    database: Database,
    kind: str,
    asked: str,
    visibility: Visibility = EVERYTHING,
    types: str = "",
    most: int = 1000,
    most_bytes: int = 1_000_000,
) -> list[str]:
    wanted = query.parse(kind, asked)
    with database.reading() as connection:
        page = search.run(connection, wanted, visibility, BASE)
        found = includes.included(
            connection,
            page.matches,
            wanted.includes,
            visibility,
            BASE,
            lambda of, _: not types or of in types.split(),
            Limits(max_included=most, max_page_bytes=most_bytes),
        )
    return [each.id for each in found]


INCLUDES = (
    ("_id=a1,c1&_include=Observation:subject", "ada cy"),
    ("_id=a1,device&_include=Observation:subject:Patient", "ada"),
    ("_id=a1&_include=Observation:*", "ada"),
    ("_id=a1&_include=*", "ada"),
    ("_id=own,there&_include=Observation:patient", "ada"),
    ("_id=a1&_include=Patient:organization", ""),
    ("_id=a1&_include=Observation:patient&_include:iterate=Patient:organization", "ada north"),
    ("_id=a1&_include=Observation:patient&_include:recurse=Patient:organization", "ada north"),
    ("_id=a1&_include=Observation:patient&_include=Patient:organization", "ada"),
    ("_id=c1&_include:iterate=Observation:has-member&_include:iterate=Observation:patient", "a1 cy ada"),
    ("_id=a1&_revinclude=Observation:has-member", "c1"),
    ("_id=a1,a2&_include=Observation:patient", "ada"),
    ("_id=a1&_revinclude:iterate=Observation:has-member&_include:iterate=Observation:patient", "c1 ada cy"),
)


def test_includes(linked: Database) -> None:
    found = {asked: " ".join(came_with(linked, "Observation", asked)) for asked, _ in INCLUDES}
    assert found == dict(INCLUDES)
    assert came_with(linked, "Observation", "_id=a1,device&_include=Observation:subject", types="Device") == ["pump"]


@pytest.mark.parametrize("asked", ["_include=x", "_include=Observation:code", "_include=Nothing:subject",
    "_revinclude=*", "_revinclude=Observation:*", "_include:other=Observation:subject", "_include=Observation",
    "_include=Observation:subject:Nothing", "_include=Observation:subject:Patient:x"])  # fmt: skip
def test_an_include_that_says_nothing_is_refused(linked: Database, asked: str) -> None:
    assert refused(linked, "Observation", asked)


def test_too_much_that_would_come_along_is_refused(database: Database) -> None:
    named(database, "Patient", [("p", {"active": True})])
    named(database, "Observation", [(f"o{number}", observation("p")) for number in range(4)])
    with pytest.raises(Invalid, match="_count"):
        came_with(database, "Patient", "_revinclude=Observation:patient", most=3)
    assert len(came_with(database, "Patient", "_revinclude=Observation:patient", most=4)) == 4
    with pytest.raises(TooCostly, match="max_page_bytes"):
        came_with(database, "Patient", "_revinclude=Observation:patient", most_bytes=300)


# order


def test_orders(database: Database) -> None:
    people = [("b", "Berg", "1980"), ("a", "Ek", "1970-05-01"), ("c", "ek", "1990"), ("none", "", "")]
    for name, family, born in people:
        patient = {"name": [{"family": family}]} if family else {"active": True}
        named(database, "Patient", [(name, patient | ({"birthDate": born} if born else {}))])
    table = {
        "_sort=family": "b a c none", "_sort=-family": "a c b none", "_sort=birthdate": "a b c none",
        "_sort=-birthdate": "c b a none", "_sort=family,-birthdate": "b c a none", "_sort=_id": "a b c none",
        "_sort=-_id": "none c b a", "_sort=_lastUpdated": "b a c none", "_sort=-_lastUpdated": "none c a b",
        "_sort=family&birthdate=gt1975": "b c", "_sort=": "b a c none",
    }  # fmt: skip
    assert {asked: " ".join(everything(database, "Patient", asked)) for asked in table} == table
    for asked in ("_sort=nothing", "_sort=--family", "_sort=family,,", "_sort=a,b,c,d,e,f"):
        assert refused(database, "Patient", asked), asked


def page(database: Database, asked: str, visibility: Visibility = EVERYTHING) -> tuple[list[str], str]:
    """The ids of one page and the link to the next, with a list that is kept as the endpoint keeps it."""
    wanted = query.parse("Patient", asked)
    with database.reading() as connection:
        found = search.run(connection, wanted, visibility, BASE)
    following = found.next_page
    if found.to_keep:
        following = ordering.keep(database, wanted, visibility, found.to_keep, found.shown)
    return [each.id for each in found.matches], following


def test_pages_in_an_order_that_changes_meanwhile_show_each_match_once(database: Database) -> None:
    named(database, "Patient", [(f"p{n}", {"name": [{"family": f"{n}"}]}) for n in range(5)])
    found, following = page(database, "_sort=-family&_count=2")
    assert found == ["p4", "p3"]
    named(database, "Patient", [("new", {"name": [{"family": "9"}]})])
    with database.reading() as connection:
        last = search.run(connection, query.parse("Patient", "_id=p0"), EVERYTHING, BASE).matches[0]
    delete(database, last)
    found, following = page(database, f"_sort=-family&_count=2&_page={following}")
    assert found == ["p2", "p1"]
    found, following = page(database, f"_sort=-family&_count=2&_page={following}")
    assert (found, following) == ([], "")


def test_a_list_belongs_to_who_asked_and_what_was_asked_and_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(database, "Patient", [(f"p{n}", {"active": True}) for n in range(3)])
    _, following = page(database, "_sort=_id&_count=1")
    for asked in ("_sort=-_id&_count=1", "_sort=_id&_count=1&active=true"):
        with pytest.raises(Invalid):
            page(database, f"{asked}&_page={following}")
    with pytest.raises(Invalid):
        page(database, f"_sort=_id&_count=1&_page={following}", reader())
    for link in ("x", f"{following}x", f"{'0' * 32}.x", "1.1"):
        with pytest.raises(Invalid):
            page(database, f"_sort=_id&_count=1&_page={link}")
    now = ordering.now_ms() + ordering.KEPT_MS + 1
    monkeypatch.setattr(ordering, "now_ms", lambda: now)
    with pytest.raises(Gone, match="start"):
        page(database, f"_sort=_id&_count=1&_page={following}")


def test_too_many_to_sort_is_refused(database: Database) -> None:
    named(database, "Patient", [(f"p{n}", {"active": True}) for n in range(3)])
    with database.reading() as connection, pytest.raises(TooCostly, match="max_sorted"):
        search.run(connection, query.parse("Patient", "_sort=_id", limits=Limits(max_sorted=2)), EVERYTHING, BASE)


def test_the_oldest_lists_make_room(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MAX_LISTS", 3)
    named(database, "Patient", [(f"p{n}", {"active": True}) for n in range(3)])
    begin = ordering.now_ms()
    links = []
    for number in range(5):
        monkeypatch.setattr(ordering, "now_ms", lambda at=begin + number: at)
        links.append(page(database, "_sort=_id&_count=1")[1])
    for link in links[:2]:
        with pytest.raises(Gone):
            page(database, f"_sort=_id&_count=1&_page={link}")
    for link in links[2:]:
        assert page(database, f"_sort=_id&_count=1&_page={link}")[0] == ["p1"]


def test_what_points_back_is_never_cut_without_a_word(database: Database) -> None:
    """A match may be among what points to the others: it takes no place of what has to come along."""
    named(database, "Patient", [("p", {"active": True})])
    named(database, "Observation", [("first", observation("p"))])
    for number in range(3):
        member = {"hasMember": [{"reference": "Observation/first"}]}
        named(database, "Observation", [(f"o{number}", observation("p", **member))])
    asked = "_revinclude=Observation:has-member"
    assert came_with(database, "Observation", f"_id=first&{asked}", most=3) == ["o0", "o1", "o2"]
    assert came_with(database, "Observation", f"_id=first,o0&{asked}", most=3) == ["o1", "o2"]
    named(database, "Observation", [("o3", observation("p", **member))])
    # Four point to it, one of which is a match itself: three come along.
    assert came_with(database, "Observation", f"_id=first,o0&{asked}", most=3) == ["o1", "o2", "o3"]
    named(database, "Observation", [("o4", observation("p", **member))])
    with pytest.raises(Invalid, match="_count"):
        came_with(database, "Observation", f"_id=first,o0&{asked}", most=3)
