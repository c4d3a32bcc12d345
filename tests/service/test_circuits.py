"""An EHR that does not answer, or that an operator paused, is left alone; nothing is given up for it, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.model import Caller
from fhir_secondop.service import breaker, circuits, gather, tries
from fhir_secondop.service.breaker import Policy
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.tries import Try
from fhir_secondop.store import circuits as rows
from fhir_secondop.store.circuits import Circuit
from tests.service.hospitals import ONCOLOGIST, PCP, SURGEON, clinic, few, hospital
from tests.service.test_review import example
from tests.service.world import World, opened, refusal

POLICY = Policy()
HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def another(world: World, number: int) -> str:
    """One more signed case."""
    return world.signed(sources=[], placer={**example("request.json")["placer"], "value": f"case-{number}"})


def known(world: World, name: str) -> Circuit:
    with world.context.database.reading() as connection:
        return rows.read(connection, name)


def state(world: World, name: str) -> str:
    return breaker.state(known(world, name), world.clock())


# ---- in the middle of it all


def test_an_ehr_that_is_down_for_three_days_loses_nothing_and_gives_nothing_up(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(503)
    world.work(patience_s=3 * DAY, limit=5000)
    assert state(world, "lakeside") in ("open", "half-open")
    waiting = world.delivery(case_id, SURGEON)
    assert waiting["status"] == "accepted"
    assert "lakeside has not answered since" in waiting["why"]
    asked = len(ehr.seen)
    assert asked < 3 * DAY / POLICY.longest_s * 1.1 + 30, "one probe at a time, after the longest pause"
    ehr.instead = lambda a: None
    world.work(patience_s=HOUR, limit=500)
    assert {world.delivery(case_id, n)["businessStatus"] for n in (SURGEON, ONCOLOGIST)} == {"verified"}
    assert int(world.delivery(case_id, SURGEON)["evidence"]["attempt"]) <= POLICY.failures
    assert (len(ehr.reports), len(ehr.documents)) == (1, 1)
    assert known(world, "lakeside") == Circuit("lakeside")


def test_the_ehr_that_is_down_holds_up_no_other(world: World) -> None:
    ehr = hospital(world)
    clinic(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(503)
    world.work(patience_s=HOUR, limit=500)
    assert world.delivery(case_id, PCP)["businessStatus"] == "verified"
    assert state(world, "riverside") == "closed"


def test_a_report_that_breaks_the_ehr_does_not_close_it_to_others(world: World) -> None:
    ehr = hospital(world)
    poisoned: list[str] = []
    ehr.instead = lambda a: refusal(503) if a.writes and any(p.encode() in a.body for p in poisoned) else None
    for n in range(3):
        poisoned.append(another(world, n))
    world.work(patience_s=10 * HOUR, limit=500)
    assert state(world, "lakeside") == "closed"
    assert [world.delivery(p, SURGEON) for p in poisoned if world.delivery(p, SURGEON)["status"] != "on-hold"] == []
    fine = another(world, 9)
    world.work()
    assert world.delivery(fine, SURGEON)["businessStatus"] == "verified"


def test_a_failure_after_an_answer_never_opens_the_circuit(world: World) -> None:
    hospital(world)
    broken = EhrFailure("unreachable", "x", status=500)
    for n in range(3 * POLICY.failures):
        assert circuits.failed(world.context, "lakeside", f"deliver-{n}", broken, True) is None
    assert state(world, "lakeside") == "closed"
    waits = [circuits.failed(world.context, "lakeside", f"deliver-{n}", broken, False) for n in range(POLICY.failures)]
    assert [wait is None for wait in waits] == [True] * (POLICY.failures - 1) + [False]
    assert state(world, "lakeside") == "open"


def test_one_alone_asks_an_ehr_that_was_silent(world: World) -> None:
    ehr = hospital(world)
    world.call("POST", "/api/connections/lakeside/pause", {"reason": "Until all are signed."})
    cases = [another(world, n) for n in range(4)]
    ehr.instead = lambda a: refusal(503)
    world.call("POST", "/api/connections/lakeside/resume")
    world.work(patience_s=20)
    circuit = known(world, "lakeside")
    assert (circuit.trips, circuit.failures) == (1, POLICY.failures)
    # Eight deliveries: five were tried, three did not come to it.
    assert len(ehr.seen) == POLICY.failures
    world.clock.forward(POLICY.pause_s + 1)
    ids = [d["task"] for case in cases for d in world.deliveries(case) if SURGEON in d["to"] or ONCOLOGIST in d["to"]]
    keys = [f"{orders.WORKFLOW}-{task}" for task in ids]
    entered = [circuits.enter(world.context, "lakeside", key) for key in keys]
    assert [one is None for one in entered] == [True] + [False] * 7
    assert circuits.enter(world.context, "lakeside", keys[0]) is None, "its step may run twice"
    world.clock.forward(breaker.PROBE_S + 1)
    assert circuits.enter(world.context, "lakeside", keys[1]) is None, "the probe's worker has died"


def test_what_waits_comes_back_spread_over_the_pause(world: World) -> None:
    circuit = Circuit("x", 5, 4, 1, until=1000, why="unreachable")
    found = [breaker.wait(circuit, f"deliver-{n}", 0, POLICY) for n in range(200)]
    seconds = sorted(one.seconds for one in found if one)
    assert len(set(seconds)) > 100
    assert seconds[0] >= 1.0
    assert seconds[-1] <= 1.0 + POLICY.pause_ms(4) / 1000


def test_a_gathering_waits_for_an_ehr_that_is_down_and_misses_nothing(world: World) -> None:
    ehr = world.ehr("lakeside")
    ehr.instead = lambda a: refusal(503)
    case_id = world.open()
    world.work(patience_s=DAY / 2, limit=3000)
    (task,) = [g for g in world.get(case_id)["gathering"] if g["source"].startswith("Lakeside")]
    assert task["status"] not in ("failed", "completed")
    assert "lakeside has not answered since" in task["why"]
    ehr.instead = lambda a: None
    world.work(patience_s=HOUR, limit=200)
    (task,) = [g for g in world.get(case_id)["gathering"] if g["source"].startswith("Lakeside")]
    assert task["status"] == "completed"


def test_after_a_day_an_ehr_that_is_down_is_a_named_gap(world: World) -> None:
    world.ehr("riverside")
    world.ehr("lakeside", "dead")
    case_id = world.open()
    for _ in range(60):
        world.work()
        world.clock.forward(1800)
    assert not world.jobs or all(job.workflow != "gather" for job in world.jobs)
    (task,) = [g for g in world.get(case_id)["gathering"] if g["source"].startswith("Lakeside")]
    assert task["status"] == "failed"
    assert "Given up after a day; gather again when it is back." in task["why"]
    lines = world.manifest(case_id, "Lakeside Specimen Hospital")
    assert {line["outcome"] for line in lines.values()} == {"failed"}


def test_what_the_ehr_asks_us_to_wait_holds_for_everything_that_goes_there(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    first = [True]

    def instead(asked: Any) -> Any:
        if first[0]:
            first[0] = False
            return refusal(429, Retry_After="120")
        return None

    ehr.instead = instead
    world.work()
    assert len(ehr.seen) == 1, "the other delivery did not ask at all"
    assert state(world, "lakeside") == "resting"
    assert "asked us to wait" in world.delivery(case_id, ONCOLOGIST)["why"]
    world.clock.forward(110)
    world.work()
    assert len(ehr.seen) == 1
    world.work(patience_s=20)
    assert {world.delivery(case_id, n)["businessStatus"] for n in (SURGEON, ONCOLOGIST)} == {"verified"}
    assert world.delivery(case_id, SURGEON)["evidence"]["attempt"] == "1"


def test_after_a_replay_there_are_as_many_attempts_as_before(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(500) if a.writes else None
    world.work(patience_s=4 * HOUR)
    for replays in range(1, 3):
        held = world.delivery(case_id, SURGEON)
        assert f"Given up after {tries.MAX_ATTEMPTS} attempts" in held["why"]
        world.post(case_id, "replay", {"task": held["task"], "changed": "Tried once more."})
        before = len(ehr.written)
        world.work(patience_s=4 * HOUR)
        assert len(ehr.written) - before == tries.MAX_ATTEMPTS
        assert world.delivery(case_id, SURGEON)["evidence"]["replays"] == str(replays)


# ---- paused by a person


def test_a_paused_ehr_is_asked_nothing_until_it_is_resumed(world: World) -> None:
    ehr = world.ehr("lakeside", record=few("lakeside"))
    answer = world.call("POST", "/api/connections/lakeside/pause", {"reason": "They move their servers."})
    assert answer.status_code == 200, answer.get_data(as_text=True)
    assert (answer.get_json()["state"], answer.get_json()["by"]) == ("paused", "Desk")
    case_id = world.open()
    world.work(patience_s=HOUR, limit=200)
    (task,) = [g for g in world.get(case_id)["gathering"] if g["source"].startswith("Lakeside")]
    assert "An operator has paused lakeside" in task["why"]
    assert ehr.seen == []
    world.call("POST", "/api/connections/lakeside/resume")
    world.work(patience_s=breaker.LONGEST_LOOK_S)
    assert ehr.seen
    world.call("POST", "/api/connections/lakeside/pause", {"reason": "Again."})
    world.sign(case_id)
    asked = len(ehr.seen)
    world.work(patience_s=3 * DAY, limit=5000)
    assert len(ehr.seen) == asked
    held = world.delivery(case_id, SURGEON)
    assert held["status"] == "accepted"
    assert "An operator has paused lakeside" in held["why"]
    previewed = world.post(case_id, "preview-delivery", {"to": SURGEON})["deliveries"][0]
    assert "paused" in previewed["why"]
    assert len(ehr.seen) == asked
    world.call("POST", "/api/connections/lakeside/resume")
    world.work(patience_s=breaker.LONGEST_LOOK_S)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    assert world.delivery(case_id, SURGEON)["evidence"]["attempt"] == "1"
    assert (len(ehr.reports), len(ehr.documents)) == (1, 1)


def test_only_who_operates_or_coordinates_pauses_what_there_is(world: World) -> None:
    hospital(world)
    world.connect("payer", "http://127.0.0.1:9/fhir", role="payer")
    said = {"reason": "x"}
    asked = [
        ("reviewer", "lakeside", said, 403), ("clinic", "lakeside", said, 403), ("nobody", "lakeside", said, 401),
        ("desk", "nowhere", said, 404), ("desk", "payer", said, 409), ("desk", "lakeside", {}, 422),
        ("desk", "lakeside", {"reason": "x" * 201}, 422), ("desk", "lakeside", {"reason": " "}, 422),
    ]  # fmt: skip
    for who, name, body, status in asked:
        assert world.call("POST", f"/api/connections/{name}/pause", body, who).status_code == status, (who, name, body)
    assert state(world, "lakeside") == "closed"
    operator = Caller("op", "Operator", frozenset({"operator"}))
    since = circuits.pause(world.context, operator, "lakeside", "Maintenance.").paused
    world.clock.forward(60)
    again = circuits.pause(world.context, operator, "lakeside", "Longer than we thought.")
    assert (again.paused, again.paused_why) == (since, "Longer than we thought.")
    assert circuits.resume(world.context, operator, "lakeside") == Circuit("lakeside")
    assert circuits.resume(world.context, operator, "lakeside") == Circuit("lakeside")


# ---- decided


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["silent", "answered", "rested", "enter", "over"]), st.sampled_from("abc"), st.integers(0, 2000)
    ),
    max_size=60,
)


@given(_EVENTS)
def test_whatever_happens_one_asks_a_silent_ehr_and_none_waits_for_ever(events: list[tuple[str, str, int]]) -> None:
    circuit, now, asking = Circuit("x"), 0, set[str]()
    for event, key, seconds in events:
        now += 1000 * seconds
        if event == "enter":
            found = breaker.wait(circuit, key, now, POLICY)
            if found is None:
                half = breaker.state(circuit, now) == "half-open"
                assert not half or circuit.probe in ("", key) or circuit.probe_until <= now
                circuit = breaker.probing(circuit, key, now)
                asking.add(key)
            else:
                assert 0 < found.seconds <= breaker.LONGEST_REST_S + POLICY.longest_s + 1
        elif event == "answered":
            circuit = breaker.answered(circuit)
            assert circuit.trips == 0
        elif event == "silent":
            before = circuit
            circuit = breaker.silent(circuit, key, "unreachable", now, POLICY)
            assert circuit.trips - before.trips in (0, 1)
            assert circuit.until <= max(before.until, now + 1000 * int(POLICY.longest_s))
        elif event == "rested":
            circuit = breaker.rested(circuit, float(seconds), now)
        else:
            circuit = breaker.released(circuit, key)
        # After every pause, somebody may ask.
        later = replace(circuit, probe="")
        assert breaker.wait(later, key, now + int(1000 * breaker.LONGEST_REST_S) + 1, POLICY) is None


TEN_YEARS_MS, NOW = 315_360_000_000, 1_800_000_000_000


def test_a_clock_that_ran_ahead_keeps_an_ehr_closed_to_nobody() -> None:
    """A worker's clock was ten years ahead, and is right again."""
    wrong = NOW + TEN_YEARS_MS
    tripped = Circuit("x")
    for key in "abcde":
        tripped = breaker.silent(tripped, key, "unreachable", wrong, POLICY)
    assert (breaker.state(tripped, wrong), breaker.state(tripped, NOW)) == ("open", "half-open")
    assert breaker.wait(tripped, "a", NOW, POLICY) is None
    probed = breaker.probing(tripped, "a", NOW)
    assert breaker.wait(probed, "b", NOW, POLICY) is not None, "one alone asks"
    assert breaker.wait(replace(probed, probe_until=wrong), "b", NOW, POLICY) is None
    asked = breaker.rested(Circuit("x"), 60, wrong)
    assert breaker.state(asked, NOW) == "closed"
    assert breaker.rested(asked, 60, NOW).until == NOW + 60_000
    # One that is ahead by little is believed.
    assert breaker.state(breaker.rested(Circuit("x"), breaker.LONGEST_REST_S, NOW + 60_000), NOW) == "resting"


def test_a_turn_is_one_number_and_back() -> None:
    for try_ in (Try(), Try(4), Try(4, 2), Try(4, 2, 7), Try(12, 0, 100_000)):
        assert Try.of(try_.number) == try_
    assert (Try(4).number, Try(4, 2).number, Try(4, 2, 7).number) == (4, 2004, 7_002_004)
    assert gather.MAX_ATTEMPTS < 1000
    assert tries.MAX_ATTEMPTS < 1000
