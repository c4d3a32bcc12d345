"""The file with the site's calendar and targets, read and checked. profiles/clocks/README.md describes it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhir_secondop.errors import Invalid
from fhir_secondop.opinion.calendar import Calendar
from fhir_secondop.opinion.clocks import Policy, Target, Targets

PRIORITIES = ("routine", "urgent", "asap", "stat")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TARGET = re.compile(r"([1-9]\d{0,3}) (business days?|hours?)")
_LONGEST_HOLIDAY = 400  # days: a longer one is a slip of the pen


@cache
def shipped() -> Policy:
    """The calendar and targets that hold where a site names no file."""
    return _read(
        "profiles/clocks/targets.toml", (files("fhir_secondop.profiles") / "clocks/targets.toml").read_text("utf-8")
    )


def load(path: Path) -> Policy:
    """The calendar and targets of that file. Raises Invalid naming the file, the key and what is allowed."""
    try:
        return _read(str(path), path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} can't be read: {error}") from error


def _read(name: str, text: str) -> Policy:
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{name} is not TOML: {error}") from error
    unknown = sorted(set(given) - {"zone", "workdays", "holidays", "remind_after", *PRIORITIES})
    if unknown:
        raise Invalid(f"{name}: unknown key {unknown[0]!r}.")
    lacking = [priority for priority in PRIORITIES if priority not in given]
    if lacking:
        raise Invalid(f"{name}: there is no [{lacking[0]}]; give targets for each priority.")
    calendar = Calendar(_zone(name, given), _workdays(name, given), frozenset(_holidays(name, given)))
    targets = {priority: _targets(f"{name}: {priority}", given[priority]) for priority in PRIORITIES}
    return Policy(calendar, targets, _target(f"{name}: remind_after", given.get("remind_after", "3 business days")))


def _zone(name: str, given: dict[str, Any]) -> ZoneInfo:
    wanted = given.get("zone", "UTC")
    try:
        return ZoneInfo(wanted)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise Invalid(f'{name}: zone: {wanted!r} is no IANA time zone; write "Europe/Berlin", say.') from error


def _workdays(name: str, given: dict[str, Any]) -> frozenset[int]:
    wanted = given.get("workdays", list(_DAYS[:5]))
    if not isinstance(wanted, list) or not wanted or not set(map(str, wanted)) <= set(_DAYS):
        raise Invalid(f"{name}: workdays: give at least one of {', '.join(_DAYS)}.")
    return frozenset(map(_DAYS.index, wanted))


def _holidays(name: str, given: dict[str, Any]) -> Iterator[date]:
    wanted = given.get("holidays", [])
    if not isinstance(wanted, list):
        raise Invalid(f"{name}: holidays is a list of dates.")
    for text in map(str, wanted):
        first, _, last = text.partition("/")
        try:
            begins = date.fromisoformat(first)
            length = (date.fromisoformat(last or first) - begins).days
        except ValueError:
            length = -1
        if not 0 <= length <= _LONGEST_HOLIDAY:
            raise Invalid(f'{name}: holidays: {text!r} is neither "2026-12-25" nor "2026-12-24/2027-01-01".')
        yield from (begins + timedelta(days=n) for n in range(length + 1))


def _targets(where: str, given: Any) -> Targets:
    keys = ("since_request", "since_complete")
    if not isinstance(given, dict) or not given or set(given) - set(keys):
        raise Invalid(f"{where}: give {' or '.join(keys)}, or both, and nothing else.")
    return Targets(*(_target(f"{where}.{key}", given[key]) if key in given else None for key in keys))


def _target(where: str, text: Any) -> Target:
    found = _TARGET.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Invalid(f'{where}: {text!r} is no target; write "10 business days" or "4 hours".')
    return Target(int(found[1]), found[2].startswith("business"))
