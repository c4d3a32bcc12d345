"""The numbers of real cases: what each counts as, who reads them, and that no case shows through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.errors import Forbidden
from fhir_secondop.fhir import times
from fhir_secondop.model import Caller
from fhir_secondop.opinion import learned
from fhir_secondop.service import learned as service
from tests.service.world import World, opened

OPERATOR = Caller("operations", "Operations", frozenset({"operator"}))


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.clock.ahead_ms = times.interval("2027-03-01T09:00:00Z").low - made.clock()
        yield made


def signed(world: World, number: int, days: float = 1) -> str:
    case_id = world.gathered(placer={"system": "https://riverside.example/orders", "value": f"order-{number}"})
    world.accept(case_id)
    world.clock.forward(days * 86_400)
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    world.post(case_id, "sign", who="reviewer")
    world.work()
    return case_id


def outcomes(world: World) -> list[learned.Outcome]:
    return list(service._outcomes(world.context))


def test_a_case_counts_as_what_it_is(world: World) -> None:
    case_id = signed(world, 1, days=2)
    world.gathered()  # not signed: it teaches nothing yet
    (found,) = outcomes(world)
    assert found.groups == ("Medical Oncology Physician", "doubt treatment plan")
    assert found.categories == {
        "concordance": "partial", "since-request": "in-time", "since-complete": "in-time",
        "record-at-acceptance": "incomplete", "unread": "too-early", "loop": "open",
    }  # fmt: skip
    assert found.days == {"since-request": 2, "since-complete": 2}
    for who in ("pcp", "surgeon"):
        world.post(case_id, "acknowledge", {"version": 1}, who)
    assert outcomes(world)[0].categories["unread"] == "read"
    world.clock.forward(30 * 86_400)
    assert outcomes(world)[0].categories["unread"] == "read"
    world.amend(case_id, "entered-in-error", "The wrong patient.")
    assert outcomes(world) == []


def test_who_acknowledges_after_three_days_has_left_it_unread(world: World) -> None:
    case_id = signed(world, 1)
    world.post(case_id, "acknowledge", {"version": 1}, "pcp")
    world.clock.forward(3 * 86_400 + 60)
    world.post(case_id, "acknowledge", {"version": 1}, "surgeon")
    assert outcomes(world)[0].categories["unread"] == "unread"


def test_a_late_case_is_late(world: World) -> None:
    signed(world, 1, days=30)
    (found,) = outcomes(world)
    assert (found.categories["since-request"], found.categories["since-complete"]) == ("late", "late")
    assert found.days["since-request"] == 22


def test_only_who_coordinates_operates_or_audits_reads_the_numbers(world: World) -> None:
    numbers = service.Learned(world.context)
    for roles in ({"operator"}, {"auditor"}, {"coordinator"}):
        assert numbers.groups(Caller("x", "X", frozenset(roles)))
    for roles in (set(), {"provider"}, {"reviewer"}, {"requester"}, {"patient"}):
        with pytest.raises(Forbidden):
            numbers.groups(Caller("x", "X", frozenset(roles)))


def test_the_numbers_are_counted_anew_after_five_minutes(world: World) -> None:
    numbers = service.Learned(world.context)
    before = numbers.groups(OPERATOR)
    signed(world, 1, days=0)
    assert numbers.groups(OPERATOR) is before
    world.clock.forward(301)
    assert numbers.groups(OPERATOR) != before


def test_metrics_are_for_a_caller_with_the_role_and_for_the_scrapers_own_token(world: World, tmp_path: Path) -> None:
    file = tmp_path / "metrics.token"
    file.write_text("scrape-me\n")
    object.__setattr__(world.service, "settings", replace(world.service.settings, metrics_token_file=str(file)))
    for n in range(2):
        signed(world, n)

    def get(path: str, token: str = "") -> Any:
        return world.client.get(path, headers={"Authorization": f"Bearer {token}"} if token else {})

    assert get("/metrics").status_code == 401
    assert get("/metrics", "wrong").status_code == 401
    assert get("/metrics", "surgeon").status_code == 403
    for token in ("scrape-me", "desk"):
        answer = get("/metrics", token)
        assert answer.status_code == 200
        assert answer.content_type.startswith("text/plain; version=0.0.4")
        text = answer.get_data(as_text=True)
        assert "# TYPE secondop_signed_cases gauge" in text
        assert "secondop_signed_cases{" not in text  # two cases are too few for any number
    assert get("/fhir/Task", "scrape-me").status_code == 401
    assert get("/api/second-opinions", "scrape-me").status_code == 401
    file.write_text("another\n")
    assert get("/metrics", "scrape-me").status_code == 401
