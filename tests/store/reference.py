"""Search by R4's own words, slow and obvious: what our index and conditions are compared with.

Values come by fhirpathpy from the expression of R4's definition; numbers are fractions, times are datetimes, and each
rule stands as the specification says it. Nothing of the store has a part in it.
Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

Plain = dict[str, Any]
Predicate = Callable[[Any], bool]
Span = tuple[datetime, datetime]
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
IMPLIED = {
    "gender": "http://hl7.org/fhir/administrative-gender",
    "status": "http://hl7.org/fhir/observation-status",
}
"""The systems that plain codes have by their value sets, of the parameters that are tried."""


# ---- dates


def span(text: str) -> Span:
    """[begin, end) of what is written: a year, month, day, minute, second or part of a second."""
    day, _, clock = text.partition("T")
    year, month, of_month = (*map(int, day.split("-")), 0, 0)[:3]
    if not clock:
        last_month = month or 12
        last = of_month or calendar.monthrange(year, last_month)[1]
        begin = datetime(year, month or 1, of_month or 1, tzinfo=UTC)
        return begin, datetime(year, last_month, last, tzinfo=UTC) + timedelta(days=1)
    match = re.fullmatch(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?", clock)
    assert match, text
    hour, minute, second, part, zone = match.groups()
    ahead = timedelta()
    if zone not in (None, "Z"):
        ahead = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:])) * (-1 if zone[0] == "-" else 1)
    begin = datetime(year, month, of_month, int(hour), int(minute), int(second or 0), tzinfo=timezone(ahead))
    if part:
        begin += timedelta(microseconds=int(part.ljust(6, "0")))
        return begin, begin + timedelta(seconds=1) / 10 ** len(part)
    return begin, begin + (timedelta(minutes=1) if second is None else timedelta(seconds=1))


def spans(value: Any) -> list[Span]:
    if isinstance(value, str):
        return [span(value)]
    begin = span(value["start"])[0] if "start" in value else FIRST
    return [(begin, span(value["end"])[1] if "end" in value else LAST)]


def of_dates(prefix: str, text: str) -> Predicate:
    """#prefix: the range of the search value against the range of the target."""
    low, high = span(text)

    def overlaps(begin: datetime, end: datetime, other: datetime, its_end: datetime) -> bool:
        return begin < its_end and other < end

    rules: dict[str, Callable[[datetime, datetime], bool]] = {
        "eq": lambda a, b: low <= a and b <= high,  # "fully contains"
        "ne": lambda a, b: not (low <= a and b <= high),
        "gt": lambda a, b: overlaps(high, LAST, a, b),  # "the range above the search value intersects"
        "lt": lambda a, b: overlaps(FIRST, low, a, b),
        "ge": lambda a, b: overlaps(high, LAST, a, b) or (low <= a and b <= high),
        "le": lambda a, b: overlaps(FIRST, low, a, b) or (low <= a and b <= high),
        "sa": lambda a, b: not overlaps(low, high, a, b) and high <= a,
        "eb": lambda a, b: not overlaps(low, high, a, b) and b <= low,
        "ap": lambda a, b: overlaps(low, high, a, b),  # at least: how much more is ours to say
    }
    rule = rules[prefix]
    return lambda value: any(rule(a, b) for a, b in spans(value))


# ---- numbers and quantities


def bounds(value: Any) -> tuple[Fraction | None, bool, Fraction | None, bool]:
    """(least, whether it is one of them, most, whether it is one of them) of what a value may be; None: no end."""
    if isinstance(value, int | Decimal):
        return Fraction(value), True, Fraction(value), True
    if "low" in value or "high" in value:
        ends = [Fraction(value[end]["value"]) if end in value else None for end in ("low", "high")]
        return ends[0], True, ends[1], True
    number, comparator = Fraction(value["value"]), value.get("comparator", "")
    closed = len(comparator) != 1
    return (
        None if comparator.startswith("<") else number, closed,
        None if comparator.startswith(">") else number, closed,
    )  # fmt: skip


def of_numbers(prefix: str, text: str) -> Predicate:
    """#number and #quantity: eq and ne by the digits that are written, the others by the number itself."""
    at = Fraction(Decimal(text))
    exponent = int(Decimal(text).as_tuple().exponent)
    # "1e2" is [95, 105) by R4's table: a tenth of the last digit, as "100" is half of it.
    half = Fraction(10) ** exponent / 2 if exponent <= 0 else Fraction(10) ** exponent / 20
    first, end = at - half, at + half

    def inside(value: Any) -> bool:
        low, _, high, closed = bounds(value)
        return low is not None and high is not None and first <= low and (high < end or (high == end and not closed))

    def above(value: Any, *, or_at: bool) -> bool:
        _, _, high, closed = bounds(value)
        return high is None or high > at or (or_at and high == at and closed)

    def below(value: Any, *, or_at: bool) -> bool:
        low, closed, _, _ = bounds(value)
        return low is None or low < at or (or_at and low == at and closed)

    def after(value: Any) -> bool:
        return not below(value, or_at=True)

    def before(value: Any) -> bool:
        return not above(value, or_at=True)

    def near(value: Any) -> bool:
        low, low_closed, high, high_closed = bounds(value)
        least, most = at - abs(at) / 10, at + abs(at) / 10
        return (low is None or low < most or (low == most and low_closed)) and (
            high is None or high > least or (high == least and high_closed)
        )

    return {
        "eq": inside, "ne": lambda value: not inside(value), "gt": lambda value: above(value, or_at=False),
        "lt": lambda value: below(value, or_at=False), "ge": lambda value: above(value, or_at=True),
        "le": lambda value: below(value, or_at=True), "sa": after, "eb": before, "ap": near,
    }[prefix]  # fmt: skip


def has_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) or bool({"value", "low", "high"} & set(value))


def of_unit(system: str, code: str) -> Predicate:
    """`number|system|code`, or `number||code`: the code or the unit, whatever the system."""

    def same(value: Any) -> bool:
        value = value.get("high" if "value" in value.get("high", {}) else "low", value)
        if "currency" in value:
            value = {"system": "urn:iso:std:iso:4217", "code": value["currency"]}
        if system and value.get("system") != system:
            return False
        return not code or value.get("code") == code or (not system and value.get("unit") == code)

    return same


# ---- tokens


def tokens(code: str, value: Any) -> list[tuple[str, str]]:
    """(system, code) of a value, "" for what is not said."""
    if isinstance(value, bool):
        return [("", "true" if value else "false")]
    if isinstance(value, str):
        return [("", value), *([(IMPLIED[code], value)] if code in IMPLIED else [])]
    if "coding" in value or "text" in value:
        return [pair for coding in value.get("coding", ()) for pair in tokens(code, coding)]
    if code in ("telecom", "email", "phone"):
        return [("", value["value"])] if "value" in value else []
    return [(value.get("system", ""), value.get("code", value.get("value", "")))]


def of_tokens(code: str, system: str | None, wanted: str) -> Predicate:
    """#token: `code` (system None), `system|code`, `|code` (system ""), `system|`."""
    return lambda value: any(
        (system is None or a == system) and (b == wanted or not wanted) for a, b in tokens(code, value)
    )


def texts(value: Any) -> list[str]:
    """What :text looks at: CodeableConcept.text, Coding.display, Identifier.type.text."""
    if not isinstance(value, dict):
        return []
    is_identifier = not {"code", "display", "coding", "text"} & set(value)
    of = value.get("type", {}) if is_identifier else value
    return [text for each in (of, *of.get("coding", ())) for text in (each.get("text"), each.get("display")) if text]


def of_type(system: str, kind: str, wanted: str) -> Predicate:
    return lambda value: (
        value.get("value") == wanted
        and any(
            coding.get("system") == system and coding.get("code") == kind
            for coding in value.get("type", {}).get("coding", ())
        )
    )


# ---- strings


def plain(text: str) -> str:
    """Without case, accents and doubled space."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return " ".join("".join(each for each in apart if not unicodedata.category(each).startswith("M")).split())


PARTS = "family", "text", "city", "state", "country", "postalCode", "district", "given", "prefix", "suffix", "line"


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    names = [
        "family",
        "text",
        "city",
        "state",
        "country",
        "postalCode",
        "district",
        "given",
        "prefix",
        "suffix",
        "line",
    ]
    found = [value[name] for name in names if name in value]
    return [text for each in found for text in (each if isinstance(each, list) else [each])]


def of_strings(modifier: str, text: str) -> Predicate:
    rules: dict[str, Predicate] = {
        "": lambda one: plain(one).startswith(plain(text)),
        "contains": lambda one: plain(text) in plain(one),
        "exact": lambda one: one == text,
    }
    return lambda value: any(map(rules[modifier], strings(value)))


# ---- references and uris


def of_references(literal: str, base: str) -> Predicate:
    """`Type/id` and `base/Type/id` are the same here; a version that is pointed to doesn't matter."""

    def bare(text: str) -> str:
        return text.removeprefix(base + "/").partition("/_history/")[0]

    return lambda value: isinstance(value, dict) and bare(value.get("reference", "")) == bare(literal)


def of_identifier(system: str | None, wanted: str) -> Predicate:
    """#reference, :identifier: the identifier of the reference, as a token is matched."""
    return lambda value: any(
        (system is None or one.get("system", "") == system) and one.get("value") == wanted
        for one in [value.get("identifier", {})]
    )


def of_uris(modifier: str, text: str) -> Predicate:
    def below(one: str, other: str) -> bool:
        return one == other or one.startswith(other if other.endswith("/") else other + "/")

    rules: dict[str, Predicate] = {
        "": lambda one: text in (one, one.partition("|")[0]),
        "below": lambda one: below(one, text),
        "above": lambda one: below(text, one),
    }
    return lambda value: isinstance(value, str) and rules[modifier](value)
