"""Search by number, quantity, URI and composite, on both databases."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_secondop.fhir import codec
from fhir_secondop.store import resources
from fhir_secondop.store.database import Database
from fhir_secondop.store.search_numbers import LEAST, MOST, sortable
from tests.store.rows import BASE, DESK, everything, named, refused

UCUM = "http://unitsofmeasure.org"
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e60"), max_value=Decimal("1e60"))


@given(DECIMALS, DECIMALS)
def test_the_order_of_the_index_is_that_of_numbers(one: Decimal, other: Decimal) -> None:
    assert (sortable(one) < sortable(other)) is (one < other)
    assert (sortable(one) == sortable(other)) is (one == other)
    assert LEAST < sortable(one) < MOST


def quantity(value: Any, unit: str = "mg", **rest: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit, **rest}


def observation(**rest: Any) -> dict[str, Any]:
    return {"status": "final", "code": {"coding": [{"system": "http://loinc.org", "code": "1-1"}]}, **rest}


@pytest.fixture
def measured(database: Database) -> Database:
    named(
        database,
        "Observation",
        [
            ("five", observation(valueQuantity=quantity(5.4))),
            ("near", observation(valueQuantity=quantity(5.44))),
            ("gram", observation(valueQuantity=quantity(5.4, "g"))),
            ("bare", observation(valueQuantity={"value": 5.4, "unit": "mg"})),
            ("below", observation(valueQuantity=quantity(3, comparator="<"))),
            ("minus", observation(valueQuantity=quantity(-5.4))),
            ("null", observation(valueQuantity=quantity(0))),
            ("large", observation(valueQuantity=quantity(100))),
            ("none", observation(valueString="5.4")),
        ],
    )
    return database


QUANTITIES = (
    ("value-quantity=5.4", "five near gram bare"),
    ("value-quantity=5.40", "five gram bare"),
    (f"value-quantity=5.4|{UCUM}|mg", "five near"),
    ("value-quantity=5.4||mg", "five near bare"),
    (f"value-quantity=5.4|{UCUM}|", "five near gram"),
    (f"value-quantity=5400|{UCUM}|mg", ""),  # 5.4 g, if units were converted
    (f"value-quantity=0.0054|{UCUM}|g", ""),
    ("value-quantity=gt5.4", "near large"),
    ("value-quantity=ge5.4", "five near gram bare large"),
    ("value-quantity=lt0", "below minus"),
    ("value-quantity=le0", "below minus null"),
    ("value-quantity=lt2", "below minus null"),
    ("value-quantity=sa5.4", "near large"),
    ("value-quantity=eb3", "below minus null"),
    ("value-quantity=ne5.4", "below minus null large"),
    ("value-quantity=ap98", "large"),
    ("value-quantity=1e2", "large"),
    ("value-quantity=100", "large"),
    ("value-quantity=-5.4", "minus"),
    ("value-quantity=0", "null"),
    ("value-quantity=5.4,100", "five near gram bare large"),
    ("value-quantity:missing=true", "none"),
)


def test_quantities(measured: Database) -> None:
    found = {asked: everything(measured, "Observation", asked) for asked, _ in QUANTITIES}
    assert found == {asked: names.split() for asked, names in QUANTITIES}


RISK = """{"resourceType": "RiskAssessment", "status": "final", "subject": {"display": "x"}, "prediction": [
    {"probabilityDecimal": %s}]}"""


def test_a_number_with_more_digits_than_a_double_is_told_from_its_neighbour(database: Database) -> None:
    digits = "0.1234567890123456789"
    for end in (1, 2):
        body, resource = codec.split(RISK % f"{digits}{end}")
        with database.transaction(DESK) as tx:
            resources.create(tx, body, resource, base_url=BASE, resource_id=f"p{end}")
    assert everything(database, "RiskAssessment", f"probability={digits}1") == ["p1"]
    assert everything(database, "RiskAssessment", f"probability=gt{digits}1") == ["p2"]


@pytest.mark.parametrize("asked", ["5.4|mg", "five", "", "gt", "5.4|a|b|c", "1e9999", "0x5", "５", "5,x", "NaN", "eq"])
def test_what_is_no_quantity_is_refused(measured: Database, asked: str) -> None:
    assert refused(measured, "Observation", f"value-quantity={asked}") or not asked


def test_ranges_money_and_samples_have_a_span(database: Database) -> None:
    named(
        database,
        "Observation",
        [("sampled", observation(valueSampledData={"origin": quantity(2), "period": 1, "dimensions": 1, "factor": 2,
                                                   "data": "1 2 E 3.5"}))],
    )  # fmt: skip
    assert everything(database, "Observation", "value-quantity=gt8") == ["sampled"]
    assert everything(database, "Observation", "value-quantity=gt9") == []
    assert everything(database, "Observation", "value-quantity=lt5") == ["sampled"]
    named(database, "ChargeItem", [("fee", {"status": "billed", "code": {"text": "x"}, "subject": {"display": "x"},
                                            "priceOverride": {"value": 40, "currency": "EUR"}})])  # fmt: skip
    assert everything(database, "ChargeItem", "price-override=40|urn:iso:std:iso:4217|EUR") == ["fee"]
    assert everything(database, "ChargeItem", "price-override=40||USD") == []


def test_uris_by_themselves_below_and_above(database: Database) -> None:
    for name, url in (("a", "http://x.example/fhir"), ("b", "http://x.example/fhir/a"), ("c", "http://x.example/fhirs"),
                      ("d", "urn:oid:1.2.3"), ("e", "HTTP://x.example/fhir")):  # fmt: skip
        named(database, "ValueSet", [(name, {"status": "draft", "url": url})])
    table = {
        "url=http://x.example/fhir": "a", "url:below=http://x.example/fhir": "a b",
        "url:below=http://x.example/fhir/": "b", "url:below=http://x.example/": "a b c",
        "url:above=http://x.example/fhir/a/b": "a b", "url:above=http://x.example/fhir": "a", "url=urn:oid:1.2.3": "d",
        "url:missing=true": "", "url=http://x.example/f": "",
    }  # fmt: skip
    assert {asked: " ".join(everything(database, "ValueSet", asked)) for asked in table} == table


def test_a_canonical_is_found_with_its_version_and_without(database: Database) -> None:
    response = {"status": "completed", "questionnaire": "http://x.example/q|2"}
    named(database, "QuestionnaireResponse", [("r", response)])
    for asked, found in (("http://x.example/q", ["r"]), ("http://x.example/q|2", ["r"]), ("http://x.example/q|1", [])):
        assert everything(database, "QuestionnaireResponse", f"questionnaire={asked}") == found


def test_a_value_that_is_less_than_a_number_is_not_that_number(database: Database) -> None:
    for sign in ("<", "<=", ">", ">="):
        for number in (3, 0, -3, 10):
            value = quantity(number, comparator=sign)
            name = f"{'l' if '<' in sign else 'g'}{'e' if '=' in sign else ''}.{number}"
            named(database, "Observation", [(name, observation(valueQuantity=value))])
    for number in (3, 0, -3, 10):
        found = {prefix: everything(database, "Observation", f"value-quantity={prefix}{number}") for prefix in
                 ("ge", "le", "sa", "eb")}  # fmt: skip
        here = {prefix: {name.partition(".")[0] for name in names if name.endswith(f".{number}")}
                for prefix, names in found.items()}  # fmt: skip
        assert here == {"ge": {"le", "g", "ge"}, "le": {"l", "le", "ge"}, "sa": {"g"}, "eb": {"l"}}


# composites


def part(code: str, value: int) -> dict[str, Any]:
    return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": quantity(value)}


def test_a_composite_matches_within_one_element(database: Database) -> None:
    named(
        database,
        "Observation",
        [
            ("pressure", observation(component=[part("8480-6", 140), part("8462-4", 90)])),
            ("whole", {"status": "final", **part("8480-6", 140)}),
        ],
    )
    table = {
        "component-code-value-quantity=8480-6$140": "pressure", "component-code-value-quantity=8480-6$90": "",
        "component-code-value-quantity=8462-4$lt100": "pressure",
        "component-code-value-quantity=http://loinc.org|8480-6$gt100||mg": "pressure",
        "code-value-quantity=8480-6$140": "whole", "code-value-quantity=8480-6$141": "",
        "code-value-quantity=1-1$140": "",
        "combo-code-value-quantity=8480-6$140": "pressure whole", "combo-code-value-quantity=8462-4$140": "",
        "combo-code-value-quantity=8462-4$90,8480-6$140": "pressure whole",
    }  # fmt: skip
    assert {asked: " ".join(everything(database, "Observation", asked)) for asked in table} == table
    for asked in ("8480-6", "8480-6$", "$140", "8480-6$140$1", "8480-6$x"):
        assert refused(database, "Observation", f"code-value-quantity={asked}"), asked


def test_a_relation_is_a_composite_of_token_and_reference(database: Database) -> None:
    base = {"status": "current", "content": [{"attachment": {"title": "x"}}]}
    relations = [
        {"code": "replaces", "target": {"reference": "DocumentReference/a"}},
        {"code": "appends", "target": {"reference": "DocumentReference/b"}},
    ]
    named(database, "DocumentReference", [("it", {**base, "relatesTo": relations})])
    assert everything(database, "DocumentReference", "relationship=DocumentReference/a$replaces") == ["it"]
    assert everything(database, "DocumentReference", "relationship=DocumentReference/b$replaces") == []


# tokens by text and type


def test_tokens_by_their_text_and_the_type_of_an_identifier(database: Database) -> None:
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}], "text": "Chart no."}
    named(
        database,
        "Patient",
        [
            ("mr", {"identifier": [{"type": kind, "system": "urn:a", "value": "7"}]}),
            ("bare", {"identifier": [{"value": "7"}]}),
        ],
    )
    named(database, "Condition", [("c", {"subject": {"display": "x"}, "code": {"text": "Café au lait spot", "coding": [
        {"system": "http://snomed.info/sct", "code": "201281002", "display": "Macule"}]}})])  # fmt: skip
    of_type = "identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203"
    table = {f"{of_type}|MR|7": "mr", f"{of_type}|MR|8": "", f"{of_type}|SS|7": "", "identifier:text=chart": "mr"}
    assert {asked: " ".join(everything(database, "Patient", asked)) for asked in table} == table
    for asked, found in (("cafe", ["c"]), ("MACULE", ["c"]), ("spot", []), ("x", [])):
        assert everything(database, "Condition", f"code:text={asked}") == found
    assert refused(database, "Patient", f"{of_type}|MR")


def test_a_plain_code_is_found_by_the_system_of_its_value_set(database: Database) -> None:
    named(database, "Patient", [("he", {"gender": "male", "telecom": [{"system": "email", "value": "a|b"}]}),
                                ("she", {"gender": "female"}), ("unsaid", {"active": True})])  # fmt: skip
    system = "http://hl7.org/fhir/administrative-gender"
    table = {
        f"gender={system}|male": "he", f"gender={system}|": "he she", "gender=male": "he", "gender=|male": "he",
        "gender=http://other.example|male": "", f"gender:not={system}|male": "she unsaid",
        f"gender={system}|male,female": "he she", f"telecom={system}|male": "", f"active={system}|true": "",
    }  # fmt: skip
    assert {asked: " ".join(everything(database, "Patient", asked)) for asked in table} == table
    named(database, "Observation", [("o", observation())])
    assert everything(database, "Observation", "status=http://hl7.org/fhir/observation-status|final") == ["o"]
    assert everything(database, "Observation", "code=http://hl7.org/fhir/observation-status|1-1") == []
