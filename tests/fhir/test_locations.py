"""Line and column of each fault, in the text that has it."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fhir_secondop.errors import Issue
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.locations import located

TEXT = """
{
  "resourceType": "Patient",
  "name": [{"family": "Ek"},
           {"given": ["Ann", null], "_given": [null, {"id": "g"}]}],
  "_birthDate": {"id": "b"},
  "deceasedBoolean": false,
  "contact": [
    {"gender": "x"}
  ]
}
"""


def at(expression: str, text: str = TEXT) -> tuple[int, int]:
    (found,) = located(text, [Issue("error", "value", expression, "x")])
    return found.line, found.column


@pytest.mark.parametrize(
    ("expression", "line", "begins"),
    [
        ("Patient", 2, "{"),
        ("Patient.name", 4, '[{"family"'),
        ("Patient.name[0].family", 4, '"Ek"'),
        ("Patient.name[1].given[0]", 5, '"Ann"'),
        ("Patient.name[1].given[1].id", 5, '"g"'),
        ("Patient.birthDate.id", 6, '"b"'),
        ("Patient.deceased", 7, "false"),  # a choice, by the name of the element
        ("Patient.deceasedBoolean", 7, "false"),
        ("Patient.contact[0].gender", 9, '"x"'),
        ("Patient.contact[0].name", 9, "{"),  # missing: the object that lacks it
        ("Patient.active", 2, "{"),
        ("Patient.contact[7]", 2, "{"),
        ("", 2, "{"),
    ],
)
def test_a_place_is_the_line_and_column_of_its_value(expression: str, line: int, begins: str) -> None:
    found, column = at(expression)
    assert found == line
    assert TEXT.split("\n")[line - 1][column - 1 :].startswith(begins)


def test_many_faults_are_found_on_one_way_down() -> None:
    """A thousand in an array of a hundred thousand: counted from the front for each, it would take minutes."""
    text = '{"resourceType":"Bundle","entry":[' + ",".join(['{"x":1}'] * 100_000) + "]}"
    places = [Issue("error", "structure", f"Bundle.entry[{99_000 + n}].x", "x") for n in range(1000)]

    columns = [issue.column for issue in located(text, places)]

    assert columns == [text.index("[") + 2 + 8 * (99_000 + n) + 5 for n in range(1000)]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abB_é", min_size=1, max_size=3), inner),
    max_leaves=20,
)


@given(value=st.dictionaries(st.sampled_from(["a", "b", "_a", "aB"]), JSON),
       indent=st.sampled_from([None, 1]),
       expressions=st.lists(st.from_regex(r"X(\.[abé]{1,2}(\[[0-3]\])?){0,4}", fullmatch=True), max_size=8)
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_is_sent_and_named_each_fault_has_a_place_in_the_text(
    value: dict[str, Any], indent: int | None, expressions: list[str]
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    codec.parse(text)
    issues = [Issue("error", "value", expression, "x") for expression in expressions]

    found = located(text, issues)

    lines = text.split("\n")
    for before, after in zip(issues, found, strict=True):
        assert (after.expression, after.diagnostics) == (before.expression, before.diagnostics)
        assert lines[after.line - 1][after.column - 1] in '{["-0123456789tfn'
