"""A payer is asked over real HTTP, and whatever happens is covered, not covered, or unknown with its reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request

from fhir_secondop.fhir import codec, times
from fhir_secondop.sandbox import ehr as ehrs
from fhir_secondop.sandbox import payer as payers
from fhir_secondop.service.requeue import requeue
from fhir_secondop.store.database import now_ms
from tests.conftest import free_port
from tests.service.test_consent import consent, patient_of, record
from tests.service.test_review import example
from tests.service.world import World, opened

Plain = dict[str, Any]
PAYER = "https://samplecare.example/payers|SAMPLECARE"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


class Payer:
    """A simulated payer on a socket of its own; `seen` is what was sent to it."""

    def __init__(self, world: World, shape: str, **settings: Any) -> None:
        self.seen: list[Plain] = []
        app = payers.build(shape, lambda: times.instant(now_ms()), slow_s=3.0)
        self._watch(app)
        port = free_port()
        self._server = ehrs.server(app, port)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        world.connect("samplecare", f"http://127.0.0.1:{port}/fhir", role="payer", organization=PAYER, **settings)
        world.start()

    def _watch(self, app: Flask) -> None:
        @app.before_request
        def keep() -> None:
            self.seen.append(codec.parse(request.get_data()))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def insured(world: World, **changes: Any) -> str:
    plain = example("request.json")
    system, _, value = PAYER.partition("|")
    payer = {"name": "Samplecare Mutual", "identifier": {"system": system, "value": value}}
    case_id = world.open(
        organizations={**plain["organizations"], "samplecare": payer},
        insurance=[{"payer": "samplecare", "memberId": "M-1", "plan": "P-1"}], **changes,
    )  # fmt: skip
    world.work()
    return case_id


def insurance(world: World, case_id: str) -> Plain:
    found: Plain = world.get(case_id)["insurance"][0]
    return found


ANSWERS = {
    "covered": ("covered", "not-required", "in force and includes this"),
    "not-covered": ("not-covered", "unknown", "excludes this"),
    "authorization": ("covered", "required", "in force and includes this"),
    "lapsed": ("not-covered", "unknown", "not in force"),
    "error": ("unknown", "unknown", "the payer could not answer: member not found"),
    "garbage": ("unknown", "unknown", "the payer refused: validation"),
    "down": ("unknown", "unknown", "the payer did not answer: capacity"),
    "slow": ("unknown", "unknown", "the payer did not answer: unreachable"),
}


@pytest.mark.parametrize("shape", ANSWERS)
def test_what_the_payer_answers_is_told_with_date_and_source(world: World, shape: str) -> None:
    status, authorization, why = ANSWERS[shape]
    payer = Payer(world, shape, timeout_s=1.0 if shape == "slow" else 5.0)
    case_id = insured(world)
    before = world.get(case_id)["businessStatus"]
    world.post(case_id, "check-coverage")
    assert insurance(world, case_id)["status"] == "asking"
    assert world.get(case_id)["businessStatus"] == "awaiting-coverage"
    world.work()
    found = insurance(world, case_id)
    assert (found["status"], found["authorization"]) == (status, authorization)
    assert why in found["why"]
    assert found["payer"] == "Samplecare Mutual"
    assert times.interval(found["asOf"])
    assert found["source"].startswith("http://127.0.0.1:") == (shape not in ("garbage", "down", "slow"))
    assert world.get(case_id)["businessStatus"] == before
    payer.close()


def test_the_payer_is_told_who_is_insured_and_for_what_and_not_why(world: World) -> None:
    payer = Payer(world, "covered")
    case_id = insured(world)
    world.post(case_id, "check-coverage")
    world.work()
    assert len(payer.seen) == 1
    kinds = [e["resource"]["resourceType"] for e in payer.seen[0]["entry"]]
    assert kinds == ["CoverageEligibilityRequest", "Patient", "Coverage", "Organization"]
    text = codec.dumps(payer.seen[0])
    assert "M-1" in text
    for told in ("ductal", "C50", "RS-100482", "mail.example", "555-01", "astectomy"):
        assert told not in text, told
    payer.close()


def test_without_a_coverage_or_a_connection_it_is_unknown_at_once(world: World) -> None:
    case_id = world.open()
    world.post(case_id, "check-coverage")
    found = insurance(world, case_id)
    assert (found["status"], found["why"]) == ("unknown", "no coverage of the patient is known")
    assert world.get(case_id)["businessStatus"] == "records-requested"
    other = insured(world, placer={"system": "urn:x", "value": "other"})
    world.post(other, "check-coverage")
    assert insurance(world, other)["why"] == "no connection to this payer is configured"
    assert "check-coverage" not in {job.workflow for job in world.jobs}


DENIED: dict[str, Plain] = {
    "everything": {"rule": "OPTOUT"},
    "the payer, for this purpose": {"type": "permit", "provision": [
        {"type": "deny", "purpose": [{"system": ACT_REASON, "code": "COVERAGE"}]}]},
}  # fmt: skip


@pytest.mark.parametrize("denied", DENIED.values(), ids=DENIED)
def test_consent_is_asked_before_the_payer_is(world: World, denied: Plain) -> None:
    payer = Payer(world, "covered")
    case_id = insured(world)
    world.post(case_id, "check-coverage")
    record(world, consent(patient_of(world, case_id), **denied))  # after it was enqueued, before it is sent
    world.work()
    assert payer.seen == []
    found = insurance(world, case_id)
    assert (found["status"], found["why"]) == ("unknown", "not asked: a consent on file denies it")
    payer.close()


def test_a_payer_that_is_being_asked_is_not_asked_twice_and_may_be_asked_again_later(world: World) -> None:
    payer = Payer(world, "covered")
    case_id = insured(world)
    first = world.post(case_id, "check-coverage")
    assert world.post(case_id, "check-coverage") == first
    assert requeue(world.context) == 2  # made anew from the Task, it is the same job; the other looks at the clocks
    world.work()
    assert len(payer.seen) == 1
    assert world.post(case_id, "check-coverage") != first
    world.work()
    assert len(payer.seen) == 2
    assert len(world.get(case_id)["insurance"]) == 2
    payer.close()


def test_nobody_moves_the_question_by_hand(world: World) -> None:
    payer = Payer(world, "covered")
    case_id = insured(world)
    task = world.post(case_id, "check-coverage")["tasks"][0]["resource"]
    held = world.call("GET", f"/fhir/{task}").get_json()
    moved = world.call("PUT", f"/fhir/{task}", {**held, "status": "cancelled"})
    assert moved.status_code == 403
    assert world.call("POST", f"/fhir/{task}/$cancel", {
        "resourceType": "Parameters", "parameter": [{"name": "reason", "valueString": "duplicate"}],
    }).status_code == 409  # fmt: skip
    world.post(case_id, "check-coverage", who="pcp", status=403)
    payer.close()
