"""Dates as spans of time, references in text and out of it, and what a query string asks for."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec, query, refs, times
from fhir_secondop.fhir.refs import Ref
from fhir_secondop.limits import Limits

# --- times ------------------------------------------------------------------------------------------------------


def utc(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1000  # type: ignore[misc,arg-type]


DAY = 86_400_000


@pytest.mark.parametrize(
    ("text", "low", "length"),
    [
        ("2024", utc(2024, 1, 1), 366 * DAY),
        ("2023", utc(2023, 1, 1), 365 * DAY),
        ("2024-02", utc(2024, 2, 1), 29 * DAY),
        ("2023-02", utc(2023, 2, 1), 28 * DAY),
        ("2024-12", utc(2024, 12, 1), 31 * DAY),
        ("2024-02-29", utc(2024, 2, 29), DAY),
        ("2024-05-17T09:30:00Z", utc(2024, 5, 17, 9, 30), 1000),
        ("2024-05-17T09:30:15Z", utc(2024, 5, 17, 9, 30, 15), 1000),
        ("2024-05-17T09:30Z", utc(2024, 5, 17, 9, 30), 60_000),
        ("2024-05-17T09:30:00", utc(2024, 5, 17, 9, 30), 1000),
        ("2024-05-17T09:30:00+02:00", utc(2024, 5, 17, 7, 30), 1000),
        ("2024-05-17T00:30:00+02:00", utc(2024, 5, 16, 22, 30), 1000),
        ("2024-05-17T23:30:00-05:30", utc(2024, 5, 18, 5, 0), 1000),
        ("2024-05-17T09:30:00.5Z", utc(2024, 5, 17, 9, 30) + 500, 100),
        ("2024-05-17T09:30:00.12Z", utc(2024, 5, 17, 9, 30) + 120, 10),
        ("2024-05-17T09:30:00.125Z", utc(2024, 5, 17, 9, 30) + 125, 1),
        ("2024-05-17T09:30:00.125999Z", utc(2024, 5, 17, 9, 30) + 125, 1),
        ("2016-12-31T23:59:60Z", utc(2016, 12, 31, 23, 59, 59), 1000),
        ("0001-01-01", utc(1, 1, 1), DAY),
        ("1969-12-31T23:59:59Z", -1000, 1000),
    ],
)
def test_a_date_covers_the_span_that_it_leaves_open(text: str, low: int, length: int) -> None:
    found = times.interval(text)

    assert (found.low, found.high) == (low, low + length)


def test_the_last_year_ends_at_the_end_of_time() -> None:
    for text in ("9999", "9999-12"):
        assert times.interval(text).high == times.MAX_MS
    assert times.interval("9999-12-31").high < times.MAX_MS


@pytest.mark.parametrize(
    "text",
    ["", "24", "2024-1", "2024-13", "2024-00", "2024-02-30", "2023-02-29", "2024-05-17T", "2024-05-17T09",
     "2024-05-17T24:00:00Z", "2024-05-17T09:60:00Z", "2024-05-17 09:30:00Z",
     "2024-05-17T09:30:00z", "2024-05-17T09:30:00.Z", "2024-05-17T09:30:00+2", "0000", "-2024", "2024-05-17Z",
     " 2024", "2024\n", "20240517", "tomorrow",
     "2024-05-17T09:30:61Z",
     "２０２４",
     "2024-05-17T09:30:00+99:99"],
)  # fmt: skip
def test_what_is_no_date_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        times.interval(text)


MOMENTS = st.datetimes(datetime(1000, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC))
ZONES = st.integers(-14 * 60, 14 * 60)


def zone_text(minutes: int) -> str:
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


@given(moment=MOMENTS)
@settings(max_examples=200)
def test_a_more_exact_date_lies_within_a_less_exact_one(moment: datetime) -> None:
    full = moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{moment.microsecond // 1000:03d}Z"
    written = [full, full[:21] + "Z", full[:19] + "Z", full[:16] + "Z", full[:10], full[:7], full[:4]]

    spans = [times.interval(text) for text in written]

    for inner, outer in itertools.pairwise(spans):
        assert outer.low <= inner.low < inner.high <= outer.high
    assert spans[0].low == times.milliseconds(moment)


@given(moment=MOMENTS, minutes=ZONES)
@settings(max_examples=200)
def test_the_zone_says_where_and_not_when(moment: datetime, minutes: int) -> None:
    there = moment + timedelta(minutes=minutes)

    here, elsewhere = (times.interval(t.strftime("%Y-%m-%dT%H:%M:%S") + z) for t, z in
                       ((moment, "Z"), (there, zone_text(minutes))))  # fmt: skip

    assert here == elsewhere


@given(day=st.dates(datetime(1, 1, 1).date(), datetime(9998, 12, 31).date()))
@settings(max_examples=200)
def test_days_follow_each_other_without_a_gap(day: Any) -> None:
    today, tomorrow = (times.interval(d.isoformat()) for d in (day, day + timedelta(days=1)))

    assert today.high == tomorrow.low


@given(ms=st.integers(times.milliseconds(datetime(1000, 1, 1, tzinfo=UTC)),
                      times.milliseconds(datetime(9999, 12, 31, tzinfo=UTC))))  # fmt: skip
@settings(max_examples=200)
def test_an_instant_written_is_the_instant_read(ms: int) -> None:
    assert times.interval(times.instant(ms)) == times.Interval(ms, ms + 1)
    assert times.milliseconds(times.moment(ms)) == ms


# --- references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Patient/1", Ref("", "Patient", "1", "")),
        ("Patient/1/_history/2", Ref("", "Patient", "1", "2")),
        ("https://ehr.example/fhir/Patient/1", Ref("https://ehr.example/fhir", "Patient", "1", "")),
        ("http://a/b/c/Patient/a.b-C/_history/2", Ref("http://a/b/c", "Patient", "a.b-C", "2")),
        ("https://ehr.example/Patient/x/Patient/1", Ref("https://ehr.example/Patient/x", "Patient", "1", "")),
        ("#contained", None),
        ("urn:uuid:8d9b1c2e-1111-2222-3333-444455556666", None),
        ("Patient?identifier=1", None),
        ("Patient", None),
        ("Patient/", None),
        ("patient/1", None),
        ("Patient/1/", None),
        ("Patient/1?x=y", None),
        ("Patient/" + "x" * 65, None),
        ("Patient/a_b", None),
        ("ftp://x/Patient/1", None),
        ("/Patient/1", None),
        ("../Patient/1", None),
        ("Patient/1\n", None),
        ("", None),
    ],
)
def test_a_literal_reference_is_taken_apart_and_nothing_else(text: str, expected: Ref | None) -> None:
    assert refs.parse(text) == expected


def test_local_is_type_and_id_without_base_and_version() -> None:
    found = refs.parse("https://ehr.example/fhir/Patient/1/_history/2")

    assert found is not None
    assert found.local == "Patient/1"


def test_every_reference_is_found_contained_ones_too_and_no_other_string() -> None:
    resource = {
        "subject": {"reference": "Patient/1"}, "note": [{"text": '{"reference": "Patient/2"}'}],
        "contained": [{"performer": [{"reference": "#a"}, {"reference": "Practitioner/3"}]}],
        "provision": {"data": [{"reference": {"reference": "Observation/4"}}]}, "reference": 7,
    }  # fmt: skip

    assert list(refs.find(resource)) == ["Patient/1", "#a", "Practitioner/3", "Observation/4"]


TRICKY = st.sampled_from(
    ['"reference":"Patient/1"', '{"reference": "Patient/1"}', ', "reference" : "Patient/1"', '\\"reference\\":\\"x\\"',
     "\\", '"', '\\"', "reference", "url", "Patient/1", "urn:a", ":", ",",
     '[{"url":"Patient/1"}]', '"', "\\\\", " \"reference\":"]
)  # fmt: skip
TEXTS = st.text(max_size=10) | TRICKY | st.lists(TRICKY, max_size=3).map("".join)
TEXTS_ONLY = TEXTS.filter(lambda text: "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text))
LEAVES = TEXTS_ONLY | st.integers() | st.booleans() | st.none()
KEYS = st.sampled_from(
    ["reference", "url", "text", "a", "Reference", "valueUrl", "reference2", "_reference", 'x"reference', '{"url']
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def replacement(text: str) -> str | None:
    return {"Patient/1": 'Patient/"new"\\', "": None, ":": "colon", ",": "comma", "urn:a": "Patient/1"}.get(text)


@given(tree=st.dictionaries(KEYS, TREES, max_size=4), spaced=st.booleans(), ascii_only=st.booleans())
@example(tree={"reference": ":"}, spaced=False, ascii_only=False)
@example(tree={"reference": ["", "\\", ":"], "url": []}, spaced=False, ascii_only=False)
@example(tree={"reference": "urn:a", "url": "Patient/1"}, spaced=False, ascii_only=False)
@settings(max_examples=400, deadline=None)
def test_rewriting_the_text_does_just_what_rewriting_the_members_does(
    tree: dict[str, Any], spaced: bool, ascii_only: bool
) -> None:
    """Strings that only look like references, however escaped, stay as they are."""
    separators = (" ,\n ", "\t: ") if spaced else (",", ":")
    text = json.dumps({"resourceType": "X", **tree}, ensure_ascii=ascii_only, separators=separators)
    body, resource = codec.split(text)

    again = refs.rewrite(body, replacement)
    before = json.dumps(resource)

    assert codec.parse(again.text) == refs.rewritten(resource, replacement)
    at_once, members, _ = refs.resolved(body, resource, replacement)
    assert (at_once, members) == (again, refs.rewritten(resource, replacement))
    assert json.dumps(resource) == before
    assert refs.rewrite(body, lambda _: None) == body
    assert codec.parse(codec.splice(again, "n", {}))["id"] == "n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"resourceType":"X","subject" : { "reference" :\n"Patient/1" , "display":"P" }}',
         '{"resourceType":"X","subject" : { "reference" :\n"NEW" , "display":"P" }}'),
        ('{"resourceType":"X","subject":{"reference":"Patient\\/1"}}',
         '{"resourceType":"X","subject":{"reference":"NEW"}}'),
        ('{"resourceType":"X","a":{"url":"\\u0050atient/1"}}', '{"resourceType":"X","a":{"url":"NEW"}}'),
        ('{"resourceType":"X","subject":{"reference":"Patient/11"}}',
         '{"resourceType":"X","subject":{"reference":"Patient/11"}}'),
        ('{"resourceType":"X","x\\"reference":"Patient/1"}', '{"resourceType":"X","x\\"reference":"Patient/1"}'),
        ('{"resourceType":"X","text":"\\"reference\\":\\"Patient/1\\""}',
         '{"resourceType":"X","text":"\\"reference\\":\\"Patient/1\\""}'),
        ('{"resourceType":"X","a":["reference","Patient/1"],"b":"{","reference":"Patient/1"}',
         '{"resourceType":"X","a":["reference","Patient/1"],"b":"{","reference":"NEW"}'),
        ('{"resourceType":"X","subject":{"\\u0072eference":"Patient/1"}}',
         '{"resourceType":"X","subject":{"\\u0072eference":"NEW"}}'),
    ],
)  # fmt: skip
def test_rewriting_leaves_every_other_byte(text: str, expected: str) -> None:
    body, _ = codec.split(text)

    again = refs.rewrite(body, {"Patient/1": "NEW"}.get)

    assert again.text == expected


def test_the_links_of_a_resource_are_told_as_they_have_become_and_where_they_stand() -> None:
    text = (
        '{"resourceType":"DocumentReference","subject":{"reference":"urn:a"},"description":"urn:a","content":'
        '[{"attachment":{"url":"urn:b"}}],"contained":[{"resourceType":"Binary","url":7}],"a":[[{"reference":"#x"}]]}'
    )
    body, resource = codec.split(text)
    made, members, links = refs.resolved(body, resource, {"urn:a": "Patient/1"}.get, {"urn:b": "Binary/2"}.get)

    assert links == [
        refs.Link("subject", "reference", "Patient/1"),
        refs.Link("attachment", "url", "Binary/2"),
        refs.Link("a", "reference", "#x"),
    ]
    assert made.text == text.replace('"reference":"urn:a"', '"reference":"Patient/1"').replace("urn:b", "Binary/2")
    assert members == codec.parse(made.text)
    assert refs.resolved(body, resource, lambda _: None)[:2] == (body, resource)


def test_the_cut_moves_with_what_was_rewritten_before_it() -> None:
    body, _ = codec.split('{"subject":{"reference":"Patient/1"},"resourceType":"X","a":{"reference":"Patient/1"}}')

    again = refs.rewrite(body, {"Patient/1": "Patient/much-longer"}.get)

    assert codec.splice(again, "n", {}) == (
        '{"subject":{"reference":"Patient/much-longer"},"resourceType":"X","id":"n","meta":{},'
        '"a":{"reference":"Patient/much-longer"}}'
    )


# --- queries ----------------------------------------------------------------------------------------------------


def test_a_query_is_taken_apart() -> None:
    asked = query.parse("Observation", "code=a,b&subject=Patient/1&date=ge2024&_count=10&_total=accurate&_page=xyz")

    assert [(c.code, c.kind, c.modifier, c.values) for c in asked.criteria] == [
        ("code", "token", "", ("a", "b")), ("subject", "reference", "", ("Patient/1",)),
        ("date", "date", "", ("ge2024",)),
    ]  # fmt: skip
    assert (asked.count, asked.total, asked.page) == (10, "accurate", "xyz")
    assert [name for name, _ in asked.applied] == ["code", "subject", "date", "_count", "_total"]


@pytest.mark.parametrize(("kind", "asked"), [
    ("Provenance", "target.derived-from.derived-from.subject=Patient/1"),
    ("Composition", "entry.derived-from.subject.name=x"),
    ("Provenance", "entity.derived-from.subject=Patient/1"),
])  # fmt: skip
def test_a_chain_through_too_many_types_is_refused_before_it_is_made(kind: str, asked: str) -> None:
    with pytest.raises(Invalid, match="name them"):
        query.parse(kind, asked)
    assert query.parse("Provenance", "target.subject=Patient/1").criteria
    assert query.parse("Observation", "focus.subject:Patient.name=x").criteria


def test_the_same_parameter_twice_is_two_criteria() -> None:
    assert [c.values for c in query.parse("Observation", "date=ge2024&date=lt2025").criteria] == [
        ("ge2024",), ("lt2025",),
    ]  # fmt: skip


UNKNOWN = [
    ("colour=red", "colour"),
    ("subject:Patient.nonsense=x", "subject:Patient.nonsense"),
    ("subject:Nothing.name=x", "subject:Nothing.name"),
    ("code:fuzzy=x", "code:fuzzy"),
    ("_has:Observation:code:code=1", "_has:Observation:code:code"),
    ("value-quantity:exact=5", "value-quantity:exact"),
    ("name=x", "name"),
    ("Code=x", "Code"),
    ("_include=Observation:code", "_include"),
    ("_sort=colour", "_sort"),
    ("_elements=colour", "_elements"),
    ("=x", ""),
]


@pytest.mark.parametrize(("unknown", "name"), UNKNOWN)
def test_what_is_not_offered_is_an_error_that_names_it(unknown: str, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        query.parse("Observation", f"code=a&{unknown}")

    assert [(i.code, i.expression) for i in caught.value.issues] == [("not-supported", name)]


@pytest.mark.parametrize(("unknown", "name"), UNKNOWN)
def test_what_is_not_offered_is_left_out_when_lenient_and_the_rest_is_applied(unknown: str, name: str) -> None:
    asked = query.parse("Observation", f"{unknown}&code=a", lenient=True)

    assert asked.applied == (("code", "a"),)
    assert [c.code for c in asked.criteria] == ["code"]
    assert [i.expression for i in asked.ignored] == [name]


def test_all_that_is_not_offered_is_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        query.parse("Patient", "colour=red&size=9&name=x")

    assert [i.expression for i in caught.value.issues] == ["colour", "size"]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("code=a,b", ("a", "b")),
        ("code=a\\,b", ("a,b",)),
        ("code=a\\\\,b", ("a\\\\", "b")),
        ("code=a\\|b", ("a\\|b",)),
        ("code=http://x|", ("http://x|",)),
        ("code=a%2Cb", ("a", "b")),
        ("code=a+b", ("a b",)),
        ("code=a,,b", ("a", "", "b")),
    ],
)
def test_commas_part_alternatives_unless_escaped(written: str, values: tuple[str, ...]) -> None:
    [criterion] = query.parse("Observation", written).criteria

    assert criterion.values == values


def test_a_parameter_without_a_value_asks_for_nothing() -> None:
    asked = query.parse("Observation", "code=&date=")

    assert (asked.criteria, asked.applied) == ((), ())


def test_a_bare_id_gets_each_type_that_it_may_point_at() -> None:
    [bare] = query.parse("Observation", "patient=1").criteria
    [typed] = query.parse("Observation", "subject:Patient=1").criteria

    assert "Patient/1" in bare.values
    assert typed.values == ("Patient/1",)
    assert typed.modifier == ""


@pytest.mark.parametrize("written", ["_count=x", "_count=-1", "_count=1.5", "_count=", "_total=many", "_total="])
def test_a_count_or_total_that_is_none_is_invalid(written: str) -> None:
    with pytest.raises(Invalid):
        query.parse("Patient", written)


def test_count_is_capped_and_format_is_no_search() -> None:
    assert query.parse("Patient", "_count=100000").count == Limits().max_page
    assert query.parse("Patient", "_count=0").count == 0
    assert query.parse("Patient", "_format=json&_pretty=true").applied == ()


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(pairs=st.lists(st.tuples(WORDS, WORDS), max_size=4))
@settings(max_examples=150)
def test_lenient_never_refuses_but_a_count_or_total_or_a_nul(pairs: list[tuple[str, str]]) -> None:
    pairs = [(name, value) for name, value in pairs if name not in ("_count", "_total")]

    asked = query.parse("Patient", pairs, lenient=True)

    assert len(asked.ignored) + len(asked.applied) <= len(pairs)
