"""A chart against the plan of record: what the plan stops is active there, what it plans was called off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import Resource
from tests.opinion.test_planned import OPERATE, RXNORM, SNOMED, STOP
from tests.service.hospitals import SURGEON
from tests.service.test_drift import delivered, items, look, row
from tests.service.world import Ehr, World, opened, refusal

PLAN = {"version": 1, "decision": "adopt", "text": "As the second opinion says.", "coded": [STOP, OPERATE]}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


@pytest.fixture
def both(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def planned(world: World, *quirks: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Ehr, str]:
    """A case whose plan of record stands at Lakeside; that EHR's clock is ours."""
    ehr, case_id = delivered(world, *quirks, **settings)
    monkeypatch.setattr(ehr.database, "_now", world.clock)
    world.post(case_id, "plan-of-record", PLAN, "surgeon")
    world.work(patience_s=60)
    assert world.delivery(case_id, SURGEON, what="plan")["businessStatus"] == "verified"
    return ehr, case_id


def line(ehr: Ehr, kind: str, status: str, system: str, code: str, **more: Any) -> Resource:
    """Somebody there writes an order."""
    element = "medicationCodeableConcept" if kind == "MedicationRequest" else "code"
    subject = next(d["subject"] for d in ehr.documents)
    made = {
        "resourceType": kind, "id": "theirs", "status": status, "intent": "order", "subject": subject,
        element: {"coding": [{"system": system, "code": code}], "text": "zq-in their words"}, **more,
    }  # fmt: skip
    ehr.put(made)
    return made


def test_a_medicine_that_the_plan_stops_and_somebody_orders_opens_an_item_until_it_is_stopped(
    both: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = both
    ehr, case_id = planned(world, monkeypatch=monkeypatch)
    assert look(world) == ["0 opened, 0 closed"]
    order = line(ehr, "MedicationRequest", "active", RXNORM, "11289")
    assert look(world) == ["1 opened, 0 closed"]
    assert look(world) == ["0 opened, 0 closed"]
    (one,) = items(world, case_id)
    assert (one["finding"], one["where"]) == ("avoided", "MedicationRequest/theirs")
    assert '"Not: Warfarin"' in one["says"]
    (stored,) = [t for t in world.package(case_id, "Task") if t["id"] == one["task"]]
    assert (validate(stored), "zq-" in str(stored)) == ([], False)  # nothing of their words leaves their chart
    assert row(world, case_id)["state"] == "to-check"
    ehr.put({**order, "status": "stopped"})
    assert look(world) == ["0 opened, 1 closed"]


def test_what_was_active_before_the_plan_counts_at_the_second_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ehr, case_id = delivered(world)
    line(ehr, "MedicationRequest", "active", RXNORM, "11289")
    world.clock.forward(60)
    world.post(case_id, "plan-of-record", PLAN, "surgeon")
    world.work(patience_s=60)
    assert look(world) == ["0 opened, 0 closed"]
    assert look(world) == ["1 opened, 0 closed"]


def test_a_planned_procedure_that_was_revoked_opens_an_item_until_it_is_ordered_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ehr, case_id = planned(world, monkeypatch=monkeypatch)
    order = line(ehr, "ServiceRequest", "active", SNOMED, "392021009")
    assert look(world) == ["0 opened, 0 closed"]
    ehr.put({**order, "status": "revoked"})
    ehr.instead = lambda asked: refusal(403) if asked.type == "Procedure" else None
    assert look(world) == ["0 opened, 0 closed"]  # perhaps it was done instead
    ehr.instead = lambda asked: None
    assert look(world) == ["1 opened, 0 closed"]
    (one,) = items(world, case_id)
    assert one["finding"] == "stopped"
    ehr.put({**order, "id": "another"})
    assert look(world) == ["0 opened, 1 closed"]


def test_a_type_that_is_not_answered_whole_opens_and_closes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ehr, case_id = planned(world, monkeypatch=monkeypatch)
    order = line(ehr, "MedicationRequest", "active", RXNORM, "11289")
    ehr.instead = lambda asked: refusal(403) if asked.type == "MedicationRequest" else None
    assert look(world) + look(world) == ["0 opened, 0 closed"] * 2
    (watched,) = world.get(case_id)["watched"]
    assert "MedicationRequest: refused" in watched["why"]
    ehr.instead = lambda asked: None
    assert look(world) == ["1 opened, 0 closed"]
    ehr.put({**order, "status": "stopped"})
    ehr.instead = lambda asked: refusal(403) if asked.type == "MedicationRequest" else None
    assert look(world) == ["0 opened, 0 closed"]


def test_what_is_labelled_and_whoever_elses_order_is_not_compared(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ehr, case_id = planned(world, "ignores-patient", monkeypatch=monkeypatch)  # strangers come too
    ehr.put({"resourceType": "Patient", "id": "zq-somebody", "name": [{"family": "Zqelse"}]})
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}
    order = line(ehr, "MedicationRequest", "active", RXNORM, "11289", meta={"security": [label]})
    other = {k: v for k, v in order.items() if k != "meta"}
    ehr.put({**other, "id": "other", "subject": {"reference": "Patient/zq-somebody"}})
    assert look(world) + look(world) == ["0 opened, 0 closed"] * 2
    assert items(world, case_id) == []


def test_a_newer_plan_ends_what_was_seen_against_the_older(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ehr, case_id = planned(world, monkeypatch=monkeypatch)
    line(ehr, "MedicationRequest", "active", RXNORM, "11289")
    assert look(world) == ["1 opened, 0 closed"]
    assert world.post(case_id, "plan-of-record", PLAN, "surgeon")["version"] == 1  # the same is the same
    world.post(case_id, "plan-of-record", {**PLAN, "coded": [OPERATE]}, "surgeon")
    world.work(patience_s=60)
    assert look(world) == ["0 opened, 1 closed"]
    assert items(world, case_id)[0]["how"] == "a newer version stands there"


def test_what_is_not_to_be_done_says_so_to_everybody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, case_id = planned(world, monkeypatch=monkeypatch)
    (stored,) = [p for p in world.package(case_id, "CarePlan") if p.get("title") == "Plan of record"]
    assert validate(stored) == []
    assert [a["detail"]["description"] for a in stored["activity"]] == ["Not: Warfarin", "Lumpectomy"]
    for wrong in ({"kind": "Task"}, {"code": " "}, {"system": "a b"}):
        world.post(case_id, "plan-of-record", {**PLAN, "coded": [{**STOP, **wrong}]}, "surgeon", 422)
