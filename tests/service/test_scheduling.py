"""What was booked elsewhere: visits, no-shows, videos, a record-only review, and the discussion of the results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir import times
from fhir_secondop.fhir.validate import validate
from fhir_secondop.opinion import clock_file, codes
from tests.service.world import World, opened

Plain = dict[str, Any]
WEDNESDAY = {"start": "2027-03-03T10:00:00Z", "end": "2027-03-03T10:45:00Z"}
FRIDAY = {"start": "2027-03-05T10:00:00Z", "end": "2027-03-05T10:45:00Z"}


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        at(made, "2027-03-01T09:00:00Z")
        yield made


def at(world: World, instant: str) -> None:
    world.clock.ahead_ms += times.interval(instant).low - world.clock()


def accepted(world: World) -> str:
    case_id = world.gathered()
    world.accept(case_id)
    return case_id


def book(world: World, case_id: str, status: int = 200, who: str = "desk", **plain: Any) -> Plain:
    return world.post(case_id, "schedule", plain, who, status=status)


def one(world: World, case_id: str, kind: str, place: int = 0) -> Plain:
    found: Plain = world.package(case_id, kind)[place]
    assert validate(found) == []
    return found


def kind_of(encounter: Plain) -> tuple[str, str]:
    return encounter["class"]["code"], codes.code_of(encounter["type"][0], codes.ENCOUNTER_TYPE) or ""


def sign(world: World, case_id: str, status: int = 0) -> Plain:
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    return world.post(case_id, "sign", who="reviewer", status=status)


def test_a_visit_is_planned_takes_place_and_is_finished_with_its_own_end(world: World) -> None:
    case_id = accepted(world)
    said = book(world, case_id, mode="visit", booking="B-1", place="Room 4", **WEDNESDAY)
    assert (said["status"], said["businessStatus"]) == ("booked", "visit-scheduled")
    appointment, encounter = one(world, case_id, "Appointment"), one(world, case_id, "Encounter")
    assert said["appointment"] == f"Appointment/{appointment['id']}"
    assert said["encounter"] == f"Encounter/{encounter['id']}"
    assert (appointment["start"], appointment["identifier"]) == ("2027-03-03T10:00:00Z", [{"value": "B-1"}])
    assert [p["actor"].get("display", p["actor"].get("reference", "").split("/")[0])
            for p in appointment["participant"]] == ["Patient", "PractitionerRole", "Room 4"]  # fmt: skip
    assert (encounter["status"], kind_of(encounter)) == ("planned", ("AMB", "second-opinion-visit"))
    assert encounter["appointment"] == [{"reference": said["appointment"]}]
    assert [codes.code_of(p["type"][0], codes.PARTICIPATION) for p in encounter["participant"]] == ["CON", "REF"]
    # One begins to write before: the visit is still to come, and nothing is signed over it.
    refused = sign(world, case_id, status=409)
    assert "visit in person is booked for 2027-03-03T10:00Z" in str(refused)
    assert one(world, case_id, "Encounter")["status"] == "planned"
    assert world.get(case_id)["businessStatus"] == "visit-scheduled"
    assert "not begun yet" in str(world.post(case_id, "schedule", {"status": "fulfilled"}, status=422))
    at(world, "2027-03-03T12:00:00Z")
    done = world.post(case_id, "schedule", {"status": "fulfilled"}, "reviewer")
    assert (done["status"], done["businessStatus"]) == ("fulfilled", "visit-complete")
    encounter = one(world, case_id, "Encounter")
    assert encounter["status"] == "finished"
    assert encounter["period"] == {"start": "2027-03-03T10:00:00Z", "end": "2027-03-03T10:45:00Z"}
    history = world.call("GET", f"/fhir/Encounter/{encounter['id']}/_history").get_json()["entry"]
    assert [e["resource"]["status"] for e in reversed(history)][-3:] == ["planned", "in-progress", "finished"]
    assert world.post(case_id, "schedule", {"status": "fulfilled"}, "reviewer") == done
    assert len(world.call("GET", f"/fhir/Encounter/{encounter['id']}/_history").get_json()["entry"]) == len(history)
    assert "is finished" in str(book(world, case_id, status=409, mode="visit", **FRIDAY))
    assert sign(world, case_id)["status"] == "final"
    assert one(world, case_id, "Encounter")["period"] == encounter["period"]
    assert "visit in person on 2027-03-03" in world.pdf(case_id)
    (report,) = world.package(case_id, "DiagnosticReport")
    assert times.interval(report["issued"]).low >= times.interval(encounter["period"]["start"]).low


def test_who_does_not_come_is_reported_and_the_record_is_what_remains(world: World) -> None:
    case_id = accepted(world)
    book(world, case_id, mode="video", **WEDNESDAY)
    assert kind_of(one(world, case_id, "Encounter")) == ("VR", "second-opinion-visit")
    at(world, "2027-03-03T12:00:00Z")
    missed = world.post(case_id, "schedule", {"status": "noshow", "reason": "no answer"})
    assert missed["businessStatus"] == "visit-unattended"
    assert one(world, case_id, "Appointment")["comment"] == "no answer"
    refused = world.post(case_id, "schedule", {"status": "fulfilled"}, status=409)
    assert "can't go from noshow to fulfilled" in str(refused)
    again = book(world, case_id, mode="visit", **FRIDAY)
    assert again["appointment"] != missed["appointment"]
    called_off = world.post(case_id, "schedule", {"status": "cancelled"})
    assert called_off["businessStatus"] == "records-incomplete"
    encounter = one(world, case_id, "Encounter")
    assert (kind_of(encounter), "appointment" in encounter) == (("VR", "record-review"), False)
    assert sign(world, case_id)["status"] == "final"
    assert world.get(case_id)["businessStatus"] == "report-final"
    assert "did not come to the appointment of 2027-03-03" in world.pdf(case_id)
    assert "2027-03-05" not in world.pdf(case_id)


def test_a_no_show_after_the_draft_was_begun_makes_the_work_on_the_record_the_consultation(world: World) -> None:
    case_id = accepted(world)
    book(world, case_id, mode="visit", **WEDNESDAY)
    world.draft(case_id, [])
    at(world, "2027-03-03T12:00:00Z")
    world.post(case_id, "schedule", {"status": "noshow"}, "reviewer")
    encounter = one(world, case_id, "Encounter")
    assert (encounter["status"], kind_of(encounter)) == ("in-progress", ("VR", "record-review"))
    assert encounter["period"]["start"].startswith("2027-03-03T12:00")
    assert book(world, case_id, mode="record-only")["businessStatus"] == "record-review"


def test_a_booking_is_moved_and_a_repeat_changes_nothing(world: World) -> None:
    case_id = accepted(world)
    first = book(world, case_id, mode="visit", booking="B-1", **WEDNESDAY)
    assert book(world, case_id, mode="visit", booking="B-1", **WEDNESDAY) == first
    assert one(world, case_id, "Appointment")["meta"]["versionId"] == "1"
    moved = world.post(case_id, "schedule", {"booking": "B-1", **FRIDAY})
    assert moved["appointment"] == first["appointment"]
    assert one(world, case_id, "Appointment")["start"].startswith("2027-03-05T10:00")
    other = book(world, case_id, status=409, mode="visit", booking="B-2", **FRIDAY)
    assert "Another appointment is booked" in str(other)
    assert "A visit is booked" in str(book(world, case_id, status=409, mode="record-only"))


def test_what_took_place_without_having_been_booked_here_is_recorded_at_once(world: World) -> None:
    case_id = accepted(world)
    at(world, "2027-03-04T00:00:00Z")
    said = world.post(case_id, "schedule", {"mode": "video", "status": "fulfilled", **WEDNESDAY})
    assert said["businessStatus"] == "visit-complete"
    assert world.get(case_id)["status"] == "in-progress"
    assert sign(world, case_id)["status"] == "final"
    assert "visit by video on 2027-03-03" in world.pdf(case_id)


def test_the_results_are_discussed_in_an_encounter_of_their_own(world: World) -> None:
    case_id = accepted(world)
    talk = {"for": "results-discussion", "mode": "video", **FRIDAY}
    assert "no signed report" in str(world.post(case_id, "schedule", talk, status=409))
    sign(world, case_id)
    consultation = one(world, case_id, "Encounter")
    assert "from the record alone" in world.pdf(case_id)
    said = world.post(case_id, "schedule", talk)
    assert said["businessStatus"] == "report-final"
    at(world, "2027-03-05T12:00:00Z")
    world.post(case_id, "schedule", {"for": "results-discussion", "status": "noshow"})
    second = world.post(case_id, "schedule", {**talk, "status": "fulfilled"}, "reviewer")
    found = {e["id"]: e for e in world.package(case_id, "Encounter")}
    assert found[consultation["id"]] == consultation
    assert found[said["encounter"].split("/")[1]]["status"] == "cancelled"
    held = found[second["encounter"].split("/")[1]]
    assert (held["status"], kind_of(held), held["period"]["end"]) == (
        "finished", ("VR", "results-discussion"), "2027-03-05T10:45:00Z",
    )  # fmt: skip
    assert validate(held) == []
    refused = {"for": "results-discussion", "mode": "record-only"}
    assert "is a visit, or by video" in str(world.post(case_id, "schedule", refused, status=422))


def test_times_without_a_zone_are_the_sites(world: World, tmp_path: Path) -> None:
    file = tmp_path / "clocks.toml"
    targets = "".join(f'[{p}]\nsince_request = "9 hours"\n' for p in clock_file.PRIORITIES)
    file.write_text(f'zone = "America/New_York"\n{targets}')
    object.__setattr__(world.context, "clocks", clock_file.load(file))
    case_id = accepted(world)
    book(world, case_id, mode="visit", start="2027-03-03T10:00", end="2027-03-03T17:30:00+01:00")
    found = one(world, case_id, "Appointment")
    assert (found["start"], found["end"]) == ("2027-03-03T15:00:00Z", "2027-03-03T16:30:00Z")


@pytest.mark.parametrize(
    ("plain", "status", "says"),
    [
        ({"mode": "visit"}, 422, "start"),
        (WEDNESDAY, 422, "mode"),
        ({"mode": "visit", **WEDNESDAY, "end": "2027-03-03T10:00:00Z"}, 422, "ends before it begins"),
        ({"mode": "visit", **WEDNESDAY, "end": "2027-03-03"}, 422, "day and a time"),
        ({"mode": "visit", **WEDNESDAY, "start": "2027-02-30T10:00:00Z"}, 422, "day and a time"),
        ({"mode": "visit", **WEDNESDAY, "start": "tomorrow"}, 422, "day and a time"),
        ({"mode": "telepathy", **WEDNESDAY}, 422, "mode"),
        ({"status": "cancelled"}, 409, "no booking"),
        ({"status": "noshow", "mode": "visit", **WEDNESDAY}, 422, "not begun yet"),
    ],
)
def test_what_is_wrong_with_a_booking_is_said_and_nothing_is_stored(
    world: World, plain: Plain, status: int, says: str
) -> None:
    case_id = accepted(world)
    before = world.package(case_id)
    assert says in str(world.post(case_id, "schedule", plain, status=status))
    assert world.package(case_id) == before


def test_only_in_a_case_that_somebody_has_accepted(world: World) -> None:
    case_id = world.gathered()
    assert "nobody has accepted" in str(book(world, case_id, status=409, mode="visit", **WEDNESDAY))
    world.accept(case_id)
    assert book(world, case_id, status=403, who="surgeon", mode="visit", **WEDNESDAY)
    world.post(case_id, "pause", {"reason": "awaiting-tests"})
    assert "resume it first" in str(book(world, case_id, status=409, mode="visit", **WEDNESDAY))
