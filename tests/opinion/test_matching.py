"""Each criterion of a match alone: what is stated passes, warns or fails; what is not stated is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.fhir import times
from fhir_secondop.opinion import languages, licences, networks, places, specialties
from fhir_secondop.opinion.networks import Network
from fhir_secondop.opinion.people import Directory
from fhir_secondop.opinion.places import Place

Plain = dict[str, Any]
NOW = times.interval("2026-11-28T12:00:00Z").low
MARYLAND = Place("MD", "US")
NUCC, SNOMED = "http://nucc.org/provider-taxonomy", "http://snomed.info/sct"
BOARD: Plain = {"resourceType": "Organization", "id": "board", "address": [{"state": "MD", "country": "USA"}]}
THERE: Plain = {"resourceType": "Location", "id": "there", "address": {"state": "MD"}}
NUMBER = {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MD"}]}, "value": "1"}


def valid_in(where: Plain | None, status: str = "active", **period: str) -> Plain:
    parts = [{"url": "status", "valueCode": status}] if status else []
    parts += [{"url": "whereValid", **where}] if where else []
    return {"code": {"text": "licence"}, "extension": [{"url": licences.QUALIFICATION, "extension": parts}],
            **({"period": period} if period else {})}  # fmt: skip


def usps(state: str) -> Plain:
    return {"valueCodeableConcept": {"coding": [{"system": "https://www.usps.com/", "code": state}]}}


ISSUED = {"code": {"text": "licence"}, "identifier": [NUMBER], "issuer": {"reference": "Organization/board"}}
LICENCES: dict[str, tuple[list[Plain], str, str]] = {
    "in force": ([valid_in(usps("MD"), end="2027-01-31")], "pass", "until 2027-01-31"),
    "in force on its last day": ([valid_in(usps("MD"), end="2026-11-28")], "pass", "until 2026-11-28"),
    "by location": ([valid_in({"valueReference": {"reference": "Location/there"}})], "pass", "no end"),
    "by the issuer of a licence number": ([{**ISSUED, "period": {"start": "2001-01-01"}}], "pass", "no end"),
    "ended": ([valid_in(usps("MD"), end="2026-11-27")], "fail", "ended on 2026-11-27"),
    "not begun": ([valid_in(usps("MD"), start="2027-01-01")], "fail", "begins on"),
    "suspended": ([valid_in(usps("MD"), "suspended", end="2027-01-31")], "fail", "is suspended"),
    "one ended, one in force": (
        [valid_in(usps("MD"), end="2020-01-01"), valid_in(usps("MD"), end="2030-01-01")], "pass", "2030"),
    "elsewhere": ([valid_in(usps("NY"))], "unknown", "stated for NY"),
    "none": ([], "unknown", "no licence for MD is stated"),
    "nobody says since when": ([ISSUED], "unknown", "neither its period"),
    "a degree of a place there": (
        [{"code": {"text": "MD"}, "issuer": {"reference": "Organization/board"}, "period": {"start": "2001"}}],
        "unknown", "no licence"),
    "another country's state of that name": (
        [valid_in({"valueReference": {"reference": "Location/abroad"}})], "unknown", "no licence for MD"),
}  # fmt: skip


@pytest.mark.parametrize(("qualifications", "result", "fact"), LICENCES.values(), ids=LICENCES)
def test_a_licence_must_be_stated_and_in_force_where_the_patient_is(
    qualifications: list[Plain], result: str, fact: str
) -> None:
    abroad = {"resourceType": "Location", "id": "abroad", "address": {"state": "MD", "country": "Examplia"}}
    known = Directory([BOARD, THERE, abroad])
    said = licences.judged({"qualification": qualifications}, known, MARYLAND, NOW)
    assert (said[0], fact in said[1]) == (result, True), said
    assert licences.judged({"qualification": qualifications}, known, None, NOW)[0] == "unknown"


PAYER, OTHER = frozenset({"payers|p"}), frozenset({"payers|q"})


def network(name: str, payer: frozenset[str] = frozenset(), *, named: bool = True) -> Network:
    return Network(name, frozenset({name.casefold()} if named else ()), payer)


NETWORKS: dict[str, tuple[list[Network], list[Network], str]] = {
    "the patient's": ([network("Open", PAYER)], [network("OPEN", PAYER)], "pass"),
    "the patient's, whose it is not said": ([network("Open", PAYER)], [network("Open")], "pass"),
    "another payer's of the same name": ([network("Open", PAYER)], [network("Open", OTHER)], "fail"),
    "another of the payer": ([network("Open", PAYER)], [network("Select", PAYER)], "fail"),
    "the payer's, the patient's not said": ([network("P", PAYER, named=False)], [network("Select", PAYER)], "warn"),
    "another payer's, the patient's not said": ([network("P", PAYER, named=False)], [network("Q", OTHER)], "fail"),
    "whose it is not said": ([network("P", PAYER, named=False)], [network("Q")], "unknown"),
    "no coverage": ([], [network("Open", PAYER)], "unknown"),
    "no network stated": ([network("Open", PAYER)], [], "unknown"),
    "nothing at all": ([], [], "unknown"),
    "one of two coverages": ([network("A", PAYER), network("B", OTHER)], [network("B", OTHER)], "pass"),
}  # fmt: skip


@pytest.mark.parametrize(("needed", "has", "result"), NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_a_pass_only_when_it_is_stated_to_be_the_patients(
    needed: list[Network], has: list[Network], result: str
) -> None:
    assert networks.judged(needed, has)[0] == result


def tag(code: str) -> Plain:
    return {"coding": [{"system": "urn:ietf:bcp:47", "code": code}]}


LANGUAGES: dict[str, tuple[list[Plain], list[Plain], str]] = {
    "the same": ([tag("es")], [tag("en"), tag("es")], "pass"),
    "a variety of it": ([tag("es-MX")], [tag("es")], "pass"),
    "the same words": ([{"text": "Spanish"}], [{"text": "spanish"}], "pass"),
    "another": ([tag("es")], [tag("en")], "warn"),
    "words against a tag": ([{"text": "Spanish"}], [tag("es")], "unknown"),
    "the patient's not known": ([], [tag("es")], "unknown"),
    "none stated": ([tag("es")], [], "unknown"),
}  # fmt: skip


@pytest.mark.parametrize(("needed", "spoken", "result"), LANGUAGES.values(), ids=LANGUAGES)
def test_a_language_is_the_same_or_needs_an_interpreter(needed: list[Plain], spoken: list[Plain], result: str) -> None:
    assert languages.judged(needed, spoken)[0] == result


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (Place("MD", "US"), Place("md", "USA"), True),
        (Place("MD", "US"), Place("MD"), True),
        (Place("MD", "US"), Place("NY", "US"), False),
        (Place("MD", "US"), Place("MD", "DE"), False),
        (Place("MD"), Place("Maryland"), None),
        (Place("MD"), Place("", "US"), None),
        (Place("Maryland"), Place("New York"), False),
    ],
)
def test_a_state_is_the_same_only_where_both_say_so(a: Place, b: Place, same: bool | None) -> None:
    assert places.same_state(a, b) is same
    assert places.same_state(b, a) is same


@pytest.mark.parametrize(
    ("mine", "theirs", "compared"),
    [
        (f"{NUCC}|207RX0202X", f"{NUCC}|207RX0202X", specialties.SAME),
        (f"{NUCC}|207RX0202X", f"{SNOMED}|394593009", specialties.SAME),
        (f"{NUCC}|207RX0202X", f"{NUCC}|208600000X", specialties.OTHER),
        (f"{NUCC}|207RX0202X", f"{SNOMED}|394609007", specialties.OTHER),  # that pair is another specialty's
        (f"{NUCC}|207RX0202X", f"{SNOMED}|123", specialties.UNKNOWN),
        (f"{NUCC}|207Q00000X", f"{SNOMED}|394609007", specialties.UNKNOWN),
    ],
)
def test_specialties_of_two_systems_differ_only_where_both_are_listed(mine: str, theirs: str, compared: str) -> None:
    assert specialties.compare(mine, theirs) == compared
    assert specialties.compare(theirs, mine) == compared
