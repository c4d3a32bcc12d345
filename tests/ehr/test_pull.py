"""Reading a patient's record: from simulated EHRs over HTTP, and from servers that misbehave (pytest-httpserver)."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop.ehr import pull
from fhir_secondop.ehr.client import Capability
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.fhir import codec
from fhir_secondop.model import Answer, Page, Resource
from fhir_secondop.opinion import records
from tests.ehr.conftest import RECORDS, Ehrs, client_of, new_patient

RIVERSIDE = (RECORDS / "riverside.json",)
MRN = "https://riverside.example/mrn"


def ids(pages: list[Page]) -> list[str]:
    return [codec.parse(text)["id"] for page in pages for text in pull.resource_texts(page)]


def searchset(*resources: Resource, following: str = "") -> Resource:
    links = [{"relation": "next", "url": following}] if following else []
    return {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": [{"resource": r} for r in resources]}


def condition(number: int, patient: str = "1") -> Resource:
    return {"resourceType": "Condition", "id": str(number), "subject": {"reference": f"Patient/{patient}"}}


# ---- who the patient is there ---------------------------------------------------------------------------------


def test_the_patient_is_found_by_that_places_identifier_and_birth_date(ehrs: Ehrs) -> None:
    client = client_of(ehrs("epic", load=RIVERSIDE))
    match = pull.find_patient(client, [(MRN, "RS-100482")], "1971-04-17")
    assert (match.id, match.because) == ("1", "by identifier, same date of birth")
    # the page is kept: it is the evidence of who it is
    assert match.page is not None
    assert ids([match.page]) == ["1"]


def test_one_digit_off_is_another_patient(ehrs: Ehrs) -> None:
    client = client_of(ehrs("epic", load=RIVERSIDE))
    assert pull.find_patient(client, [(MRN, "RS-100842")], "1971-04-17").id == ""
    assert pull.find_patient(client, [(MRN, "RS-100842")], "1971-04-11").id == "2"


def test_another_date_of_birth_is_left_to_a_person(ehrs: Ehrs) -> None:
    match = pull.find_patient(client_of(ehrs("epic", load=RIVERSIDE)), [(MRN, "RS-100482")], "1971-04-18")
    assert (match.id, match.page) == ("", None)
    assert "another date of birth" in match.because


def test_an_unknown_identifier_finds_nobody(ehrs: Ehrs) -> None:
    match = pull.find_patient(client_of(ehrs("epic", load=RIVERSIDE)), [(MRN, "RS-999999")], "1971-04-17")
    assert (match.id, match.because) == ("", "no patient with this identifier")


def test_the_same_value_in_another_system_finds_nobody(ehrs: Ehrs) -> None:
    match = pull.find_patient(
        client_of(ehrs("epic", load=RIVERSIDE)), [("https://lakeside.example/mrn", "RS-100482")], "1971-04-17"
    )
    assert match.id == ""


def test_without_an_identifier_of_that_place_nothing_is_asked(httpserver: HTTPServer) -> None:
    match = pull.find_patient(client_of(httpserver.url_for("/fhir")), [], "1971-04-17")
    assert (match.id, match.because) == ("", "no identifier of that place is known")
    assert httpserver.log == []


def test_two_patients_with_the_identifier_are_left_to_a_person(ehrs: Ehrs) -> None:
    base = ehrs("full")
    twice = [{"system": "https://twice.example/mrn", "value": "7"}]
    for _ in range(2):
        new_patient(base, identifier=twice)
    match = pull.find_patient(client_of(base), [("https://twice.example/mrn", "7")], "1971-04-17")
    assert match.id == ""
    assert "several patients" in match.because


def test_a_server_that_ignores_the_identifier_matches_nobody(httpserver: HTTPServer) -> None:
    stranger = {"resourceType": "Patient", "id": "9", "birthDate": "1971-04-17",
                "identifier": [{"system": MRN, "value": "RS-5"}]}  # fmt: skip
    httpserver.expect_request("/fhir/Patient").respond_with_json(searchset(stranger))
    match = pull.find_patient(client_of(httpserver.url_for("/fhir")), [(MRN, "RS-100482")], "1971-04-17")
    assert (match.id, match.because) == ("", "no patient with this identifier")


def test_a_maintenance_page_is_a_failure_of_the_ehr(httpserver: HTTPServer) -> None:
    """Not a fault of ours that would end the workflow without a word."""
    httpserver.expect_request("/fhir/Patient").respond_with_data("<html>down</html>", 200)
    with pytest.raises(EhrFailure) as caught:
        pull.find_patient(client_of(httpserver.url_for("/fhir")), [(MRN, "RS-100482")], "1971-04-17")
    assert caught.value.kind == "validation"


# ---- what is asked --------------------------------------------------------------------------------------------


def test_every_type_of_an_epic_shaped_ehr_is_asked_by_patient(ehrs: Ehrs) -> None:
    client = client_of(ehrs("epic", load=RIVERSIDE))
    assert dict(pull.plan(client.capability)) == dict.fromkeys(pull.TYPES, "patient")


def test_what_an_ehr_does_not_offer_is_named(httpserver: HTTPServer) -> None:
    searching = [{"code": "search-type"}]
    capability = Capability({"resourceType": "CapabilityStatement", "rest": [{"mode": "server", "resource": [
        {"type": "Condition", "interaction": searching, "searchParam": [{"name": "subject"}, {"name": "patient"}]},
        {"type": "Observation", "interaction": searching, "searchParam": [{"name": "subject"}]},
        {"type": "Goal", "interaction": searching, "searchParam": [{"name": "lifecycle-status"}]},
        {"type": "Procedure", "interaction": [{"code": "read"}], "searchParam": [{"name": "patient"}]},
    ]}]})  # fmt: skip
    planned = dict(pull.plan(capability))
    assert [planned[k] for k in ("Condition", "Observation", "Goal", "Procedure", "Encounter")] == [
        "patient", "subject", "", "", "",
    ]  # fmt: skip
    assert set(planned) == set(pull.TYPES)
    # and nothing is asked
    assert pull.fetch(client_of(httpserver.url_for("/fhir")), "Goal", "", "1") == ([], Answer("Goal", "not-offered"))
    assert httpserver.log == []


def test_a_search_by_subject_names_the_type_and_the_manifest_no_id(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Observation").respond_with_json(searchset())
    _, answer = pull.fetch(client_of(httpserver.url_for("/fhir")), "Observation", "subject", "77")
    assert httpserver.log[0][0].args["subject"] == "Patient/77"
    assert answer == Answer("Observation", "answered", "Observation?subject=")


# ---- what comes -----------------------------------------------------------------------------------------------


def test_all_pages_of_a_type_come(ehrs: Ehrs) -> None:
    client = client_of(ehrs("epic", load=(RECORDS / "lakeside.json",)))
    pages, answer = pull.fetch(client, "Observation", "patient", "1")
    assert answer == Answer("Observation", "answered", "Observation?patient=", received=23)
    assert len(pages) == 2  # this EHR gives 20 at most
    assert sorted(ids(pages), key=int) == [str(n) for n in range(1, 24)]


@pytest.mark.parametrize("kind", ["Condition", "AllergyIntolerance", "Observation"])
def test_nothing_of_the_near_twin_comes(ehrs: Ehrs, kind: str) -> None:
    client = client_of(ehrs("epic", load=RIVERSIDE))
    mine, theirs = (ids(pull.fetch(client, kind, "patient", patient)[0]) for patient in ("1", "2"))
    assert mine
    assert len(theirs) == 1
    assert not set(mine) & set(theirs)


def test_a_page_is_handed_back_as_it_came(httpserver: HTTPServer) -> None:
    text = '{"resourceType": "Bundle",\n "type":"searchset", "entry":[{"resource":{"resourceType":"Observation",' \
           '"id":"1","valueQuantity":{"value":1.10}}}]}'  # fmt: skip
    httpserver.expect_request("/fhir/Observation").respond_with_data(text, content_type="application/fhir+json")
    (page,), _ = pull.fetch(client_of(httpserver.url_for("/fhir")), "Observation", "patient", "1")
    assert page.body == text.encode()
    assert "1.10" in pull.resource_texts(page)[0]


def test_no_results_are_an_answer(ehrs: Ehrs) -> None:
    _, answer = pull.fetch(client_of(ehrs("epic", load=RIVERSIDE)), "Goal", "patient", "1")
    assert answer == Answer("Goal", "answered", "Goal?patient=", received=0)


@pytest.mark.parametrize(("status", "kind"), [(401, "auth"), (403, "policy"), (404, "not-found"), (400, "validation")])
def test_a_refusal_stands_in_the_manifest(httpserver: HTTPServer, status: int, kind: str) -> None:
    httpserver.expect_request("/fhir/Goal").respond_with_data("Maren Sampleton may not", status)
    pages, answer = pull.fetch(client_of(httpserver.url_for("/fhir")), "Goal", "patient", "1")
    assert pages == []
    assert answer == Answer("Goal", "refused", "Goal?patient=", detail=f"{kind}: there: GET Goal: HTTP {status}.")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_time_may_mend_is_raised_for_another_try(httpserver: HTTPServer, status: int) -> None:
    httpserver.expect_request("/fhir/Goal").respond_with_data("", status)
    with pytest.raises(EhrFailure) as caught:
        pull.fetch(client_of(httpserver.url_for("/fhir")), "Goal", "patient", "1")
    assert caught.value.retryable


def second_page(answers: list[Callable[[], Response]]) -> Callable[[Request], Response]:
    """A server whose second page answers one after the other of `answers`, the last for ever."""

    def handle(request: Request) -> Response:
        if "page" not in request.args:
            return Response(json.dumps(searchset(condition(1), following="?page=2")))
        return (answers.pop(0) if len(answers) > 1 else answers[0])()

    return handle


def test_a_page_that_expired_is_asked_again_from_the_beginning(httpserver: HTTPServer) -> None:
    fine = lambda: Response(json.dumps(searchset(condition(2))))  # noqa: E731
    httpserver.expect_request("/fhir/Condition").respond_with_handler(second_page([lambda: Response("", 503), fine]))
    pages, answer = pull.fetch(client_of(httpserver.url_for("/fhir")), "Condition", "patient", "1")
    assert (answer.outcome, answer.received) == ("answered", 2)
    assert ids(pages) == ["1", "2"]


@pytest.mark.parametrize(("status", "kind"), [(503, "capacity"), (403, "policy"), (500, "unreachable")])
def test_what_was_cut_off_says_so(httpserver: HTTPServer, status: int, kind: str) -> None:
    httpserver.expect_request("/fhir/Condition").respond_with_handler(second_page([lambda: Response("", status)]))
    pages, answer = pull.fetch(client_of(httpserver.url_for("/fhir")), "Condition", "patient", "1")
    assert ids(pages) == ["1"]
    assert (answer.outcome, answer.received) == ("truncated", 1)
    assert answer.detail == f"{kind}: there: GET page: HTTP {status}."


def test_a_maintenance_page_among_the_pages_cuts_them_off(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Condition").respond_with_handler(second_page([lambda: Response("<html>")]))
    pages, answer = pull.fetch(client_of(httpserver.url_for("/fhir")), "Condition", "patient", "1")
    assert (ids(pages), answer.outcome) == (["1"], "truncated")


def test_a_notice_of_withheld_data_stands_in_the_manifest(httpserver: HTTPServer) -> None:
    notice = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "suppressed",
                                                             "diagnostics": "about Maren Sampleton"}]}  # fmt: skip
    httpserver.expect_request("/fhir/Condition").respond_with_json(searchset(condition(1), notice))
    _, answer = pull.fetch(client_of(httpserver.url_for("/fhir")), "Condition", "patient", "1")
    assert (answer.outcome, answer.received, answer.detail) == ("answered", 1, "the source added: suppressed")


def test_a_stranger_from_a_server_that_ignores_the_patient_is_dropped_and_counted(httpserver: HTTPServer) -> None:
    elsewhere = condition(4)
    elsewhere["subject"]["reference"] = "https://elsewhere.example/fhir/Patient/1"
    absolute = condition(5)
    absolute["subject"]["reference"] = httpserver.url_for("/fhir/Patient/1")
    everybody = searchset(condition(1), condition(2, "2"), condition(3, "12"), elsewhere, absolute)
    httpserver.expect_request("/fhir/Condition").respond_with_json(everybody)
    client = client_of(httpserver.url_for("/fhir"))
    # when
    pages, answer = pull.fetch(client, "Condition", "patient", "1")
    texts = [(text, "Binary/page") for page in pages for text in pull.resource_texts(page)]
    gathered = records.merge(str(uuid.uuid4()), "there", client.base, "1", texts, [answer])
    # then
    assert {c.source_url.rpartition("/")[2] for c in gathered.copies} == {"1", "5"}
    assert [(a.received, a.strangers) for a in gathered.answers] == [(5, 3)]


# ---- what is cited --------------------------------------------------------------------------------------------


def test_people_places_and_files_that_are_cited_are_read(ehrs: Ehrs) -> None:
    client = client_of(ehrs("full"))
    texts = [
        text
        for kind in ("DocumentReference", "DiagnosticReport", "Encounter", "CarePlan")
        for page in pull.fetch(client, kind, "patient", "1")[0]
        for text in pull.resource_texts(page)
    ]
    wanted = pull.cited(texts, client.base)
    assert {ref.partition("/")[0] for ref in wanted} >= {"Organization", "Binary"}
    assert any(ref.startswith("Practitioner") for ref in wanted)
    for ref in wanted:
        page, why = pull.read_cited(client, ref)
        assert (page is not None, why) == (True, ""), ref
        assert page is not None
        resource = codec.parse(pull.resource_texts(page)[0])
        assert f"{resource['resourceType']}/{resource['id']}" == ref
        if ref == "Binary/1":
            assert base64.b64decode(resource["data"]).startswith(b"%PDF")
    # a role leads on to its person
    role = next(r for r in [*wanted, "PractitionerRole/1"] if r.startswith("PractitionerRole"))
    page, _ = pull.read_cited(client, role)
    assert page is not None
    further = pull.cited(pull.resource_texts(page), client.base)
    assert [ref.partition("/")[0] for ref in further] == ["Organization", "Practitioner"]


def test_only_what_stands_at_that_ehr_and_was_not_had_is_read() -> None:
    def text(resource: Resource) -> str:
        return codec.dumps(resource)

    base = "https://there.example/fhir"
    citing = {
        "resourceType": "DocumentReference", "id": "1", "subject": {"reference": "Patient/1"},
        "author": [{"reference": "Practitioner/1"}, {"reference": f"{base}/Practitioner/2"},
                   {"reference": "https://elsewhere.example/fhir/Practitioner/3"}, {"reference": "#contained"},
                   {"reference": "urn:uuid:3c7c5f5e-5a0e-4d0c-8d8c-0d4f8a2d8f11"},
                   {"reference": "Practitioner?identifier=4"}, {"reference": "Practitioner/5/_history/2"}],
        "content": [{"attachment": {"url": "Binary/1"}},
                    {"attachment": {"url": "https://elsewhere.example/Binary/2"}}],
    }  # fmt: skip
    report = {"resourceType": "DiagnosticReport", "id": "1", "presentedForm": [{"url": f"{base}/Binary/3"}]}
    had = {"resourceType": "Practitioner", "id": "1"}
    assert pull.cited([text(citing), text(report), text(had)], base) == [
        "Binary/1", "Binary/3", "Practitioner/2", "Practitioner/5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "why"), [(403, "policy"), (404, "not-found"), (410, "not-found"), (500, "unreachable")]
)
def test_what_is_cited_and_not_there_does_not_cost_the_rest(httpserver: HTTPServer, status: int, why: str) -> None:
    """Some servers answer 500 for a record that is missing."""
    httpserver.expect_request("/fhir/Practitioner/1").respond_with_data("", status)
    assert pull.read_cited(client_of(httpserver.url_for("/fhir")), "Practitioner/1") == (None, why)


@pytest.mark.parametrize("status", [429, 502, 503])
def test_what_is_cited_and_busy_is_tried_again(httpserver: HTTPServer, status: int) -> None:
    httpserver.expect_request("/fhir/Practitioner/1").respond_with_data("", status)
    with pytest.raises(EhrFailure) as caught:
        pull.read_cited(client_of(httpserver.url_for("/fhir")), "Practitioner/1")
    assert caught.value.retryable


@pytest.mark.parametrize(
    "body", [b"%PDF-1.7 \xff\xfe raw", b"<html>", b'{"resourceType": "OperationOutcome", "issue": []}'],
    ids=["raw", "html", "outcome"],
)  # fmt: skip
def test_a_file_that_is_no_resource_is_unresolved_and_breaks_nothing(httpserver: HTTPServer, body: bytes) -> None:
    httpserver.expect_request("/fhir/Binary/1").respond_with_data(body, 200, content_type="application/pdf")
    assert pull.read_cited(client_of(httpserver.url_for("/fhir")), "Binary/1") == (None, "validation")


def test_records_are_those_of_the_examples() -> None:
    """What the tests above count on."""
    bundle = json.loads(Path(RECORDS / "lakeside.json").read_text("utf-8"))
    assert sum(1 for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation") == 23
