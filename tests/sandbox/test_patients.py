"""Finding patients, and their whole record in one answer."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from fhir_secondop.fhir import codec, validate
from fhir_secondop.model import Resource
from tests.sandbox.conftest import MRN, Farm, get, ids, send

MARIA = {"resourceType": "Patient", "name": [{"family": "Muster", "given": ["Maria"]}], "gender": "female",
         "birthDate": "1971-04-17"}  # fmt: skip
PHONE = {"telecom": [{"system": "phone", "value": "0049-30-5550123"}]}


def match(base: str, patient: Resource, **more: Any) -> requests.Response:
    parameters = [{"name": "resource", "resource": patient}, *({"name": n, **v} for n, v in more.items())]
    answer: requests.Response = send(
        "POST", base, "Patient/$match", {"resourceType": "Parameters", "parameter": parameters}
    )  # fmt: skip
    return answer


def grades(answer: requests.Response) -> list[tuple[str, str, float]]:
    assert answer.status_code == 200, answer.text
    assert validate.validate(codec.parse(answer.content)) == []
    return [
        (e["resource"]["id"], e["search"]["extension"][0]["valueCode"], e["search"]["score"])
        for e in answer.json().get("entry", [])
    ]


@pytest.mark.parametrize(("asked", "found"), [
    ({"resourceType": "Patient", "identifier": [{"system": MRN, "value": "B-2"}]}, [("2", "certain", 1.0)]),
    ({"resourceType": "Patient", "identifier": [{"system": "https://other.example", "value": "B-2"}]}, []),
    ({**MARIA, "telecom": [{"system": "phone", "value": "+49 (30) 5550123"}]}, [("1", "certain", 0.99)]),
    ({**MARIA, **PHONE}, [("1", "probable", 0.8)]),  # the same number, written so that it is another
    (MARIA, [("1", "probable", 0.8)]),
    ({**MARIA, "name": [{"family": "muster"}]}, [("1", "probable", 0.7)]),
    ({**MARIA, "birthDate": "1971-04-18"}, [("1", "possible", 0.4)]),
    ({**MARIA, "name": [{"family": "Other", "given": ["Maria"]}]}, []),
    ({"resourceType": "Patient", "gender": "female"}, []),
])  # fmt: skip
def test_a_match_is_graded_by_what_agrees(farm: Farm, asked: Resource, found: list[tuple[str, str, float]]) -> None:
    assert grades(match(farm("full", "match"), asked)) == found


def test_only_certain_matches_can_be_asked_for(farm: Farm) -> None:
    base = farm("epic")
    only = {"onlyCertainMatches": {"valueBoolean": True}}
    assert grades(match(base, MARIA)) == [("1", "probable", 0.8)]
    assert grades(match(base, MARIA, **only)) == []
    by_number = {**MARIA, "identifier": [{"system": MRN, "value": "A-1"}]}
    assert grades(match(base, by_number, **only)) == [("1", "certain", 1.0)]
    assert grades(match(base, {**MARIA, "identifier": [{"system": MRN, "value": "B-2"}]}, count={"valueInteger": 1})) \
        == [("2", "certain", 1.0)]  # fmt: skip
    twins = {**MARIA, "identifier": [{"system": MRN, "value": v} for v in ("A-1", "B-2")]}
    assert grades(match(base, twins, **only)) == [], "two certain ones are none"
    assert match(base, {"resourceType": "Basic", "code": {"text": "x"}}).status_code == 422
    assert match(farm("full"), MARIA).status_code == 404


def test_a_match_is_declared(farm: Farm) -> None:
    def operations(base: str) -> list[str]:
        resources = get(base, "metadata").json()["rest"][0]["resource"]
        return [o["name"] for r in resources if r["type"] == "Patient" for o in r.get("operation", [])]

    assert operations(farm("epic")) == ["match"]
    assert operations(farm("full", "match")) == ["match", "everything"]
    assert operations(farm("meditech")) == ["everything"]
    assert operations(farm("athena")) == []


def test_everything_is_what_belongs_to_the_patient(farm: Farm) -> None:
    base = farm("full")
    answer = get(base, "Patient/1/$everything")
    assert validate.validate(codec.parse(answer.content)) == []
    assert sorted(ids(answer)) == ["1", "d", "e", "m", "o1", "o2", "o3", "o4", "o5"]
    assert ids(get(base, "Patient/2/$everything")) == ["2", "o6"]
    assert get(base, "Patient/3/$everything").status_code == 404
    assert get(farm("read-only"), "Patient/1/$everything").status_code == 404


def test_patients_may_not_be_searched_by_identifier(farm: Farm) -> None:
    base = farm("full", "no-identifier-search")
    resources = {r["type"]: r for r in get(base, "metadata").json()["rest"][0]["resource"]}
    assert "identifier" not in {p["name"] for p in resources["Patient"]["searchParam"]}
    assert "identifier" in {p["name"] for p in resources["Encounter"]["searchParam"]}
    assert get(base, f"Patient?identifier={MRN}|A-1").status_code == 422
    assert ids(get(base, "Patient?birthdate=1971-04-17")) == ["1"]
    lenient = get(base, f"Patient?identifier={MRN}|A-1", headers={"Prefer": "handling=lenient"})
    assert ids(lenient) == ["1", "2"]
