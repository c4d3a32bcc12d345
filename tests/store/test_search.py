"""Search by token, string, date and reference, on both databases, and paging while others write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import query, times
from fhir_secondop.model import EVERYTHING
from fhir_secondop.store import search, search_types
from fhir_secondop.store.database import Database
from tests.store.rows import BASE, delete, everything, named, put, refused

SUBJECT = {"subject": {"reference": "Patient/p"}}


def observation(*, system: str | None = None, code: str | None = None, **rest: object) -> dict[str, object]:
    coding = {k: v for k, v in (("system", system), ("code", code)) if v is not None}
    return {"status": "final", "code": {"coding": [coding]} if coding else {"text": "x"}, **rest}


# token


@pytest.fixture
def coded(database: Database) -> Database:
    named(
        database,
        "Observation",
        [
            ("loinc", observation(system="http://loinc.org", code="1-2")),
            ("other", observation(system="urn:other", code="1-2")),
            ("bare", observation(code="1-2")),
            ("else", observation(system="http://loinc.org", code="9-9", status="amended")),
            ("none", observation()),
        ],
    )
    return database


TOKENS = (
    ("code=1-2", "loinc other bare"),
    ("code=http://loinc.org|1-2", "loinc"),
    ("code=|1-2", "bare"),
    ("code=http://loinc.org|", "loinc else"),
    ("code=1-2,9-9", "loinc other bare else"),
    ("code=http://loinc.org|1-2,urn:other|1-2", "loinc other"),
    ("code=1-2&code=http://loinc.org|", "loinc"),
    ("code=1-2&status=amended", ""),
    ("code=1", ""),
    ("code=1-2 ", ""),
    ("code:not=1-2", "else none"),
    ("code:not=1-2,9-9", "none"),
    ("code:not=http://loinc.org|1-2", "other bare else none"),
    ("code:missing=true", ""),
    ("code:missing=false", "loinc other bare else none"),
    ("status=final", "loinc other bare none"),
    ("status:not=final", "else"),
    ("_id=loinc", "loinc"),
    ("_id=loinc,bare,nothing", "loinc bare"),
    ("_id:not=loinc,bare", "other else none"),
    ("_id:missing=true", ""),
    ("_id:missing=false", "loinc other bare else none"),
    ("_lastUpdated:missing=true", ""),
    ("_lastUpdated=gt2000-01-01", "loinc other bare else none"),
    ("_lastUpdated=lt2000-01-01", ""),
    ("code=", "loinc other bare else none"),
)


def test_tokens(coded: Database) -> None:
    found = {asked: everything(coded, "Observation", asked) for asked, _ in TOKENS}
    assert found == {asked: names.split() for asked, names in TOKENS}


def test_a_system_without_a_code_is_found_and_sorts_as_nothing(database: Database) -> None:
    codes = {"without": {"system": "http://loinc.org"}, "with": {"system": "http://loinc.org", "code": "1-2"}}
    named(
        database, "Observation", [(name, {"status": "final", "code": {"coding": [one]}}) for name, one in codes.items()]
    )
    assert everything(database, "Observation", "code=http://loinc.org|") == ["without", "with"]
    for order in ("code", "-code"):
        assert everything(database, "Observation", f"_sort={order}") == ["with", "without"]


def test_an_identifier_may_hold_bars_commas_dollars_and_backslashes(database: Database) -> None:
    for value in ("a|b", "a,b", "a$b", "a\\b", "a b", "ä"):
        named(database, "Patient", [(value.encode().hex(), {"identifier": [{"system": "urn:x", "value": value}]})])
        escaped = value.replace("\\", "\\\\").replace("|", "\\|").replace(",", "\\,").replace("$", "\\$")
        for asked in (f"urn:x|{escaped}", escaped):
            found = everything(database, "Patient", f"identifier={asked.replace(' ', '+')}")
            assert found == [value.encode().hex()], asked


def test_a_boolean_and_a_telephone_are_tokens(database: Database) -> None:
    named(
        database,
        "Patient",
        [("a", {"active": True, "telecom": [{"system": "phone", "value": "555"}]}), ("b", {"active": False})],
    )
    assert everything(database, "Patient", "active=true") == ["a"]
    assert everything(database, "Patient", "active=false") == ["b"]
    assert everything(database, "Patient", "telecom=555") == ["a"]


def test_very_long_identifiers_are_stored_and_told_apart(database: Database) -> None:
    """PostgreSQL's index takes 2,704 bytes a row, and cutting would make two patients one."""
    import random

    noise = "".join(random.Random(7).choices([chr(c) for c in range(0x4E00, 0x9F00)], k=3000))
    for number in (1, 2):
        named(
            database,
            "Patient",
            [
                (
                    f"p{number}",
                    {
                        "identifier": [{"system": f"urn:{noise}{number}", "value": f"{noise}{number}"}],
                        "name": [{"family": f"{noise}{number}"}],
                        "generalPractitioner": [
                            {
                                "reference": f"https://x/{noise}{number}/Practitioner/1",
                                "identifier": {"system": "urn:x", "value": f"{noise}{number}"},
                            }
                        ],
                    },
                )
            ],
        )
    for asked in (
        f"identifier={noise}1",
        f"identifier=urn:{noise}1|",
        f"identifier=urn:{noise}1|{noise}1",
        f"name:exact={noise}1",
        f"general-practitioner=https://x/{noise}1/Practitioner/1",
        f"general-practitioner:identifier=urn:x|{noise}1",
    ):
        assert everything(database, "Patient", asked) == ["p1"], asked[:40]
    assert everything(database, "Patient", f"name={noise[:300]}") == ["p1", "p2"]


# string


@pytest.fixture
def people(database: Database) -> Database:
    named(
        database,
        "Patient",
        [
            ("mueller", {"name": [{"family": "Müller", "given": ["Anna Maria"]}]}),
            ("muller", {"name": [{"family": "Muller-Strauß"}]}),
            ("oconnor", {"name": [{"text": "O'Connor_100%"}]}),
            ("address", {"address": [{"city": "Málaga", "line": ["Calle 1"], "postalCode": "29001"}]}),
            ("greek", {"name": [{"family": "Ὀδυσσεύς"}]}),
        ],
    )
    return database


STRINGS = (
    ("family=mul", "mueller muller"),
    ("family=MÜL", "mueller muller"),
    ("family=müller", "mueller muller"),
    ("family=u%CC%88", ""),
    ("family=mu%CC%88ller", "mueller muller"),  # u and a combining diaeresis
    ("family=uller", ""),
    ("family:contains=ULLER", "mueller muller"),
    ("family:contains=strauss", "muller"),
    ("family:exact=Müller", "mueller"),
    ("family:exact=müller", ""),
    ("family:exact=Mül", ""),
    ("name=anna", "mueller"),
    ("given=anna%20%20maria", "mueller"),
    ("name=o'c", "oconnor"),
    ("name:contains=%25", "oconnor"),
    ("name:contains=_100", "oconnor"),
    ("name:contains=x100", ""),
    ("name:contains=/", ""),
    ("family=ὀδυσσεύς", "greek"),
    ("family=οδυσ", "greek"),
    ("address=malaga", "address"),
    ("address=290", "address"),
    ("address-city=mal", "address"),
    ("name=anna&family=mul", "mueller"),
    ("family=zzz,greek,mull", "mueller muller"),
    ("name:missing=true", "address"),
    ("name=anna\\,b", ""),
)


def test_strings(people: Database) -> None:
    found = {asked: everything(people, "Patient", asked) for asked, _ in STRINGS}
    assert found == {asked: names.split() for asked, names in STRINGS}


def test_what_would_match_everything_or_nothing_is_refused(people: Database) -> None:
    asked = ["name=%20", "name=%CC%88", "name:contains=%20", "name=%00", "identifier=%00|a"]
    assert [a for a in asked if not refused(people, "Patient", a)] == []


# date


@pytest.fixture
def dated(database: Database) -> Database:
    named(
        database,
        "Observation",
        [
            ("year", observation(effectiveDateTime="2024")),
            ("month", observation(effectiveDateTime="2024-05")),
            ("day", observation(effectiveDateTime="2024-05-17")),
            ("second", observation(effectiveDateTime="2024-05-17T23:30:00-02:00")),  # 18 May in UTC
            ("span", observation(effectivePeriod={"start": "2024-05-10", "end": "2024-05-20"})),
            ("since", observation(effectivePeriod={"start": "2024-05-10"})),
            ("until", observation(effectivePeriod={"end": "2024-05-10"})),
            ("none", observation()),
        ],
    )
    return database


DATES = (
    ("date=2024", "year month day second span"),
    ("date=eq2024-05", "month day second span"),
    ("date=2024-05-17", "day"),
    ("date=2024-05-18", "second"),
    ("date=2024-05-18T01:30:00Z", "second"),
    ("date=2024-05-18T03:30:00%2B02:00", "second"),
    ("date=2024-05-18T01:30Z", "second"),
    ("date=ne2024-05", "year since until"),
    ("date=gt2024-05-17", "year month second span since"),
    ("date=ge2024-05-17", "year month day second span since"),
    ("date=lt2024-05-10", "year month until"),
    ("date=le2024-05-17", "year month day span since until"),
    ("date=sa2024-05-16", "day second"),
    ("date=sa2024-05-17", "second"),
    ("date=eb2024-05-18", "day until"),
    ("date=eb2024-05-17", "until"),
    ("date=ge2024-05-17&date=le2024-05-17", "year month day span since"),
    ("date=2024-05-17,2024-05-18", "day second"),
    ("date:missing=true", "none"),
    ("date=gt2024", "since"),
    ("date=lt2024", "until"),
)

# By 17 June 2024 the gap to 17 May is 30 days, of which a tenth is three; on the same day there is none.
ABOUT = (
    ("2024-06-17T00:00:00Z", "date=ap2024-05-17", "year month day second span since"),
    ("2024-06-17T00:00:00Z", "date=ap2024-05-21", "year month span since"),
    ("2024-06-17T00:00:00Z", "date=ap2024-05-22", "year month span since"),
    ("2024-06-17T00:00:00Z", "date=ap2024-05-24", "year month since"),
    ("2024-05-17T12:00:00Z", "date=ap2024-05-17", "year month day span since"),
    ("2024-05-17T12:00:00Z", "date=ap2024-05-18", "year month second day span since"),
    ("2024-05-17T12:00:00Z", "date=ap2024-05-18T01:00:00Z", "year month day second span since"),
    ("2014-05-17T00:00:00Z", "date=ap2025-06-01", "year month day second span since until"),
    ("2016-05-17T00:00:00Z", "date=ap2025-06-01", "year since"),
    ("2023-12-01T00:00:00Z", "date=ap2025-06-01", "since"),
    ("2024-06-17T00:00:00Z", "_lastUpdated=ap2024-05-17", ""),
)


def test_dates(dated: Database) -> None:
    found = {asked: everything(dated, "Observation", asked) for asked, _ in DATES}
    assert found == {asked: names.split() for asked, names in DATES}


@pytest.mark.parametrize(("now", "asked", "names"), ABOUT)
def test_about_a_date_is_a_tenth_of_the_gap_to_now(
    dated: Database, monkeypatch: pytest.MonkeyPatch, now: str, asked: str, names: str
) -> None:
    monkeypatch.setattr(search_types, "now_ms", lambda: times.interval(now).low)
    assert sorted(everything(dated, "Observation", asked)) == sorted(names.split())


def test_what_is_no_date_is_refused_without_being_repeated(dated: Database) -> None:
    for value in ("2024-13", "2024-02-30", "20240517", "gt", "xx2024", "gtgt2024", "2024-05-17T25:00Z"):
        with pytest.raises(Invalid) as caught:
            everything(dated, "Observation", f"date={value}")
        assert value not in caught.value.message


def span(text: str) -> tuple[datetime, datetime]:
    """[low, high) of a partial date in UTC, by plain calendar arithmetic: what the search is compared with."""
    day, _, clock = text.removesuffix("Z").partition("T")
    parts = [int(part) for part in day.split("-")]
    if clock:
        start = datetime(*parts, *(int(c) for c in clock.split(":")), tzinfo=UTC)  # type: ignore[misc,arg-type]
        return start, start + timedelta(seconds=1)
    if len(parts) == 1:
        return datetime(parts[0], 1, 1, tzinfo=UTC), datetime(parts[0] + 1, 1, 1, tzinfo=UTC)
    if len(parts) == 2:
        year, month = parts
        after = datetime(year + (month == 12), month % 12 + 1, 1, tzinfo=UTC)
        return datetime(year, month, 1, tzinfo=UTC), after
    start = datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]
    return start, start + timedelta(days=1)


def matches(prefix: str, target: tuple[datetime, datetime], asked: tuple[datetime, datetime]) -> bool:
    """R4's table of prefixes, in its own words. Source: https://hl7.org/fhir/R4/search.html#prefix"""
    (low, high), (first, last) = target, asked
    fully_contains = first <= low and high <= last
    above_intersects, below_intersects = high > last, low < first
    return {
        "eq": fully_contains,
        "ne": not fully_contains,
        "gt": above_intersects,
        "lt": below_intersects,
        "ge": above_intersects or fully_contains,
        "le": below_intersects or fully_contains,
        "sa": low >= last,
        "eb": high <= first,
    }[prefix]


PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb")
_days = st.datetimes(datetime(2023, 12, 30), datetime(2024, 3, 2))
_written = st.builds(
    lambda moment, cut: moment.strftime("%Y-%m-%dT%H:%M:%SZ")[:cut], _days, st.sampled_from([4, 7, 10, 20])
)
_periods = st.lists(_written, min_size=2, max_size=2).map(lambda p: sorted(p, key=lambda d: span(d)[0]))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    targets=st.lists(st.one_of(_written, _periods), min_size=1, max_size=8),
    asked=st.lists(st.tuples(st.sampled_from(PREFIXES), _written), min_size=5, max_size=12),
)
def test_dates_are_compared_as_the_specification_says(
    database: Database, targets: list[str | list[str]], asked: list[tuple[str, str]]
) -> None:
    held: dict[str, tuple[datetime, datetime]] = {}
    for target in targets:
        if isinstance(target, str):
            stored = put(database, {"resourceType": "Observation", **observation(effectiveDateTime=target)})
            held[stored.id] = span(target)
        else:
            period = {"start": target[0], "end": target[1]}
            stored = put(database, {"resourceType": "Observation", **observation(effectivePeriod=period)})
            held[stored.id] = (span(target[0])[0], span(target[1])[1])
    mine = ",".join(held)
    for prefix, text in asked:
        expected = [name for name, target in held.items() if matches(prefix, target, span(text))]
        assert everything(database, "Observation", f"_id={mine}&date={prefix}{text}") == expected, (prefix, text)


def test_last_updated_is_compared_to_the_millisecond(database: Database) -> None:
    first, second = (put(database, {"resourceType": "Basic", "code": {"text": "x"}}) for _ in range(2))
    at = first.resource["meta"]["lastUpdated"]
    assert everything(database, "Basic", f"_lastUpdated={at}") == [first.id]
    assert everything(database, "Basic", f"_lastUpdated=gt{at}") == [second.id]
    assert everything(database, "Basic", f"_lastUpdated=ge{at}") == [first.id, second.id]
    assert everything(database, "Basic", f"_lastUpdated=lt{at}") == []


# reference


@pytest.fixture
def referring(database: Database) -> Database:
    named(
        database,
        "Observation",
        [
            ("relative", observation(subject={"reference": "Patient/p"})),
            ("own", observation(subject={"reference": f"{BASE}/Patient/p"})),
            ("foreign", observation(subject={"reference": "https://other.example.org/fhir/Patient/p"})),
            ("version", observation(subject={"reference": "Patient/p/_history/2"})),
            ("group", observation(subject={"reference": "Group/p"})),
            ("logical", observation(subject={"identifier": {"system": "urn:mrn", "value": "7"}})),
            ("both", observation(subject={"reference": "Patient/q", "identifier": {"value": "7"}})),
            ("contained", observation(contained=[{"resourceType": "Patient", "id": "p"}], subject={"reference": "#p"})),
            ("none", observation()),
        ],
    )
    return database


REFERENCES = (
    ("subject=Patient/p", "relative own version"),
    (f"subject={BASE}/Patient/p", "relative own version"),
    ("subject=https://other.example.org/fhir/Patient/p", "foreign"),
    ("subject=p", "relative own version group"),
    ("subject:Patient=p", "relative own version"),
    ("subject:Group=p", "group"),
    ("subject=Patient/p,Patient/q", "relative own version both"),
    ("subject=Patient/p&subject=Group/p", ""),
    ("patient=p", "relative own version"),
    ("patient=Patient/p", "relative own version"),
    ("subject=https://third.example.org/fhir/Patient/p", ""),
    ("subject:identifier=urn:mrn|7", "logical"),
    ("subject:identifier=7", "logical both"),
    ("subject:identifier=|7", "both"),
    ("subject:identifier=urn:mrn|", "logical"),
    ("subject:missing=true", "none"),
    ("subject=Patient/", ""),
    ("subject=#p", ""),
)


def test_references(referring: Database) -> None:
    found = {asked: everything(referring, "Observation", asked.replace("#", "%23")) for asked, _ in REFERENCES}
    assert found == {asked: names.split() for asked, names in REFERENCES}


# what is not offered


REFUSED = [
    "unknown=1",
    "code:above=x",
    "code:of-type=x",
    "code:in=x",
    "date:contains=1",
    "subject:below=1",
    "name:missing=maybe",
    "value-quantity=x",
    "code-value-quantity:missing=true",
    "_has:x=1",
    "subject.nonsense=x",
    "_sort=nonsense",
    "_include=x",
    "_elements=nonsense",
    "_summary=x",
    "_text=x",
    "_content=x",
    "_filter=x",
    "_query=x",
    "_list=x",
    "_count=x",
    "_count=-1",
    "_total=roughly",
    "_page=1",
    "_page=x.y",
    "_page=" + "9" * 30 + ".1",
    "code:missing=maybe",
    "code:missing=true,false",
]


def test_what_is_not_offered_is_refused_and_not_left_out(database: Database) -> None:
    assert [asked for asked in REFUSED if not refused(database, "Observation", asked)] == []


# paging


def test_every_match_appears_once_while_others_are_written(database: Database) -> None:
    kept = [put(database, {"resourceType": "Patient", "name": [{"family": f"A{n}"}]}) for n in range(20)]
    goes = kept.pop(10)
    seen: list[str] = []
    asked, page = "name=a&_count=3", ""
    for turn in range(100):
        with database.reading() as connection:
            found = search.run(connection, query.parse("Patient", asked + page), EVERYTHING, BASE)
        seen += [match.id for match in found.matches]
        assert len(found.matches) <= 3
        if not found.next_page:
            break
        page = f"&_page={found.next_page}"
        put(database, {"resourceType": "Patient", "name": [{"family": "Anew"}]})
        put(database, {"resourceType": "Patient", "name": [{"family": "Zother"}]})
        if turn == 0:
            delete(database, goes)
    else:
        pytest.fail("the pages do not end while others write")
    assert [name for name in seen if name != goes.id] == [stored.id for stored in kept]


def test_pages_end_when_nothing_is_left_and_the_last_is_full(database: Database) -> None:
    for _ in range(4):
        put(database, {"resourceType": "Basic", "code": {"text": "x"}})
    with database.reading() as connection:
        first = search.run(connection, query.parse("Basic", "_count=2"), EVERYTHING, BASE)
        wanted = query.parse("Basic", f"_count=2&_page={first.next_page}")
        second = search.run(connection, wanted, EVERYTHING, BASE)
    assert first.next_page
    assert (len(second.matches), second.next_page) == (2, "")


def test_the_total_is_that_of_all_pages(database: Database) -> None:
    for _ in range(5):
        put(database, {"resourceType": "Basic", "code": {"text": "x"}})
    with database.reading() as connection:
        none = search.run(connection, query.parse("Basic", "_count=2"), EVERYTHING, BASE)
        some = search.run(connection, query.parse("Basic", "_count=2&_total=accurate"), EVERYTHING, BASE)
        only = search.run(connection, query.parse("Basic", "_count=0"), EVERYTHING, BASE)
    assert none.total is None
    assert (some.total, len(some.matches)) == (5, 2)
    assert (only.total, only.matches) == (5, ())
