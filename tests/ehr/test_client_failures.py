"""What an EHR can do to us on the wire, and what we make of it. Faults that no simulated EHR has: pytest-httpserver."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop.ehr import client as client_module
from fhir_secondop.ehr import notes, push, target
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.ladder import RUNGS, choose
from fhir_secondop.ehr.origins import origin
from fhir_secondop.ehr.target import Target
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection, Resource
from tests.conftest import free_port
from tests.ehr.conftest import at, client_of, document

TOKEN = "s3cret-t0ken"
PATIENT = {"resourceType": "Patient", "birthDate": "1971-04-17"}


@pytest.fixture
def other() -> Iterator[HTTPServer]:
    """A second server, to which nothing of ours may go."""
    with HTTPServer() as server:
        server.expect_request("/stolen").respond_with_json({"resourceType": "Bundle", "type": "searchset"})
        yield server


@pytest.fixture
def signed_in(httpserver: HTTPServer, tmp_path: Path) -> Client:
    """A client that signs in with a bearer token."""
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    return client_of(httpserver.url_for("/fhir"), auth="bearer", secret_file=str(secret), timeout_s=0.4)


def searchset(*resources: Resource, following: str = "") -> Resource:
    links = [{"relation": "next", "url": following}] if following else []
    return {"resourceType": "Bundle", "type": "searchset", "link": links,
            "entry": [{"resource": r} for r in resources]}  # fmt: skip


def statement(**types: tuple[str, ...]) -> Resource:
    """A CapabilityStatement; "conditional" stands for conditionalCreate."""
    resources = [
        {"type": kind, "conditionalCreate": "conditional" in codes,
         "interaction": [{"code": code.replace("_", "-")} for code in codes if code != "conditional"]}
        for kind, codes in types.items() if kind != "system"
    ]  # fmt: skip
    system = [{"code": code} for code in types.get("system", ())]
    return {"resourceType": "CapabilityStatement",
            "rest": [{"mode": "server", "interaction": system, "resource": resources}]}  # fmt: skip


def failure_of(act: Callable[[], Any]) -> EhrFailure:
    with pytest.raises(EhrFailure) as caught:
        act()
    return caught.value


# ---- sorted by status -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reading", "writing"),
    [
        (301, "policy", "policy"),
        (302, "policy", "policy"),
        (303, "policy", "unknown"),
        (307, "policy", "policy"),
        (400, "validation", "validation"),
        (401, "auth", "auth"),
        (402, "validation", "validation"),
        (403, "policy", "policy"),
        (404, "not-found", "not-found"),
        (405, "scope", "scope"),
        (406, "validation", "validation"),
        (408, "unreachable", "unknown"),
        (409, "conflict", "conflict"),
        (410, "not-found", "not-found"),
        (412, "conflict", "conflict"),
        (413, "validation", "validation"),
        (415, "validation", "validation"),
        (422, "validation", "validation"),
        (423, "conflict", "conflict"),
        (425, "unreachable", "unknown"),
        (429, "capacity", "capacity"),
        (451, "validation", "validation"),
        (500, "unreachable", "unknown"),
        (501, "scope", "scope"),
        (502, "unreachable", "unknown"),
        (503, "capacity", "capacity"),
        (504, "unreachable", "unknown"),
    ],
)
def test_each_status_has_its_class(httpserver: HTTPServer, status: int, reading: str, writing: str) -> None:
    httpserver.expect_request("/fhir/Patient/1", method="GET").respond_with_data("", status)
    httpserver.expect_request("/fhir/Patient", method="POST").respond_with_data("", status)
    client = client_of(httpserver.url_for("/fhir"))
    read, wrote = failure_of(lambda: client.read("Patient/1")), failure_of(lambda: client.write("POST", "Patient", {}))
    assert (read.kind, read.status) == (reading, status)
    assert (wrote.kind, wrote.status) == (writing, status)
    # only what time may mend is tried again
    assert read.retryable is (reading in ("capacity", "unreachable"))
    assert wrote.retryable is (writing in ("capacity", "unknown"))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("Sat, 21 Nov 2026 12:01:30 GMT", 90.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_honoured(httpserver: HTTPServer, header: str, seconds: float) -> None:
    httpserver.expect_request("/fhir/Patient/1").respond_with_data("", 429, headers={"Retry-After": header})
    now = at("2026-11-21T12:00:00Z")
    client = Client(Connection("there", httpserver.url_for("/fhir")), now=lambda: now)
    failure = failure_of(lambda: client.read("Patient/1"))
    assert (failure.kind, failure.retry_after_s) == ("capacity", seconds)


def test_a_failure_survives_the_journal_of_a_workflow() -> None:
    before = EhrFailure("capacity", "there: GET Patient: HTTP 429.", status=429, retry_after_s=9.0)
    after = pickle.loads(pickle.dumps(before))
    assert (after.kind, after.message, after.status, after.retry_after_s, after.retryable) == (
        "capacity", "there: GET Patient: HTTP 429.", 429, 9.0, True,
    )  # fmt: skip


# ---- no answer ------------------------------------------------------------------------------------------------


def test_a_time_out_is_unknown_for_a_write_and_unreachable_for_a_read(httpserver: HTTPServer) -> None:
    def slow(_: Request) -> Response:
        time.sleep(0.6)
        return Response("{}")

    httpserver.expect_request("/fhir/Patient").respond_with_handler(slow)
    client = client_of(httpserver.url_for("/fhir"), timeout_s=0.2)
    wrote = failure_of(lambda: client.write("POST", "Patient", PATIENT))
    assert (wrote.kind, wrote.retryable) == ("unknown", True)
    assert failure_of(lambda: client.get("Patient")).kind == "unreachable"


def test_a_refused_connection_carried_nothing() -> None:
    client = client_of(f"http://127.0.0.1:{free_port()}/fhir")
    assert failure_of(lambda: client.write("POST", "Patient", PATIENT)).kind == "unreachable"
    assert failure_of(lambda: client.get("Patient")).kind == "unreachable"


@contextmanager
def hanging_up(answer: bytes = b"") -> Iterator[str]:
    """A server that takes each request, sends `answer` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/fhir"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("answer", [b"", b'HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"resourceType"'])
def test_a_connection_that_breaks_leaves_a_write_unknown(answer: bytes) -> None:
    with hanging_up(answer) as base:
        client = client_of(base, timeout_s=2)
        assert failure_of(lambda: client.write("POST", "Patient", PATIENT)).kind == "unknown"
        assert failure_of(lambda: client.get("Patient")).kind == "unreachable"


def test_a_server_without_tls_is_unreachable(httpserver: HTTPServer) -> None:
    client = client_of(httpserver.url_for("/fhir").replace("http:", "https:"))
    assert failure_of(lambda: client.write("POST", "Patient", PATIENT)).kind == "unreachable"


# ---- no token goes elsewhere ----------------------------------------------------------------------------------


def test_the_token_goes_to_its_own_server(httpserver: HTTPServer, signed_in: Client) -> None:
    """The tests below would pass with a client that never signs in: this one wouldn't."""
    httpserver.expect_request("/fhir/Patient/1", headers={"Authorization": f"Bearer {TOKEN}"}).respond_with_json(
        PATIENT
    )
    assert signed_in.read("Patient/1") == PATIENT


def test_a_next_page_on_another_server_is_not_followed(
    httpserver: HTTPServer, other: HTTPServer, signed_in: Client
) -> None:
    first = searchset({"resourceType": "Condition", "id": "1"}, following=other.url_for("/stolen"))
    httpserver.expect_request("/fhir/Condition").respond_with_json(first)
    pages = signed_in.pages("Condition", {"patient": "1"})
    assert next(pages)[0].body  # what came is kept
    failure = failure_of(lambda: next(pages))
    assert (failure.kind, failure.retryable) == ("policy", False)
    assert other.log == []


@pytest.mark.parametrize(
    "trick", ["http://127.0.0.1:{port}@{other}/stolen", "//{other}/stolen", "HTTP://{other}/stolen"]
)
def test_a_next_page_that_only_looks_like_the_same_server_is_not_followed(
    httpserver: HTTPServer, other: HTTPServer, signed_in: Client, trick: str
) -> None:
    address = trick.format(port=httpserver.port, other=f"{other.host}:{other.port}")
    httpserver.expect_request("/fhir/Condition").respond_with_json(searchset(following=address))
    assert failure_of(lambda: signed_in.search("Condition", {})).kind == "policy"
    assert other.log == []


def test_a_relative_next_page_is_followed(httpserver: HTTPServer, signed_in: Client) -> None:
    httpserver.expect_request("/fhir/Condition", query_string={"patient": "1"}).respond_with_json(
        searchset({"resourceType": "Condition", "id": "1"}, following="?page=2&sort=a%20b")
    )
    httpserver.expect_request("/fhir/Condition", query_string="page=2&sort=a%20b").respond_with_json(
        searchset({"resourceType": "Condition", "id": "2"})
    )
    assert [r["id"] for r in signed_in.search("Condition", {"patient": "1"})] == ["1", "2"]


def test_the_default_port_is_the_same_server() -> None:
    assert origin("https://ehr.example:443/fhir") == origin("https://EHR.example/x")
    assert origin("https://ehr.example:8443/fhir") != origin("https://ehr.example/x")
    assert origin("http://ehr.example/") != origin("https://ehr.example/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(httpserver: HTTPServer, other: HTTPServer, signed_in: Client, status: int) -> None:
    elsewhere = {"Location": other.url_for("/stolen")}
    httpserver.expect_request("/fhir/Patient/1").respond_with_data("", status, headers=elsewhere)
    httpserver.expect_request("/fhir/Patient").respond_with_data("", status, headers=elsewhere)
    assert failure_of(lambda: signed_in.read("Patient/1")).status == status
    assert failure_of(lambda: signed_in.write("POST", "Patient", PATIENT)).status == status
    assert other.log == []


def test_an_absolute_address_of_another_server_is_not_asked(other: HTTPServer, signed_in: Client) -> None:
    assert failure_of(lambda: signed_in.get(other.url_for("/stolen"))).kind == "policy"
    assert other.log == []


def test_a_role_that_cites_a_practitioner_elsewhere_is_not_followed(
    httpserver: HTTPServer, other: HTTPServer, signed_in: Client
) -> None:
    role = {"resourceType": "PractitionerRole", "id": "1",
            "practitioner": {"reference": other.url_for("/fhir/Practitioner/1")}}  # fmt: skip
    httpserver.expect_request("/fhir/PractitionerRole/1").respond_with_json(role)
    assert notes._person(signed_in, {"reference": "PractitionerRole/1"}) == [role]
    assert other.log == []


def test_a_file_elsewhere_is_not_fetched(other: HTTPServer, signed_in: Client) -> None:
    elsewhere = {"content": [{"attachment": {"url": other.url_for("/fhir/Binary/1")}}]}
    assert target.content_of(signed_in, elsewhere) == b""
    assert other.log == []


def test_the_operators_netrc_is_not_sent(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {httpserver.host} login operator password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    client_of(httpserver.url_for("/fhir")).read("Patient/1")
    ((request, _),) = httpserver.log
    assert "Authorization" not in request.headers


# ---- pages ----------------------------------------------------------------------------------------------------


def test_pages_that_lead_back_are_left(httpserver: HTTPServer) -> None:
    here = httpserver.url_for("/fhir/Condition")
    httpserver.expect_request("/fhir/Condition", query_string="page=2").respond_with_json(
        searchset(following=f"{here}?page=3")
    )
    httpserver.expect_request("/fhir/Condition", query_string="page=3").respond_with_json(
        searchset(following=f"{here}?page=2")
    )
    httpserver.expect_request("/fhir/Condition").respond_with_json(searchset(following=f"{here}?page=2"))
    failure = failure_of(lambda: client_of(httpserver.url_for("/fhir")).search("Condition", {"patient": "1"}))
    assert failure.kind == "capacity"
    assert len(httpserver.log) == 3


def test_a_page_that_leads_to_itself_is_left(httpserver: HTTPServer) -> None:
    here = httpserver.url_for("/fhir/Condition?patient=1")
    httpserver.expect_request("/fhir/Condition").respond_with_json(searchset(following=here))
    client = client_of(httpserver.url_for("/fhir"))
    assert failure_of(lambda: client.search("Condition", {"patient": "1"})).kind == "capacity"
    assert len(httpserver.log) == 1


def test_pages_without_end_are_bounded(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_PAGES", 5)

    def more(request: Request) -> Response:
        number = int(request.args.get("page", "1"))
        return Response(json.dumps(searchset(following=f"?page={number + 1}")))

    httpserver.expect_request("/fhir/Condition").respond_with_handler(more)
    client = client_of(httpserver.url_for("/fhir"))
    assert failure_of(lambda: client.search("Condition", {})).kind == "capacity"
    assert len(httpserver.log) == 5


# ---- answers that are none ------------------------------------------------------------------------------------

HTML = "<html><body>Down for maintenance, says Maren Sampleton</body></html>"


@pytest.mark.parametrize("body", [HTML, "", "[]", '{"resourceType": "Bundle"', '{"a": 1, "a": 2}', "\ufeff{}"])
def test_what_is_not_fhir_json_is_a_failure_and_not_a_record(httpserver: HTTPServer, body: str) -> None:
    httpserver.expect_request("/fhir/Condition").respond_with_data(body, 200, content_type="text/html")
    httpserver.expect_request("/fhir/Patient/1").respond_with_data(body, 200, content_type="text/html")
    client = client_of(httpserver.url_for("/fhir"))
    for act in (lambda: client.search("Condition", {}), lambda: client.read("Patient/1"),
                lambda: next(client.pages("Condition", {}))):  # fmt: skip
        failure = failure_of(act)
        assert (failure.kind, failure.retryable) == ("validation", False)
        assert "Sampleton" not in str(failure)


def test_a_search_answered_with_an_outcome_found_nothing_out(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Condition").respond_with_json({"resourceType": "OperationOutcome", "issue": []})
    client = client_of(httpserver.url_for("/fhir"))
    assert failure_of(lambda: client.search("Condition", {})).kind == "validation"


def test_json_under_another_content_type_is_taken(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Patient/1").respond_with_data(json.dumps(PATIENT), content_type="text/plain")
    assert client_of(httpserver.url_for("/fhir")).read("Patient/1") == PATIENT


@pytest.mark.parametrize("body", ["", HTML, '{"resourceType": "Pati'])
def test_an_accepted_write_with_an_unreadable_answer_is_accepted(httpserver: HTTPServer, body: str) -> None:
    """If it were taken for a refusal, the next rung would file a duplicate."""
    httpserver.expect_request("/fhir/Patient", method="POST").respond_with_data(
        body, 201, headers={"Location": httpserver.url_for("/fhir/Patient/9/_history/1")}
    )
    written = client_of(httpserver.url_for("/fhir")).write("POST", "Patient", PATIENT)
    assert (written.status, written.location, written.resource) == (201, "Patient/9", None)


def test_without_a_location_the_answer_itself_says_where(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Patient", method="POST").respond_with_json({**PATIENT, "id": "9"}, 201)
    assert client_of(httpserver.url_for("/fhir")).write("POST", "Patient", PATIENT).location == "Patient/9"


def test_an_oversized_answer_is_not_read_to_its_end(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 100_000)
    sent: list[int] = []

    def endless(_: Request) -> Response:
        def pieces() -> Iterator[bytes]:
            for _ in range(5_000):
                sent.append(1)
                yield b" " * 20_000

        return Response(pieces(), content_type="application/fhir+json")

    httpserver.expect_request("/fhir/Patient").respond_with_handler(endless)
    client = client_of(httpserver.url_for("/fhir"))
    assert failure_of(lambda: client.get("Patient")).kind == "policy"
    # it was accepted, perhaps: nobody said no
    assert failure_of(lambda: client.write("POST", "Patient", PATIENT)).kind == "unknown"
    assert len(sent) < 2_000


# ---- conditional creates and searches that don't mean it ------------------------------------------------------


def other_document() -> Resource:
    return {"resourceType": "DocumentReference", "id": "66", "status": "current", "subject": {"reference": "Patient/1"},
            "masterIdentifier": {"system": "urn:ietf:rfc3986", "value": "urn:uuid:somebody-elses"}}  # fmt: skip


@pytest.mark.parametrize("minimal", [False, True])
def test_a_conditional_create_answered_with_something_else_is_not_trusted(
    httpserver: HTTPServer, minimal: bool
) -> None:
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        statement(DocumentReference=("create", "search_type", "read", "conditional"))
    )
    httpserver.expect_request("/fhir/DocumentReference", method="GET").respond_with_json(searchset())
    body = "" if minimal else json.dumps(other_document())
    httpserver.expect_request("/fhir/DocumentReference", method="POST").respond_with_data(
        body, 200, headers={"Location": "DocumentReference/66/_history/1"}
    )
    httpserver.expect_request("/fhir/DocumentReference/66").respond_with_json(other_document())
    target = Target(client_of(httpserver.url_for("/fhir")), "Patient/1")
    chosen = choose(target)
    assert chosen.number == 2
    failure = failure_of(lambda: push.send(target, RUNGS[1], document()))
    # "validation": the next rung is tried
    assert (failure.kind, failure.status) == ("validation", 200)


def test_a_result_answered_with_a_strangers_is_not_cited(httpserver: HTTPServer) -> None:
    """Else our report would carry an Observation of another patient."""
    types = ("create", "search_type", "read", "update", "conditional")
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        statement(DocumentReference=types, DiagnosticReport=types, Observation=types)
    )
    for kind in ("DocumentReference", "DiagnosticReport", "Observation"):
        httpserver.expect_request(f"/fhir/{kind}", method="GET").respond_with_json(searchset())
    sent = document()
    stranger = {**sent.observations[0], "id": "5", "subject": {"reference": "Patient/2"}}
    httpserver.expect_request("/fhir/Observation", method="POST").respond_with_json(stranger, 200)
    target = Target(client_of(httpserver.url_for("/fhir")), "Patient/1")
    assert failure_of(lambda: push.send(target, RUNGS[1], sent)).kind == "validation"
    assert not [r for r, _ in httpserver.log if r.method == "POST" and r.path != "/fhir/Observation"]


def test_a_transaction_that_hung_us_onto_something_else_goes_to_a_person(httpserver: HTTPServer) -> None:
    types = ("create", "search_type", "read", "update", "conditional")
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        statement(DocumentReference=types, DiagnosticReport=types, Observation=types, system=("transaction",))
    )
    for kind in ("DocumentReference", "DiagnosticReport", "Observation"):
        httpserver.expect_request(f"/fhir/{kind}", method="GET").respond_with_json(searchset())
    stranger = {"resourceType": "Observation", "id": "5", "subject": {"reference": "Patient/2"}}
    httpserver.expect_request("/fhir/Observation/5").respond_with_json(stranger)
    answers = [
        {"response": {"status": "200 OK", "location": "Observation/5/_history/1"}},
        {"response": {"status": "201 Created", "location": "DiagnosticReport/6/_history/1"}},
        {"response": {"status": "201 Created", "location": "DocumentReference/7/_history/1"}},
    ]
    httpserver.expect_request("/fhir", method="POST").respond_with_json(
        {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}
    )
    target = Target(client_of(httpserver.url_for("/fhir")), "Patient/1")
    assert choose(target).number == 1
    failure = failure_of(lambda: push.send(target, RUNGS[0], document()))
    # "conflict": neither tried again nor left to another rung, for it is stored
    assert (failure.kind, failure.retryable) == ("conflict", False)


def test_a_server_that_ignores_search_criteria_is_found_out_by_searching(httpserver: HTTPServer) -> None:
    """Its conditional creates would match whatever is there. The probe is a search, of the first page only."""
    types = ("create", "search_type", "read", "update", "conditional")
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        statement(DocumentReference=types, DiagnosticReport=types, Observation=types, system=("transaction",))
    )
    httpserver.expect_request("/fhir/DocumentReference", method="GET").respond_with_json(
        searchset(other_document(), following="?page=2")
    )
    chosen = choose(Target(client_of(httpserver.url_for("/fhir")), "Patient/1"))
    assert chosen.number == 3
    assert [because for _, because in chosen.not_possible] == ["search by identifier is not honoured"] * 2
    assert {request.method for request, _ in httpserver.log} == {"GET"}
    assert not [r for r, _ in httpserver.log if "page" in r.args]


def test_a_server_that_refuses_the_probe_does_not_honour_it(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/DocumentReference").respond_with_data("", 400)
    assert target.honours_identifier(Target(client_of(httpserver.url_for("/fhir")), "Patient/1")) is False


def test_a_server_that_is_down_is_not_judged(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/DocumentReference").respond_with_data("", 503)
    failure = failure_of(lambda: target.honours_identifier(Target(client_of(httpserver.url_for("/fhir")), "Patient/1")))
    assert failure.kind == "capacity"


def test_a_note_is_not_sent_where_it_could_not_be_looked_for(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        statement(DocumentReference=("create",), Encounter=("search_type",))
    )
    chosen = choose(Target(client_of(httpserver.url_for("/fhir"), text_only=True), "Patient/1"))
    assert chosen.number == 10
    assert dict(chosen.not_possible)["text note on an existing encounter"] == "a copy could not be looked for"


# ---- what an error may say ------------------------------------------------------------------------------------


def test_no_error_repeats_a_secret_or_the_patient(
    httpserver: HTTPServer, signed_in: Client, other: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 10_000)
    said = json.dumps({"resourceType": "OperationOutcome", "issue": [{"diagnostics": "Maren Sampleton 100482"}]})
    query = {"identifier": "https://riverside.example/mrn|100482"}

    def slow(_: Request) -> Response:
        time.sleep(0.6)
        return Response("{}")

    httpserver.expect_request("/fhir/Patient/100482").respond_with_data(said, 422)
    httpserver.expect_request("/fhir/Patient").respond_with_data(said, 500)
    httpserver.expect_request("/fhir/Condition").respond_with_handler(slow)
    httpserver.expect_request("/fhir/Goal").respond_with_data(said + HTML)
    httpserver.expect_request("/fhir/Device").respond_with_json(searchset(following=other.url_for("/stolen?100482")))
    httpserver.expect_request("/fhir/Encounter").respond_with_data(" " * 20_000)
    acts: list[Callable[[], Any]] = [
        lambda: signed_in.read("Patient/100482"),
        lambda: signed_in.search("Patient", query),
        lambda: signed_in.write("PUT", "Patient/100482", PATIENT),
        lambda: signed_in.write("POST", "Patient", PATIENT, {"If-None-Exist": "identifier=100482"}),
        lambda: signed_in.search("Condition", query),
        lambda: signed_in.search("Goal", query),
        lambda: signed_in.search("Device", query),
        lambda: signed_in.search("Encounter", query),
        lambda: signed_in.get(other.url_for("/100482")),
    ]
    for number, act in enumerate(acts):
        failure = failure_of(act)
        text = f"{failure} {failure!r} {failure.issues} {failure.args}"
        for secret in (TOKEN, "100482", "Sampleton", "riverside.example"):
            assert secret not in text, f"act {number}: {text}"


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_missing_secret_is_named_by_its_setting(auth: str) -> None:
    with pytest.raises(Invalid, match="needs secret_file"):
        client_of("http://127.0.0.1:1/fhir", auth=auth).get("metadata")


def test_an_unknown_way_to_sign_in_is_refused() -> None:
    with pytest.raises(Invalid, match="auth=magic"):
        client_of("http://127.0.0.1:1/fhir", auth="magic").get("metadata")


def test_basic_authentication_is_sent(httpserver: HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    client_of(httpserver.url_for("/fhir"), auth="basic", username="us",
              secret_file=str(tmp_path / "password")).read("Patient/1")  # fmt: skip
    ((request, _),) = httpserver.log
    assert request.authorization is not None
    assert (request.authorization.username, request.authorization.password) == ("us", "hunter2")


def test_an_ehr_whose_statement_does_not_come_holds_up_no_other(httpserver: HTTPServer) -> None:
    asked, leave = threading.Event(), threading.Event()

    def silent(_: Request) -> Response:
        asked.set()
        leave.wait(20)
        return Response(status=503)

    httpserver.expect_request("/dead/metadata").respond_with_handler(silent)
    with HTTPServer(port=0) as other:
        other.expect_request("/fhir/metadata").respond_with_json({"resourceType": "CapabilityStatement"})
        dead, alive = client_of(httpserver.url_for("/dead")), client_of(other.url_for("/fhir"))

        def ask() -> None:
            with pytest.raises(EhrFailure):
                _ = dead.capability

        waiting = threading.Thread(target=ask)
        waiting.start()
        assert asked.wait(10)
        found = threading.Thread(target=lambda: alive.capability)
        found.start()
        found.join(10)
        stuck = found.is_alive()
        leave.set()
        waiting.join()
        found.join()
        assert not stuck
