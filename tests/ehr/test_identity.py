"""Who the patient is at an EHR: certain, or left to a person; from simulated EHRs and from servers that misbehave."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from fhir_secondop.ehr import identity
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.identity import Match
from fhir_secondop.ehr.pull import resources_of
from fhir_secondop.model import Resource
from tests.ehr.conftest import RECORDS, Ehrs, client_of, new_patient

RIVERSIDE = (RECORDS / "riverside.json",)
MRN = "https://riverside.example/mrn"


def searchset(*resources: Resource) -> Resource:
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": r} for r in resources]}


def find(client: Client, value: str, birth_date: str, system: str = MRN, **more: Any) -> Match:
    """The match of a patient with this identifier of that place; none with ""."""
    identifiers = [{"system": system, "value": value}] if value else []
    return identity.find_patient(client, {"identifier": identifiers, "birthDate": birth_date, **more}, MRN)


def test_the_patient_is_found_by_that_places_identifier_and_birth_date(ehrs: Ehrs) -> None:
    client = client_of(ehrs("epic", load=RIVERSIDE))
    match = find(client, "RS-100482", "1971-04-17")
    assert (match.id, match.because) == ("1", "by identifier, same date of birth")
    # the page is kept: it is the evidence of who it is
    assert match.page is not None
    assert [r["id"] for _, r in resources_of(match.page)] == ["1"]


def test_one_digit_off_is_another_patient(ehrs: Ehrs) -> None:
    client = client_of(ehrs("epic", load=RIVERSIDE))
    assert find(client, "RS-100842", "1971-04-17").id == ""
    assert find(client, "RS-100842", "1971-04-11").id == "2"


def test_another_date_of_birth_is_left_to_a_person(ehrs: Ehrs) -> None:
    match = find(client_of(ehrs("epic", load=RIVERSIDE)), "RS-100482", "1971-04-18")
    assert (match.id, match.page) == ("", None)
    assert "another date of birth" in match.because


def test_an_unknown_identifier_finds_nobody(ehrs: Ehrs) -> None:
    match = find(client_of(ehrs("epic", load=RIVERSIDE)), "RS-999999", "1971-04-17")
    assert (match.id, match.because) == ("", "no patient with this identifier")


def test_the_same_value_in_another_system_finds_nobody(ehrs: Ehrs) -> None:
    match = find(client_of(ehrs("epic", load=RIVERSIDE)), "RS-100482", "1971-04-17", "https://lakeside.example/mrn")
    assert match.id == ""


def test_without_an_identifier_of_that_place_nothing_is_asked(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/metadata").respond_with_json({"resourceType": "CapabilityStatement"})
    match = find(client_of(httpserver.url_for("/fhir")), "", "1971-04-17")
    assert (match.id, match.because) == ("", "no identifier of that place is known, and too little to search by")
    assert [request.path for request, _ in httpserver.log] == ["/fhir/metadata"]


def test_two_patients_with_the_identifier_are_left_to_a_person(ehrs: Ehrs) -> None:
    base = ehrs("full")
    twice = [{"system": "https://twice.example/mrn", "value": "7"}]
    for _ in range(2):
        new_patient(base, identifier=twice)
    ours = {"identifier": twice, "birthDate": "1971-04-17"}
    match = identity.find_patient(client_of(base), ours, "https://twice.example/mrn")
    assert match.id == ""
    assert "several patients" in match.because


def test_a_server_that_ignores_the_identifier_matches_nobody(httpserver: HTTPServer) -> None:
    stranger = {"resourceType": "Patient", "id": "9", "birthDate": "1971-04-17",
                "identifier": [{"system": MRN, "value": "RS-5"}]}  # fmt: skip
    httpserver.expect_request("/fhir/Patient").respond_with_json(searchset(stranger))
    match = find(client_of(httpserver.url_for("/fhir")), "RS-100482", "1971-04-17")
    assert (match.id, match.because) == ("", "no patient with this identifier")


def test_a_maintenance_page_is_a_failure_of_the_ehr(httpserver: HTTPServer) -> None:
    """Not a fault of ours that would end the workflow without a word."""
    httpserver.expect_request("/fhir/Patient").respond_with_data("<html>down</html>", 200)
    with pytest.raises(EhrFailure) as caught:
        find(client_of(httpserver.url_for("/fhir")), "RS-100482", "1971-04-17")
    assert caught.value.kind == "validation"
