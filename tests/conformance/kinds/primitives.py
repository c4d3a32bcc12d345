"""Values of each primitive type that break its syntax, and unusual ones that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.conformance.kinds import Kind
from tests.conformance.kinds.extensions import URL, added
from tests.conformance.kinds.structure import at_members
from tests.conformance.nodes import Example, Member, Site
from tests.conformance.notation import Number

LONG_ID = "a" * 65

BAD: dict[str, tuple[Any, ...]] = {
    "boolean": ("yes", "True", Number("0")),
    "integer": (Number("1.5"), Number("1.0"), Number("2147483648"), Number("-2147483649"), Number("1e2")),
    "positiveInt": (Number("0"), Number("-1"), Number("2147483648")),
    "unsignedInt": (Number("-1"), Number("1.5"), Number("2147483648")),
    "decimal": ("1.5", "1,5", True),
    "date": ("2024-13", "2024-02-30", "2023-02-29", "24-01-01", "2024/01/01", "2024-1-1", "01.02.2024", "20240101",
             "2024-01-01T10:00:00Z", "0000-01-01", "yesterday", "2024-00-10", "2024-01-00", "2024-01-32", " 2024"),
    "dateTime": ("2024-13", "2024-02-30", "2024-01-01T10:00", "2024-01-01T10:00:00", "2024-01-01 10:00:00Z",
                 "2024-01-01T25:00:00Z", "2024-01-01T10:60:00Z", "2024-01-01T10:00:61Z", "2024-01-01T10:00:00+15:00",
                 "2024-01-01T10:00:00.Z", "2024-01-01T10Z", "2024-01-01t10:00:00z", "2024-01-01T10:00:00+0100",
                 "2024-01T10:00:00Z", "now", "2024-01-01T24:00:00Z"),
    "instant": ("2024", "2024-01-01", "2024-01-01T10:00:00", "2024-01-01T10:00Z", "2024-02-30T10:00:00Z",
                "2024-01-01T10:00:00+1:00"),
    "time": ("10:00", "25:00:00", "10:60:00", "10:00:00Z", "10", "24:00:00", "1:00:00"),
    "code": (" a", "a ", "a  b", "a\tb", "a\nb"),
    "id": ("a_b", "a b", LONG_ID, "ä", "a/b"),
    "uri": ("http://x.example/a b", " http://x.example", "http://x.example/\n"),
    "url": ("http://x.example/a b",),
    "canonical": ("http://x.example/a b", "http://x.example/a|1 0"),
    "oid": ("1.2.3", "urn:oid:3.2", "urn:oid:1", "urn:oid:01.2"),
    "uuid": ("6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3a", "urn:uuid:6F9A0C8E-1F5C-4B5E-9D5C-0F6F5D1C2B3A", "urn:uuid:1"),
    "base64Binary": ("a", "ab$=", "äöü", "abc", "YQ=", "YQ==="),
    "string": ("a\u0000b", "a\u0007b", "\u000b", "\ud800"),
    "markdown": ("a\u0007b",),
}  # fmt: skip

GOOD: dict[str, tuple[Any, ...]] = {
    "integer": (Number("-2147483648"), Number("2147483647"), Number("0"), Number("-0")),
    "positiveInt": (Number("2147483647"), Number("1")),
    "unsignedInt": (Number("0"), Number("2147483647")),
    "decimal": (Number("0.1000000000000000000000001"), Number("1e2"), Number("1E-8"), Number("-0.0"), Number("1.10"),
                Number("100000000000000000000"), Number("3")),
    "date": ("2024", "2024-02", "2024-02-29", "0001-01-01", "9999-12-31", "1900-02-28"),
    "dateTime": ("2024", "2024-02", "2024-02-29", "2024-02-29T23:59:59Z", "2024-02-29T23:59:59.123456789Z",
                 "2024-02-29T00:00:00-14:00", "2024-02-29T00:00:00+14:00", "1700-01-01", "2016-12-31T23:59:60Z",
                 "2024-02-29T10:00:00-00:00"),
    "instant": ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.123456789+13:45"),
    "time": ("00:00:00", "23:59:59.999999", "23:59:60"),
    "uri": ("urn:oid:1.2.3", "urn:oid:1.2.840.113883.4.1", "http://x.example/ä", "mailto:x@y.example", "#a", "x", "http://x.example/%20"),
    "url": ("https://x.example/a?b=c&d=e#f", "ftp://x.example/a"),
    "canonical": ("http://x.example/a|1.0", "http://x.example/a|1.0#b"),
    "string": ("ä€𝄞", "a\tb\nc", "<b>&amp;</b>", "  a", "\\\"/", "e\u0301", "\u200b", "ع\u202eب", "a" * 5000),
    "markdown": ("# a\n\n* b", "<b>x</b>", "a\r\nb"),
    "base64Binary": ("YQ==", "YWI=", "YWJj"),
    "boolean": (True, False),
    "oid": ("urn:oid:1.2.840.113883.4.1", "urn:oid:2.999"),
    "uuid": ("urn:uuid:6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3a",),
}  # fmt: skip


def of_type(type_name: str, *, bound: bool = False) -> Callable[[Member], bool]:
    return lambda member: member.type == type_name and (bound or not member.element.binding)


def named(value: Any) -> str:
    text = value.text if isinstance(value, Number) else str(value)
    return text.encode("unicode_escape").decode()[:40]


def _sites(type_name: str, value: Any, bound: bool) -> Callable[[Example], Iterator[Site]]:
    if type_name in ("oid", "uuid"):  # no example has an element of theirs
        sites: Callable[[Example], Iterator[Site]] = added({"url": URL, f"value{type_name.title()}": value})
        return sites
    return at_members(of_type(type_name, bound=bound), lambda _: value)


KINDS = [
    *(
        Kind(f"syntax: {type_name}", named(value), 7, _sites(type_name, value, True))
        for type_name, values in BAD.items()
        for value in values
    ),
    *(
        Kind("harmless: other value", f"{type_name} {named(value)}", 6, _sites(type_name, value, False), valid=None)
        for type_name, values in GOOD.items()
        for value in values
    ),
]
