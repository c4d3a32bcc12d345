"""$everything over HTTP, on both databases: what is in it, what is left out and said, how its pages hang together."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.access import blind, rights
from fhir_secondop.fhir import codec, refs
from fhir_secondop.fhir.validate import validate
from fhir_secondop.limits import Limits
from fhir_secondop.model import EVERYTHING, Caller
from fhir_secondop.rest import everything
from fhir_secondop.store import compartments, deadline, resources, tables
from fhir_secondop.store.database import Database
from tests.rest.served import client_of
from tests.store.rows import BASE, DESK, create, delete, named, put, update

ALL = ("system/*.rs",)
CALLERS = {
    "desk": Caller("desk", "Desk", frozenset({"coordinator"}), ALL),
    "few": Caller("few", "Few", frozenset({"coordinator"}), ("system/Patient.rs", "system/Observation.rs")),
    "some": Caller("some", "Some", frozenset({"coordinator"}), (
        "system/Patient.rs", "system/Organization.r", "system/Observation.rs?category=laboratory")),
    "by-id": Caller("by-id", "By id", frozenset({"coordinator"}), ("system/*.r",)),
    "guest": Caller("guest", "Guest", frozenset({"reviewer"}), ALL),
    "none": Caller("none", "None", frozenset({"coordinator"}), ("system/Observation.rs",)),
}  # fmt: skip
TERMS = "http://terminology.hl7.org/CodeSystem"
P1 = {"reference": "Patient/p1"}


def observation(name: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return name, {"status": "final", "code": {"text": "x"}, "subject": P1, **more}


@pytest.fixture
def client(database: Database) -> Any:
    named(database, "Organization", [("o1", {"name": "One", "partOf": {"reference": "Organization/o2"}}),
                                     ("o2", {"name": "Two"}), ("o3", {"name": "Three"})])  # fmt: skip
    named(database, "Practitioner", [("d1", {"active": True})])
    named(database, "Patient", [("p1", {"managingOrganization": {"reference": "Organization/o1"}}), ("p2", {}),
                                ("p3", {"link": [{"other": P1, "type": "seealso"}]})])  # fmt: skip
    named(database, "Observation", [
        observation("b1", performer=[{"reference": "Practitioner/d1"}], effectiveDateTime="2020-05-01"),
        observation("b2", performer=[{"reference": f"{BASE}/Practitioner/d1"}], effectiveDateTime="2021-05-01",
                    category=[{"coding": [{"code": "laboratory"}]}]),
        ("b3", {"status": "final", "code": {"text": "x"}, "subject": {"reference": "Patient/p2"}}),
    ])  # fmt: skip
    named(database, "Encounter", [("e1", {
        "status": "finished", "class": {"code": "AMB"}, "subject": P1,
        # These two are in no index: R4 has no search parameter for the first.
        "hospitalization": {"origin": {"reference": "Organization/o3"}},
        "serviceProvider": {"reference": "Organization/gone"}, "period": {"start": "2021-05-01", "end": "2021-05-02"},
    })])  # fmt: skip

    return serving(database)


def serving(database: Database, **options: Any) -> Any:
    def authenticate(request: Any) -> Caller:
        return CALLERS[request.headers.get("As", "desk")]

    offered = frozenset({"everything"})
    return client_of(database, authenticate, published=offered, xml=True, restrictions=rights.restrictions, **options)


def bundle(client: Any, path: str, status: int = 200, body: Any = None, **headers: str) -> dict[str, Any]:
    address = path.removeprefix(BASE.removesuffix("/fhir")) if path.startswith(BASE) else f"/fhir/{path}"
    if body is None:
        answer = client.get(address, headers=headers)
    else:
        answer = client.post(address, data=json.dumps(body), headers=headers, content_type="application/fhir+json")
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = json.loads(answer.text)
    assert [issue for issue in validate(found) if issue.severity == "error"] == []
    return found


def shown(found: dict[str, Any], *modes: str) -> list[str]:
    return [
        f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
        for entry in found.get("entry", [])
        if entry["search"]["mode"] in (modes or ("match", "include"))
    ]


def said(found: dict[str, Any]) -> list[str]:
    outcomes = [e["resource"] for e in found.get("entry", []) if e["search"]["mode"] == "outcome"]
    return [issue["diagnostics"] for each in outcomes for issue in each["issue"]]


def following(found: dict[str, Any]) -> str:
    return next((link["url"] for link in found["link"] if link["relation"] == "next"), "")


def pages(client: Any, path: str, **headers: str) -> list[dict[str, Any]]:
    found = []
    while path:
        found.append(bundle(client, path, **headers))
        path = following(found[-1])
        assert len(found) < 100
    return found


def test_it_is_the_compartment_and_what_that_points_to(client: Any) -> None:
    found = bundle(client, "Patient/p1/$everything")
    assert shown(found, "match") == [
        "Patient/p1", "Patient/p3", "Observation/b1", "Observation/b2", "Encounter/e1",
    ]  # fmt: skip
    assert shown(found, "include") == ["Organization/o1", "Organization/o3", "Practitioner/d1"]
    assert said(found) == ["Pointed to by these, can't be had here: Organization/gone."]
    assert following(found) == ""
    assert (
        bundle(client, "Patient/p1/$everything", body={"resourceType": "Parameters"})["entry"][:-1]
        == (found["entry"][:-1])
    )
    assert shown(bundle(client, "Patient/p2/$everything")) == ["Patient/p2", "Observation/b3"]


def test_each_resource_is_as_it_is_read(client: Any) -> None:
    for entry in bundle(client, "Patient/p1/$everything")["entry"][:-1]:
        read = client.get(entry["fullUrl"].removeprefix(BASE.removesuffix("/fhir")))
        assert json.loads(read.text) == entry["resource"]


def test_of_the_type_it_is_all_patients_that_are_seen(client: Any, database: Database) -> None:
    found = bundle(client, "Patient/$everything")
    assert shown(found, "match") == [
        "Patient/p1", "Patient/p2", "Patient/p3", "Observation/b1", "Observation/b2", "Observation/b3", "Encounter/e1",
    ]  # fmt: skip
    put(database, {"resourceType": "Patient"}, resource_id="theirs", caller=CALLERS["guest"])
    mine = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
    for name, patient in (("of-theirs", "theirs"), ("of-p1", "p1")):
        subject = {"subject": {"reference": f"Patient/{patient}"}}
        put(database, {**mine, **subject}, resource_id=name, caller=CALLERS["guest"])
    # Of a patient that they do not see nothing is given, though it is theirs.
    assert shown(bundle(client, "Patient/$everything", As="guest")) == ["Patient/theirs", "Observation/of-theirs"]
    assert bundle(client, "Patient/p1/$everything", 404, As="guest")["resourceType"] == "OperationOutcome"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("_type=Observation", ["Observation/b1", "Observation/b2"]),
        ("_type=Observation,Encounter", ["Observation/b1", "Observation/b2", "Encounter/e1"]),
        ("_type=Observation&_type=Encounter", ["Observation/b1", "Observation/b2", "Encounter/e1"]),
        ("_type=Practitioner", ["Practitioner/d1"]),
        ("_type=Medication", []),
        ("start=2021-01-01", ["Patient/p1", "Patient/p3", "Observation/b2", "Encounter/e1"]),
        ("end=2020-12-31", ["Patient/p1", "Patient/p3", "Observation/b1"]),
        ("start=2020-05-01&end=2020-05-01", ["Patient/p1", "Patient/p3", "Observation/b1"]),
    ],
)
def test_types_and_times_of_care_are_held(client: Any, asked: str, found: list[str]) -> None:
    named_here = "Practitioner" if "Practitioner" in asked else ""
    assert shown(bundle(client, f"Patient/p1/$everything?{asked}"), "include" if named_here else "match") == found
    parameters = [pair.split("=") for pair in asked.split("&")]
    sent = {"resourceType": "Parameters", "parameter": [{"name": n, "valueString": v} for n, v in parameters]}
    again = bundle(client, "Patient/p1/$everything", body=sent)
    assert shown(again, "include" if named_here else "match") == found
    assert following(again) == ""


def test_what_goes_on_is_in_a_later_time_of_care(client: Any, database: Database) -> None:
    concept = {"code": {"text": "x"}}
    named(database, "Condition", [
        ("ended", {**concept, "subject": P1, "onsetDateTime": "2010", "abatementDateTime": "2011",
                   "clinicalStatus": {"coding": [{"system": f"{TERMS}/condition-clinical", "code": "resolved"}]}}),
        ("lasting", {**concept, "subject": P1, "onsetDateTime": "2010", "recordedDate": "2011"}),
    ])  # fmt: skip
    named(database, "AllergyIntolerance", [
        ("a1", {**concept, "patient": P1, "onsetDateTime": "2010",
                "clinicalStatus": {"coding": [{"system": f"{TERMS}/allergyintolerance-clinical", "code": "active"}]}})
    ])  # fmt: skip
    found = shown(bundle(client, "Patient/p1/$everything?start=2021&_type=Condition,AllergyIntolerance"))
    assert found == ["Condition/lasting", "AllergyIntolerance/a1"]
    assert "Condition/ended" in shown(bundle(client, "Patient/p1/$everything?start=2011&end=2012"))


def test_since_tells_what_has_changed_also_of_what_is_pointed_to(client: Any, database: Database) -> None:
    with database.reading() as connection:
        one = resources.read(connection, EVERYTHING, "Observation", "b2")
        doctor = resources.read(connection, EVERYTHING, "Practitioner", "d1")
    changed = update(database, one, {**one.resource, "status": "amended"})
    since = codec.trusted(changed.text)["meta"]["lastUpdated"]
    assert shown(bundle(client, f"Patient/p1/$everything?_since={since}")) == ["Observation/b2"]
    update(database, doctor, {**doctor.resource, "active": False})
    assert shown(bundle(client, f"Patient/p1/$everything?_since={since}")) == ["Observation/b2", "Practitioner/d1"]
    delete(database, changed)
    assert shown(bundle(client, f"Patient/p1/$everything?_since={since}")) == ["Practitioner/d1"]


@pytest.mark.parametrize("asked", ["", "&_type=Observation,Patient", "&_since=1970-01-01", "&start=2020"])
@pytest.mark.parametrize("where", ["Patient/p1/$everything", "Patient/$everything"])
def test_pages_show_each_match_once_whatever_is_written_meanwhile(
    client: Any, database: Database, where: str, asked: str
) -> None:
    named(database, "Observation", [observation(f"n{number}") for number in range(9)])
    whole = shown(bundle(client, f"{where}?{asked}"), "match")
    first = bundle(client, f"{where}?_count=3{asked}")
    found, path = shown(first, "match"), following(first)
    number = 0
    while path:
        assert ("_count=3" + asked).replace(",", "%2C") in path
        number += 1
        named(database, "Observation", [observation(f"late{number}")])  # none of them is on a page
        with database.reading() as connection:
            gone, changed = (resources.find(connection, EVERYTHING, "Observation", n) for n in ("n8", "n7"))
        if gone is not None and not gone.deleted and number == 1:
            delete(database, gone)
        assert changed is not None
        update(database, changed, {**changed.resource, "status": "amended"})
        page = bundle(client, path)
        found += shown(page, "match")
        path = following(page)
        assert number < 20
    assert found == [one for one in whole if one != "Observation/n8"]


def test_a_page_brings_what_it_points_to(client: Any) -> None:
    found = pages(client, "Patient/p1/$everything?_count=1")
    assert [shown(each) for each in found] == [
        ["Patient/p1", "Organization/o1"], ["Patient/p3"], ["Observation/b1", "Practitioner/d1"],
        ["Observation/b2", "Practitioner/d1"], ["Encounter/e1", "Organization/o3"],
    ]  # fmt: skip


def test_what_stands_on_another_page_does_not_come_along(client: Any, database: Database) -> None:
    named(database, "Observation", [observation("n1", hasMember=[{"reference": "Observation/n2"}]), observation("n2")])
    found = pages(client, "Patient/p1/$everything?_count=1&_type=Observation")
    assert [shown(each) for each in found] == [[f"Observation/{name}"] for name in ("b1", "b2", "n1", "n2")]


def test_a_page_link_is_for_who_got_it_and_for_what_was_asked(client: Any) -> None:
    link = following(bundle(client, "Patient/p1/$everything?_count=2"))
    token = link.rpartition("_page=")[2]
    assert shown(bundle(client, f"Patient/p1/$everything?_count=1&_page={token}"), "match") == ["Observation/b1"]
    for asked, who in ((f"Patient/p1/$everything?_count=2&_page={token}", "by-id"),
                       (f"Patient/p2/$everything?_count=2&_page={token}", "desk"),
                       (f"Patient/$everything?_count=2&_page={token}", "desk"),
                       (f"Patient/p1/$everything?_count=2&_type=Observation&_page={token}", "desk"),
                       ("Patient/p1/$everything?_page=Observation/b1~Observation/b2", "desk"),
                       ("Patient/p1/$everything?_page=x", "desk")):  # fmt: skip
        told = bundle(client, asked, 400, As=who)
        assert [issue["expression"] for issue in told["issue"]] == [["_page"]]


def test_where_a_page_ended_may_no_longer_be_seen_and_the_rest_is_given(client: Any, database: Database) -> None:
    put(database, {"resourceType": "Patient"}, resource_id="own", caller=CALLERS["guest"])
    for name in ("a1", "a2"):
        about = {"resourceType": "Basic", "code": {"text": "x"}, "subject": {"reference": "Patient/own"}}
        put(database, about, resource_id=name, caller=CALLERS["guest"])
    first = bundle(client, "Patient/own/$everything?_count=2", As="guest")
    with database.transaction(DESK) as tx:
        moved = sa.update(tables.resource).where(tables.resource.c.id == "a1").values(case_id="of-others")
        tx.connection.execute(moved)
    assert shown(bundle(client, following(first), As="guest")) == ["Basic/a2"]


def test_what_was_seen_on_one_page_may_not_be_on_the_next(client: Any, database: Database) -> None:
    with database.transaction(CALLERS["guest"]) as tx:
        create(tx, {"resourceType": "Patient"}, resource_id="own")
        for number in range(6):
            create(tx, {"resourceType": "Observation", "status": "final", "code": {"text": "x"},
                        "subject": {"reference": "Patient/own"}}, resource_id=f"own{number}")  # fmt: skip
    first = bundle(client, "Patient/own/$everything?_count=2", As="guest")
    with database.transaction(DESK) as tx:
        resource = tables.resource.c
        moved = sa.update(tables.resource).where(resource.id.in_(["own2", "own3"]))
        tx.connection.execute(moved.values(case_id="of-others"))
    second = bundle(client, following(first), As="guest")
    assert shown(first) + shown(second) == ["Patient/own", "Observation/own0", "Observation/own1", "Observation/own4"]
    with database.transaction(DESK) as tx:
        tx.connection.execute(sa.update(tables.resource).where(resource.id == "own").values(case_id="of-others"))
    assert bundle(client, following(second), 404, As="guest")["resourceType"] == "OperationOutcome"


def test_what_the_scopes_keep_back_is_said(client: Any) -> None:
    found = bundle(client, "Patient/p1/$everything", As="few")
    assert shown(found) == ["Patient/p1", "Patient/p3", "Observation/b1", "Observation/b2"]
    texts = said(found)
    assert texts[0].startswith("Left out, for Few has no scope to search for them: Account, ")
    assert " Encounter," in texts[0]
    assert "Observation" not in texts[0]
    assert texts[1] == "What these point to of Organization, Practitioner is left out: there is no scope to read it."
    assert shown(bundle(client, "Patient/p1/$everything?_type=Observation", As="few"))[0] == "Observation/b1"
    found = bundle(client, "Patient/p1/$everything", As="some")
    assert shown(found) == ["Patient/p1", "Patient/p3", "Observation/b2", "Organization/o1"]
    assert said(found)[1] == "The scopes of Some grant only some of: Observation."
    # Who may only read what it knows finds nothing by its patient; the patient itself it may read.
    found = bundle(client, "Patient/p1/$everything", As="by-id")
    assert shown(found) == ["Patient/p1", "Organization/o1"]
    for asked, who in (("Patient/p1/$everything", "none"), ("Patient/$everything", "by-id"),
                       ("Patient/p1/$everything?_type=Encounter", "few"),
                       ("Patient/p1/$everything?_type=Practitioner", "few")):  # fmt: skip
        assert bundle(client, asked, 403, As=who)["resourceType"] == "OperationOutcome"


def test_other_patients_are_named_and_not_given(client: Any, database: Database) -> None:
    named(database, "Group", [("g1", {"type": "person", "actual": True, "member": [
        {"entity": P1}, {"entity": {"reference": "Patient/p2"}}]})])  # fmt: skip
    found = bundle(client, "Patient/p1/$everything?_type=Group,Patient")
    assert shown(found) == ["Patient/p1", "Patient/p3", "Group/g1"]
    assert said(found) == ["Pointed to by these, are other patients, and left out: Patient/p2."]


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ("start=x", "start"), ("end=2021-13", "end"), ("_since=yesterday", "_since"), ("_type=Obs", "_type"),
        ("_type=", "_type"), ("_count=x", "_count"), ("_count=0", "_count"), ("_count=1&_count=2", "_count"),
        ("start=2022&end=2021", "start"), ("patient=p1", "patient"),
        ("_include=*", "_include"),
    ],
)  # fmt: skip
def test_what_can_not_be_held_is_named(client: Any, asked: str, place: str) -> None:
    told = bundle(client, f"Patient/p1/$everything?{asked}", 422)
    assert [issue["expression"] for issue in told["issue"]] == [[place]]


def test_what_is_no_parameters_is_refused(client: Any) -> None:
    assert bundle(client, "Patient/p1/$everything", 422, body={"resourceType": "Patient"})
    sent = {"resourceType": "Parameters", "parameter": [{"name": "start", "valuePeriod": {"start": "2020"}}]}
    assert bundle(client, "Patient/p1/$everything", 422, body=sent)
    assert bundle(client, "Patient/none/$everything", 404)
    assert bundle(client, "Observation/b1/$everything", 404)


def test_a_patient_that_was_deleted_is_gone(client: Any, database: Database) -> None:
    with database.reading() as connection:
        patient = resources.read(connection, EVERYTHING, "Patient", "p2")
    delete(database, patient)
    assert bundle(client, "Patient/p2/$everything", 410)


def test_in_xml_it_is_the_same(client: Any) -> None:
    answer = client.get("/fhir/Patient/p1/$everything", headers={"Accept": "application/fhir+xml"})
    assert answer.status_code == 200
    assert answer.text.count("<fullUrl ") == 9


def test_a_part_of_a_long_record_comes_in_steps(
    client: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(database, "Observation", [observation(f"n{number:02}") for number in range(30)])
    named(database, "Condition", [("c1", {"code": {"text": "x"}, "subject": P1})])
    monkeypatch.setattr(everything, "MAX_WALKED", 10)
    found = pages(client, "Patient/p1/$everything?_type=Condition")
    assert len(found) == 4
    assert [one for each in found for one in shown(each)] == ["Condition/c1"]


def test_beyond_the_limit_it_says_how_many_are_not_there(client: Any, database: Database) -> None:
    limited = serving(database, limits=Limits(max_included=1))
    found = bundle(limited, "Patient/p1/$everything")
    assert len(shown(found, "include")) == 1
    assert said(found)[0] == (
        "These point to 2 more than may come along (max_included, max_page_bytes); ask for a smaller _count."
    )


def test_what_takes_too_long_is_refused(database: Database, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hurried = serving(database, limits=Limits(max_search_s=0.0))
    monkeypatch.setattr(deadline, "_STEPS", 1)
    told = bundle(hurried, "Patient/p1/$everything", 422)
    assert told["issue"][0]["code"] == "too-costly"


def test_a_page_ends_at_its_bytes_and_nothing_is_lost(client: Any, database: Database) -> None:
    whole = {one for each in pages(client, "Patient/p1/$everything") for one in shown(each)}
    matches = {one for each in pages(client, "Patient/p1/$everything") for one in shown(each, "match")}
    limited = serving(database, limits=Limits(max_page_bytes=1))
    found = pages(limited, "Patient/p1/$everything")
    assert all(len(shown(each, "match")) == 1 for each in found)
    assert {one for each in found for one in shown(each)} == matches
    # What comes along has a limit of its own, and what is left out for it is counted.
    assert sum("more than may come along" in text for each in found for text in said(each)) == 4
    limited = serving(database, limits=Limits(max_page_bytes=1500))
    assert {one for each in pages(limited, "Patient/p1/$everything") for one in shown(each)} == whole


def test_no_way_into_a_compartment_is_one_that_a_blind_reader_may_not_search_by() -> None:
    """Else $everything would have to leave those ways out, as a search in a compartment does."""
    assert set(compartments.ways()) & blind.unsearchable() == set()


@pytest.mark.parametrize(
    "text",
    [
        '{"a":{"reference":"Patient/1"}}', '{"a":{ "reference" : "Patient/1" }}', '{"a":{"reference":\n"Patient\\/1"}}',
        '{"a":{"\\u0072eference":"Patient/1"}}', '{"b":"reference","a":[{"reference":"Patient/1"}]}',
        '{"b":"\\"reference\\":\\"Patient/2\\"","a":{"reference":"Patient/1"}}', '{"b":["reference"]}',
        '{"b":"' + 500 * "\\n" + '","a":{"\\u0072eference":"Patient/1"}}', '{"b":"' + 500 * "\\n" + '"}',
        '{"b":"\\\\u00"}',
    ],
)  # fmt: skip
def test_what_a_text_mentions_is_found_without_parsing_it(text: str) -> None:
    assert refs.mentioned([text, text]) == set(refs.find(json.loads(text)))
