"""Parameters and plain JSON: an operation is written once for both routes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec, parameters
from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import Resource

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "version": {"type": "integer"},
        "sources": {"type": "array", "items": {"type": "string"}},
        "reviewer": {"type": "object", "properties": {"family": {"type": "string"},
                                                      "given": {"type": "array", "items": {"type": "string"}}}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"place": {"type": "integer"},
                                                                              "tags": {"type": "array"}}}},
    },
}  # fmt: skip


def of(*parts: Resource) -> Resource:
    return {"resourceType": "Parameters", "parameter": list(parts)}


@pytest.mark.parametrize(
    ("parts", "plain"),
    [
        ([], {}),
        ([{"name": "reason", "valueString": "x"}], {"reason": "x"}),
        ([{"name": "reason", "valueCode": "no-capacity"}], {"reason": "no-capacity"}),
        ([{"name": "version", "valuePositiveInt": 2}], {"version": 2}),
        ([{"name": "version", "valueInteger": 0}], {"version": 0}),
        ([{"name": "flag", "valueBoolean": False}], {"flag": False}),
        ([{"name": "dose", "valueDecimal": Decimal("1.10")}], {"dose": Decimal("1.10")}),
        ([{"name": "who", "valueReference": {"reference": "Practitioner/1"}}], {"who": "Practitioner/1"}),
        ([{"name": "who", "valueReference": {"display": "Dr. X"}}], {"who": {"display": "Dr. X"}}),
        ([{"name": "sources", "valueString": "a"}], {"sources": ["a"]}),
        ([{"name": "sources", "valueString": "a"}, {"name": "sources", "valueString": "b"}], {"sources": ["a", "b"]}),
        ([{"name": "reviewer", "part": [{"name": "family", "valueString": "Ek"},
                                        {"name": "given", "valueString": "Ann"}]}],
         {"reviewer": {"family": "Ek", "given": ["Ann"]}}),
        ([{"name": "items", "part": [{"name": "place", "valueInteger": 0}, {"name": "tags", "valueString": "x"}]},
          {"name": "items", "part": [{"name": "place", "valueInteger": 1}]}],
         {"items": [{"place": 0, "tags": ["x"]}, {"place": 1}]}),
        ([{"name": "report", "resource": {"resourceType": "Basic", "id": "1"}}],
         {"report": {"resourceType": "Basic", "id": "1"}}),
        ([{"id": "x", "extension": [{"url": "urn:x", "valueString": "no"}], "name": "reason", "valueString": "yes"}],
         {"reason": "yes"}),
    ],
)  # fmt: skip
def test_parameters_become_plain_json(parts: list[Resource], plain: dict[str, Any]) -> None:
    assert parameters.to_plain(of(*parts), SCHEMA) == plain


def test_a_resource_without_parameters_is_an_empty_object() -> None:
    assert parameters.to_plain({"resourceType": "Parameters"}, SCHEMA) == {}


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ({"resourceType": "Bundle"}, "resourceType"),
        ({"reason": "x"}, "resourceType"),
        (of({"name": "reason", "valueString": "a"}, {"name": "reason", "valueString": "b"}), "Parameters.parameter[1]"),
        (of({"name": "x", "valueString": "a"}, {"name": "reason"}), "Parameters.parameter[1]"),
        (of({"name": "reviewer", "part": [{"name": "family", "valueString": "a"}, {"name": "family",
                                                                                  "valueString": "b"}]}),
         "Parameters.parameter[0].part[1]"),
        (of({"name": "reviewer", "part": [{"name": "family"}]}), "Parameters.parameter[0].part[0]"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_named_by_its_path(sent: Resource, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        parameters.to_plain(sent, SCHEMA)

    assert caught.value.path == path


@pytest.mark.parametrize(
    ("plain", "parts"),
    [
        ({"a": "x"}, [{"name": "a", "valueString": "x"}]),
        ({"a": True}, [{"name": "a", "valueBoolean": True}]),
        ({"a": 0}, [{"name": "a", "valueInteger": 0}]),
        ({"a": Decimal("1.10")}, [{"name": "a", "valueDecimal": Decimal("1.10")}]),
        ({"a": ["x", "y"]}, [{"name": "a", "valueString": "x"}, {"name": "a", "valueString": "y"}]),
        ({"a": {"b": "x"}}, [{"name": "a", "part": [{"name": "b", "valueString": "x"}]}]),
        ({"a": {"resourceType": "Basic"}}, [{"name": "a", "resource": {"resourceType": "Basic"}}]),
        ({"a": None, "b": "", "c": [], "d": {}}, []),
        ({"a": False}, [{"name": "a", "valueBoolean": False}]),
    ],
)
def test_plain_json_becomes_parameters(plain: dict[str, Any], parts: list[Resource]) -> None:
    assert parameters.from_plain(plain) == of(*parts)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
    lambda t: t.strip() == t and not any(c.isspace() and c != " " for c in t)
)
PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "reason": TEXT,
        "version": st.integers(-(2**31), 2**31 - 1),
        "sources": st.lists(TEXT, min_size=1, max_size=3),
        "reviewer": st.fixed_dictionaries({"family": TEXT}, optional={"given": st.lists(TEXT, min_size=1, max_size=2)}),
        "items": st.lists(st.fixed_dictionaries({"place": st.integers(0, 9)}, optional={
            "tags": st.lists(TEXT | st.booleans() | st.integers(0, 5), min_size=1, max_size=2)}),
            min_size=1, max_size=3),
    },
)  # fmt: skip


@given(plain=PLAIN)
@settings(max_examples=150, deadline=None)
def test_plain_json_comes_back_from_parameters_and_they_are_valid_r4(plain: dict[str, Any]) -> None:
    made = codec.parse(codec.dumps(parameters.from_plain(plain)))

    assert parameters.to_plain(made, SCHEMA) == plain
    if plain:
        assert validate(made) == []
