"""What goes first: versions in their order, and nothing after what came since the EHR was looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.wrappers import Response

from fhir_secondop.sandbox.traffic import Asked
from tests.service.hospitals import ONCOLOGIST, PCP, SURGEON, clinic, first, hospital
from tests.service.test_consent import consent, patient_of
from tests.service.world import Ehr, World, refusal


def test_a_second_version_waits_while_the_first_may_still_land(world: World) -> None:
    ehr = hospital(world, settle_s=3000.0)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(500) if a.writes else None  # it may have been stored before it failed
    world.work(limit=4)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "unknown"
    sent = len(ehr.written)
    ehr.instead = lambda a: None
    world.amend(case_id)
    world.work(patience_s=240)
    assert len(ehr.written) == sent
    second = world.delivery(case_id, SURGEON, 2)
    assert second["status"] == "accepted"
    assert "earlier version" in second["why"]
    world.work(patience_s=4000)
    assert world.delivery(case_id, SURGEON, 2)["businessStatus"] == "verified"
    # The first one was not there, and is not sent any more: it would be the last to arrive.
    first_one = world.delivery(case_id, SURGEON, 1)
    assert first_one["status"] == "on-hold"
    assert "newer version" in first_one["why"]
    assert [d["docStatus"] for d in ehr.documents] == ["amended"]
    assert [r["status"] for r in ehr.reports] == ["amended"]


def test_a_first_version_that_had_landed_is_superseded_by_the_second(world: World) -> None:
    ehr = hospital(world, "lost-answer=1", settle_s=300.0)
    case_id = world.signed(sources=[])
    world.work(limit=2)  # to the PCP by link, to the surgeon
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "unknown"
    world.amend(case_id)
    world.work(patience_s=900)
    assert world.delivery(case_id, SURGEON, 2)["businessStatus"] == "verified"
    assert sorted((d["docStatus"], d["status"]) for d in ehr.documents) == [
        ("amended", "current"), ("final", "superseded"),
    ]  # fmt: skip
    assert [r["status"] for r in ehr.reports] == ["amended"]


def test_a_first_version_that_was_not_begun_is_never_sent(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    world.amend(case_id)
    world.work(patience_s=60)
    assert world.delivery(case_id, SURGEON, 1)["status"] == "cancelled"
    assert world.delivery(case_id, SURGEON, 2)["businessStatus"] == "verified"
    assert [d["docStatus"] for d in ehr.documents] == ["amended"]


def test_a_second_version_to_a_colleague_there_waits_too(world: World) -> None:
    ehr = hospital(world, settle_s=300.0)
    case_id = world.signed(sources=[])
    ehr.instead = first(world, lambda a: a.writes, lambda: refusal(500))  # the surgeon's; it may still land
    world.work(limit=2)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "unknown"
    world.amend(case_id)
    world.work(patience_s=200)
    assert len(ehr.written) == 1
    world.work(patience_s=900)
    assert [d["docStatus"] for d in ehr.documents] == ["amended"]


def test_a_first_version_that_had_landed_and_was_superseded_is_no_mismatch(world: World) -> None:
    ehr = hospital(world, "lost-answer=1", settle_s=300.0)
    case_id = world.signed(sources=[])
    world.work(limit=2)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "unknown"
    world.amend(case_id)
    world.work(patience_s=1800)
    assert world.delivery(case_id, SURGEON, 1)["status"] == "completed"
    assert sorted((d["docStatus"], d["status"]) for d in ehr.documents) == [
        ("amended", "current"),
        ("final", "superseded"),
    ]


def deliveries_of(world: World, case_id: str, version: int) -> list[Any]:
    """The waiting jobs that carry that version to an EHR."""
    tasks = {d["task"] for d in world.deliveries(case_id, version=version)}
    return [job for job in world.jobs if job.partition != "link" and job.args[0] in tasks]


def run(world: World, job: Any) -> str:
    """Another worker does this job, now."""
    world.jobs.remove(job)
    return str(world.workflows[job.workflow](*job.args))


def once(ehr: Ehr, fits: Callable[[Asked], bool], act: Callable[[], Any]) -> list[Any]:
    """Does this before the first request that fits is answered; what came of it."""
    done: list[Any] = []

    def meanwhile(asked: Asked) -> bool:
        if fits(asked) and not done:
            done.append("now")
            done[0] = act()
        return False

    ehr.cut = meanwhile
    return done


def delayed(world: World, case_id: str, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> Any:
    """The surgeon's delivery, which waits for its turn at the EHR after it was committed; what `act` does meanwhile."""
    task, done = world.delivery(case_id, SURGEON)["task"], []

    class Turn:
        def __enter__(self) -> None:
            if world.delivery(case_id, SURGEON)["businessStatus"] == "sending" and not done:
                done.append("now")
                done[0] = act()

        def __exit__(self, *said: object) -> None:
            pass

    with monkeypatch.context() as patched:
        patched.setattr(world.context.client("lakeside"), "_at_once", Turn())
        run(world, next(job for job in deliveries_of(world, case_id, 1) if job.args[0] == task))
    return done[0]


@pytest.mark.parametrize("kind", ["amended", "entered-in-error"])
def test_a_version_that_was_superseded_since_its_worker_looked_is_not_sent_after_the_newer_one(
    both: World, kind: str
) -> None:
    world = both
    ehr = clinic(world, settle_s=60.0)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(500) if a.writes else None  # the first one may still land for a minute
    world.work(limit=4)
    ehr.instead = lambda a: None
    assert "may still land" in run(world, deliveries_of(world, case_id, 1)[0])
    world.clock.forward(120)

    def newer() -> list[str]:
        world.amend(case_id, kind)
        return [run(world, job) for job in deliveries_of(world, case_id, 2)]

    said = once(ehr, lambda a: (a.kind, a.type) == ("search", "DocumentReference"), newer)
    run(world, deliveries_of(world, case_id, 1)[0])
    assert "verified" in said[0]
    world.work(patience_s=600)
    assert world.delivery(case_id, PCP, 1)["status"] == "on-hold"
    (document,) = ehr.documents
    assert document["docStatus"] == kind


@pytest.mark.parametrize("slips", [1, 2])
def test_an_answer_to_another_question_does_not_say_that_nothing_is_there(world: World, slips: int) -> None:
    """Nor does a second one, to what asks whether such searches are answered at all."""
    ehr = hospital(world, "no-transaction")
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    world.amend(case_id)
    stranger = {"resourceType": "DiagnosticReport", "id": "another", "subject": {"reference": "Patient/another"}}
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": stranger}]}
    ehr.instead = first(
        world, lambda a: (a.kind, a.type) == ("search", "DiagnosticReport"),
        lambda: Response(json.dumps(bundle), content_type="application/fhir+json"), times=slips,
    )  # fmt: skip
    (job, *_) = deliveries_of(world, case_id, 2)
    assert "unreachable" in run(world, job)
    assert [a for a in ehr.written if a.type == "DiagnosticReport" and a.method == "PUT"] == []
    world.work(patience_s=600)
    assert world.delivery(case_id, SURGEON, 2)["businessStatus"] == "verified"
    assert len(ehr.reports) == 1


def test_a_newer_version_waits_until_an_earlier_one_that_is_not_carried_on_can_t_land_any_more(both: World) -> None:
    """The results that both have would be there twice, and the earlier report might be the last to arrive."""
    world = both
    ehr = clinic(world, settle_s=60.0)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(500) if a.writes else None  # the first one may still land for a minute
    world.work(limit=4)
    ehr.instead = lambda a: None
    world.amend(case_id)
    assert "on-hold" in run(world, deliveries_of(world, case_id, 1)[0])
    before = len(ehr.written)
    assert "an earlier version is still being sent" in run(world, deliveries_of(world, case_id, 2)[0])
    assert len(ehr.written) == before
    world.work(patience_s=600)
    assert world.delivery(case_id, PCP, 2)["businessStatus"] == "verified"


def test_a_request_that_waited_for_its_turn_for_long_is_not_sent_after_somebody_else_s(
    both: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker was paused, or other requests went first: meanwhile it was taken for one that can't land any more."""
    world = both
    ehr = hospital(world, "no-transaction", "no-conditional-create", settle_s=60.0)
    case_id = world.signed(sources=[])

    def others() -> str:
        world.clock.forward(61)
        task = world.delivery(case_id, SURGEON)["task"]
        return run(world, next(job for job in deliveries_of(world, case_id, 1) if job.args[0] != task))

    assert delayed(world, case_id, monkeypatch, others) == "verified"
    world.work(patience_s=600)
    assert {world.delivery(case_id, n)["businessStatus"] for n in (SURGEON, ONCOLOGIST)} == {"verified"}
    assert (len(ehr.documents), len([a for a in ehr.written if a.type == "DocumentReference"])) == (1, 1)


def test_a_consent_that_was_taken_back_while_a_request_waited_for_its_turn_is_kept(
    both: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = both
    ehr = hospital(world, settle_s=60.0)
    case_id = world.signed(sources=[])

    def revoked() -> int:
        given = consent(patient_of(world, case_id), rule="OPTOUT", type="deny")
        world.clock.forward(10)
        status: int = world.call("POST", "/fhir/Consent", given).status_code
        return status

    assert delayed(world, case_id, monkeypatch, revoked) == 201
    world.work(patience_s=600)
    assert ehr.written == []
    said = world.delivery(case_id, SURGEON)
    assert said["status"] == "on-hold"
    assert said["why"].startswith("Not sent:")
