"""The two clocks: a table with zones, weekends, holidays and pauses, and what must hold whatever comes."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import times
from fhir_secondop.opinion import clock_file, clocks, codes
from fhir_secondop.opinion.calendar import DAY_MS, Calendar
from fhir_secondop.opinion.clocks import Pause, Target

WEEK = frozenset(range(5))
DAYS, HOURS = (lambda n: Target(n, True)), (lambda n: Target(n, False))


def calendar(zone: str = "UTC", workdays: frozenset[int] = WEEK, *holidays: str) -> Calendar:
    return Calendar(ZoneInfo(zone), workdays, frozenset(map(date.fromisoformat, holidays)))


def ms(text: str) -> int:
    return times.interval(text).low


def local(text: str, zone: str) -> int:
    return times.milliseconds(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


# ---- due dates. 2026-11-23 is a Monday; New York's clocks change on 2026-03-08 and 2026-11-01, Sundays.

DUE: list[tuple[str, str, str, Target, list[tuple[str, str]], list[str], str]] = [
    ("a Monday afternoon, ten days", "UTC", "2026-11-23 15:00", DAYS(10), [], [], "2026-12-07 15:00"),
    ("over one weekend", "UTC", "2026-11-27 15:00", DAYS(1), [], [], "2026-11-30 15:00"),
    ("begun on a Saturday: by the end of Monday", "UTC", "2026-11-28 11:00", DAYS(1), [], [], "2026-12-01 00:00"),
    ("a holiday does not count", "UTC", "2026-12-24 12:00", DAYS(1), [], ["2026-12-25"], "2026-12-28 12:00"),
    ("begun on a holiday", "UTC", "2026-12-25 12:00", DAYS(1), [], ["2026-12-25"], "2026-12-29 00:00"),
    ("a holiday on a Sunday takes nothing away", "UTC", "2026-11-27 15:00", DAYS(1), [], ["2026-11-29"],
     "2026-11-30 15:00"),
    ("over the hour that New York skips: the same time of day", "America/New_York", "2026-03-06 09:30", DAYS(1), [], [],
     "2026-03-09 09:30"),
    ("over the hour that New York has twice", "America/New_York", "2026-10-30 09:30", DAYS(1), [], [],
     "2026-11-02 09:30"),
    ("hours run through the skipped one", "America/New_York", "2026-03-07 23:00", HOURS(4), [], [],
     "2026-03-08 04:00"),
    ("hours run through the one that comes twice", "America/New_York", "2026-10-31 23:00", HOURS(4), [], [],
     "2026-11-01 02:00"),
    ("hours don't know weekends", "UTC", "2026-11-27 22:00", HOURS(8), [], ["2026-11-28"], "2026-11-28 06:00"),
    ("a pause of two business days", "UTC", "2026-11-23 12:00", DAYS(3), [("2026-11-24 12:00", "2026-11-26 12:00")], [],
     "2026-11-30 12:00"),
    ("a pause over a weekend alone costs nothing", "UTC", "2026-11-27 12:00", DAYS(1),
     [("2026-11-28 00:00", "2026-11-29 23:00")], [], "2026-11-30 12:00"),
    ("pauses that overlap count once", "UTC", "2026-11-23 12:00", DAYS(3),
     [("2026-11-25 00:00", "2026-11-26 12:00"), ("2026-11-24 12:00", "2026-11-25 12:00")], [], "2026-11-30 12:00"),
    ("a pause within another", "UTC", "2026-11-23 12:00", DAYS(3),
     [("2026-11-24 12:00", "2026-11-26 12:00"), ("2026-11-25 06:00", "2026-11-25 07:00")], [], "2026-11-30 12:00"),
    ("a pause from before it began", "UTC", "2026-11-23 12:00", DAYS(1), [("2026-11-20 12:00", "2026-11-24 12:00")], [],
     "2026-11-25 12:00"),
    ("a pause after it was due changes nothing", "UTC", "2026-11-23 12:00", DAYS(1),
     [("2026-11-25 12:00", "2026-11-26 12:00")], [], "2026-11-24 12:00"),
    ("a pause over the skipped hour, in hours", "America/New_York", "2026-03-08 00:00", HOURS(4),
     [("2026-03-08 01:00", "2026-03-08 04:00")], [], "2026-03-08 07:00"),
    ("where midnight itself is skipped", "Africa/Cairo", "2026-04-23 12:00", DAYS(1), [], [], "2026-04-26 12:00"),
]  # fmt: skip


@pytest.mark.parametrize(("zone", "begins", "target", "pauses", "holidays", "due"), [row[1:] for row in DUE],
                         ids=[row[0] for row in DUE])  # fmt: skip
def test_when_it_is_due(
    zone: str, begins: str, target: Target, pauses: list[tuple[str, str]], holidays: list[str], due: str
) -> None:
    # Egypt's business week is Sunday to Thursday; its clocks went forward at the midnight before Friday 2026-04-24.
    days = frozenset({6, 0, 1, 2, 3}) if zone == "Africa/Cairo" else WEEK
    held = [Pause(local(low, zone), local(high, zone), "x") for low, high in pauses]
    found = clocks.run(local(begins, zone), held, target, calendar(zone, days, *holidays), local("2027-03-01", zone))
    assert found.due is not None
    assert calendar(zone).local(found.due) == f"{due} {zone}"
    assert found.breached


def test_a_day_of_23_hours_and_one_of_25_count_as_one_day_each() -> None:
    every_day = calendar("America/New_York", frozenset(range(7)))
    for day in ("2026-03-08", "2026-11-01"):
        begins, ends = (
            every_day.midnight(date.fromisoformat(day)),
            every_day.midnight(date.fromisoformat(day) + timedelta(1)),
        )
        assert ends - begins != DAY_MS
        assert every_day.position(ends) - every_day.position(begins) == DAY_MS
        assert every_day.position((begins + ends) // 2) - every_day.position(begins) == DAY_MS // 2


@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01", "2026-11-02"])
def test_each_position_within_a_day_has_its_first_instant_whatever_the_days_length(day: str) -> None:
    every_day = calendar("America/New_York", frozenset(range(7)))
    begins = every_day.midnight(date.fromisoformat(day))
    for at in range(begins, begins + DAY_MS, 1_234_567):
        found = every_day.moment(every_day.position(at))
        assert every_day.position(found) == every_day.position(at)
        assert every_day.position(found - 1) < every_day.position(at)


def test_what_is_due_at_midnight_is_due_on_the_day_before() -> None:
    days = calendar("Europe/Berlin")
    clock = clocks.run(
        local("2026-11-28 11:00", "Europe/Berlin"), [], DAYS(1), days, local("2026-11-28 12:00", "Europe/Berlin")
    )
    assert clock.due is not None
    assert days.last_day(clock.due) == date(2026, 11, 30)
    assert not clock.breached


def test_an_open_pause_moves_the_due_date_as_long_as_it_lasts() -> None:
    held = [Pause(ms("2026-11-24T12:00:00Z"), None, "awaiting tests")]
    begins = ms("2026-11-23T12:00:00Z")
    found = [clocks.run(begins, held, DAYS(2), calendar(), ms(f"2026-11-{day}T12:00:00Z")) for day in (24, 25, 26)]
    assert [calendar().local(c.due or 0)[:16] for c in found] == [
        "2026-11-25 12:00",
        "2026-11-26 12:00",
        "2026-11-27 12:00",
    ]
    assert {c.elapsed for c in found} == {DAY_MS}
    assert [c.paused // DAY_MS for c in found] == [0, 1, 2]
    assert not any(c.breached for c in found)


def test_a_clock_that_stopped_stands() -> None:
    begins, stopped = ms("2026-11-23T12:00:00Z"), ms("2026-11-24T12:00:00Z")
    later = [clocks.run(begins, [], DAYS(2), calendar(), ms(f"202{year}-12-24T00:00:00Z"), stopped) for year in (6, 7)]
    assert later[0] == later[1]
    assert not later[0].breached
    assert later[0].words == "1 business day"
    assert clocks.run(begins, [], HOURS(4), calendar(), stopped, stopped).breached


# ---- properties

_INSTANTS = st.integers(ms("2025-01-01"), ms("2028-12-31"))
_ZONES = st.sampled_from(["UTC", "America/New_York", "Europe/London", "Africa/Cairo", "America/Havana", "Asia/Beirut",
                          "Pacific/Kiritimati", "Australia/Lord_Howe"])  # fmt: skip
_CALENDARS = st.builds(
    Calendar, _ZONES.map(ZoneInfo), st.frozensets(st.integers(0, 6), min_size=1),
    st.frozensets(st.dates(date(2025, 1, 1), date(2028, 12, 31)), max_size=20),
)  # fmt: skip
_TARGETS = st.builds(Target, st.integers(1, 40), st.booleans())
_PAUSES = st.lists(st.tuples(_INSTANTS, st.integers(0, 60 * DAY_MS) | st.none()), max_size=5).map(
    lambda found: [Pause(low, None if length is None else low + length, "x") for low, length in found]
)


@given(_CALENDARS, _INSTANTS, _INSTANTS)
def test_business_time_never_falls_and_its_inverse_is_the_first_instant(days: Calendar, one: int, other: int) -> None:
    early, late = sorted((one, other))
    assert days.position(early) <= days.position(late)
    found = days.moment(days.position(late))
    assert found <= late
    assert days.position(found) >= days.position(late)
    assert days.position(found - 1) < days.position(late)


@given(_CALENDARS, _INSTANTS, _PAUSES, _TARGETS, _INSTANTS, _INSTANTS)
def test_a_clock_is_never_negative_and_never_goes_back(
    days: Calendar, begins: int, held: list[Pause], target: Target, one: int, other: int
) -> None:
    early, late = (clocks.run(begins, held, target, days, at) for at in sorted((one, other)))
    assert 0 <= early.elapsed <= late.elapsed
    assert 0 <= early.paused <= late.paused
    assert early.due is not None
    assert late.due is not None
    assert begins <= early.due <= late.due
    assert late.breached or not early.breached
    assert late.breached == (late.due < max(begins, one, other))


@given(_CALENDARS, _INSTANTS, _PAUSES, _PAUSES, _TARGETS, _INSTANTS)
def test_a_pause_never_shortens_what_is_left(
    days: Calendar, begins: int, held: list[Pause], more: list[Pause], target: Target, now: int
) -> None:
    without = clocks.run(begins, held, target, days, now)
    with_more = clocks.run(begins, held + more, target, days, now)
    assert with_more.elapsed <= without.elapsed
    assert with_more.paused >= without.paused
    assert (with_more.due or 0) >= (without.due or 0)


# ---- of a case


def task(status: str, business: str, number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "status": status,
        "businessStatus": codes.concept(codes.BUSINESS_STATUS, business),
        **more,
    }


POLICY = clock_file.shipped()


def test_the_record_clock_begins_when_the_record_is_complete_or_taken_as_it_is() -> None:
    request = {"authoredOn": "2026-11-20", "priority": "urgent"}
    versions = [(ms("2026-11-23T09:00:00Z"), task("requested", "records-requested"))]
    found = clocks.of_case(request, versions, POLICY, ms("2026-11-24"))
    assert (found.request.started, found.record) == (ms("2026-11-20"), None)
    assert found.due == found.request.due == ms("2026-11-25T00:00:00Z")
    versions.append((ms("2026-11-23T10:00:00Z"), task("requested", "records-complete")))
    found = clocks.of_case(request, versions, POLICY, ms("2026-11-24"))
    assert found.record is not None
    assert found.record.started == ms("2026-11-23T10:00:00Z")
    taken = [versions[0], (ms("2026-11-23T11:00:00Z"), task("accepted", "records-incomplete"))]
    found = clocks.of_case(request, taken, POLICY, ms("2026-11-24"))
    assert found.record is not None
    assert found.record.started == ms("2026-11-23T11:00:00Z")


def test_pauses_are_read_from_the_task_and_end_with_it() -> None:
    held = {"statusReason": codes.concept(codes.STATUS_REASON, "consent-withheld", text="asked again on Friday")}
    versions = [
        (ms("2026-11-23T00:00:00Z"), task("requested", "records-complete")),
        (ms("2026-11-24T00:00:00Z"), task("requested", "awaiting-coverage")),
        (ms("2026-11-25T00:00:00Z"), task("requested", "records-complete")),
        (ms("2026-11-26T00:00:00Z"), task("accepted", "records-complete")),
        (ms("2026-11-27T00:00:00Z"), task("on-hold", "records-complete", **held)),
    ]
    found = clocks.of_case({}, versions, POLICY, ms("2026-11-27T12:00:00Z"))
    assert found.request.words == "3 business days"
    assert found.pause == "consent withheld: asked again on Friday"
    assert [p.reason for p in found.pauses] == ["awaiting coverage", found.pause]
    versions.append((ms("2026-11-30T00:00:00Z"), task("failed", "records-complete")))
    found = clocks.of_case({}, versions, POLICY, ms("2026-12-30"))
    assert (found.stopped, found.pause) == (ms("2026-11-30T00:00:00Z"), "")
    # The next coordination Task goes on: the patient waits for one opinion, not for one reviewer's.
    versions.append((ms("2026-11-30T00:00:00.001Z"), task("requested", "records-complete", 2)))
    found = clocks.of_case({}, versions, POLICY, ms("2026-12-01T00:00:00Z"))
    assert (found.stopped, found.request.started) == (None, ms("2026-11-23T00:00:00Z"))


def test_a_request_dated_ahead_of_us_begins_when_it_came() -> None:
    came = (ms("2026-11-23T09:00:00Z"), task("requested", "records-requested"))
    assert clocks.of_case({"authoredOn": "2027-01-01T00:00:00Z"}, [came], POLICY, came[0]).request.started == came[0]


# ---- the file


def test_a_site_has_its_own_zone_holidays_and_targets(tmp_path: Path) -> None:
    file = tmp_path / "clocks.toml"
    file.write_text(
        'zone = "Europe/Berlin"\nworkdays = ["monday"]\nholidays = ["2026-12-24/2027-01-01", "2026-05-01"]\n'
        + "".join(f'[{p}]\nsince_complete = "1 business day"\n' for p in clock_file.PRIORITIES)
    )
    found = clock_file.load(file)
    assert found.calendar.zone.key == "Europe/Berlin"
    assert found.calendar.workdays == {0}
    assert len(found.calendar.holidays) == 10
    assert found.targets["stat"] == clocks.Targets(None, Target(1, True))


GOOD = "".join(f'[{p}]\nsince_complete = "1 hour"\n' for p in clock_file.PRIORITIES)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('zone = "Mars/Olympus"\n' + GOOD, "zone: 'Mars/Olympus' is no IANA time zone"),
        ('zone = "../../etc/passwd"\n' + GOOD, "is no IANA time zone"),
        ("zone = 3\n" + GOOD, "is no IANA time zone"),
        ("workdays = []\n" + GOOD, "workdays: give at least one of monday"),
        ('workdays = ["Montag"]\n' + GOOD, "workdays"),
        ('holidays = ["2026-13-01"]\n' + GOOD, "holidays: '2026-13-01' is neither"),
        ('holidays = ["2026-12-24/2026-12-01"]\n' + GOOD, "holidays"),
        ('holidays = ["2026-12-24/3026-12-01"]\n' + GOOD, "holidays"),
        ("holidays = 5\n" + GOOD, "holidays is a list"),
        ("colour = 1\n" + GOOD, "unknown key 'colour'"),
        (GOOD.replace("[stat]", "[never]"), "unknown key 'never'"),
        ('[stat]\nsince_request = "1 hour"\n', "there is no [routine]"),
        (GOOD.replace('"1 hour"', '"0 hours"', 1), "routine.since_complete: '0 hours' is no target"),
        (GOOD.replace('"1 hour"', "4", 1), "routine.since_complete: 4 is no target"),
        (GOOD.replace("since_complete", "since_when", 1), "routine: give since_request or since_complete"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_fault_of_the_file_names_its_place(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "clocks.toml"
    file.write_text(text)
    with pytest.raises(Invalid) as fault:
        clock_file.load(file)
    assert says in fault.value.message
    assert str(file) in fault.value.message
