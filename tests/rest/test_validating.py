"""$validate over HTTP, on both databases: what it says, of what, and that nothing is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.errors import Issue
from fhir_secondop.fhir import claims
from fhir_secondop.fhir.validate import validate
from fhir_secondop.limits import Limits
from fhir_secondop.model import Caller
from fhir_secondop.store.database import Database
from tests.rest.served import client_of
from tests.store.rows import everything, named, put

REQUEST = Path(__file__).parents[2] / "profiles" / "examples" / "second-opinion-request.json"
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"
WRONG = {"resourceType": "Patient", "gender": "x", "name": [{"familiy": "Sampleton"}]}
XML = "application/fhir+xml"


@pytest.fixture
def client(database: Database) -> Any:
    named(database, "Patient", [("mine", {"birthDate": "1970-01-01"}), ("odd", {"colour": "red"})])
    put(database, {"resourceType": "Patient", "active": True}, resource_id="theirs", case_id="case")

    def second_stage(resource: Any, text: str, demanded: Any = ()) -> list[Issue]:
        if US_CORE not in demanded and US_CORE not in text:
            return claims.unchecked(resource, text, demanded)
        is_wrong = "name" not in resource
        return [Issue("error", "required", "Patient.name", "is required", source="others")] if is_wrong else []

    them = Caller("desk", "Desk", frozenset({"requester"}), ("system/Patient.rs",))
    return client_of(
        database, lambda request: them, xml=True, validates=True, second_stage=second_stage,
        limits=Limits(max_entries=2),
    )  # fmt: skip


def said(client: Any, path: str, body: Any = None, status: int = 200, **options: Any) -> list[dict[str, Any]]:
    if body is None:
        answer = client.get(f"/fhir/{path}", **options)
    else:
        sent = body if isinstance(body, str | bytes) else json.dumps(body)
        answer = client.post(f"/fhir/{path}", data=sent, **{"content_type": "application/fhir+json", **options})
    assert answer.status_code == status, answer.text
    found = json.loads(answer.data)
    assert [issue for issue in validate(found) if issue.severity == "error"] == []
    issues: list[dict[str, Any]] = found["issue"]
    return issues


def places(issues: list[dict[str, Any]], severity: str = "error") -> list[str]:
    return [issue.get("expression", [""])[0] for issue in issues if issue["severity"] == severity]


def test_every_fault_is_named_and_nothing_is_stored(client: Any, database: Database) -> None:
    assert places(said(client, "Patient/$validate", WRONG)) == ["Patient.gender", "Patient.name[0].familiy"]
    [sound] = said(client, "Patient/$validate", {"resourceType": "Patient", "active": True})
    assert (sound["severity"], sound["diagnostics"]) == ("information", "No fault was found.")
    assert said(client, "Patient/$validate", '{"resourceType":', 400)
    assert said(client, "Patient/$validate", "", 400)
    assert places(said(client, "Patient/$validate", {"resourceType": "Group", "type": "person", "actual": True})) == [
        ""
    ]
    assert everything(database, "Patient", "") == ["mine", "odd", "theirs"]


def test_xml_is_validated_where_it_stands(client: Any) -> None:
    sent = b'<Patient xmlns="http://hl7.org/fhir">\n  <gender value="x"/>\n</Patient>'
    issues = said(client, "Patient/$validate", sent, content_type=XML)
    assert [e["valueInteger"] for e in issues[0]["extension"]] == [2, 3]


def test_a_profile_may_be_demanded_and_of_an_unknown_one_it_is_said(client: Any) -> None:
    request = json.loads(REQUEST.read_text("utf-8"))
    url = request["meta"]["profile"][0]
    bare = {key: value for key, value in request.items() if key not in ("meta", "requester")}
    assert places(said(client, "ServiceRequest/$validate", bare)) == []
    assert places(said(client, f"ServiceRequest/$validate?profile={url}", bare)) == ["ServiceRequest.requester"]
    parameters = {
        "resourceType": "Parameters",
        "parameter": [{"name": "profile", "valueUri": url}, {"name": "resource", "resource": bare}],
    }
    assert places(said(client, "ServiceRequest/$validate", parameters)) == ["ServiceRequest.requester"]
    patient = {"resourceType": "Patient", "active": True}
    [told] = said(client, "Patient/$validate?profile=http://nobody.example/p", patient)
    assert (told["severity"], "http://nobody.example/p" in told["diagnostics"]) == ("information", True)


def test_others_are_asked_about_their_profiles(client: Any) -> None:
    patient = {"resourceType": "Patient", "active": True}
    for path, body in ((f"Patient/$validate?profile={US_CORE}", patient),
                       ("Patient/$validate", {**patient, "meta": {"profile": [US_CORE]}})):  # fmt: skip
        issues = said(client, path, body)
        assert places(issues) == ["Patient.name"]
        assert places(issues, "information") == [], "nothing is said to be unknown that others have looked at"


def test_what_is_stored_can_be_validated_by_who_may_read_it(client: Any) -> None:
    assert places(said(client, "Patient/mine/$validate")) == []
    assert places(said(client, "Patient/odd/$validate")) == ["Patient.colour"]
    for name in ("theirs", "nobody"):
        assert said(client, f"Patient/{name}/$validate", status=404)
        assert said(client, f"Patient/{name}/$validate", {"resourceType": "Patient"}, 404)
    assert said(client, "Observation/x/$validate", status=403)
    there = said(client, "Patient/mine/$validate?mode=update", {"resourceType": "Patient", "id": "other"})
    assert places(there) == ["Patient.id"]


def test_what_it_does_not_do_is_refused(client: Any) -> None:
    assert said(client, "Patient/$validate?mode=delete", {"resourceType": "Patient"}, 422)
    for parameter in ({"name": "colour", "valueString": "x"}, {"name": "mode"}):
        body = {"resourceType": "Parameters", "parameter": [parameter]}
        assert said(client, "Patient/$validate", body, 422)
    assert said(client, "Patient/$validate", {"resourceType": "Parameters", "parameter": []}, 400)
    entry = {"fullUrl": "urn:uuid:00000000-0000-4000-8000-000000000001", "resource": {"resourceType": "Patient"}}
    assert said(client, "Bundle/$validate", {"resourceType": "Bundle", "type": "collection", "entry": [entry] * 3}, 413)
