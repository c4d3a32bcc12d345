"""Whatever is sent, the parsers answer or refuse with a failure of ours: hypothesis on query, codec and headers."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fhir_secondop.errors import Invalid, Malformed, SecondOpError, TooLarge
from fhir_secondop.fhir import codec, definitions, faults, query
from fhir_secondop.limits import Limits
from fhir_secondop.rest import answers, failures, formats, operations
from fhir_secondop.sandbox import ehr
from fhir_secondop.store.database import Database
from tests.conftest import new_postgres
from tests.rest.served import PATIENT, sender
from tests.store.rows import BASE

LIMITS = Limits()
MAX_PARAMETERS, MAX_VALUES = LIMITS.max_parameters, LIMITS.max_alternatives
TYPES = sorted(definitions.resource_types())
MODIFIERS = ("", ":missing", ":not", ":exact", ":contains", ":identifier", ":Patient", ":of-type", ":", "::", ":a:b")
tried: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def counted() -> Any:
    yield
    print("\ntried: " + ", ".join(f"{count} {name}" for name, count in sorted(tried.items())))


# ---- how many


def test_as_many_parameters_and_values_as_allowed_are_read_and_one_more_is_not() -> None:
    assert len(query.parse("Patient", [("name", "a")] * MAX_PARAMETERS).criteria) == MAX_PARAMETERS
    assert len(query.parse("Patient", [("name", ",".join("a" * MAX_VALUES))]).criteria[0].values) == MAX_VALUES
    for pairs in ([("name", "a")] * (MAX_PARAMETERS + 1), [("name", "a," * MAX_VALUES)],
                  [("name", "a," * 600), ("gender", "b," * 600)], [("nothing", "a," * MAX_VALUES)]):  # fmt: skip
        for lenient in (False, True):
            with pytest.raises(Invalid) as caught:
                query.parse("Patient", pairs, lenient=lenient)
            assert caught.value.issues[0].code == "too-costly"


@pytest.mark.parametrize(("sent", "limit", "refused"), [
    ({"resourceType": "Bundle", "entry": [{}] * 3}, 2, True), ({"resourceType": "Bundle", "entry": [{}] * 2}, 2, False),
    ({"resourceType": "Bundle"}, 0, False), ({"resourceType": "Bundle", "entry": {}}, 0, False),
    ({"resourceType": "Bundle", "entry": None}, 0, False), ({"resourceType": "List", "entry": [{}] * 9}, 2, False),
])  # fmt: skip
def test_only_a_bundle_of_too_many_entries_is_too_large(sent: Any, limit: int, refused: bool) -> None:
    if refused:
        with pytest.raises(TooLarge):
            answers.check_entries(sent, limit)
    else:
        answers.check_entries(sent, limit)


def test_a_bundle_of_the_default_size_is_taken_and_one_more_entry_is_not(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'bounds.sqlite'}")
    database.migrate()
    send = sender(ehr.build("full", database, BASE))
    entry = {"request": {"method": "POST", "url": "Basic"},
             "resource": {"resourceType": "Basic", "code": {"text": "x"}}}  # fmt: skip
    whole = {"resourceType": "Bundle", "type": "transaction", "entry": [entry] * 5001}
    assert send("POST", "", whole).status_code == 413
    assert send("GET", "/Basic?_total=accurate").json["total"] == 0  # type: ignore[index]
    assert send("POST", "", {**whole, "entry": [entry] * 5000}).status_code == 200
    database.dispose()


@pytest.mark.parametrize("unit", ["[]", "{}", '{"a":1}', "1", "null"])
def test_a_small_body_of_many_faults_gets_no_large_answer(unit: str) -> None:
    resource = codec.parse('{"resourceType":"Patient","extension":[' + ",".join([unit] * 50_000) + "]}")
    with pytest.raises(Invalid) as caught:
        answers.valid(resource)
    assert len(caught.value.issues) == faults.MAX_FAULTS + 1
    assert "more faults" in caught.value.issues[-1].diagnostics
    assert len(failures.answer(caught.value).get_data()) < 400_000


def test_plain_json_of_many_faults_gets_no_large_answer() -> None:
    for plain in ({"a": ["x"] * 50_000}, {"k" * 30 + str(n): 1 for n in range(50_000)}):
        schema = {"properties": {"a": {"items": {"type": "integer"}}}, "additionalProperties": False}
        with pytest.raises(Invalid) as caught:
            operations.check(plain, schema)
        assert 1 <= len(caught.value.issues) <= faults.MAX_FAULTS
        assert len(failures.answer(caught.value).get_data()) < 400_000


def test_a_body_of_more_values_than_any_record_has_is_not_parsed() -> None:
    for data in (b"[]," * (LIMITS.max_values // 2 + 1), b"1," * (LIMITS.max_values + 1), b'{"a"' * 3_000_001):
        with pytest.raises(TooLarge):
            formats.check_values(data, LIMITS)
    formats.check_values(b"," * LIMITS.max_values, LIMITS)


def test_a_string_without_an_end_is_looked_at_once() -> None:
    """40 KB of escaped quotes took four seconds, 400 KB seven minutes, and nothing else ran meanwhile."""
    text = '"' + '\\"' * 500_000 + "[" * 200
    match = codec._NESTING.match(text)
    assert match is not None
    assert match.end() == len(text)
    for sent in ('{"a":' + text, "[]" * 60 + "]" * 500_000, '["' + "\\" * 500_001 + "[" * 200):
        with pytest.raises(Malformed):
            codec.parse(sent)


# ---- whatever

names = st.one_of(
    st.sampled_from(sorted({code for kind in TYPES for code in definitions.search_parameters(kind)})),
    st.sampled_from(["_id", "_count", "_total", "_page", "_sort", "_has:Task:focus:code", "_lastUpdated", ""]),
    st.text(max_size=20),
)
values = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="\\,|$:/-.TZ+0123456789eElgtbsa ", max_size=40),
    st.sampled_from(["ge2024-02-30", "ap2024", "http://x|y|z", "|", "\\", ",", "a\\", "true", "-1", "9" * 400, "\0"]),
)
pairs = st.lists(st.tuples(st.builds(lambda n, m: n + m, names, st.sampled_from(MODIFIERS)), values), max_size=6)


@settings(max_examples=600, deadline=None)
@given(kind=st.sampled_from(TYPES), asked=pairs, lenient=st.booleans())
def test_any_query_is_a_search_or_a_refusal(kind: str, asked: list[tuple[str, str]], lenient: bool) -> None:
    tried["queries"] += 1
    try:
        found = query.parse(kind, asked, lenient=lenient)
    except SecondOpError:
        return
    assert found.type == kind
    assert 0 <= found.count <= LIMITS.max_page


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(TYPES), text=st.text(max_size=200))
@example(kind="Patient", text="&&;=%%%zz=%ff&name=" + "%2c" * 2000)
def test_any_text_is_a_query_or_a_refusal(kind: str, text: str) -> None:
    tried["query strings"] += 1
    try:
        query.parse(kind, text)
    except SecondOpError:
        return


Send = Callable[..., Any]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def send(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The endpoint on both databases, with a patient in it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('bounds') / 'bounds.sqlite'}"
    else:
        url = new_postgres(request.getfixturevalue("postgres"))
    database = Database(url, pool_size=4)
    database.migrate()
    app = ehr.build("full", database, BASE)
    failures.handle(app)  # as the service does: of what is no address of the endpoint too
    made = sender(app)
    made("POST", "/Patient", PATIENT)
    yield made
    database.dispose()


def no_500(answer: Any) -> None:
    assert answer.status_code < 500, answer.text


over_http = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


LONG = (
    "a" * 200_000,
    "a " * 100_000,
    "1." * 100_000,
    "\\" * 200_000,
    "|" * 200_000,
    "\xe9" * 200_000,
    "a\0b",
    "\ud800",
)


@pytest.mark.parametrize("value", LONG, ids=range(len(LONG)))
def test_a_value_however_long_is_stored_and_searched_or_refused(send: Send, value: str) -> None:
    patient = {"resourceType": "Patient", "name": [{"family": value}],
               "identifier": [{"system": "urn:a", "value": value}],
               "generalPractitioner": [{"reference": f"Practitioner/{value}"}, {"display": value}]}  # fmt: skip
    no_500(send("POST", "/Patient", patient))
    for name in ("name", "name:contains", "identifier", "general-practitioner", "_id", "birthdate", "_lastUpdated",
                 "organization:identifier", "_page"):  # fmt: skip
        body = urlencode({name: value}, errors="replace")
        no_500(send("POST", "/Patient/_search", body, Content_Type="application/x-www-form-urlencoded"))


@over_http
@given(kind=st.sampled_from(["Patient", "Task", "Observation", "Composition"]), asked=pairs)
def test_any_search_over_http_is_answered_and_runs_in_the_database(
    send: Send, kind: str, asked: list[tuple[str, str]]
) -> None:
    tried["searches over HTTP"] += 1
    answer = send("GET", f"/{kind}?{urlencode(asked, errors='replace')}", Prefer="handling=lenient")
    no_500(answer)


@over_http
@given(criteria=st.one_of(st.text(max_size=60), st.builds(urlencode, st.lists(st.tuples(names, values), max_size=3))))
@example(criteria="identifier=")
@example(criteria="?identifier=x")
@example(criteria="_page=1&_count=0")
def test_any_if_none_exist_is_answered(send: Send, criteria: str) -> None:
    tried["If-None-Exist"] += 1
    header = "".join(c for c in criteria if c.isprintable()).encode("utf-8", "replace").decode("latin-1")
    no_500(send("POST", "/Patient", PATIENT, If_None_Exist=header))


HEADERS = ("If-Match", "If-None-Match", "Prefer", "Accept", "Content-Type", "Range", "If-Modified-Since", "Host",
           "Authorization", "X-Forwarded-For", "Cookie", "Accept-Encoding")  # fmt: skip


@over_http
@given(name=st.sampled_from(HEADERS), value=st.text(alphabet=string.printable[:95] + "\xe4\xff", max_size=40),
       method=st.sampled_from(["GET", "POST", "PUT"]))  # fmt: skip
def test_any_header_is_answered(send: Send, name: str, value: str, method: str) -> None:
    tried["headers"] += 1
    path = "/Patient/x" if method == "PUT" else "/Patient"
    no_500(send(method, path, None if method == "GET" else {**PATIENT, "id": "x"}, **{name: value}))


STEPS = st.sampled_from(["Patient", "_history", "_search", "$x", "..", ""])


@over_http
@given(parts=st.lists(st.one_of(st.text(max_size=12), STEPS), max_size=5))
def test_any_path_is_answered(send: Send, parts: list[str]) -> None:
    tried["paths"] += 1
    no_500(send("GET", "/" + "/".join(quote(part, safe="", errors="replace") for part in parts)))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.builds(lambda v: json.dumps(v).encode(), plain),
                 st.text(alphabet='{}[]":,\\u0dD8null123.eE+- \n', max_size=200).map(str.encode)))  # fmt: skip
def test_any_bytes_are_an_object_or_malformed(data: bytes) -> None:
    tried["bodies"] += 1
    try:
        value = codec.parse(data)
    except Malformed:
        return
    assert isinstance(value, dict)
    again = codec.parse(codec.dumps(value))
    assert again.keys() == value.keys()


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=8), plain, max_size=5), st.text(max_size=10), st.permutations(range(3)))
def test_what_is_split_and_spliced_is_what_was_sent(more: dict[str, Any], name: str, order: list[int]) -> None:
    tried["resources taken apart"] += 1
    fixed = [("resourceType", name), ("id", "a"), ("meta", {"tag": [{"code": "b"}]})]
    members = {**dict(fixed[place] for place in order), **{k: v for k, v in more.items() if k not in dict(fixed)}}
    text = json.dumps(members)
    try:
        body, resource = codec.split(text)
    except Malformed:
        return
    whole = codec.parse(codec.splice(body, "new", {"versionId": "2"}))
    assert whole == {**resource, "id": "new", "meta": {"versionId": "2"}}


METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "X"])
URLS = st.sampled_from(["Patient", "Patient/1", "Patient?x=y", "/Patient/1", "Patient/1/_history/2"])
asked_for = st.fixed_dictionaries(
    {"method": METHODS, "url": URLS | st.text(max_size=20)},
    optional={"ifMatch": st.text(max_size=8), "ifNoneExist": st.text(max_size=20)},
)
entries = st.fixed_dictionaries({"request": asked_for, "resource": st.just(PATIENT) | plain})


@over_http
@given(entry=st.lists(plain | entries, max_size=3))
def test_any_transaction_is_answered(send: Send, entry: list[Any]) -> None:
    tried["transactions"] += 1
    no_500(send("POST", "", json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entry})))
