"""Chains, includes, orders and excerpts over HTTP, on both databases: what each page is, and who may ask."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhir_secondop.fhir import definitions, excerpts, query, times
from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import EVERYTHING, Caller
from fhir_secondop.store import search
from fhir_secondop.store.database import Database
from tests.rest.served import client_of
from tests.store.rows import BASE, delete, named, update

SCOPES = {"all": ("system/*.rs",), "observations": ("system/Observation.rs",), "by-id": ("system/Patient.r",)}
PATIENT = {
    "name": [{"family": "Sampleton"}], "birthDate": "1970-01-01", "gender": "female",
    "contact": [{"name": {"text": "x"}}],
    "photo": [{"url": "http://x.example/photo"}], "multipleBirthBoolean": False,
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">Sampleton</div>'},
    "link": [{"other": {"reference": "Patient/p1"}, "type": "seealso"}],
    "meta": {"tag": [{"system": "urn:x", "code": "kept"}]},
}  # fmt: skip


@pytest.fixture
def client(database: Database) -> Any:
    named(database, "Patient", [(f"p{number}", PATIENT) for number in range(5)])
    observation = {"status": "final", "code": {"text": "x"}}
    named(database, "Observation", [
        (f"o{number}", {**observation, "subject": {"reference": f"Patient/p{number}"}}) for number in range(5)
    ])  # fmt: skip

    def authenticate(request: Any) -> Caller:
        return Caller("them", "Them", frozenset({"coordinator"}), SCOPES[request.headers.get("As", "all")])

    return client_of(database, authenticate)


def bundle(client: Any, path: str, status: int = 200, **headers: str) -> dict[str, Any]:
    answer = client.get(path if path.startswith("/fhir") else f"/fhir/{path}", headers=headers)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = json.loads(answer.text)
    assert [issue for issue in validate(found) if issue.severity == "error"] == []
    return found


def shown(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["resource"]["id"], entry["search"]["mode"]) for entry in found.get("entry", [])]


def test_what_comes_along_is_marked_and_not_counted(client: Any) -> None:
    found = bundle(client, "Observation?_id=o1,o2&_include=Observation:subject&_total=accurate")
    assert shown(found) == [("o1", "match"), ("o2", "match"), ("p1", "include"), ("p2", "include")]
    assert found["total"] == 2
    found = bundle(client, "Patient?_id=p1&_revinclude=Observation:patient")
    assert shown(found) == [("p1", "match"), ("o1", "include")]


def test_a_search_goes_only_where_its_scope_does(client: Any) -> None:
    assert shown(bundle(client, "Observation?patient.family=sampleton&_count=1"))[0] == ("o0", "match")
    for asked in ("Observation?patient.family=sampleton", "Observation?subject:Patient.family=sampleton",
                  "Observation?_has:Patient:link:family=sampleton"):  # fmt: skip
        told = bundle(client, asked, 403, As="observations")
        assert told["resourceType"] == "OperationOutcome"
    # Without the right to read patients none comes along; who may only read may not search for what points here.
    found = bundle(client, "Observation?_id=o1&_include=Observation:subject", As="observations")
    assert shown(found) == [("o1", "match")]
    assert bundle(client, "Patient?_id=p1", 403, As="by-id")


@pytest.mark.parametrize("order", ["_sort=-_id", "_sort=-_lastUpdated", "_sort=family,-_id", ""])
def test_pages_are_followed_by_their_links(client: Any, order: str) -> None:
    path, seen = f"Patient?_count=2&_total=accurate&{order}", []
    while path:
        found = bundle(client, path)
        assert found["total"] == 5
        seen += [name for name, _ in shown(found)]
        following = [link["url"] for link in found["link"] if link["relation"] == "next"]
        path = following[0].removeprefix(BASE.removesuffix("/fhir")) if following else ""
    assert seen == ["p0", "p1", "p2", "p3", "p4"][:: -1 if order else 1]


def test_an_excerpt_is_labelled_and_keeps_what_must_be_there(client: Any) -> None:
    tags = [{"system": "urn:x", "code": "kept"}, excerpts.SUBSETTED]
    whole = bundle(client, "Patient?_id=p2")["entry"][0]["resource"]
    # Patient.link changes the meaning of the rest, so it is in each.
    table = {
        "_elements=name": {"name", "link"}, "_elements=Patient.birthDate,gender": {"birthDate", "gender", "link"},
        "_summary=text": {"text", "link"}, "_summary=data": set(PATIENT) - {"text", "meta"},
        "_summary=true": {"name", "birthDate", "gender", "link"},
    }  # fmt: skip
    for asked, kept in table.items():
        [entry] = bundle(client, f"Patient?_id=p2&{asked}")["entry"]
        part = entry["resource"]
        assert set(part) - {"resourceType", "id", "meta"} == kept, asked
        assert part["meta"]["tag"] == tags
        assert all(part[name] == whole[name] for name in kept)
    assert bundle(client, "Patient?_summary=false&_id=p2")["entry"][0]["resource"] == whole


def test_a_summary_that_counts_shows_nothing_else(client: Any) -> None:
    found = bundle(client, "Patient?_summary=count")
    assert (found["total"], shown(found)) == (5, [])


def test_the_summary_of_every_type_keeps_what_it_demands() -> None:
    """A part that lacked what must be there would be no resource at all to a client that reads strictly."""
    for kind in definitions.resource_types():
        elements = definitions.structure(kind).elements.values()
        required = {next(element.members())[0] for element in elements if element.min}
        made: dict[str, Any] = {"resourceType": kind, **{key: {} for key in required}}
        parts = [excerpts.summary(made, said) for said in ("true", "text", "data")]
        for part in (*parts, excerpts.of_elements(made, ())):
            assert required <= set(part), kind


def test_a_search_by_form_means_the_same(client: Any) -> None:
    said = {"_id": "o1", "_include": "Observation:subject", "_sort": "_id"}
    posted = json.loads(client.post("/fhir/Observation/_search", data=said).text)
    assert shown(posted) == [("o1", "match"), ("p1", "include")]


def test_what_is_refused_says_where(client: Any) -> None:
    for asked, name in (("subject.nothing=x", "subject.nothing"), ("_sort=x", "_sort"), ("_include=x", "_include"),
                        ("_elements=x", "_elements"), ("near=1", "near"), ("_text=x", "_text")):  # fmt: skip
        told = bundle(client, f"Observation?{asked}", 422)
        assert told["issue"][0]["expression"] == [name]
    for asked in ("Location?near=1|2|3|km", "Location?partof.near=1|2", "PractitionerRole?location.near=1|2"):
        [issue] = bundle(client, asked, 422)["issue"]
        assert issue["code"] == "not-supported"
        assert "address-postalcode" in issue["diagnostics"]
    ignored = bundle(client, "Observation?_sort=x&subject.nothing=x&_id=o1", Prefer="handling=lenient")
    assert ignored["link"][0]["url"] == f"{BASE}/Observation?_id=o1"
    assert [issue["severity"] for issue in ignored["entry"][-1]["resource"]["issue"]] == ["warning", "warning"]


def test_a_compartment_is_searched_by_all_ways_into_it(client: Any, database: Database) -> None:
    named(database, "Observation", [("by-performer", {"status": "final", "code": {"text": "x"},
                                                      "performer": [{"reference": "Patient/p1"}]})])  # fmt: skip
    found = bundle(client, "Patient/p1/Observation?_sort=_id&_total=accurate")
    assert (shown(found), found["total"]) == ([("by-performer", "match"), ("o1", "match")], 2)
    assert found["link"][0]["url"].startswith(f"{BASE}/Patient/p1/Observation?")
    assert shown(bundle(client, "Patient/p1/Observation?status=amended")) == []
    assert shown(bundle(client, "Patient/p2/Patient")) == [("p2", "match")]
    page = bundle(client, "Patient/p1/Observation?_sort=_id&_count=1")
    following = next(link["url"] for link in page["link"] if link["relation"] == "next")
    assert shown(bundle(client, following.removeprefix(BASE.removesuffix("/fhir")))) == [("o1", "match")]
    # The list of one compartment is none of another's.
    assert bundle(client, following.partition("/fhir/")[2].replace("Patient/p1", "Patient/p2"), 400)
    for path in ("Patient/p1/Organization", "Patient/p1/Nothing", "Organization/x/Patient", "Patient/p1/Device"):
        assert bundle(client, path, 404)["resourceType"] == "OperationOutcome"
    assert bundle(client, "Patient/p1/Observation", 403, As="by-id")


def test_the_history_of_a_type_has_every_version_once_newest_first(client: Any, database: Database) -> None:
    with database.reading() as connection:
        first = search.run(connection, query.parse("Patient", "_id=p1"), EVERYTHING, BASE).matches[0]
    second = update(database, first, {"resourceType": "Patient", "active": True})
    delete(database, second)
    seen, path, pages = [], "Patient/_history?_count=3", 0
    while path:
        found = bundle(client, path)
        seen += [(e["fullUrl"].rpartition("/")[2], e["request"]["method"]) for e in found["entry"]]
        following = [link["url"] for link in found["link"] if link["relation"] == "next"]
        path, pages = (following[0].removeprefix(BASE.removesuffix("/fhir")) if following else ""), pages + 1
        named(database, "Patient", [(f"new{pages}", {"active": True})])
    assert seen == [("p1", "DELETE"), ("p1", "PUT"), *((f"p{n}", "POST") for n in (4, 3, 2, 1, 0))]
    assert pages == 3
    since = times.instant(second.updated)
    found = bundle(client, f"Patient/_history?_since={since}&_count=500")
    assert [e["response"]["etag"] for e in found["entry"]][-2:] == ['W/"3"', 'W/"2"']
    assert bundle(client, "Patient/_history?_since=2999").get("entry", []) == []
    for asked, status in (("_at=2024", 400), ("name=x", 400), ("_since=x", 422), ("_count=x", 422), ("_page=x", 400)):
        assert bundle(client, f"Patient/_history?{asked}", status)
    assert bundle(client, "Patient/_history", 403, As="observations")


def test_several_types_are_searched_at_once(client: Any) -> None:
    found = bundle(client, "?_type=Patient,Observation&_total=accurate&_count=500")
    assert (len(found["entry"]), found["total"]) == (10, 10)
    assert found["link"][0]["url"] == f"{BASE}?_type=Patient%2CObservation&_total=accurate&_count=500"
    # What each of them has as a parameter, and what goes along with a match.
    found = bundle(client, "?_type=Observation,Patient&_id=o1,p2&_include=Observation:subject")
    assert shown(found) == [("p2", "match"), ("o1", "match"), ("p1", "include")]
    assert shown(bundle(client, "?_type=Observation&patient.family=sampleton&_id=o1")) == [("o1", "match")]
    # Without _type what all types have, here and by form.
    assert len(bundle(client, "?_tag=urn:x|kept")["entry"]) == 5
    posted = json.loads(client.post("/fhir/_search", data={"_id": "o1,p1,p2"}).text)
    assert shown(posted) == [("p1", "match"), ("p2", "match"), ("o1", "match")]
    assert bundle(client, "?_type=Patient,Observation&_summary=count&_id=p1,o1,o2")["total"] == 3
    [entry] = bundle(client, "?_type=Patient,Observation&_elements=name,code&_id=p1")["entry"]
    assert set(entry["resource"]) == {"resourceType", "id", "meta", "name", "link"}


@pytest.mark.parametrize("order", ["_sort=-_id", "_sort=-_lastUpdated", "_sort=identifier", ""])
def test_pages_over_several_types_show_each_match_once(client: Any, database: Database, order: str) -> None:
    path, seen, pages = f"?_type=Encounter,Patient,Observation&_count=3&_total=accurate&{order}", [], 0
    while path:
        found = bundle(client, path)
        assert found["total"] == 10
        seen += [name for name, _ in shown(found)]
        following = [link["url"] for link in found["link"] if link["relation"] == "next"]
        path, pages = (following[0].removeprefix(BASE.removesuffix("/fhir")) if following else ""), pages + 1
        named(database, "Encounter", [(f"later{pages}", {"status": "planned", "class": {"code": "x"}})])
    everyone = [*(f"p{n}" for n in range(5)), *(f"o{n}" for n in range(5))]
    assert seen == {"_sort=-_id": [*everyone[4::-1], *everyone[:4:-1]], "_sort=-_lastUpdated": everyone[::-1]}.get(
        order, everyone
    )


def test_a_search_over_several_types_says_what_it_was_not_asked_of(client: Any) -> None:
    found = bundle(client, "?_lastUpdated=gt2000", As="observations")
    assert {name for name, _ in shown(found)} == {f"o{n}" for n in range(5)}
    assert found["link"][0]["url"] == f"{BASE}?_type=Observation&_lastUpdated=gt2000"
    assert bundle(client, "?_type=Patient,Observation", 403, As="observations")
    assert bundle(client, "?_id=p1", 403, As="by-id")
    for asked, name in (("name=x", "name"), ("_type=Patient,Observation&name=x", "name"), ("_sort=date", "_sort"),
                        ("_type=Patient,Nothing", "_type"), ("_type=", "_type"), ("_elements=x", "_elements"),
                        ("_type=Patient&_type=Observation", "_type"), ("_id=" + "x," * 99, "_type"),
                        ("_type=Observation,Flag&_sort=status", "_sort")):  # fmt: skip
        told = bundle(client, f"?{asked}", 422)
        assert told["issue"][0].get("expression") == [name], asked
    ignored = bundle(client, "?_type=Patient,Observation&name=x&_id=p1", Prefer="handling=lenient")
    assert ignored["link"][0]["url"] == f"{BASE}?_type=Patient%2CObservation&_id=p1"
    assert [issue["severity"] for issue in ignored["entry"][-1]["resource"]["issue"]] == ["warning"]


def test_a_compartment_is_searched_over_its_types(client: Any) -> None:
    found = bundle(client, "Patient/p1/*?_sort=-_id")
    # p1 itself, and each patient that links to it: R4 has Patient.link among the ways.
    assert [name for name, _ in shown(found)] == ["p4", "p3", "p2", "p1", "p0", "o1"]
    assert shown(bundle(client, "Patient/p1/*?_type=Observation,Condition")) == [("o1", "match")]
    assert shown(bundle(client, "Patient/p1/*?_type=Observation&status=amended")) == []
    found = bundle(client, "Patient/p1/*", As="observations")
    assert shown(found) == [("o1", "match")]
    assert found["link"][0]["url"] == f"{BASE}/Patient/p1/*?_type=Observation"
    assert bundle(client, "Patient/p1/*?_type=Organization", 422)
    assert bundle(client, "Patient/p1/*?_type=Patient", 403, As="observations")
    assert bundle(client, "Organization/p1/*", 404)


def test_the_history_of_all_types_is_one(client: Any, database: Database) -> None:
    seen, path = [], "_history?_count=4"
    while path:
        found = bundle(client, path)
        seen += [e["fullUrl"].removeprefix(f"{BASE}/") for e in found["entry"]]
        following = [link["url"] for link in found["link"] if link["relation"] == "next"]
        path = following[0].removeprefix(BASE.removesuffix("/fhir")) if following else ""
        named(database, "Patient", [(f"new{len(seen)}", {"active": True})])
    assert seen == [*(f"Observation/o{n}" for n in (4, 3, 2, 1, 0)), *(f"Patient/p{n}" for n in (4, 3, 2, 1, 0))]
    found = bundle(client, "_history", As="observations")
    assert {e["fullUrl"].split("/")[-2] for e in found["entry"]} == {"Observation"}
    assert found["link"][0]["url"] == f"{BASE}/_history?_type=Observation"
    assert len(bundle(client, "_history?_type=Observation,Encounter")["entry"]) == 5
    assert bundle(client, "_history?_type=Patient", 403, As="observations")
    for asked, status in (("_at=2024", 400), ("_type=Nothing", 422), ("_type=", 422), ("_page=x", 400)):
        assert bundle(client, f"_history?{asked}", status)
    assert bundle(client, "Patient/_history?_type=Patient", 400)


def test_an_endpoint_that_does_not_offer_it_says_so(database: Database) -> None:
    client = client_of(database, lambda request: Caller("them", "Them", frozenset({"operator"}), SCOPES["all"]),
                       system=frozenset({"transaction"}))  # fmt: skip
    for path in ("?_id=x", "_history"):
        assert bundle(client, path, 400)["issue"][0]["code"] == "not-supported"


def test_a_batch_searches_over_several_types_too(client: Any) -> None:
    asked = ("?_type=Patient,Observation&_id=p1,o1", "Patient/p1/*?_type=Observation")
    sent = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [{"request": {"method": "GET", "url": u}} for u in asked],
    }
    answer = client.post("/fhir", json=sent, content_type="application/fhir+json")
    found = [entry["resource"] for entry in json.loads(answer.text)["entry"]]
    assert [shown(each) for each in found] == [[("p1", "match"), ("o1", "match")], [("o1", "match")]]


def test_what_a_search_over_all_types_takes_is_stated(client: Any) -> None:
    stated = json.loads(client.get("/fhir/metadata").text)["rest"][0]
    assert {"search-system", "history-system"} <= {each["code"] for each in stated["interaction"]}
    names = {each["name"] for each in stated["searchParam"]}
    assert names == {"_id", "_lastUpdated", "_profile", "_security", "_source", "_tag"}
    for name in names:
        bundle(client, f"?{name}={'2024' if name == '_lastUpdated' else 'x'}")
