"""Reading a patient's record: from simulated EHRs over HTTP, and from servers that misbehave (pytest-httpserver)."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop.ehr import plan, pull
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.plan import Ask
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.fhir import codec
from fhir_secondop.model import Answer, Connection, Page, Resource
from fhir_secondop.opinion import records
from fhir_secondop.store.database import now_ms
from tests.ehr.conftest import RECORDS, Ehrs, client_of

RIVERSIDE = (RECORDS / "riverside.json",)
MRN = "https://riverside.example/mrn"


def ids(pages: list[Page]) -> list[str]:
    return [r["id"] for page in pages for _, r in pull.resources_of(page)]


def fetched(client: Client, kind: str, parameter: str, patient: str, **more: Any) -> tuple[list[Page], Answer]:
    """The pages of one type and the line of the manifest."""
    pages: list[Page] = []
    answer = pull.fetch(client, Ask(kind, parameter, "", **more), patient, lambda _, page, __: pages.append(page))
    return pages, answer


def searchset(*resources: Resource, following: str = "") -> Resource:
    links = [{"relation": "next", "url": following}] if following else []
    return {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": [{"resource": r} for r in resources]}


def condition(number: int, patient: str = "1") -> Resource:
    return {"resourceType": "Condition", "id": str(number), "subject": {"reference": f"Patient/{patient}"}}


# ---- what is asked --------------------------------------------------------------------------------------------


def test_every_type_of_an_epic_shaped_ehr_is_asked_by_patient(ehrs: Ehrs) -> None:
    client = client_of(ehrs("epic", load=RIVERSIDE))
    asked = {ask.type: ask.parameter for ask in plan.plan(client.capability, Site())}
    assert {kind for kind, parameter in asked.items() if parameter != "patient"} <= {"MedicationStatement"}


def test_what_an_ehr_does_not_offer_is_named(httpserver: HTTPServer) -> None:
    searching = [{"code": "search-type"}]
    capability = Capability({"resourceType": "CapabilityStatement", "rest": [{"mode": "server", "resource": [
        {"type": "Condition", "interaction": searching, "searchParam": [{"name": "subject"}, {"name": "patient"}]},
        {"type": "Observation", "interaction": searching, "searchParam": [{"name": "subject"}]},
        {"type": "Goal", "interaction": searching, "searchParam": [{"name": "lifecycle-status"}]},
        {"type": "Procedure", "interaction": [{"code": "read"}], "searchParam": [{"name": "patient"}]},
    ]}]})  # fmt: skip
    planned = {ask.type: ask.parameter for ask in plan.plan(capability, Site())}
    assert [planned[k] for k in ("Condition", "Observation", "Goal", "Procedure", "Encounter")] == [
        "patient", "subject", "", "", "",
    ]  # fmt: skip
    assert set(planned) == set(plan.TYPES)
    # and nothing is asked
    asks = {ask.type: ask for ask in plan.plan(capability, Site())}
    there = client_of(httpserver.url_for("/fhir"))
    answers = [pull.fetch(there, asks[kind], "1", lambda *_: None) for kind in ("Goal", "Encounter")]
    assert answers == [Answer("Goal", "not-offered", detail="no search by patient"), Answer("Encounter", "not-offered")]
    assert httpserver.log == []


def test_a_search_by_subject_names_the_type_and_the_manifest_no_id(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Observation").respond_with_json(searchset())
    _, answer = fetched(client_of(httpserver.url_for("/fhir")), "Observation", "subject", "77")
    assert httpserver.log[0][0].args["subject"] == "Patient/77"
    assert answer == Answer("Observation", "answered", "Observation?subject=")


# ---- what comes -----------------------------------------------------------------------------------------------


def test_all_pages_of_a_type_come(ehrs: Ehrs) -> None:
    client = client_of(ehrs("epic", load=(RECORDS / "lakeside.json",)))
    pages, answer = fetched(client, "Observation", "patient", "1")
    assert answer == Answer("Observation", "answered", "Observation?patient=", received=23)
    assert len(pages) == 2  # this EHR gives 20 at most
    assert sorted(ids(pages), key=int) == [str(n) for n in range(1, 24)]


@pytest.mark.parametrize("kind", ["Condition", "AllergyIntolerance", "Observation"])
def test_nothing_of_the_near_twin_comes(ehrs: Ehrs, kind: str) -> None:
    client = client_of(ehrs("epic", load=RIVERSIDE))
    mine, theirs = (ids(fetched(client, kind, "patient", patient)[0]) for patient in ("1", "2"))
    assert mine
    assert len(theirs) == 1
    assert not set(mine) & set(theirs)


def test_a_page_is_handed_back_as_it_came(httpserver: HTTPServer) -> None:
    text = '{"resourceType": "Bundle",\n "type":"searchset", "entry":[{"resource":{"resourceType":"Observation",' \
           '"id":"1","valueQuantity":{"value":1.10}}}]}'  # fmt: skip
    httpserver.expect_request("/fhir/Observation").respond_with_data(text, content_type="application/fhir+json")
    (page,), _ = fetched(client_of(httpserver.url_for("/fhir")), "Observation", "patient", "1")
    assert page.body == text.encode()
    assert "1.10" in pull.resources_of(page)[0][0]


def test_no_results_are_an_answer(ehrs: Ehrs) -> None:
    _, answer = fetched(client_of(ehrs("epic", load=RIVERSIDE)), "Goal", "patient", "1")
    assert answer == Answer("Goal", "answered", "Goal?patient=", received=0)


@pytest.mark.parametrize(("status", "kind"), [(401, "auth"), (403, "policy"), (404, "not-found"), (400, "validation")])
def test_a_refusal_stands_in_the_manifest(httpserver: HTTPServer, status: int, kind: str) -> None:
    httpserver.expect_request("/fhir/Goal").respond_with_data("Maren Sampleton may not", status)
    pages, answer = fetched(client_of(httpserver.url_for("/fhir")), "Goal", "patient", "1")
    assert pages == []
    assert answer == Answer("Goal", "refused", "Goal?patient=", detail=f"{kind}: there: GET Goal: HTTP {status}.")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_time_may_mend_is_raised_for_another_try(httpserver: HTTPServer, status: int) -> None:
    httpserver.expect_request("/fhir/Goal").respond_with_data("", status)
    with pytest.raises(EhrFailure) as caught:
        fetched(client_of(httpserver.url_for("/fhir")), "Goal", "patient", "1")
    assert caught.value.retryable


def second_page(answers: list[Callable[[], Response]]) -> Callable[[Request], Response]:
    """A server whose second page answers one after the other of `answers`, the last for ever."""

    def handle(request: Request) -> Response:
        if "page" not in request.args:
            return Response(json.dumps(searchset(condition(1), following="?page=2")))
        return (answers.pop(0) if len(answers) > 1 else answers[0])()

    return handle


def expired() -> Response:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "fatal", "code": "processing",
                                                              "details": {"coding": [{"code": "4113"}]}}]}  # fmt: skip
    return Response(json.dumps(outcome), 400)


def test_a_search_that_expired_begins_again(httpserver: HTTPServer) -> None:
    fine = lambda: Response(json.dumps(searchset(condition(2))))  # noqa: E731
    httpserver.expect_request("/fhir/Condition").respond_with_handler(second_page([expired, fine]))
    pages, answer = fetched(client_of(httpserver.url_for("/fhir"), vendor="epic"), "Condition", "patient", "1")
    assert (answer.outcome, answer.received) == ("answered", 2)
    assert ids(pages) == ["1", "1", "2"]


def test_a_search_that_always_expires_is_cut_off(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Condition").respond_with_handler(second_page([expired]))
    _, answer = fetched(client_of(httpserver.url_for("/fhir"), vendor="epic"), "Condition", "patient", "1")
    assert (answer.outcome, answer.received) == ("truncated", 1)
    assert "code 4113" in answer.detail


def test_a_page_that_failed_once_is_asked_again_by_itself(httpserver: HTTPServer) -> None:
    fine = lambda: Response(json.dumps(searchset(condition(2))))  # noqa: E731
    hiccup = lambda: Response("", 503)  # noqa: E731
    httpserver.expect_request("/fhir/Condition").respond_with_handler(second_page([hiccup, fine]))
    patient = Client(Connection("there", httpserver.url_for("/fhir"), rate_per_s=0.0), now=now_ms, tries=2)
    pages, answer = fetched(patient, "Condition", "patient", "1")
    assert (answer.outcome, answer.received) == ("answered", 2)
    assert ids(pages) == ["1", "2"]  # the first page was not asked again
    assert len(httpserver.log) == 3


def test_a_demanded_parameter_is_added_and_every_value_asked(httpserver: HTTPServer) -> None:
    def handle(request: Request) -> Response:
        found = {"lab": condition(1), "vitals": condition(2)}
        if "category" not in request.args:
            return Response('{"resourceType": "OperationOutcome", "issue": []}', 400)
        return Response(json.dumps(searchset(found[request.args["category"]])))

    httpserver.expect_request("/fhir/Condition").respond_with_handler(handle)
    there = client_of(httpserver.url_for("/fhir"))
    pages, answer = fetched(there, "Condition", "patient", "1", demanded=("category=lab", "category=vitals"))
    assert ids(pages) == ["1", "2"]
    assert answer == Answer("Condition", "answered", "Condition?patient=; Condition?patient=&category=lab; "
                                                     "Condition?patient=&category=vitals", 2)  # fmt: skip


def test_one_demanded_search_that_is_refused_truncates_the_type(httpserver: HTTPServer) -> None:
    def handle(request: Request) -> Response:
        if request.args.get("category") != "lab":
            return Response('{"resourceType": "OperationOutcome", "issue": []}', 400)
        return Response(json.dumps(searchset(condition(1))))

    httpserver.expect_request("/fhir/Condition").respond_with_handler(handle)
    there = client_of(httpserver.url_for("/fhir"))
    _, answer = fetched(there, "Condition", "patient", "1", demanded=("category=lab", "category=vitals"))
    assert (answer.outcome, answer.received) == ("truncated", 1)


def test_only_what_changed_is_asked_for_when_it_was_had_before(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Goal").respond_with_json(searchset())
    there, since = client_of(httpserver.url_for("/fhir")), "2026-11-20T08:00:00.000Z"
    answer = pull.fetch(there, Ask("Goal", "patient", ""), "1", lambda *_: None, since=since)
    assert httpserver.log[0][0].args["_lastUpdated"] == f"ge{since}"
    assert answer.since == since


@pytest.mark.parametrize(("status", "kind"), [(503, "capacity"), (403, "policy"), (500, "unreachable")])
def test_what_was_cut_off_says_so(httpserver: HTTPServer, status: int, kind: str) -> None:
    httpserver.expect_request("/fhir/Condition").respond_with_handler(second_page([lambda: Response("", status)]))
    pages, answer = fetched(client_of(httpserver.url_for("/fhir")), "Condition", "patient", "1")
    assert ids(pages) == ["1"]
    assert (answer.outcome, answer.received) == ("truncated", 1)
    assert answer.detail == f"{kind}: there: GET page: HTTP {status}."


def test_a_maintenance_page_among_the_pages_cuts_them_off(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Condition").respond_with_handler(second_page([lambda: Response("<html>")]))
    pages, answer = fetched(client_of(httpserver.url_for("/fhir")), "Condition", "patient", "1")
    assert (ids(pages), answer.outcome) == (["1"], "truncated")


def test_a_notice_of_withheld_data_stands_in_the_manifest(httpserver: HTTPServer) -> None:
    notice = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "suppressed",
                                                             "diagnostics": "about Maren Sampleton"}]}  # fmt: skip
    httpserver.expect_request("/fhir/Condition").respond_with_json(searchset(condition(1), notice))
    _, answer = fetched(client_of(httpserver.url_for("/fhir")), "Condition", "patient", "1")
    assert (answer.outcome, answer.received, answer.detail) == ("answered", 1, "the source added: suppressed")
    assert answer.withheld


def test_a_stranger_from_a_server_that_ignores_the_patient_is_dropped_and_counted(httpserver: HTTPServer) -> None:
    elsewhere = condition(4)
    elsewhere["subject"]["reference"] = "https://elsewhere.example/fhir/Patient/1"
    absolute = condition(5)
    absolute["subject"]["reference"] = httpserver.url_for("/fhir/Patient/1")
    everybody = searchset(condition(1), condition(2, "2"), condition(3, "12"), elsewhere, absolute)
    httpserver.expect_request("/fhir/Condition").respond_with_json(everybody)
    client = client_of(httpserver.url_for("/fhir"))
    # when
    pages, answer = fetched(client, "Condition", "patient", "1")
    texts = [(text, r, "Binary/page") for page in pages for text, r in pull.resources_of(page)]
    gathered = records.merge(str(uuid.uuid4()), "there", client.base, "1", texts, [answer])
    # then
    assert {c.source_url.rpartition("/")[2] for c in gathered.copies} == {"1", "5"}
    assert [(a.received, a.strangers) for a in gathered.answers] == [(5, 3)]


# ---- hints ----------------------------------------------------------------------------------------------------


def hinting(httpserver: HTTPServer, *types: str) -> Client:
    """An EHR shaped as its vendor file says that it has $everything, $summary and $docref; it searches these types."""
    resources = [{"type": kind, "interaction": [{"code": "search-type"}], "searchParam": [{"name": "patient"}]}
                 for kind in types]  # fmt: skip
    resources += [
        {"type": "Patient", "operation": [{"name": "everything"}, {"name": "summary"}]},
        {"type": "DocumentReference", "operation": [{"name": "Fetch", "definition": "x/OperationDefinition/docref"}]},
    ]  # fmt: skip
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        {"resourceType": "CapabilityStatement", "rest": [{"mode": "server", "resource": resources}]}
    )
    client = client_of(httpserver.url_for("/fhir"))
    client.site = replace(client.site, hints=("everything", "summary", "docref"))
    return client


def test_operations_top_up_what_can_not_be_searched(httpserver: HTTPServer) -> None:
    client = hinting(httpserver, "Condition")
    assert pull.hints(client, plan.plan(client.capability, client.site)) == ["everything", "summary", "docref"]
    everything = hinting(httpserver, *plan.TYPES)
    assert pull.hints(everything, [a for a in plan.plan(everything.capability, everything.site) if a.parameter]) == [
        "docref"
    ]


def test_a_vendor_that_does_not_list_a_hint_is_not_asked_for_it(httpserver: HTTPServer) -> None:
    client = hinting(httpserver, "Condition")
    client.site = replace(client.site, hints=())
    assert pull.hints(client, plan.plan(client.capability, client.site)) == []


def test_a_hint_brings_pages_and_its_failure_costs_nothing(httpserver: HTTPServer) -> None:
    client = hinting(httpserver, "Condition")
    httpserver.expect_request("/fhir/DocumentReference/$docref").respond_with_json(searchset(condition(1)))
    pages: list[Page] = []
    answer = pull.fetch_hint(client, "docref", "7", lambda _, page, __: pages.append(page))
    assert (answer.type, answer.outcome, answer.received, ids(pages)) == ("$docref", "answered", 1, ["1"])
    asked = [request.args.to_dict() for request, _ in httpserver.log if request.path.endswith("$docref")]
    assert asked == [{"patient": "7"}]
    httpserver.expect_request("/fhir/Patient/7/$everything").respond_with_data("", 500)
    refused = pull.fetch_hint(client, "everything", "7", lambda *_: None)
    assert (refused.outcome, refused.detail.startswith("a hint only; ")) == ("refused", True)
    assert not records.is_gap(refused)


# ---- what is cited --------------------------------------------------------------------------------------------


def test_people_and_places_that_are_cited_are_read(ehrs: Ehrs) -> None:
    client = client_of(ehrs("full"))
    found = [
        resource
        for kind in ("DocumentReference", "DiagnosticReport", "Encounter", "CarePlan")
        for page in fetched(client, kind, "patient", "1")[0]
        for _, resource in pull.resources_of(page)
    ]
    wanted = {key for resource in found for key in pull.cited(resource, client.base)}
    assert "Organization" in {ref.partition("/")[0] for ref in wanted}
    assert any(ref.startswith("Practitioner") for ref in wanted)
    for ref in wanted:
        page, why = pull.read_cited(client, ref)
        assert (page is not None, why) == (True, ""), ref
        assert page is not None
        (_, resource), *_ = pull.resources_of(page)
        assert f"{resource['resourceType']}/{resource['id']}" == ref
    # a role leads on to its person
    page, _ = pull.read_cited(client, "PractitionerRole/1")
    assert page is not None
    further = sorted(pull.cited(codec.parse(page.body), client.base))
    assert [ref.partition("/")[0] for ref in further] == ["Organization", "Practitioner"]


BASE = "https://there.example/fhir"
CITING: Resource = {
    "resourceType": "DocumentReference", "id": "1", "subject": {"reference": "Patient/1"},
    "author": [{"reference": "Practitioner/1"}, {"reference": f"{BASE}/Practitioner/2"},
               {"reference": "https://elsewhere.example/fhir/Practitioner/3"}, {"reference": "#contained"},
               {"reference": "urn:uuid:3c7c5f5e-5a0e-4d0c-8d8c-0d4f8a2d8f11"},
               {"reference": "Practitioner?identifier=4"}, {"reference": "Practitioner/5/_history/2"}],
    "content": [{"attachment": {"url": "Binary/1"}}, {"attachment": {"data": "aGk="}},
                {"attachment": {"url": "https://elsewhere.example/Binary/2"}}],
}  # fmt: skip


def test_only_what_stands_at_that_ehr_is_cited() -> None:
    assert sorted(pull.cited(CITING, BASE)) == ["Practitioner/1", "Practitioner/2", "Practitioner/5"]


def test_the_files_of_documents_and_reports_are_found() -> None:
    report: Resource = {"resourceType": "DiagnosticReport", "id": "1", "presentedForm": [{"url": f"{BASE}/Binary/3"}]}
    assert [a["url"] for a in pull.files(CITING)] == ["Binary/1", "https://elsewhere.example/Binary/2"]
    assert [a["url"] for a in pull.files(report)] == [f"{BASE}/Binary/3"]


# ---- files ----------------------------------------------------------------------------------------------------

PDF = b"%PDF-1.7 \xff\xfe raw"
STATED = {
    "contentType": "application/pdf",
    "size": len(PDF),
    "hash": base64.b64encode(hashlib.sha1(PDF).digest()).decode(),
}


@pytest.mark.parametrize("url", ["Binary/1", "/fhir/Binary/1", "Binary/1/_history/3"])
def test_a_file_comes_as_raw_bytes(httpserver: HTTPServer, url: str) -> None:
    httpserver.expect_request("/fhir/Binary/1").respond_with_data(PDF, 200, content_type="application/pdf")
    url = httpserver.url_for(url) if url.startswith("/") else url
    file = pull.read_file(client_of(httpserver.url_for("/fhir")), {"url": url, **STATED})
    assert file == pull.File("application/pdf", PDF, ())
    assert httpserver.log[0][0].headers["Accept"].startswith("application/pdf,")


def test_a_file_comes_out_of_a_fhir_binary(httpserver: HTTPServer) -> None:
    binary = {"resourceType": "Binary", "contentType": "application/pdf", "data": base64.b64encode(PDF).decode()}
    httpserver.expect_request("/fhir/Binary/1").respond_with_data(
        json.dumps(binary), content_type="application/fhir+json"
    )
    file = pull.read_file(client_of(httpserver.url_for("/fhir")), {"url": "Binary/1", **STATED})
    assert file == pull.File("application/pdf", PDF, ())


def test_a_server_that_knows_no_other_media_type_is_asked_for_fhir_json(httpserver: HTTPServer) -> None:
    binary = {"resourceType": "Binary", "contentType": "application/pdf", "data": base64.b64encode(PDF).decode()}

    def handle(request: Request) -> Response:
        if request.headers["Accept"] != "application/fhir+json":
            return Response("", 406)
        return Response(json.dumps(binary), content_type="application/fhir+json")

    httpserver.expect_request("/fhir/Binary/1").respond_with_handler(handle)
    assert pull.read_file(client_of(httpserver.url_for("/fhir")), {"url": "Binary/1", **STATED}).data == PDF


@pytest.mark.parametrize(
    ("stated", "differs"),
    [({"contentType": "image/png"}, "type"), ({"size": 3}, "size"), ({"hash": "AAAA"}, "hash")],
)
def test_what_differs_from_the_document_is_named_and_kept(
    httpserver: HTTPServer, stated: dict[str, Any], differs: str
) -> None:
    httpserver.expect_request("/fhir/Binary/1").respond_with_data(PDF, 200, content_type="application/pdf")
    file = pull.read_file(client_of(httpserver.url_for("/fhir")), {"url": "Binary/1", **STATED, **stated})
    assert (file.data, file.differs) == (PDF, (differs,))


@pytest.mark.parametrize("data", ["not base64", "a", 7])
def test_a_binary_that_can_not_be_decoded_is_a_failure(httpserver: HTTPServer, data: Any) -> None:
    httpserver.expect_request("/fhir/Binary/1").respond_with_json({"resourceType": "Binary", "data": data})
    with pytest.raises(EhrFailure):
        pull.read_file(client_of(httpserver.url_for("/fhir")), {"url": "Binary/1"})


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


@pytest.mark.parametrize("body", [b"<html>", b'{"resourceType": "OperationOutcome", "issue": []}'])
def test_what_is_no_resource_of_that_type_is_unresolved(httpserver: HTTPServer, body: bytes) -> None:
    httpserver.expect_request("/fhir/Practitioner/1").respond_with_data(body, 200)
    assert pull.read_cited(client_of(httpserver.url_for("/fhir")), "Practitioner/1") == (None, "validation")


def test_records_are_those_of_the_examples() -> None:
    """What the tests above count on."""
    bundle = json.loads(Path(RECORDS / "lakeside.json").read_text("utf-8"))
    assert sum(1 for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation") == 23
