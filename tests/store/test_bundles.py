"""Transactions: order, references, all or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhir_secondop.errors import Invalid, NotFound, PreconditionFailed, SecondOpError
from fhir_secondop.fhir import codec
from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.store import bundles, resources
from fhir_secondop.store.bundles import Entry, Outcome
from fhir_secondop.store.database import Database
from tests.store.rows import BASE, DESK, counts, delete, everything, put

URN = "urn:uuid:00000000-0000-4000-8000-00000000000"
PATIENT = {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "1"}]}


def post(resource: Resource, full_url: str = "", if_none_exist: str | None = None) -> dict[str, Any]:
    return {"method": "POST", "resource": resource, "full_url": full_url, "if_none_exist": if_none_exist}


def run(database: Database, *sent: dict[str, Any], **options: Any) -> list[Outcome]:
    entries = []
    for place, each in enumerate(sent):
        facts = dict(each)
        resource = facts.pop("resource", None)
        if resource is not None:
            facts["body"], facts["resource"] = codec.split(json.dumps(resource))
            facts.setdefault("type", resource["resourceType"])
        entries.append(Entry(place, **facts))
    with database.transaction(DESK) as tx:
        return bundles.apply(tx, entries, visibility=EVERYTHING, base_url=BASE, **options)


def stored(outcome: Outcome) -> resources.Stored:
    assert outcome.stored is not None
    return outcome.stored


def observation(reference: str, **rest: Any) -> Resource:
    return {
        "resourceType": "Observation", "status": "final", "code": {"text": "x"},
        "subject": {"reference": reference}, **rest,
    }  # fmt: skip


def subject(outcome: Outcome) -> str:
    found: str = stored(outcome).resource["subject"]["reference"]
    return found


def refuses(database: Database, kind: type[SecondOpError], *sent: dict[str, Any], **options: Any) -> SecondOpError:
    """That a transaction is refused, and that it leaves no trace."""
    before = counts(database)
    with pytest.raises(kind) as caught:
        run(database, *sent, **options)
    assert counts(database) == before
    return caught.value


def test_outcomes_stand_in_the_order_sent_and_run_in_that_of_the_specification(database: Database) -> None:
    old = put(database, PATIENT)
    new = put(database, PATIENT)
    outcomes = run(
        database,
        {"method": "PUT", "id": new.id, "resource": {**PATIENT, "id": new.id, "gender": "female"}},
        post(observation(f"{URN}1")),
        post(PATIENT, f"{URN}1"),
        {"method": "DELETE", "type": "Patient", "id": old.id},
    )
    assert [o.status for o in outcomes] == [200, 201, 201, 204]
    assert subject(outcomes[1]) == f"Patient/{stored(outcomes[2]).id}"
    times = [stored(outcomes[place]).updated for place in (3, 1, 2, 0)]
    assert times == sorted(times), "delete, create, update"


def test_references_and_attachment_urls_follow_and_every_other_byte_stays(database: Database) -> None:
    text = (
        f'{{ "resourceType" : "DocumentReference",\n "status":"current", "description": "{URN}1 \\u00e4", '
        f'"subject":{{"reference" : "{URN}1"}},\n"content":[{{"attachment":{{"url":"{URN}2","size":1}}}}] , '
        '"extension":[{"url":"urn:x","valueDecimal":1.10}]}'
    )
    body, resource = codec.split(text)
    with database.transaction(DESK) as tx:
        outcomes = bundles.apply(
            tx,
            [
                Entry(0, "POST", "DocumentReference", body=body, resource=resource),
                *(
                    Entry(n, "POST", r["resourceType"], full_url=f"{URN}{n}", body=codec.compose(r), resource=r)
                    for n, r in ((1, PATIENT), (2, {"resourceType": "Binary", "contentType": "text/plain"}))
                ),
            ],
            visibility=EVERYTHING,
            base_url=BASE,
        )
    patient, binary = (f"{o.entry.type}/{stored(o).id}" for o in outcomes[1:])
    expected = text.replace(f'"reference" : "{URN}1"', f'"reference" : "{patient}"')
    expected = expected.replace(f'"url":"{URN}2"', f'"url":"{binary}"')
    assert stored(outcomes[0]).body.text == expected
    assert everything(database, "DocumentReference", f"subject={patient}") == [stored(outcomes[0]).id]


def test_a_contained_resource_is_never_taken_for_an_entry(database: Database) -> None:
    """ "#0" names a contained resource, even where entry 0 is a patient."""
    contained = [{"resourceType": "Patient", "id": "0", "active": True}]
    for full_url in ("", "#0"):
        outcomes = run(
            database, post(PATIENT, full_url), post(observation("#0", contained=contained), full_url and "#1")
        )
        assert subject(outcomes[1]) == "#0"


def test_a_relative_reference_means_the_patient_of_its_own_server(database: Database) -> None:
    """Two hospitals' Patient/1 in one Bundle; and the Patient/1 that is ours."""
    put(database, PATIENT, resource_id="1")
    outcomes = run(
        database,
        post(PATIENT, "https://a.example.org/fhir/Patient/1"),
        post(PATIENT, "https://b.example.org/fhir/Patient/1"),
        post(observation("Patient/1"), "https://a.example.org/fhir/Observation/1"),
        post(observation("Patient/1"), "https://b.example.org/fhir/Observation/1"),
        post(observation("https://b.example.org/fhir/Patient/1"), "https://a.example.org/fhir/Observation/2"),
        post(observation("Patient/1"), f"{URN}1"),
        post(observation("Patient/1")),
        post(observation("Patient/1"), "https://c.example.org/fhir/Observation/1"),
    )
    a, b = (f"Patient/{stored(o).id}" for o in outcomes[:2])
    assert [subject(o) for o in outcomes[2:]] == [a, b, b, "Patient/1", "Patient/1", "Patient/1"]


def test_an_absolute_reference_to_elsewhere_stays(database: Database) -> None:
    far = "https://elsewhere.example.org/fhir/Patient/1"
    assert subject(run(database, post(observation(far)))[0]) == far


def test_a_put_is_known_by_its_full_url_too(database: Database) -> None:
    held = put(database, PATIENT)
    outcomes = run(
        database,
        post(observation(f"{URN}1")),
        {"method": "PUT", "id": held.id, "full_url": f"{URN}1", "resource": {**PATIENT, "id": held.id}},
    )
    assert subject(outcomes[0]) == f"Patient/{held.id}"


@pytest.mark.parametrize(
    "broken",
    [
        observation(f"{URN}9"),
        observation("Patient/1", contained=[{"resourceType": "Basic", "id": "b", "code": {"text": "x"},
                                             "subject": {"reference": f"{URN}9"}}]),
        {"resourceType": "DocumentReference", "status": "current", "content": [{"attachment": {"url": f"{URN}9"}}]},
    ],
)  # fmt: skip
def test_a_urn_that_no_entry_has_is_refused(database: Database, broken: Resource) -> None:
    error = refuses(database, Invalid, post(PATIENT, f"{URN}1"), post(broken))
    assert [issue.expression for issue in error.issues] == ["Bundle.entry[1].resource"]


def test_a_canonical_name_may_be_a_urn(database: Database) -> None:
    run(database, post({"resourceType": "ValueSet", "status": "draft", "url": f"{URN}9"}))


def test_a_conditional_reference_finds_the_one_it_names(database: Database) -> None:
    held = put(database, PATIENT)
    put(database, {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "2"}]})
    outcome = run(database, post(observation("Patient?identifier=urn:mrn|1")))[0]
    assert subject(outcome) == f"Patient/{held.id}"
    assert everything(database, "Observation", f"subject=Patient/{held.id}") == [stored(outcome).id]


@pytest.mark.parametrize("criteria", ["identifier=urn:mrn|3", "identifier=urn:mrn|", "identifier=", ""])
def test_a_conditional_reference_to_none_or_several_is_refused(database: Database, criteria: str) -> None:
    put(database, PATIENT)
    put(database, PATIENT)
    refuses(database, PreconditionFailed, post(observation(f"Patient?{criteria}")))


def test_a_conditional_reference_with_an_unknown_parameter_is_refused(database: Database) -> None:
    put(database, PATIENT)
    refuses(database, Invalid, post(observation("Patient?identifer=urn:mrn|1")))


@pytest.mark.parametrize("lead", ["", "?", "Patient?"])
def test_if_none_exist_finds_creates_or_refuses(database: Database, lead: str) -> None:
    asked = f"{lead}identifier=urn:mrn|1"
    first = run(database, post(PATIENT, if_none_exist=asked))[0]
    again = run(database, post(PATIENT, f"{URN}1", asked), post(observation(f"{URN}1")))
    assert (first.status, again[0].status) == (201, 200)
    assert stored(again[0]).id == stored(first).id
    assert subject(again[1]) == f"Patient/{stored(first).id}"
    put(database, PATIENT)
    refuses(database, PreconditionFailed, post(PATIENT, if_none_exist=asked))


def test_if_none_exist_cannot_be_led_astray_by_paging(database: Database) -> None:
    held = put(database, PATIENT)
    for extra in ("_page=999.999", "_count=0", "_count=1", "_total=accurate"):
        outcome = run(database, post(PATIENT, if_none_exist=f"identifier=urn:mrn|1&{extra}"))[0]
        assert (outcome.status, stored(outcome).id) == (200, held.id)


def test_a_deleted_resource_is_not_there_for_if_none_exist(database: Database) -> None:
    delete(database, put(database, PATIENT))
    assert run(database, post(PATIENT, if_none_exist="identifier=urn:mrn|1"))[0].status == 201


def test_one_transaction_does_not_create_the_same_twice(database: Database) -> None:
    both = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "1"}, {"system": "urn:ssn", "value": "2"}]}
    first, second = (post(both, if_none_exist=f"identifier={i}") for i in ("urn:mrn|1", "urn:ssn|2"))
    error = refuses(database, Invalid, first, second)
    assert [issue.expression for issue in error.issues] == ["Bundle.entry[1].request.ifNoneExist"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_what_if_none_exist_finds_is_not_changed_in_the_same_transaction(database: Database, method: str) -> None:
    held = put(database, PATIENT)
    change: dict[str, Any] = {"method": method, "type": "Patient", "id": held.id}
    if method == "PUT":
        change["resource"] = {**PATIENT, "id": held.id}
    refuses(database, Invalid, post(PATIENT, if_none_exist="identifier=urn:mrn|1"), change)


def test_the_same_resource_twice_is_refused(database: Database) -> None:
    held = put(database, PATIENT)
    change = {"method": "PUT", "id": held.id, "resource": {**PATIENT, "id": held.id}}
    refuses(database, Invalid, change, {"method": "DELETE", "type": "Patient", "id": held.id})
    refuses(database, Invalid, change, change)


def test_nothing_of_a_transaction_stays_when_its_last_entry_fails(database: Database) -> None:
    held = put(database, PATIENT)
    good = (post(PATIENT), {"method": "DELETE", "type": "Patient", "id": held.id})
    refuses(database, NotFound, *good, {"method": "PUT", "id": "nowhere", "resource": {**PATIENT, "id": "nowhere"}})
    other = put(database, PATIENT)
    outdated = {"method": "PUT", "id": other.id, "resource": {**PATIENT, "id": other.id}, "if_match": 7}
    refuses(database, PreconditionFailed, *good, outdated)
    deleted = {"method": "DELETE", "type": "Patient", "id": held.id, "if_match": 7}
    refuses(database, PreconditionFailed, post(PATIENT), deleted)
    with database.reading() as connection:
        assert resources.read(connection, EVERYTHING, "Patient", held.id).version == 1


def test_a_put_creates_only_where_that_is_offered(database: Database) -> None:
    change = {"method": "PUT", "id": "mine", "resource": {**PATIENT, "id": "mine"}}
    refuses(database, NotFound, change)
    outcome = run(database, change, update_creates=True)[0]
    assert (outcome.status, stored(outcome).id) == (201, "mine")


def test_deleting_what_is_not_there_is_no_failure(database: Database) -> None:
    assert [o.status for o in run(database, {"method": "DELETE", "type": "Patient", "id": "nowhere"})] == [204]


def test_new_resources_belong_to_the_case(database: Database) -> None:
    outcomes = run(database, post(PATIENT), post(PATIENT), case_id="c1")
    assert [stored(o).case_id for o in outcomes] == ["c1", "c1"]
    assert stored(outcomes[0]).owner == DESK.id
