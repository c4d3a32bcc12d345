"""The audit of every request: on each route, for each outcome, on both databases; and what it shows to whom."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from click.testing import CliRunner

from fhir_secondop import cli
from fhir_secondop.fhir import codec, validate
from fhir_secondop.store import tables
from fhir_secondop.store.audit import reads, verify
from fhir_secondop.store.audit.reads import REFUSED
from fhir_secondop.store.database import Database
from fhir_secondop.web.app import create
from fhir_secondop.web.audit import EXEMPT
from tests.conftest import free_port, new_postgres, wait_for
from tests.service.conftest import TOKENS, Bench, bench
from tests.service.test_doors import case_of, example, knock
from tests.service.test_review import example as review_example

__all__ = ["bench"]  # the fixture
NAME = "Wolkenstein"
NOWHERE = "00000000-0000-4000-8000-000000000000"
MORE = """
[callers.auditor]
name = "Auditor"
token = "auditor"
roles = ["auditor"]
scopes = ["system/*.rs"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000111"]

[callers.patient]
name = "The patient"
token = "patient"
roles = ["patient"]
scopes = ["patient/*.rs"]
parties = ["PATIENT"]
"""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row doesn't wait for others to share its commit: thousands here are looked at one by one."""
    monkeypatch.setattr(reads, "GATHER_S", 0.0)


def rows(bench: Bench, **wanted: Any) -> list[Any]:
    """The audit rows with these values, oldest first, once everything is written."""
    audit = bench.service.context.database.audit
    assert audit is not None
    audit.flush()
    query = sa.select(tables.audit).order_by(tables.audit.c.at, tables.audit.c.chain, tables.audit.c.n)
    for name, value in wanted.items():
        query = query.where(tables.audit.c[name] == value)
    with bench.service.context.database.reading() as connection:
        return list(connection.execute(query))


def number(bench: Bench) -> int:
    return len(rows(bench))


def opened(bench: Bench) -> str:
    return case_of(bench, knock(bench, "json", example()))


def with_callers(bench: Bench, more: str) -> Bench:
    """The same service for more callers."""
    from dataclasses import replace

    from fhir_secondop.access import tokens

    callers = tokens.load(TOKENS + more)

    def authenticate(request: Any) -> Any:
        return tokens.caller_of(callers, request.headers.get("Authorization", ""))

    service = replace(
        bench.service, authenticate=authenticate, endpoint=replace(bench.service.endpoint, authenticate=authenticate)
    )
    return Bench(service, create(service).test_client(), bench.enqueued)


TRANSACTION = {"resourceType": "Bundle", "type": "transaction"}


# ---- every route


def test_each_route_leaves_a_row_or_is_exempt(bench: Bench) -> None:
    """Walks the application's own map: a route that somebody adds is here by itself."""
    app = bench.client.application
    values = {"t": "Patient", "i": NOWHERE, "v": "1", "code": "manifest", "case_id": NOWHERE, "token": "x",
              "rest": "x/y", "name": "report-draft", "filename": "pages.css", "task_id": NOWHERE, "kind": "Patient",
              "resource_id": NOWHERE, "place": 0, "measure": "loop", "version": 1,
              "alert_id": NOWHERE, "u": "Observation"}  # fmt: skip
    walked = 0
    for rule in app.url_map.iter_rules():
        adapter = app.url_map.bind("localhost")
        path = adapter.build(rule.endpoint, {a: values[a] for a in rule.arguments}, method=min(rule.methods or {"GET"}))
        for method in sorted(rule.methods or ()):
            for who in ("desk", "nobody-we-know"):
                before = number(bench)
                answer = bench.call(method, path, who=who)
                found = rows(bench)[before:]
                matched = _matched(app, path, method)
                if matched in EXEMPT:
                    assert not found, rule
                    continue
                walked += 1
                assert len(found) == 1, (rule, method, answer.status_code)
                assert found[0].status == answer.status_code
                assert found[0].method == method
                assert found[0].request == answer.headers["X-Request-Id"]
    assert walked > 100


def _matched(app: Any, path: str, method: str) -> str:
    rule, _ = app.url_map.bind("localhost").match(path, method=method, return_rule=True)
    return str(rule.rule)


def test_a_batch_is_recorded_and_so_is_each_request_in_it(bench: Bench) -> None:
    case_id = opened(bench)
    before = number(bench)
    urls = (f"ServiceRequest/{case_id}", f"Patient?name={NAME}", "Nothing/1")
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    answer = bench.call("POST", "/fhir", {"resourceType": "Bundle", "type": "batch", "entry": entries})
    assert answer.status_code == 200
    found = rows(bench)[before:]
    assert [(row.operation, row.status, row.number) for row in found] == [
        ("read", 200, 1), ("search-type", 200, 0), ("read", 404, 0), ("batch", 200, 0)
    ]  # fmt: skip
    assert (found[0].case_id, found[0].caller) == (case_id, "desk")
    assert found[1].params == "name"


def test_what_a_transaction_reads_is_recorded_as_if_it_was_read_alone(bench: Bench) -> None:
    case_id = opened(bench)
    before = number(bench)
    urls = (f"ServiceRequest/{case_id}", f"Patient?name={NAME}", f"ServiceRequest/{case_id}/_history")
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    assert bench.call("POST", "/fhir", {**TRANSACTION, "entry": entries}).status_code == 200
    found = rows(bench)[before:]
    assert [(row.operation, row.status, row.number) for row in found] == [
        ("read", 200, 1), ("search-type", 200, 0), ("history-instance", 200, 1), ("transaction", 200, 0)
    ]  # fmt: skip
    assert {(row.case_id, row.caller, row.type) for row in found[:1]} == {(case_id, "desk", "ServiceRequest")}
    assert found[1].params == "name"


def test_of_a_transaction_that_fails_no_reading_is_recorded_but_what_was_refused(bench: Bench) -> None:
    case_id = opened(bench)
    before = number(bench)
    urls = (f"ServiceRequest/{case_id}", "Patient/nowhere", f"ServiceRequest/{case_id}")
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    assert bench.call("POST", "/fhir", {**TRANSACTION, "entry": entries}).status_code == 404
    found = rows(bench)[before:]
    assert [(row.operation, row.status, row.number) for row in found] == [("read", 404, 0), ("transaction", 404, 0)]


def test_what_is_exempt_is_there() -> None:
    assert {
        "/fhir/metadata", "/healthz", "/readyz", "/docs", "/api/openapi.json", "/fhir/openapi.json",
        "/.well-known/jwks.json", "/.well-known/document-keys.json",
        "/fhir/.well-known/smart-configuration", "/assets/<path:filename>",
        "/api/schemas/<any('second-opinion-request','report-draft'):name>.json",
    } == EXEMPT  # fmt: skip


# (who, method, path, status, what the row says)
ASKED: tuple[tuple[str, str, str, int, dict[str, Any]], ...] = (
    ("desk", "GET", "/fhir/ServiceRequest/CASE", 200, {"action": "R", "operation": "read", "case_id": "CASE",
     "type": "ServiceRequest", "id": "CASE", "number": 1, "caller": "desk", "purpose": "TREAT"}),
    ("desk", "HEAD", "/fhir/ServiceRequest/CASE", 200, {"method": "HEAD", "operation": "read", "case_id": "CASE"}),
    ("desk", "GET", "/fhir/ServiceRequest/CASE/_history/1", 200, {"operation": "vread", "version": 1,
     "case_id": "CASE"}),
    ("desk", "GET", "/fhir/ServiceRequest/CASE/_history", 200, {"operation": "history-instance", "case_id": "CASE"}),
    ("desk", "GET", "/fhir/ServiceRequest/_history?_since=2020", 200, {"operation": "history-type", "action": "R"}),
    ("desk", "GET", f"/fhir/Patient?name={NAME}", 200, {"action": "E", "operation": "search-type", "type": "Patient",
     "id": "", "case_id": None, "number": 0, "params": "name", "route": "/fhir/Patient"}),
    ("desk", "GET", "/fhir/Observation?patient.name=x&_sort=date", 200, {"params": "_sort patient"}),
    ("desk", "GET", "/fhir/Patient/x/Observation?value-quantity=1", 200,
     {"params": "value-quantity", "operation": "search-type", "route": "/fhir/Patient/<i>/Observation"}),
    ("desk", "GET", f"/fhir/?_type=Patient,Observation&{NAME}=1", 422, {"params": "? _type",
     "operation": "search-system", "route": "/fhir/", "type": ""}),
    ("desk", "GET", "/fhir?_type=ServiceRequest&_id=CASE", 200, {"params": "_id _type", "case_id": "CASE", "number": 1,
     "action": "E"}),
    ("desk", "GET", "/fhir/Patient/x/*?_tag=1", 200, {"params": "_tag", "operation": "search-type",
     "route": "/fhir/Patient/<i>/<u>"}),
    ("desk", "GET", "/fhir/_history?_count=500&_type=ServiceRequest", 200, {"operation": "history-system",
     "action": "R", "params": "_count _type"}),
    ("desk", "GET", f"/fhir/Observation?{NAME}.name=1", 422, {"params": "?", "status": 422}),
    ("desk", "GET", f"/fhir/Patient?{NAME}=1", 422, {"params": "?", "status": 422}),
    ("desk", "GET", "/fhir/ServiceRequest", 200, {"operation": "search-type", "case_id": "CASE", "number": 2}),
    ("desk", "GET", "/fhir/ServiceRequest/CASE/$manifest", 200, {"action": "E", "operation": "$manifest",
     "case_id": "CASE", "route": "/fhir/ServiceRequest/<i>/$manifest"}),
    ("desk", "GET", "/fhir/Patient/$everything?_since=1970&_type=ServiceRequest&start=2020", 200,
     {"action": "E", "operation": "$everything", "type": "Patient", "case_id": "CASE", "params": "_since _type start",
      "route": "/fhir/Patient/$everything"}),
    ("desk", "GET", "/fhir/DocumentReference/$docref?patient=x&on-demand=false", 200, {"operation": "$docref",
     "type": "Patient", "id": "x", "case_id": None, "number": 0, "params": "on-demand patient"}),
    ("desk", "GET", "/fhir/Patient/x/$summary", 404, {"operation": "$summary", "id": "x"}),
    ("desk", "GET", "/fhir/Composition/x/$document", 404, {"operation": "$document", "id": "x"}),
    ("desk", "GET", f"/fhir/ServiceRequest/CASE/${NAME}", 404, {"operation": "$", "case_id": "CASE"}),
    ("desk", "GET", "/api/second-opinions", 200, {"operation": "search-type", "case_id": "CASE", "number": 1}),
    ("desk", "GET", "/api/second-opinions/CASE", 200, {"operation": "read", "case_id": "CASE", "id": "CASE"}),
    ("desk", "GET", "/api/second-opinions/CASE/alignment", 200, {"operation": "$alignment", "case_id": "CASE"}),
    ("stranger", "GET", "/fhir/ServiceRequest/CASE", 404, {"caller": "stranger", "case_id": "CASE", "number": 0}),
    ("stranger", "GET", "/api/second-opinions/CASE", 404, {"caller": "stranger", "case_id": "CASE", "number": 0}),
    ("stranger", "GET", "/fhir/ServiceRequest", 200, {"caller": "stranger", "case_id": None, "number": 0}),
    ("stranger", "PUT", "/fhir/ServiceRequest/CASE", 400, {"action": "U", "operation": "update", "case_id": "CASE"}),
    ("stranger", "DELETE", "/fhir/ServiceRequest/CASE", 403, {"action": "D", "operation": "delete", "case_id": "CASE"}),
    ("stranger", "PATCH", "/fhir/ServiceRequest/CASE", 415, {"action": "U", "operation": "patch", "case_id": "CASE"}),
    ("pcp", "POST", "/fhir/Patient", 403, {"action": "C", "operation": "create", "caller": "pcp"}),
    ("", "GET", "/fhir/ServiceRequest/CASE", 401, {"caller": "", "case_id": "CASE", "number": 0, "purpose": ""}),
    ("", "POST", "/api/second-opinions", 401, {"caller": "", "operation": "$request-second-opinion"}),
    ("desk", "GET", f"/fhir/Patient/{NAME}%20X", 404, {"id": "", "type": "Patient"}),
    ("desk", "GET", f"/fhir/{NAME}/1", 404, {"type": "", "id": "", "route": "/fhir/<t>/<i>"}),
    ("desk", "GET", f"/{NAME}", 404, {"route": "-"}),
    ("", "GET", "/ack/not-a-link", 404, {"caller": "", "operation": "read"}),
    ("", "POST", "/upload/not-a-link", 404, {"caller": "", "operation": "$upload"}),
)  # fmt: skip


@pytest.mark.parametrize(("who", "method", "path", "status", "says"), ASKED, ids=lambda v: str(v)[:50])
def test_a_request_is_recorded_with_who_what_and_outcome(
    bench: Bench, who: str, method: str, path: str, status: int, says: dict[str, Any]
) -> None:
    case_id = opened(bench)
    before = number(bench)
    answer = bench.call(method, path.replace("CASE", case_id), who=who)
    assert answer.status_code == status
    found = [row for row in rows(bench)[before:] if row.kind == "access"]
    assert len(found) == 1
    expected = {k: case_id if v == "CASE" else v for k, v in says.items()}
    assert {k: getattr(found[0], k) for k in says} == expected
    assert found[0].status == status
    assert NAME not in repr(found)


def test_a_search_over_three_cases_leaves_three_rows(bench: Bench) -> None:
    cases = set()
    for place in range(3):
        plain = example()
        plain["placer"] = {**plain.get("placer", {}), "value": f"P-{place}"} if "placer" in plain else {}
        cases.add(case_of(bench, knock(bench, "json", plain, Idempotency_Key=f"k{place}")))
    assert len(cases) == 3
    before = number(bench)
    bench.call("GET", "/fhir/Task?_count=100")
    found = rows(bench)[before:]
    assert {row.case_id for row in found} == cases
    assert len(found) == 3
    assert len({row.request for row in found}) == 1
    assert all(row.number >= 1 for row in found)


# ---- writes


def test_a_write_is_recorded_once_with_its_versions_and_the_operation(bench: Bench) -> None:
    case_id = opened(bench)
    let_in = [row for row in rows(bench) if row.kind == "audience"]
    assert {(r.caller, r.case_id, r.operation) for r in let_in} == {("desk", case_id, "$request-second-opinion")}
    intake = [row for row in rows(bench) if row.kind != "audience"]
    assert intake
    assert {(r.kind, r.caller, r.case_id, r.operation) for r in intake} == {
        ("write", "desk", case_id, "$request-second-opinion")
    }
    assert {(r.route, r.method) for r in intake} == {("/api/second-opinions", "POST")}
    with bench.service.context.database.reading() as connection:
        held = connection.execute(
            sa.select(tables.resource.c.type, tables.resource.c.id).where(tables.resource.c.case_id == case_id)
        )
        assert {(r.type, r.id) for r in intake} == {tuple(row) for row in held}
    before = number(bench)
    plain = {"reviewer": review_example("review.json")["reviewer"]}
    answer = bench.call("POST", f"/api/second-opinions/{case_id}/ask-reviewer", plain)
    assert answer.status_code == 200, answer.text
    asked = [row for row in rows(bench)[before:] if row.kind != "audience"]
    assert asked
    assert {(r.kind, r.operation, r.action in "CU") for r in asked} == {("write", "$ask-reviewer", True)}
    assert {r.case_id for r in asked} == {case_id}


def test_an_intake_that_is_repeated_is_recorded_as_access_of_its_case(bench: Bench) -> None:
    case_id = opened(bench)
    before = number(bench)
    assert opened(bench) == case_id
    found = rows(bench)[before:]
    assert [(r.kind, r.status, r.case_id) for r in found] == [("access", 200, case_id)]


def test_a_write_that_is_refused_leaves_a_denial_and_no_write(bench: Bench) -> None:
    case_id = opened(bench)
    before = number(bench)
    body = {"resourceType": "Observation", "status": "final", "code": {"text": NAME},
            "basedOn": [{"reference": f"ServiceRequest/{case_id}"}]}  # fmt: skip
    assert bench.call("POST", "/fhir/Observation", body).status_code == 403
    assert [(r.kind, r.status, r.operation) for r in rows(bench)[before:]] == [("access", 403, "create")]


def test_a_consent_that_joins_a_case_is_recorded_as_the_cases(bench: Bench) -> None:
    case_id = opened(bench)
    patient = bench.call("GET", "/fhir/Patient?_count=1").get_json()["entry"][0]["resource"]["id"]
    consent = {
        "resourceType": "Consent", "status": "active", "patient": {"reference": f"Patient/{patient}"},
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "treatment"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "policyRule": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]},
    }  # fmt: skip
    before = number(bench)
    answer = bench.call("POST", "/fhir/Consent", consent)
    assert answer.status_code == 201, answer.text
    assert [(r.kind, r.type, r.case_id, r.version) for r in rows(bench)[before:]] == [("write", "Consent", case_id, 1)]


# ---- what can't be recorded is not served


def test_reads_are_refused_while_the_audit_cannot_be_written_and_none_is_lost(bench: Bench) -> None:
    case_id = opened(bench)
    before = number(bench)
    engine = bench.service.context.database.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE audit RENAME TO audit_gone")
    served = refused = 0
    for _ in range(5_000):  # until the writer has noticed, within its 50 ms
        if refused:
            break
        status = bench.call("GET", f"/fhir/ServiceRequest/{case_id}").status_code
        served, refused = served + (status == 200), refused + (status == 503)
    answer = bench.call("GET", f"/fhir/ServiceRequest/{case_id}")
    assert (answer.status_code, answer.mimetype) == (503, "application/fhir+json")
    assert REFUSED in answer.text
    assert bench.call("GET", f"/api/second-opinions/{case_id}").status_code == 503
    assert bench.call("GET", "/healthz").status_code == 200
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE audit_gone RENAME TO audit")
    again = _until(lambda: bench.call("GET", f"/fhir/ServiceRequest/{case_id}").status_code, lambda s: s == 200)
    assert again == 200
    found = rows(bench)[before:]
    assert len([r for r in found if r.kind == "access" and r.status == 200]) == served + 1
    assert sum(r.number for r in found if r.kind == "refused") >= 2
    check(bench.service.context.database)


def _until(ask: Callable[[], Any], done: Callable[[Any], bool]) -> Any:
    gave = threading.Event()
    for _ in range(600):
        said = ask()
        if done(said):
            return said
        gave.wait(0.05)
    raise AssertionError(f"still {said!r}")


def check(database: Database) -> verify.Verdict:
    """Verifies a database's audit, in which nothing is wrong."""
    with database.reading() as connection:
        found = verify.verify(connection)
    assert found.bad == ""
    assert found.rows
    return found


def test_in_strict_mode_the_row_is_durable_before_the_answer(tmp_path: Path, postgres: str) -> None:
    from fhir_secondop import bootstrap
    from fhir_secondop.config import Settings

    for url in (f"sqlite:///{tmp_path / 'strict.sqlite'}", new_postgres(postgres)):
        settings = Settings(database=url, auth="none", link_secret_file=str(tmp_path / "link"), audit="strict")
        service = bootstrap.build(settings)
        client = create(service).test_client()
        for place in range(1, 6):
            assert client.get(f"/fhir/Patient/{NOWHERE}").status_code == 404
            with service.context.database.reading() as connection:  # without a flush
                assert connection.execute(sa.select(sa.func.count()).select_from(tables.audit)).scalar_one() == place
        service.context.database.dispose()


# ---- who may see it


def trail(bench: Bench, case_id: str, who: str, query: str = "") -> Any:
    return bench.call("GET", f"/fhir/ServiceRequest/{case_id}/$audit-trail{query}", who=who)


def patient_of(bench: Bench, case_id: str) -> str:
    entry = bench.call("GET", "/fhir/Patient").get_json()["entry"]
    identifier = entry[0]["resource"]["identifier"][0]
    return f"{identifier['system']}|{identifier['value']}"


def test_the_trail_of_a_case_is_valid_newest_first_and_names_the_denied(bench: Bench) -> None:
    case_id = opened(bench)
    bench.call("GET", f"/fhir/ServiceRequest/{case_id}", who="stranger")
    answer = trail(bench, case_id, "desk")
    assert answer.status_code == 200
    bundle = codec.parse(answer.get_data())
    assert not any(i.severity == "error" for i in validate.validate(bundle))
    events = [e["resource"] for e in bundle["entry"]]
    assert not any(i.severity == "error" for e in events for i in validate.validate(e))
    assert [e["recorded"] for e in events] == sorted((e["recorded"] for e in events), reverse=True)
    denied = events[0]
    assert (denied["action"], denied["outcome"], denied["outcomeDesc"]) == ("R", "4", "HTTP 404")
    assert denied["agent"][0]["who"]["identifier"]["value"] == "stranger"
    assert denied["entity"][0]["what"] == {"reference": f"ServiceRequest/{case_id}"}
    assert denied["purposeOfEvent"][0]["coding"][0]["code"] == "TREAT"
    created = next(e for e in events if e["action"] == "C" and "Patient/" in json.dumps(e["entity"]))
    assert (created["outcome"], created["agent"][0]["who"]["display"]) == ("0", "desk")
    assert created["entity"][1]["what"] == {"reference": f"ServiceRequest/{case_id}"}


def test_the_trail_is_paged_without_gap_or_repeat(bench: Bench) -> None:
    case_id = opened(bench)
    whole = [e["resource"]["id"] for e in trail(bench, case_id, "desk", "?_count=1000").get_json()["entry"]]
    seen: list[str] = []
    query = "?_count=7"
    while query:
        page = trail(bench, case_id, "desk", query).get_json()
        seen += [e["resource"]["id"] for e in page["entry"]]
        following = [link["url"] for link in page["link"] if link["relation"] == "next"]
        query = "?" + following[0].partition("?")[2] if following else ""
    # Each look at it is recorded too, and comes on top.
    assert [name for name in seen if name in whole] == whole
    assert len(seen) == len(set(seen))
    assert trail(bench, case_id, "desk", "?_cursor=x").status_code == 422
    assert trail(bench, case_id, "desk", "?_count=0").status_code == 422
    plain = bench.call("GET", f"/api/second-opinions/{case_id}/audit-trail?_count=2").get_json()
    assert len(plain["rows"]) == 2
    assert plain["cursor"]


def test_the_trail_is_for_coordinator_auditor_and_that_patient(bench: Bench) -> None:
    case_id = opened(bench)
    one = with_callers(bench, MORE.replace("PATIENT", patient_of(bench, case_id)))
    for who, status in (("desk", 200), ("auditor", 200), ("patient", 200), ("pcp", 403), ("stranger", 404), ("x", 401)):
        assert trail(one, case_id, who).status_code == status, who
        assert one.call("GET", f"/api/second-opinions/{case_id}/audit-trail", who=who).status_code == status, who
    other = with_callers(bench, MORE.replace("PATIENT", "urn:mrn|somebody-else"))
    assert trail(other, case_id, "patient").status_code == 404
    assert trail(other, NOWHERE, "auditor").status_code == 404
    assert rows(bench)[-1].purpose == "HCOMPL"


def test_an_auditor_sees_no_clinical_content_whatever_it_is_party_to(bench: Bench) -> None:
    case_id = opened(bench)  # the auditor of MORE has the identifier of the pcp
    one = with_callers(bench, MORE)
    assert one.call("GET", f"/fhir/ServiceRequest/{case_id}", who="pcp").status_code == 200
    assert one.call("GET", f"/fhir/ServiceRequest/{case_id}", who="auditor").status_code == 404
    assert one.call("GET", f"/fhir/ServiceRequest/{case_id}/$package", who="auditor").status_code == 404
    assert "entry" not in one.call("GET", "/fhir/Task", who="auditor").get_json()
    assert one.call("GET", "/api/second-opinions", who="auditor").get_json() == {"cases": []}


# ---- the command line, and real processes


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[tuple[str, list[str], Callable[[int], None]]]:
    """The service as a process of its own: its URL, the options that name its database, and how to end it."""
    (tmp_path / "tokens.toml").write_text(TOKENS)
    port = free_port()
    (tmp_path / "secondop.toml").write_text(
        f'port = {port}\ndatabase = "{database_url}"\nauth = "tokens"\n'
        'token_file = "tokens.toml"\nlink_secret_file = "link"\n'
        "requests_per_s = 0\n"
    )
    options = ["--config", str(tmp_path / "secondop.toml")]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "fhir_secondop.cli", "serve", *options], stderr=log)
    wait_for(f"http://127.0.0.1:{port}/healthz", process)

    def end(number: int) -> None:
        process.send_signal(number)
        process.wait(60)

    yield f"http://127.0.0.1:{port}", options, end
    process.kill()
    process.wait()


def run(*words: str) -> tuple[int, Any]:
    result = CliRunner().invoke(cli.main, ["audit", *words, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.stdout.strip().startswith("{") else result.output


def test_a_process_that_is_stopped_writes_what_is_queued_and_its_anchor_to_the_log(
    service: tuple[str, list[str], Callable[[int], None]], tmp_path: Path
) -> None:
    url, options, end = service
    headers = {"Authorization": "Bearer desk"}
    case_id = requests.post(f"{url}/api/second-opinions", json=example(), headers=headers, timeout=30).json()["id"]
    for _ in range(20):
        assert requests.get(f"{url}/fhir/ServiceRequest/{case_id}", headers=headers, timeout=30).status_code == 200
    assert requests.get(f"{url}/fhir/ServiceRequest/{case_id}", timeout=30).status_code == 401
    end(signal.SIGTERM)
    code, found = run("verify", *options, "--anchors", str(tmp_path / "log"))
    assert (code, found["ok"], found["bad"]) == (0, True, "")
    assert found["exported"] >= 1
    _, said = run("who", case_id, *options)
    by = {row["caller"]: row for row in said["who"]}
    assert by["desk"]["reads"] == 20
    assert by["anonymous"]["denied"] == 1
    out = tmp_path / "audit.ndjson"
    assert run("export", "--out", str(out), *options)[1]["rows"] == found["rows"]
    events = [codec.parse(line) for line in out.read_text("utf-8").splitlines()]
    assert len(events) == found["rows"]
    assert not any(i.severity == "error" for e in events for i in validate.validate(e))
    assert run("export", "--out", str(out), "--since", "2999", *options)[1]["rows"] == 0
    kept = tmp_path / "anchors.txt"
    assert run("anchors", "--out", str(kept), *options)[0] == 0
    engine = sa.create_engine(Database(_database_of(options)).url)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.audit).where(tables.audit.c.n == 2).values(caller="x"))
    engine.dispose()
    code, found = run("verify", *options, "--anchors", str(kept))
    assert code == 1
    assert " 2: it is not the row that was written" in found["bad"]


def _database_of(options: list[str]) -> str:
    from fhir_secondop import config

    return config.load(options[1], {}).database


def test_a_service_that_is_killed_leaves_chains_that_hold_and_every_acknowledged_write(
    service: tuple[str, list[str], Callable[[int], None]],
) -> None:
    url, options, end = service
    headers = {"Authorization": "Bearer desk", "Content-Type": "application/fhir+json"}
    acknowledged: list[str] = []
    enough = threading.Event()

    def write(_: int) -> None:
        body = json.dumps({"resourceType": "Basic", "code": {"text": "x"}})
        while True:
            try:
                answer = requests.post(f"{url}/fhir/Basic", data=body, headers=headers, timeout=30)
                requests.get(f"{url}/fhir/Basic", headers=headers, timeout=30)
            except requests.RequestException:
                return
            acknowledged.append(answer.json()["id"])
            if len(acknowledged) > 60:
                enough.set()

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(write, n) for n in range(4)]
        assert enough.wait(60)
        end(signal.SIGKILL)
        for one in done:
            one.result()
    code, found = run("verify", *options)
    assert (code, found["bad"]) == (0, "")
    database = Database(_database_of(options))
    with database.reading() as connection:
        recorded = set(connection.execute(sa.select(tables.audit.c.id).where(tables.audit.c.kind == "write")).scalars())
    database.dispose()
    assert set(acknowledged) <= recorded


def test_syslog_goes_out_as_rfc_5424_by_datagram_and_by_stream(bench: Bench, tmp_path: Path) -> None:
    case_id = opened(bench)
    bench.call("GET", f"/fhir/ServiceRequest/{case_id}", who="stranger")
    total = number(bench)
    url = bench.service.context.database.engine.url.render_as_string(hide_password=False)
    out = tmp_path / "audit.log"
    assert run("export", "--format", "syslog", "--out", str(out), "--database", url)[1]["rows"] == total
    lines = out.read_text("ascii").splitlines()
    assert [line.split(" ")[0] for line in lines] == ["<110>1"] * (total - 1) + ["<108>1"]
    assert json.loads(lines[-1].split(" ", 7)[7])["case_id"] == case_id
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.settimeout(10)
        to = f"udp://127.0.0.1:{taken.getsockname()[1]}"
        assert run("export", "--format", "syslog", "--to", to, "--database", url)[0] == 0
        assert taken.recv(65536).decode() == lines[0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        to = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with ThreadPoolExecutor(1) as thread:
            sent = thread.submit(run, "export", "--format", "syslog", "--to", to, "--database", url)
            stream, _ = server.accept()
            with stream, stream.makefile("rb") as file:
                whole = file.read()
            assert sent.result()[0] == 0
    assert whole.decode() == "".join(f"{len(line)} {line}" for line in lines)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["export"], 2),
        (["export", "--to", "udp://x:1"], 2),
        (["export", "--format", "syslog", "--to", "x"], 1),
        (["who", "nobody"], 1),
        (["verify", "--anchors", "EMPTY"], 1),
        (["verify", "--database", "not-there.sqlite"], 1),
    ],
)
def test_a_command_that_cannot_be_done_says_so(words: list[str], code: int, tmp_path: Path) -> None:
    (tmp_path / "EMPTY").write_text("nothing")
    database = Database(str(tmp_path / "x.sqlite"))
    database.migrate()
    words = [str(tmp_path / w) if w in ("EMPTY", "not-there.sqlite") else w for w in words]
    given = [] if "--database" in words else ["--database", str(tmp_path / "x.sqlite")]
    assert run(*words, *given)[0] == code
    database.dispose()
