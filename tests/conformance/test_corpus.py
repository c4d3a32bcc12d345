"""The corpus and the comparison themselves, on an invented resource: no reference data, no Java."""

from __future__ import annotations

import json

import pytest

from fhir_secondop.errors import Issue
from tests.conformance import agreement, corpus, report
from tests.conformance.cases import Case
from tests.conformance.nodes import Example
from tests.conformance.notation import dump, parse
from tests.conformance.oracle import Finding
from tests.conformance.reasons import reason_of
from tests.conformance.verdicts import Verdict, of_findings

TEXT = """{"resourceType":"Observation","id":"1","status":"final","code":{"text":"x"},
 "subject":{"reference":"Patient/1"},"valueQuantity":{"value":1.10,"unit":"mg"},
 "contained":[{"resourceType":"Patient","id":"p","active":true}],"performer":[{"reference":"#p"}],
 "effectivePeriod":{"start":"2024-01-01","end":"2024-01-02"}}"""


def test_numbers_keep_their_text() -> None:
    assert dump(parse('{"a": [1.10, 1e2, -0, 12345678901234567890.0], "b": "\\u00e4\\ud800"}')) == (
        '{"a":[1.10,1e2,-0,12345678901234567890.0],"b":"\\u00e4\\ud800"}'
    )
    assert dump(parse('{"b": "\\u00e4"}')) == '{"b":"ä"}'


def test_every_object_has_its_type_and_place() -> None:
    found = {node.place: node.type for node in Example("x", TEXT).nodes}
    assert found["Observation.contained[0]"] == "Patient"
    assert found["Observation.valueQuantity"] == "Quantity"
    assert found["Observation.performer[0]"] == "Reference"


def test_a_mutation_changes_one_thing_and_the_example_stays() -> None:
    example = Example("x", TEXT)
    made = {case.name: json.loads(case.text) for case in corpus.mutations([example], {"x"}) if case.kind == "choice"}
    case = made["choice / two / x / Observation.valueBoolean"]
    assert case.pop("valueBoolean") is True
    assert case == json.loads(TEXT)
    assert example.resource == parse(TEXT)


def test_the_same_cases_are_made_again() -> None:
    first, again = ([(c.name, c.hash) for c in corpus.mutations([Example("x", TEXT)], {"x"})] for _ in range(2))
    assert first == again
    assert len({name for name, _ in first}) == len(first) > 300


def test_an_example_that_is_not_sound_is_not_mutated() -> None:
    assert list(corpus.mutations([Example("x", TEXT)], set())) == []


def test_relative_canonicals_are_made_absolute() -> None:
    text = '{"resourceType":"Library","status":"draft","relatedArtifact":[{"type":"cites","resource":"Library/1"}]}'
    (again,) = corpus.repaired([Example("x", text), Example("y", text.replace("Library/1", "http://a.example"))])
    assert again.resource["relatedArtifact"][0]["resource"] == "http://x.example/Library/1"


def counted(case: Case, verdict: Verdict) -> agreement.Agreement:
    return agreement.agreement([case], {case.hash: verdict})


def test_agreement_is_of_the_verdict() -> None:
    right, wrong = Case("k", "k / right", TEXT), Case("k", "k / wrong", TEXT.replace("final", "finished"))
    assert counted(right, Verdict(())).rows["k"].agree == 1
    assert counted(wrong, Verdict(("an-error",))).rows["k"].agree == 1
    assert counted(right, Verdict(("an-error",))).rows["k"].only_theirs == 1
    assert counted(wrong, Verdict(())).rows["k"].only_ours == 1
    assert counted(wrong, Verdict(("THROWN_Error",), broke=True)).broke == [wrong]


def test_an_unknown_case_is_an_error_unless_it_is_one_of_ours() -> None:
    with pytest.raises(KeyError):
        agreement.agreement([Case("k", "k / x", TEXT)], {})
    ours = Case("our examples", "x", TEXT)
    assert agreement.agreement([ours], {}).unasked == [ours]


def test_a_reason_explains_nothing_but_its_own_disagreement() -> None:
    case = Case("narrative", "narrative / two roots / x", "{}")
    said = Issue("error", "invalid", "X", "must be well-formed XML, with")
    other = Issue("error", "invalid", "X", "something else")
    assert reason_of(case, Verdict(()), [said])
    assert reason_of(case, Verdict(()), [said, other]) is None
    assert reason_of(case, Verdict(("an-error",)), []) is None


def test_what_is_not_of_r4_does_not_count_and_an_exception_is_no_verdict() -> None:
    ucum = Finding("error", "Terminology_PassThrough_TX_Message", "x", "Error processing unit 'TAB'")
    assert of_findings([ucum, Finding("warning", "w", "x", "y")]) == Verdict(())
    assert of_findings([Finding("fatal", "THROWN_NullPointerException", "", "")]).word == "broke"
    assert of_findings([Finding("fatal", "THROWN_JsonSyntaxException", "", "")]).word == "invalid"
    assert of_findings([Finding("error", "", "x", "y")]).word == "invalid"


def test_what_it_calls_a_warning_counts_where_r4_says_shall() -> None:
    counted = Finding("warning", "REFERENCE_REF_SUSPICIOUS", "Observation.subject", "y")
    assert of_findings([counted]) == Verdict(("REFERENCE_REF_SUSPICIOUS",))
    places = ("extension[0]", "modifierExtension[0].extension[0]", "modifierExtension[0]")
    hints = [Finding("information", "Extension_EXT_Unknown", f"Patient.{place}", "y") for place in places]
    assert [of_findings([each]).word for each in hints] == ["valid", "valid", "invalid"]


def test_the_page_is_read_as_it_is_written() -> None:
    right = Case("k", "k / right", TEXT)
    page = report.table(agreement.agreement([right, right], {right.hash: Verdict(("an-error",))}))
    assert report.said(page) == {"k": (2, 0), "All": (2, 0)}
