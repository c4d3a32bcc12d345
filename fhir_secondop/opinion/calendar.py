"""Business time: how much of it lies between two instants, and when so much of it will have passed. Pure.

A business day counts as one day whatever its length (23 hours when clocks go forward), and part of it as that part.
On other days nothing passes: a business day from Friday 15:00 ends on Monday at 15:00, one from Saturday with Monday.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import times

DAY_MS = 86_400_000
_MONDAY = date(1970, 1, 5).toordinal()
_LAST = date(9999, 12, 30).toordinal()
_ZONED = re.compile(r".+T.+(Z|[+-]\d\d:\d\d)")


@lru_cache(maxsize=4096)
def _midnight(zone: ZoneInfo, day: date) -> int:
    return times.milliseconds(datetime(day.year, day.month, day.day, tzinfo=zone))


@dataclass(frozen=True)
class Calendar:
    """Which days count at the site: `workdays` are of date.weekday(), `holidays` do not count."""

    zone: ZoneInfo
    workdays: frozenset[int]
    holidays: frozenset[date] = frozenset()

    def position(self, ms: int) -> int:
        """Business milliseconds since 1970-01-05 in the site's zone, a business day being 86,400,000; never falls."""
        day = self.day(ms)
        begins, length = self.midnight(day), self._length(day)
        part = (ms - begins) * DAY_MS // length if self.counts(day) and length else 0
        return self._before(day.toordinal()) * DAY_MS + part

    def moment(self, position: int) -> int:
        """The first instant (ms since 1970) that has that position."""
        whole, part = divmod(position, DAY_MS)
        if part == 0:
            return self.midnight(date.fromordinal(self._nth(whole) + 1))
        day = date.fromordinal(self._nth(whole + 1))
        return self.midnight(day) - -part * self._length(day) // DAY_MS

    def counts(self, day: date) -> bool:
        """Whether that is a business day."""
        return day.weekday() in self.workdays and day not in self.holidays

    def day(self, ms: int) -> date:
        """The day at the site."""
        return times.moment(ms).astimezone(self.zone).date()

    def midnight(self, day: date) -> int:
        """When that day begins at the site; where the clock skips midnight, when the day's first hour does."""
        return _midnight(self.zone, day)

    def instant(self, text: str, path: str) -> str:
        """A time that somebody wrote as a FHIR instant; without a zone it is the site's. Raises Invalid at `path`."""
        try:
            if _ZONED.fullmatch(text):
                return times.instant(times.interval(text).low)
            local = datetime.fromisoformat(text).replace(tzinfo=self.zone)
            if "T" in text:
                return times.instant(times.milliseconds(local))
        except (ValueError, Invalid):
            pass
        raise Invalid(
            'Write a day and a time: "2026-11-23T09:30:00Z", or without Z in the time of the site.', path=path
        )

    def local(self, ms: int) -> str:
        """An instant as the site's clock shows it: "2026-12-11 15:00 Europe/Berlin"."""
        return f"{times.moment(ms).astimezone(self.zone):%Y-%m-%d %H:%M} {self.zone.key}"

    def last_day(self, ms: int) -> date:
        """The day on which something is due that is due at this instant: at midnight, the day that ends."""
        return self.day(ms - 1)

    def _length(self, day: date) -> int:
        return self.midnight(day + timedelta(days=1)) - self.midnight(day)

    @cached_property
    def _lost(self) -> list[int]:
        """The holidays that would be business days, as ordinals."""
        return sorted(day.toordinal() for day in self.holidays if day.weekday() in self.workdays)

    @cached_property
    def _worked(self) -> tuple[int, ...]:
        """Business days of a week before each of its days."""
        return tuple(sum(1 for weekday in self.workdays if weekday < day) for day in range(7))

    def _before(self, ordinal: int) -> int:
        """Business days from _MONDAY to before that day; negative for an earlier one."""
        weeks, rest = divmod(ordinal - _MONDAY, 7)
        worked = weeks * len(self.workdays) + self._worked[rest]
        return worked - bisect_left(self._lost, ordinal) + bisect_left(self._lost, _MONDAY)

    def _nth(self, number: int) -> int:
        """The ordinal of the business day by whose end that many have passed."""
        low, high = 1, _LAST
        while low < high:
            middle = (low + high) // 2
            if self._before(middle + 1) >= number:
                high = middle
            else:
                low = middle + 1
        return low
