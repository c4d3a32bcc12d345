"""Line and column of each fault, in the text that has it."""

from __future__ import annotations

import json
import time
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fhir_secondop.errors import Issue
from fhir_secondop.fhir import codec, locations
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


# --- the same in XML --------------------------------------------------------------------------------------------

IN_XML = """\ufeff<?xml version="1.0" encoding="UTF-8"?>
<Bundle xmlns="http://hl7.org/fhir"><type value="collection"/>
  <entry><resource><Basic><id value="1"/></Basic></resource></entry>
  <entry><!-- 😀 --><resource>
    <Patient><text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml"><p>entry</p></div></text>
      <contained><Organization><name value="漢"/><alias value="a"/><alias value="b"/></Organization></contained>
      <name><family value="x"/></name><name id="n"><given value="a"/><given value="b"/></name>
      <deceasedDateTime value="2000"/>
    </Patient></resource></entry>
</Bundle>"""


@pytest.mark.parametrize(("path", "tag"), [
    ("Bundle", "<Bundle"),
    ("Bundle.total", "<Bundle"),
    ("Bundle.type", "<type"),
    ("Bundle.entry[1]", "<entry><!--"),
    ("Bundle.entry[1].resource", "<resource>\n"),
    ("Bundle.entry[1].resource.gender", "<resource>\n"),
    ("Bundle.entry[1].resource.text.div", "<div"),
    ("Bundle.entry[1].resource.contained[0].alias[1]", '<alias value="b"'),
    ("Bundle.entry[1].resource.contained[0].partOf", "<contained>"),
    ("Bundle.entry[1].resource.name[1].given[1]", '<given value="b"'),
    ("Bundle.entry[1].resource.name[1].id", "<name id"),
    ("Bundle.entry[1].resource.name", "<name><family"),
    ("Bundle.entry[1].resource.name[1].period.start", "<name id"),
    ("Bundle.entry[1].resource.deceased", "<deceasedDateTime"),
])  # fmt: skip
def test_in_xml_a_fault_is_placed_at_its_element_or_at_the_one_that_lacks_it(path: str, tag: str) -> None:
    text = IN_XML.removeprefix("\ufeff")
    before = text[: text.index(tag)]
    others = [Issue("error", "value", other, "") for other in ("Bundle.entry[0].resource.id", "Bundle.entry")]
    found = locations.located_xml(IN_XML.encode(), [*others, Issue("error", "value", path, "")])[-1]
    assert (found.line, found.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))


def test_many_faults_in_a_large_document_are_placed_in_one_way_through_it() -> None:
    entry = f'<entry><resource><Binary><data value="{"A" * 80}"/></Binary></resource></entry>\n'
    data = ('<Bundle xmlns="http://hl7.org/fhir">\n' + entry * 50_000 + "</Bundle>").encode()
    faults = [Issue("error", "value", f"Bundle.entry[{n}].resource.data", "") for n in range(0, 50_000, 50)]
    begun = time.process_time()
    placed = locations.located_xml(data, faults)
    assert time.process_time() - begun < 5
    assert [issue.line for issue in placed] == [n + 2 for n in range(0, 50_000, 50)]


def test_a_value_of_many_megabytes_is_no_obstacle() -> None:
    data = f'<Binary xmlns="http://hl7.org/fhir"><contentType value="a"/><data value="{"A" * 12_000_000}"/></Binary>'
    (placed,) = locations.located_xml(data.encode(), [Issue("error", "value", "Binary.data", "")])
    assert (placed.line, placed.column) == (1, data.index("<data") + 1)
