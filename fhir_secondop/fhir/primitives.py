"""Is this JSON value a FHIR string, date, decimal …? One test per primitive type.

The syntax is that of R4's definitions where a regular expression of theirs can be run on hostile input; theirs for
base64Binary takes exponential time, and those for text allow characters that XML and PostgreSQL can't hold.
Source: https://hl7.org/fhir/R4/datatypes.html#primitive
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any

from fhir_secondop.fhir import definitions

Test = Callable[[Any], bool]

MAX_STRING = 1024 * 1024
MAX_DECIMAL = 400  # digits, or powers of ten: far beyond R4's 18 digits, near enough to be written out
_TOO_LARGE = 10**MAX_DECIMAL
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]").search
_URI = re.compile("[^\\s\x00-\x1f\ud800-\udfff\ufffe\uffff]+").fullmatch
_CODE = re.compile(r"[^\s\x00-\x1f\ud800-\udfff\ufffe\uffff]+(?: [^\s\x00-\x1f\ud800-\udfff\ufffe\uffff]+)*+").fullmatch
_OF_ANYTHING = re.compile(r"#|[A-Za-z][A-Za-z0-9+.\-]*:").match
_URN = {
    "urn:oid": re.compile(r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+").fullmatch,
    "urn:uuid": re.compile(r"urn:uuid:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch,
}
ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:\S+").fullmatch
"""Whether a text is an absolute URI, of whatever scheme."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]*+={0,2}+\s*+").fullmatch

EXPECTED = {
    "absolute": "an absolute URI, such as http://… or urn:oid:…",
    "base64Binary": "base64 text",
    "boolean": "true or false, without quotes",
    "canonical": "an absolute URI, or #id, without spaces",
    "code": "a code: text without leading, trailing or double spaces",
    "date": "a date that exists: YYYY, YYYY-MM or YYYY-MM-DD",
    "dateTime": "a date that exists, or date and time with seconds and zone: YYYY-MM-DDThh:mm:ss+zz:zz",
    "decimal": "a JSON number",
    "id": "an id: 1 to 64 of A-Z a-z 0-9 - .",
    "instant": "a date and time that exist, with seconds and zone: YYYY-MM-DDThh:mm:ss+zz:zz",
    "integer": "a whole JSON number of 32 bits",
    "markdown": "text that is not empty, at most 1 MB, without control characters",
    "oid": "urn:oid: and an OID",
    "positiveInt": "a whole JSON number from 1 to 2147483647",
    "string": "text that is not empty, at most 1 MB, without control characters",
    "time": "a time: hh:mm:ss",
    "unsignedInt": "a whole JSON number from 0 to 2147483647",
    "uri": "a URI without spaces; of urn:oid: and urn:uuid: a sound one, in lower case",
    "url": "a URL without spaces",
    "uuid": "urn:uuid: and a UUID in lower case",
    "xhtml": "text",
}


@cache
def test(type_name: str) -> Test:
    """The test for a primitive type, or for `absolute`: a uri that is absolute."""
    if type_name in _TESTS:
        return _TESTS[type_name]
    match = re.compile(definitions.structure(type_name).regex).fullmatch
    if type_name in ("date", "dateTime", "instant"):
        return lambda value: type(value) is str and match(value) is not None and _exists(value)
    return lambda value: type(value) is str and match(value) is not None and _UNSAFE(value) is None


@cache
def at_once(type_name: str) -> Callable[[str], object] | None:
    """A test of one call into C: true only of texts that `test` passes too, and what it refuses `test` decides."""
    if type_name in ("date", "dateTime", "instant"):
        # Every month has 28 days.
        return re.compile(rf"(?!.{{8}}(?:29|3))(?:{definitions.structure(type_name).regex})").fullmatch
    return _AT_ONCE.get(type_name)


def _exists(date: str) -> bool:
    """Whether the calendar has the day; the syntax is right already."""
    day = date[8:10]
    return day <= "28" or int(day) <= monthrange(int(date[:4]), int(date[5:7]))[1]


def _is_string(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_STRING and _UNSAFE(value) is None


def _is_xhtml(value: Any) -> bool:
    return type(value) is str and value != ""


def _is_uri(value: Any) -> bool:
    if type(value) is not str or _URI(value) is None:
        return False
    if not value.startswith("urn:"):
        return True
    syntax = _URN.get(value[: value.find(":", 4)])
    return syntax is None or syntax(value) is not None


def _is_canonical(value: Any) -> bool:
    """R4: it "SHALL be an absolute URI"; or the resource is contained."""
    return _is_uri(value) and _OF_ANYTHING(value) is not None


def _is_absolute(value: Any) -> bool:
    return _is_uri(value) and ABSOLUTE(value) is not None


def _is_code(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_STRING and _CODE(value) is not None


def _is_base64(value: Any) -> bool:
    if type(value) is not str or not value or _BASE64(value) is None:
        return False
    return len("".join(value.split())) % 4 == 0


def _is_boolean(value: Any) -> bool:
    return type(value) is bool


def _whole(low: int) -> Test:
    return lambda value: type(value) is int and low <= value <= 2**31 - 1


def _is_decimal(value: Any) -> bool:
    if type(value) is int:
        return bool(-_TOO_LARGE < value < _TOO_LARGE)
    if type(value) is not Decimal or not value.is_finite():
        return False
    return bool(-MAX_DECIMAL < value.adjusted() < MAX_DECIMAL and len(str(value)) <= MAX_DECIMAL)


_ORDINARY_TEXT = re.compile(f"[\t\n\r -\ud7ff]{{1,{MAX_STRING}}}").fullmatch
_ORDINARY_URL = re.compile("https?:[!-~]+").fullmatch
_AT_ONCE: dict[str, Callable[[str], object]] = {
    "absolute": _ORDINARY_URL,
    "canonical": _ORDINARY_URL,
    "code": re.compile("[!-~]{1,64}").fullmatch,
    "id": re.compile(r"[A-Za-z0-9\-.]{1,64}").fullmatch,
    "markdown": _ORDINARY_TEXT,
    "string": _ORDINARY_TEXT,
    "uri": _ORDINARY_URL,
    "url": _ORDINARY_URL,
}

_TESTS: dict[str, Test] = {
    "absolute": _is_absolute,
    "base64Binary": _is_base64,
    "boolean": _is_boolean,
    "canonical": _is_canonical,
    "code": _is_code,
    "decimal": _is_decimal,
    "integer": _whole(-(2**31)),
    "markdown": _is_string,
    "positiveInt": _whole(1),
    "string": _is_string,
    "unsignedInt": _whole(0),
    "uri": _is_uri,
    "url": _is_uri,
    "xhtml": _is_xhtml,
}
