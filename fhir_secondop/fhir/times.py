"""Dates as half-open intervals of UTC time, in milliseconds since 1970."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from fhir_secondop.errors import Invalid

_DATE = re.compile(
    r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:T(\d{2}):(\d{2})(?::([0-5]\d|60)(\.\d+)?)?"
    r"(Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)?)?)?)?",
    re.ASCII,  # digits of other scripts are no date
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UTC = EPOCH.replace(tzinfo=None)
MIN_MS = -(2**53)
MAX_MS = 2**53


@dataclass(frozen=True, slots=True)
class Interval:
    """[low, high) in milliseconds since 1970, UTC."""

    low: int
    high: int


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970 of an aware datetime."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def moment(ms: int) -> datetime:
    """The aware UTC datetime of milliseconds since 1970."""
    return EPOCH + timedelta(milliseconds=ms)


def instant(ms: int) -> str:
    """A FHIR instant, in UTC with milliseconds: "2026-11-23T09:30:00.125Z"."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03}Z"


@lru_cache(maxsize=4096)  # each resource that is shown has one, and many are written in the same second
def _second(seconds: int) -> str:
    return (_EPOCH_UTC + timedelta(seconds=seconds)).isoformat()


def interval(text: str) -> Interval:
    """The span of UTC time that a FHIR date, dateTime or instant covers.

    "2024-05" covers the whole month. A date has no zone of its own; we take it as UTC.
    Raises Invalid on "2024-13".
    Source: https://hl7.org/fhir/R4/search.html#date
    """
    match = _DATE.fullmatch(text)
    if match is None:
        raise Invalid(f"{text!r} is not a FHIR date; write 2024, 2024-05, 2024-05-17 or 2024-05-17T09:30:00Z.")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        start = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        if hour is None:
            return Interval(milliseconds(start), _end_of(start, month, day))
        # A leap second (":60") is taken as the second before it, as R4's regex allows it and datetime does not.
        start = start.replace(hour=int(hour), minute=int(minute), second=min(int(second or 0), 59))
        low = milliseconds(start) - _offset_ms(zone)
    except ValueError as error:
        raise Invalid(f"{text!r} is not a date that exists.") from error
    if second is None:
        return Interval(low, low + 60_000)
    if fraction is None:
        return Interval(low, low + 1_000)
    digits = fraction[1:4]
    width = 10 ** (3 - len(digits))
    low += int(digits) * width
    return Interval(low, low + width)


def _end_of(start: datetime, month: str | None, day: str | None) -> int:
    if day is not None:
        return milliseconds(start) + 86_400_000
    following = (start.year + 1, 1) if month is None else (start.year + start.month // 12, start.month % 12 + 1)
    if following[0] > 9999:
        return MAX_MS
    return milliseconds(datetime(*following, 1, tzinfo=UTC))


def _offset_ms(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 60 + int(zone[4:6])) * 60_000
