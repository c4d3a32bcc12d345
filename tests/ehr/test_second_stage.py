"""The second stage: what another validator says is added to what we say; what it did not say, too.

Its answers are as HAPI 8.8.0 gives them (tests/interop/test_second_stage.py asks that, and HL7's own program); how a
server fails is played here.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop import config
from fhir_secondop.ehr import second_stage
from fhir_secondop.ehr.second_stage import RETRY, SecondStage
from fhir_secondop.errors import Issue
from fhir_secondop.fhir import codec, validate
from fhir_secondop.model import Connection, Resource, Validator
from fhir_secondop.rest.outcome import outcome
from fhir_secondop.store.database import now_ms
from tests.ehr.test_wire import raw

US_CORE = "http://hl7.org/fhir/us/core/"
PROFILE = f"{US_CORE}StructureDefinition/us-core-patient"
NAME = "Wolkenstein"
PATIENT: Resource = {"resourceType": "Patient", "meta": {"profile": [PROFILE]}, "name": [{"family": NAME}]}
IDS = "http://hl7.org/fhir/StructureDefinition/operationoutcome-message-id"


def said(severity: str, text: str, place: str = "Patient", message: str = "", code: str = "processing") -> Resource:
    """An issue as HAPI writes it."""
    extra = {"extension": [{"url": IDS, "valueString": message}]} if message else {}
    return {**extra, "severity": severity, "code": code, "diagnostics": text, "expression": [place]}


def unknown(url: str) -> list[Resource]:
    text = f"Profile reference '{url}' has not been checked because it could not be found"
    again = f"Invalid profile. Failed to retrieve profile with url={url}"
    return [said("error", text, message="VALIDATION_VAL_PROFILE_UNKNOWN_NOT_POLICY"),
            said("error", again, message="Validation_VAL_Profile_Unknown")]  # fmt: skip


MISSING = said("error", f"Patient.identifier: minimum required = 1, but only found 0 (from {PROFILE}|6.1.0)")


class Other:
    """A validator that says of each Patient, and of each Bundle, what it is told to; `seen` are the bodies."""

    def __init__(self, server: HTTPServer) -> None:
        self.base = server.url_for("/fhir")
        self.seen: list[Resource] = []
        self.issues: list[Resource] = [said("information", "No issues detected during validation")]
        self.status = 200
        self.knows_profiles = True
        self.meanwhile: Callable[[], None] = lambda: None
        for kind in ("Basic", "Patient", "Bundle"):
            server.expect_request(f"/fhir/{kind}/$validate", method="POST").respond_with_handler(self._answer)
        server.expect_request("/fhir/validateResource", method="POST").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        resource = json.loads(request.get_data())
        if resource["resourceType"] == "Basic":
            issues = unknown(resource["meta"]["profile"][0]) if self.knows_profiles else [said("information", "Fine")]
            return self._outcome(issues, 200)
        self.seen.append(resource)
        self.meanwhile()
        return self._outcome(self.issues, self.status)

    def _outcome(self, issues: list[Resource], status: int) -> Response:
        text = json.dumps({"resourceType": "OperationOutcome", "issue": issues})
        return Response(text, status, mimetype="application/fhir+json")


@pytest.fixture
def other(httpserver: HTTPServer) -> Other:
    return Other(httpserver)


def validator(base: str, *profiles: str, name: str = "uscore", **more: Any) -> Validator:
    own = {key: more.pop(key) for key in ("protocol", "required") if key in more}
    return Validator(Connection(name, base, **{"timeout_s": 5.0, "rate_per_s": 0.0, **more}), profiles or (US_CORE,),
                     **own)  # fmt: skip


def stage(*validators: Validator, clock: Callable[[], float] = time.monotonic) -> SecondStage:
    return SecondStage(validators, now=now_ms, clock=clock)


def examined(of: SecondStage, resource: Resource = PATIENT, *demanded: str) -> list[Issue]:
    """What it says; as an OperationOutcome it is valid."""
    issues = of.examine(resource, codec.dumps(resource), demanded)
    if issues:
        assert validate.validate(outcome(issues)) == []
    return issues


def facts(issues: list[Issue]) -> list[tuple[str, str, str]]:
    return [(issue.severity, issue.code, issue.expression) for issue in issues]


def test_its_faults_are_ours_with_its_name(other: Other) -> None:
    other.issues = [
        said("warning", "Best practice"),
        MISSING,
        said("error", "No", "Bundle.entry[0].resource/*Patient/null*/.name[0]"),
    ]
    first, second, third = examined(stage(validator(other.base)))
    assert first == Issue("error", "processing", "Patient", f"uscore says: {MISSING['diagnostics']}", source="uscore")
    assert second.expression == "Bundle.entry[0].resource.name[0]"
    assert third.severity == "warning"
    assert other.seen == [PATIENT]
    named = outcome([first])["issue"][0]["extension"]
    source = "http://hl7.org/fhir/StructureDefinition/operationoutcome-issue-source"
    assert named == [{"url": source, "valueString": "uscore"}]


def test_a_verdict_with_status_412_or_422_is_one(other: Other) -> None:
    other.issues = [MISSING]
    for other.status in (412, 422):
        assert facts(examined(stage(validator(other.base)))) == [("error", "processing", "Patient")]


def test_hl7s_own_program_is_asked_by_its_own_path(other: Other) -> None:
    other.issues = [MISSING]
    asked = stage(validator(other.base, protocol="hl7"))
    assert facts(examined(asked)) == [("error", "processing", "Patient")]


def test_only_who_is_responsible_is_asked(httpserver: HTTPServer, other: Other) -> None:
    """The longest name wins; a profile of ours or of R4 is nobody else's business; of any other it is said."""
    refused = "http://127.0.0.1:1/fhir"
    asked = stage(validator(refused, "http://hl7.org/fhir/us/", name="wide"), validator(other.base),
                  validator(refused, f"{PROFILE}-x", name="exact"))  # fmt: skip
    assert facts(examined(asked)) == [("information", "processing", "Patient")]
    assert len(other.seen) == 1
    ours = "https://secondop.example/StructureDefinition/x"
    r4 = "http://hl7.org/fhir/StructureDefinition/Patient"
    issues = examined(asked, {"resourceType": "Patient", "meta": {"profile": [ours, r4]}})
    assert [(issue.severity, issue.code, issue.diagnostics) for issue in issues] == [
        ("information", "not-supported", f"The profile {ours} is not known here: only R4's own rules were checked.")
    ]
    assert examined(asked, {"resourceType": "Patient"}) == []
    assert len(other.seen) == 1
    [issue] = examined(asked, {"resourceType": "Patient", "meta": {"profile": [f"{PROFILE}-x"]}})
    assert issue.source == "exact"
    assert asked.covers(f"{PROFILE}-x|1.0.0")
    assert not asked.covers("http://hl7.org/fhir/uv/ips/StructureDefinition/Patient-uv-ips")


def test_a_profile_that_is_demanded_is_sent_as_a_claim(other: Other) -> None:
    examined(stage(validator(other.base)), {"resourceType": "Patient", "meta": {"id": "1"}}, PROFILE)
    assert other.seen == [{"resourceType": "Patient", "meta": {"id": "1", "profile": [PROFILE]}}]


def test_it_gets_no_claim_that_is_not_its_business(other: Other) -> None:
    """HL7's program would fetch what it does not know, from wherever the sender says."""
    strange, ours = "http://10.0.0.1/admin", "https://secondop.example/StructureDefinition/x"
    contained = {"resourceType": "Organization", "id": "a", "name": "A", "meta": {"profile": [strange]}}
    patient = {"resourceType": "Patient", "managingOrganization": {"reference": "#a"}, "contained": [contained]}
    sent = {**patient, "meta": {"profile": [strange, PROFILE, ours], "_profile": [None, {"id": "x"}, None]}}
    examined(stage(validator(other.base)), sent)
    kept = {**patient, "contained": [{k: v for k, v in contained.items() if k != "meta"}]}
    assert other.seen == [{**kept, "meta": {"profile": [PROFILE]}}]


def test_what_claims_nothing_else_is_sent_as_it_is(other: Other, httpserver: HTTPServer) -> None:
    text = f'{{"resourceType" : "Patient", "meta": {{"profile": ["{PROFILE}"]}}, "multipleBirthInteger": 1}}'
    stage(validator(other.base)).examine(codec.parse(text), text)
    assert httpserver.log[-1][0].get_data(as_text=True) == text


def test_a_profile_that_it_does_not_know_was_not_checked(other: Other) -> None:
    """And whose profile that is not: ours, say, it does not know, and that is no fault."""
    mine = "https://secondop.example/StructureDefinition/x"
    other.issues = [*unknown(PROFILE), *unknown(mine)]
    resource = {**PATIENT, "meta": {"profile": [PROFILE]}}
    assert facts(examined(stage(validator(other.base)), resource)) == [("warning", RETRY, "Patient")]
    assert facts(examined(stage(validator(other.base, required=True)), resource)) == [("error", RETRY, "Patient")]
    other.issues = [said("error", f"Unable to resolve {PROFILE}", code="not-found")]
    assert facts(examined(stage(validator(other.base)), resource)) == [("warning", RETRY, "Patient")]
    # One whose name only begins the same is another.
    other.issues = unknown(f"{PROFILE}-of-more")
    assert examined(stage(validator(other.base)), resource) == []


def test_a_code_system_that_it_does_not_have_is_information(other: Other) -> None:
    none = "CodeSystem is unknown and can't be validated: urn:oid:1.2 for 'urn:oid:1.2#x'"
    other.issues = [
        said("error", none, message="Terminology_PassThrough_TX_Message"),
        said("error", f"The Coding provided was not found in the value set.  (error message = {none}; more)"),
        said("error", "A definition for CodeSystem 'urn:oid:1.2' could not be found, so the code cannot be validated"),
        said("error", "The value provided ('x') was not found in the value set 'Birth Sex'"),
    ]
    found = [issue.severity for issue in examined(stage(validator(other.base)))]
    assert found == ["error", "information", "information", "information"]


def test_a_server_that_does_not_look_at_profiles_is_not_believed(other: Other) -> None:
    other.knows_profiles = False
    [issue] = examined(stage(validator(other.base)))
    assert (issue.severity, issue.code) == ("warning", RETRY)
    assert issue.diagnostics == (
        f"The profile {PROFILE} was not checked by uscore: uscore does not look at the profiles that a resource claims."
    )
    assert other.seen == []


LATE = 0.5


def dribble(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(LATE / 5)


def cut_off(connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"resourceType": "Operation')


def huge(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b" " * (1 << 16))


FAULTS: dict[str, Callable[[socket.socket], None]] = {
    "late": lambda connection: time.sleep(10 * LATE),
    "dribbles": dribble,
    "cut off": cut_off,
    "huge": huge,
    "closed": lambda connection: None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_who_does_not_answer_has_not_checked_and_is_left_alone_for_a_while(fault: str) -> None:
    with raw(FAULTS[fault]) as where:
        for required, severity in ((False, "warning"), (True, "error")):
            asked = stage(validator(f"http://{where}/fhir", required=required, timeout_s=LATE))
            begun = time.monotonic()
            assert facts(examined(asked)) == [(severity, RETRY, "Patient")]
            assert time.monotonic() - begun < 5 * LATE


ANSWERS = {
    "a page": ("<html>maintenance</html>", 200),
    "a resource": (json.dumps(PATIENT), 200),
    "no issues": ('{"resourceType": "OperationOutcome"}', 200),
    "no severity": ('{"resourceType": "OperationOutcome", "issue": [{"code": "x"}]}', 200),
    "a new severity": ('{"resourceType": "OperationOutcome", "issue": [{"severity": "ok", "code": "x"}]}', 200),
    "no list": ('{"resourceType": "OperationOutcome", "issue": [3]}', 200),
    "broken": ('{"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]}', 500),
    "refused": ('{"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]}', 400),
    "forbidden": ("", 403),
    "elsewhere": ("", 302),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_no_verdict_is_none(httpserver: HTTPServer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    text, status = ANSWERS[name]
    caplog.set_level(logging.DEBUG)
    probed = {"resourceType": "OperationOutcome", "issue": unknown(f"{US_CORE}not-a-profile-a-question-whether-"
                                                                   "profiles-are-looked-at")}  # fmt: skip
    httpserver.expect_request("/fhir/Basic/$validate").respond_with_json(probed)
    httpserver.expect_request("/fhir/Patient/$validate").respond_with_data(text, status)
    assert facts(examined(stage(validator(httpserver.url_for("/fhir"))))) == [("warning", RETRY, "Patient")]
    assert NAME not in caplog.text


def test_who_did_not_answer_is_not_asked_again_at_once(other: Other) -> None:
    times = [0.0]
    asked = stage(validator(other.base), clock=lambda: times[0])
    other.status = 503
    assert facts(examined(asked)) == [("warning", RETRY, "Patient")]
    other.status = 200
    [issue] = examined(asked)
    assert issue.diagnostics.endswith("uscore did not answer a moment ago and is not asked again yet.")
    assert len(other.seen) == 1
    times[0] += second_stage.REST_S
    assert facts(examined(asked)) == [("information", "processing", "Patient")]
    assert len(other.seen) == 2


def test_a_resource_at_which_it_breaks_keeps_no_other_from_being_checked(other: Other) -> None:
    asked = stage(validator(other.base))
    other.status = 500
    assert facts(examined(asked)) == [("warning", RETRY, "Patient")]
    other.status = 200
    assert facts(examined(asked)) == [("information", "processing", "Patient")]


def test_no_more_wait_for_it_than_it_can_do_at_once(other: Other) -> None:
    begun, over = threading.Event(), threading.Event()
    asked = stage(validator(other.base, concurrency=1, timeout_s=0.5))
    examined(asked)  # the first question, whether it looks at profiles, is behind us

    def wait() -> None:
        begun.set()
        over.wait(0.9)

    other.meanwhile = wait
    first = threading.Thread(target=examined, args=(asked,))
    first.start()
    assert begun.wait(5)
    [issue] = examined(asked)
    assert "busy" in issue.diagnostics or "moment ago" in issue.diagnostics
    assert len(other.seen) == 2
    over.set()
    first.join()


def test_what_is_too_large_is_not_sent(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_stage, "MAX_SENT_CHARACTERS", 50)
    assert facts(examined(stage(validator(other.base)))) == [("warning", "too-costly", "Patient")]
    assert other.seen == []


def test_a_verdict_without_end_is_cut_and_its_errors_come_first(other: Other) -> None:
    many = second_stage.MAX_ISSUES + 5
    other.issues = [*[said("information", "x" * 5000)] * many, MISSING]
    issues = examined(stage(validator(other.base)))
    assert len(issues) == second_stage.MAX_ISSUES + 1
    assert issues[0].severity == "error"
    assert issues[-1].diagnostics == "There are 6 more like this; they are not shown."
    assert max(len(issue.diagnostics) for issue in issues) < second_stage.MAX_SAID + 50


def test_many_claims_are_done_soon_and_not_all_named(other: Other) -> None:
    claims = [f"{PROFILE}-{number}" for number in range(20_000)]
    other.issues = [issue for url in claims[:5_000] for issue in unknown(url)]
    resource = {**PATIENT, "meta": {"profile": [*claims, *(f"https://nobody.example/{n}" for n in range(20_000))]}}
    begun = time.monotonic()
    issues = examined(stage(validator(other.base)), resource)
    assert time.monotonic() - begun < 10
    assert len(issues) == 2 * (second_stage.MAX_ISSUES + 1)
    assert issues[-1].diagnostics == "There are 4800 more like this; they are not shown."


def test_it_is_asked_with_its_credentials(httpserver: HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    seen: list[str] = []

    def answer(request: Request) -> Response:
        seen.append(request.headers["Authorization"])
        return Response("{}", 200)

    httpserver.expect_request("/fhir/Basic/$validate").respond_with_handler(answer)
    examined(stage(validator(httpserver.url_for("/fhir"), auth="bearer", secret_file=str(tmp_path / "token"))))
    assert seen == ["Bearer s3cret"]


def test_the_settings_know_the_protocols() -> None:
    assert set(config.VALIDATOR_PROTOCOLS) == set(second_stage.PATHS)
    assert replace(validator("http://a"), protocol="hl7").name == "uscore"
