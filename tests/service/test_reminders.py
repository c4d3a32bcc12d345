"""Reminders of acknowledgements: on the third business day, once a version, and not to who has acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.wrappers import Response

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import times
from fhir_secondop.opinion import clock_file, progress
from fhir_secondop.opinion.clocks import Target
from fhir_secondop.service import reminders, rounds
from fhir_secondop.service.context import SERVICE, load
from fhir_secondop.store import tables
from tests.service.hospitals import clinic, hospital
from tests.service.test_circuits import another
from tests.service.world import DAY_MS, World, opened

Plain = dict[str, Any]
THURSDAY = times.interval("2027-03-04T09:00:00Z").low  # the third business day after it is Tuesday
PCP, SURGEON = "Dr. Ines Placeholder", "Dr. Harlan Mockridge"


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.clock.ahead_ms = THURSDAY - made.clock()
        yield made


def at(world: World, instant: str) -> None:
    """It becomes that instant, and the round has its turn."""
    world.clock.ahead_ms += times.interval(instant).low - world.clock()
    reminders.act(world.context)


def delivered(world: World) -> str:
    """A case whose report is at the hospital, verified, and for the others a link."""
    hospital(world)
    case_id = world.signed()
    world.work()
    reminders.act(world.context)
    return case_id


def told(world: World, case_id: str) -> list[tuple[str, str]]:
    """Who was reminded, and the text."""
    found = [n for n in world.get(case_id, "clocks")["notices"] if n["topic"] == "not-acknowledged"]
    return sorted((*n["to"], n["text"]) for n in found)


def needs(world: World, case_id: str) -> list[progress.Need]:
    with world.context.database.reading() as connection:
        case = load(connection, world.context.visibility(SERVICE), case_id)
    return [need for need in progress.needs(case) if need.kind == "not-acknowledged"]


def test_who_has_it_and_has_not_acknowledged_is_reminded_on_the_third_business_day_once(world: World) -> None:
    case_id = delivered(world)
    held = {d["to"]: d["businessStatus"] for d in world.deliveries(case_id)}
    assert held[SURGEON] == "verified"
    assert held[PCP] == "unverifiable"
    at(world, "2027-03-09T08:50:00Z")
    assert told(world, case_id) == []
    assert needs(world, case_id) == []
    at(world, "2027-03-09T09:10:00Z")
    text = "Version 1 of the second opinion report has been ready for you since 2027-03-04. "
    text += "Please read it and acknowledge it."
    assert (PCP, text) in told(world, case_id)
    assert (SURGEON, text) in told(world, case_id)
    before = told(world, case_id)
    for _ in range(3):
        reminders.act(world.context)
    at(world, "2027-06-01T09:00:00Z")
    assert told(world, case_id) == before
    (need,) = [n for n in needs(world, case_id) if n.whom == SURGEON]
    assert need.why.startswith("version 1 not acknowledged since 2027-03-04")
    assert "reminded 2027-03-09" in need.why


def test_it_is_addressed_to_that_provider_and_shown_to_him(world: World) -> None:
    case_id = delivered(world)
    at(world, "2027-03-09T09:10:00Z")
    (mine,) = [
        n
        for n in world.package(case_id, "Communication", who="surgeon")
        if n["topic"]["coding"][0]["code"] == "not-acknowledged" and _is_for(world, case_id, n, SURGEON)
    ]
    role = mine["recipient"][0]["reference"]
    found = world.call("GET", f"/fhir/Communication?recipient={role}", who="surgeon").get_json()["entry"]
    assert mine["id"] in [entry["resource"]["id"] for entry in found]


def _is_for(world: World, case_id: str, notice: Plain, name: str) -> bool:
    with world.context.database.reading() as connection:
        case = load(connection, world.context.visibility(SERVICE), case_id)
    person = case.directory.person(notice["recipient"][0]["reference"])
    return person is not None and person.name == name


def test_who_has_acknowledged_is_not_reminded_and_a_late_acknowledgement_ends_it(world: World) -> None:
    case_id = delivered(world)
    world.post(case_id, "acknowledge", {"version": 1}, "surgeon")
    at(world, "2027-03-09T09:10:00Z")
    assert SURGEON not in {name for name, _ in told(world, case_id)}
    assert PCP in {need.whom for need in needs(world, case_id)}
    world.post(case_id, "acknowledge", {"version": 1}, "pcp")
    assert PCP not in {need.whom for need in needs(world, case_id)}


def test_each_version_has_its_own_reminder_and_a_replaced_one_none(world: World) -> None:
    case_id = delivered(world)
    at(world, "2027-03-05T09:00:00Z")
    world.amend(case_id)
    world.work()
    at(world, "2027-03-09T09:10:00Z")
    assert told(world, case_id) == []
    at(world, "2027-03-10T09:10:00Z")
    assert {text.partition(" of")[0] for _, text in told(world, case_id)} == {"Version 2"}
    world.amend(case_id, reason="Another dose was wrong.")
    world.work()
    assert needs(world, case_id) == []
    at(world, "2027-03-16T09:10:00Z")
    assert {text.partition(" of")[0] for _, text in told(world, case_id)} == {"Version 2", "Version 3"}


def test_what_is_not_there_is_not_asked_for(world: World) -> None:
    riverside = clinic(world)
    case_id = world.signed()
    riverside.instead = lambda asked: Response("", 503)
    world.work()
    reminders.act(world.context)
    assert {d["to"]: d["status"] for d in world.deliveries(case_id)}[PCP] != "completed"
    at(world, "2027-03-09T09:10:00Z")
    assert PCP not in {name for name, _ in told(world, case_id)}


def test_nobody_is_reminded_of_what_was_there_before_reminders_were(world: World) -> None:
    hospital(world)
    case_id = world.signed()
    world.work()
    at(world, "2027-03-20T09:00:00Z")
    at(world, "2027-03-29T09:00:00Z")
    assert told(world, case_id) == []


def test_a_long_stop_a_restart_and_two_workers_remind_once(world: World) -> None:
    case_id = delivered(world)
    world.clock.ahead_ms += 20 * DAY_MS
    world.start()
    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(reminders.act, world.context) for _ in range(4)]:
            outcome.result()
    names = [name for name, _ in told(world, case_id)]
    assert SURGEON in names
    assert len(names) == len(set(names))
    assert [
        len(world.call("GET", f"/fhir/Communication/{n['id']}/_history").get_json()["entry"])
        for n in world.package(case_id, "Communication")
    ] == [1] * len(world.package(case_id, "Communication"))


def test_a_turn_that_was_lost_before_it_was_noted_is_made_again_and_adds_nothing(world: World) -> None:
    case_id = delivered(world)
    at(world, "2027-03-09T09:10:00Z")
    before = world.package(case_id, "Communication")
    with world.context.database.transaction(SERVICE) as tx:
        tx.connection.execute(sa.update(tables.reached).values(at=0))
    reminders.act(world.context)
    assert world.package(case_id, "Communication") == before


def test_a_clock_that_had_jumped_ahead_passes_over_nobody(world: World) -> None:
    hospital(world)
    reminders.act(world.context)
    world.clock.ahead_ms += 400 * DAY_MS
    reminders.act(world.context)
    world.clock.ahead_ms -= 400 * DAY_MS
    case_id = world.signed()
    world.work()
    at(world, "2027-03-09T09:10:00Z")
    assert SURGEON in {name for name, _ in told(world, case_id)}


def test_a_site_says_after_how_long(world: World, tmp_path: Path) -> None:
    written = (Path(__file__).parents[2] / "profiles/clocks/targets.toml").read_text("utf-8")
    file = tmp_path / "clocks.toml"
    file.write_text(written.replace('remind_after = "3 business days"', 'remind_after = "26 hours"'))
    policy = clock_file.load(file)
    assert policy.remind_after == Target(26, False)
    file.write_text(written.replace('remind_after = "3 business days"', ""))
    assert clock_file.load(file).remind_after == Target(3, True)
    file.write_text(written.replace('remind_after = "3 business days"', 'remind_after = "soon"'))
    with pytest.raises(Invalid, match="remind_after"):
        clock_file.load(file)
    case_id = delivered(world)
    world.context = replace(world.context, clocks=policy)
    at(world, "2027-03-05T10:50:00Z")
    assert told(world, case_id) == []
    at(world, "2027-03-05T11:10:00Z")
    assert SURGEON in {name for name, _ in told(world, case_id)}


def test_it_is_one_of_the_rounds() -> None:
    assert {each.name for each in (rounds.ALERTS, *rounds.OTHERS)} >= {"alerts", "reminders"}


def test_a_few_versions_at_a_time_nobody_is_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reminders, "AT_ONCE", 3)
    case_id = delivered(world)
    asked: list[str] = []
    engine = world.context.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda connection, cursor, text, *_: asked.append(text))
    at(world, "2027-03-09T09:10:00Z")
    assert SURGEON in {name for name, _ in told(world, case_id)}
    asked.clear()
    reminders.act(world.context)
    assert [text for text in asked if "resource" in text.lower()] == []  # what has been seen costs nothing any more


def set_deleted(world: World, case_id: str, deleted: bool) -> None:
    """What nobody can load: its request is not there."""
    is_request = sa.and_(tables.resource.c.type == "ServiceRequest", tables.resource.c.id == case_id)
    rid = sa.select(tables.resource.c.rid).where(is_request).scalar_subquery()
    with world.context.database.transaction(SERVICE) as tx:
        tx.connection.execute(sa.update(tables.resource).values(deleted=deleted).where(is_request))
        tx.connection.execute(sa.update(tables.version).values(deleted=deleted).where(tables.version.c.rid == rid))


def test_a_case_that_fails_keeps_no_other_waiting_and_has_its_turn_once_it_does_not(world: World) -> None:
    broken = delivered(world)
    other = another(world, 2)
    world.work()
    set_deleted(world, broken, True)
    at(world, "2027-03-09T09:10:00Z")
    assert SURGEON in {name for name, _ in told(world, other)}
    reminders.act(world.context)
    set_deleted(world, broken, False)
    assert told(world, broken) == []
    reminders.act(world.context)
    before = told(world, broken)
    assert SURGEON in {name for name, _ in before}
    reminders.act(world.context)
    assert told(world, broken) == before


def test_a_database_that_is_away_is_not_taken_for_a_case_that_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = delivered(world)

    def away(*_: Any) -> int:
        raise sa.exc.OperationalError("SELECT 1", {}, Exception("gone"))

    with monkeypatch.context() as patched:
        patched.setattr(reminders, "remind", away)
        with pytest.raises(sa.exc.OperationalError):
            at(world, "2027-03-09T09:10:00Z")
    reminders.act(world.context)
    assert SURGEON in {name for name, _ in told(world, case_id)}
