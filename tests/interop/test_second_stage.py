"""The second stage, asked of software that we did not write: HAPI's $validate, and HL7's own validator over HTTP.

With the guides themselves, US Core 6.1.0 and IPS 1.1.0, and their official examples. Neither validator has a
terminology server, so what they say of SNOMED CT, LOINC or MIME types stays information.
"""

from __future__ import annotations

import json
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pytest_httpserver import HTTPServer

from fhir_secondop import fhir
from fhir_secondop.ehr.second_stage import REST_S, SecondStage
from fhir_secondop.errors import Issue
from fhir_secondop.fhir import codec
from fhir_secondop.model import Resource
from fhir_secondop.store.database import now_ms
from tests.ehr.test_second_stage import PROFILE, US_CORE, validator
from tests.interop.hapi_server import hapi_server
from tests.interop.hl7_server import Running, guide, hl7_server
from tests.interop.our_service import serving

pytestmark = pytest.mark.shared

IPS = "http://hl7.org/fhir/uv/ips/"
DOCUMENT = f"{IPS}StructureDefinition/Bundle-uv-ips"
FHIR = {"Content-Type": "application/fhir+json"}
# Official examples of US Core that are refused, and what for; it is so.
LINK = "does not resolve"  # a link in a narrative to a resource of another page
REFUSED_BY_BOTH = {"Bundle-c887e62f-6166-419f-8268-b5ecd6c7b901": LINK}
SEX = "was not found in the value set 'Birth Sex'"  # which HAPI does not expand, with or without R4's code system
REFUSED_BY_HAPI = {
    "Patient-child-example": SEX,
    "Patient-example-targeted-provenance": SEX,
    "Patient-example": SEX,
    "Patient-infant-example": SEX,
}
# The package hl7.terminology has the code system, hl7.fhir.uv.extensions the extension; neither is here.
NO_DEFINITION = "No definition could be found for URL value"
REFUSED_BY_HL7 = {
    "Observation-observation-occupation": NO_DEFINITION,
    "Observation-observation-occupation-industry-unknown": NO_DEFINITION,
    "Observation-observation-occupation-unknown": NO_DEFINITION,
    "Patient-example": "Wrong Display Name",  # R4's own list of tribes cuts the names off
    "Provenance-example-targeted-provenance": "StructureDefinition/targetElement",
}


def examples(data: Path, name: str) -> dict[str, Resource]:
    """A guide's official examples that claim a profile of it, as far as R4 alone has nothing against them."""
    found = {}
    with tarfile.open(data / "r4-definitions" / f"{name}.tgz") as archive:
        for member in archive:
            if member.name.startswith("package/example/") and not member.name.endswith(".index.json"):
                found[Path(member.name).stem] = codec.parse(archive.extractfile(member).read())  # type: ignore[union-attr]
    return {key: each for key, each in found.items() if not errors(fhir.check(each))}


def errors(issues: list[Issue]) -> list[Issue]:
    return [issue for issue in issues if issue.severity in ("error", "fatal")]


@pytest.fixture(scope="module")
def hapi(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondStage]:
    """HAPI with US Core."""
    with hapi_server(tmp_path_factory.mktemp("hapi")) as base:
        folder = guide(shared_data, "us-core-6.1.0", tmp_path_factory.mktemp("us-core"))
        for each in [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]:
            if each["resourceType"] in ("StructureDefinition", "ValueSet", "CodeSystem"):
                put = requests.put(f"{base}/{each['resourceType']}/{each['id']}", json=each, headers=FHIR, timeout=60)
                assert put.status_code in (200, 201), put.text
        yield SecondStage([validator(base, name="hapi", timeout_s=60.0)], now=now_ms)


@pytest.fixture(scope="module")
def program(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """HL7's program, with US Core and IPS; the last test of this module ends it."""
    folder = tmp_path_factory.mktemp("hl7")
    guides = [guide(shared_data, name, folder) for name in ("us-core-6.1.0", "ips-1.1.0")]
    with hl7_server(shared_data, folder, guides) as running:
        yield running


@pytest.fixture(scope="module")
def hl7(program: Running) -> SecondStage:
    asked = validator(program.base, US_CORE, IPS, name="hl7", protocol="hl7", timeout_s=60.0)
    return SecondStage([asked], now=now_ms)


@pytest.fixture(params=["hapi", "hl7"])
def stage(request: pytest.FixtureRequest) -> SecondStage:
    found: SecondStage = request.getfixturevalue(request.param)
    return found


def examined(stage: SecondStage, resource: Resource, *demanded: str) -> list[Issue]:
    """What it says; it has answered."""
    issues = stage.examine(resource, codec.dumps(resource), demanded)
    assert [issue for issue in issues if issue.code == "transient"] == []
    return issues


def test_official_examples_of_us_core_pass(
    stage: SecondStage, shared_data: Path, request: pytest.FixtureRequest
) -> None:
    known = REFUSED_BY_BOTH | (REFUSED_BY_HL7 if "hl7" in request.node.name else REFUSED_BY_HAPI)
    found = examples(shared_data, "us-core-6.1.0")
    wrong = {}
    for name, resource in found.items():
        said = [issue.diagnostics for issue in errors(examined(stage, resource))]
        # HL7's program refuses example.org in URLs unless it is started with -allow-example-urls.
        if [text for text in said if known.get(name, "nothing") not in text and "Example URLs" not in text]:
            wrong[name] = said
    assert wrong == {}
    assert len(found) > 160


def without(element: str) -> Callable[[Resource], Resource]:
    return lambda resource: {key: value for key, value in resource.items() if key != element}


def first_without(element: str, part: str) -> Callable[[Resource], Resource]:
    return lambda resource: {**resource, element: [without(part)(resource[element][0]), *resource[element][1:]]}


BROKEN = {
    "Patient-child-example": [
        (without("identifier"), "Patient", "Patient.identifier"),
        (without("name"), "Patient", "Patient.name"),
        (without("gender"), "Patient", "Patient.gender"),
        (first_without("identifier", "system"), "Patient.identifier[0]", "Patient.identifier.system"),
    ],
    "AllergyIntolerance-example": [(without("code"), "AllergyIntolerance", "AllergyIntolerance.code")],
    "Observation-blood-pressure": [
        (without("effectiveDateTime"), "Observation", "Observation.effective[x]"),
        (without("component"), "Observation", "Observation.component"),
    ],
    "Condition-condition-duodenal-ulcer": [(without("category"), "Condition", "Condition.category")],
}


@pytest.mark.parametrize("name", BROKEN)
def test_without_a_required_element_the_place_is_said(stage: SecondStage, shared_data: Path, name: str) -> None:
    resource = examples(shared_data, "us-core-6.1.0")[name]
    for broken, place, element in BROKEN[name]:
        assert errors(fhir.check(broken(resource))) == [], "R4 alone has nothing against it"
        said = errors(examined(stage, broken(resource)))
        assert any(issue.expression == place and element in issue.diagnostics for issue in said), (element, said)


def test_a_profile_that_they_do_not_have_was_not_checked(stage: SecondStage) -> None:
    patient = {"resourceType": "Patient", "meta": {"profile": [f"{PROFILE}-of-tomorrow"]}, "gender": "other"}
    issues = stage.examine(patient, codec.dumps(patient))
    unchecked = [(i.severity, i.diagnostics) for i in issues if "was not checked" in i.diagnostics]
    assert [(severity, "the profile is not known there" in text) for severity, text in unchecked] == [("warning", True)]
    assert errors(issues) == []


def test_whoever_writes_can_not_send_it_elsewhere(hl7: SecondStage, program: Running, httpserver: HTTPServer) -> None:
    """It fetches whatever profile it does not know, from its URL; it does not get to see those of others."""
    claimed = {"profile": [httpserver.url_for("/StructureDefinition/x")]}
    organization = {"resourceType": "Organization", "id": "a", "name": "A", "meta": claimed}
    patient = {"resourceType": "Patient", "gender": "other", "contained": [organization],
               "managingOrganization": {"reference": "#a"}}  # fmt: skip
    requests.post(f"{program.base}/validateResource", json={**patient, "meta": claimed}, timeout=60).raise_for_status()
    assert len(httpserver.log) > 0, "as it comes, it does"
    before = len(httpserver.log)
    assert errors(examined(hl7, {**patient, "meta": {"profile": [PROFILE, *claimed["profile"]]}})) != []
    assert len(httpserver.log) == before


def test_a_document_of_ips_passes_and_without_its_allergies_does_not(hl7: SecondStage, shared_data: Path) -> None:
    """The official example claims nothing, and its generated narratives have links that lead nowhere."""
    document = examples(shared_data, "ips-1.1.0")["Bundle-bundle-no-info-required-sections"]
    for entry in document["entry"][1:]:
        entry["resource"].pop("text")
    assert errors(examined(hl7, document, DOCUMENT)) == []
    sections = document["entry"][0]["resource"]["section"]
    sections[:] = [each for each in sections if each["code"]["coding"][0]["code"] != "48765-2"]
    document["entry"] = [e for e in document["entry"] if e["resource"]["resourceType"] != "AllergyIntolerance"]
    assert errors(fhir.check(document)) == []
    [issue] = errors(examined(hl7, document, DOCUMENT))
    assert (issue.expression, "Bundle.entry:composition" in issue.diagnostics) == ("Bundle", True)


def with_hl7(base: str, *more: str) -> list[str]:
    """The settings of a service that has HL7's program as its validator."""
    return ["[validators.hl7]", f'base = "{base}"', 'protocol = "hl7"', f'profiles = ["{US_CORE}"]', "timeout_s = 10.0",
            *more]  # fmt: skip


def create(base: str, resource: Resource) -> tuple[int, list[dict[str, Any]], float]:
    """Status, issues and seconds of a create that asks for an outcome."""
    begun = time.monotonic()
    headers = {**FHIR, "Prefer": "return=OperationOutcome"}
    answer = requests.post(f"{base}/{resource['resourceType']}", json=resource, headers=headers, timeout=120)
    return answer.status_code, answer.json()["issue"], time.monotonic() - begun


def test_the_service_goes_on_when_the_validator_hangs_and_when_it_has_ended(
    program: Running, shared_data: Path, tmp_path: Path
) -> None:
    """The last of these: the others need the validator."""
    patient = examples(shared_data, "us-core-6.1.0")["Patient-child-example"]
    with (
        serving(tmp_path / "lenient", *with_hl7(program.base)) as lenient,
        serving(tmp_path / "strict", *with_hl7(program.base, "required = true")) as strict,
    ):  # fmt: skip
        for base in (lenient, strict):
            assert create(base, patient)[0] == 201
            status, issues, _ = create(base, without("identifier")(patient))
            assert status == 422
            assert [(i["severity"], i["expression"]) for i in issues] == [("error", ["Patient"])]
            assert "hl7 says: Patient.identifier: minimum required = 1" in issues[0]["diagnostics"]

        os.kill(program.process.pid, signal.SIGSTOP)
        try:
            status, issues, seconds = create(lenient, patient)
            assert (status, issues[1]["severity"]) == (201, "warning")
            assert f"The profile {PROFILE} was not checked by hl7" in issues[1]["diagnostics"]
            assert 9 < seconds < 20
            assert create(lenient, patient)[2] < 5, "nobody else waits as long"
            status, issues, _ = create(strict, patient)
            assert (status, issues[0]["code"]) == (503, "transient")
        finally:
            os.kill(program.process.pid, signal.SIGCONT)
        time.sleep(REST_S)
        for base in (lenient, strict):
            assert create(base, without("identifier")(patient))[0] == 422

        program.process.kill()
        program.process.wait()
        assert create(lenient, patient)[0] == 201
        assert create(strict, patient)[0] == 503
    family = patient["name"][0]["family"]
    for log in ("lenient/service.log", "strict/service.log"):
        assert family not in (tmp_path / log).read_text()
