"""What an EHR refuses: told apart, tried again or left to a person, who is told why."""

from __future__ import annotations

from fhir_secondop.sandbox.traffic import Asked
from fhir_secondop.service import delivery, tries
from tests.service.hospitals import ONCOLOGIST, PCP, SURGEON, clinic, first, hospital
from tests.service.test_review import example
from tests.service.world import World, nothing_found, refusal


def test_it_is_there_already_is_looked_for_and_not_sent_another_way(world: World) -> None:
    ehr = clinic(world, "duplicate-59141")
    case_id = world.signed(sources=[])
    # The answer to the note is lost, and when it is looked for the index has not caught up.
    ehr.cut = lambda a: a.kind == "create" and len(ehr.written) == 1
    ehr.instead = lambda a: (
        nothing_found() if (a.kind, a.type) == ("search", "DocumentReference") and len(ehr.written) < 2 else None
    )
    said = world.work(patience_s=60)
    assert "verified" in said
    assert [a.kind for a in ehr.written] == ["create", "create"]  # the second was refused: 59141
    done = world.delivery(case_id, PCP)
    assert (done["status"], done["businessStatus"]) == ("completed", "verified")
    assert (done["evidence"]["rung"], done["evidence"]["how"]) == ("5", "found there")
    assert len(ehr.documents) == 1


def test_there_already_and_not_to_be_found_waits_for_a_person_and_is_not_sent_another_way(world: World) -> None:
    ehr = clinic(world, "duplicate-59141")
    case_id = world.signed(sources=[])
    ehr.cut = lambda a: a.kind == "create" and len(ehr.written) == 1
    ehr.instead = lambda a: nothing_found() if (a.kind, a.type) == ("search", "DocumentReference") else None
    world.work(patience_s=60)
    held = world.delivery(case_id, PCP)
    assert held["status"] == "on-hold"
    assert "duplicate" in held["why"]
    assert "59141" in held["why"]
    ehr.instead = lambda a: None
    world.post(case_id, "replay", {"task": held["task"], "changed": "The index was rebuilt."})
    assert world.work() == ["verified"]
    assert len(ehr.documents) == 1
    assert [a.kind for a in ehr.written] == ["create", "create"]


def test_a_conflict_is_tried_again_and_then_fine(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = first(world, lambda a: a.kind == "transaction", lambda: refusal(409, "conflict"), times=2)
    world.work(patience_s=60)
    for name in (SURGEON, ONCOLOGIST):
        done = world.delivery(case_id, name)
        assert (done["status"], done["businessStatus"]) == ("completed", "verified"), done
    assert (len(ehr.reports), len(ehr.documents)) == (1, 1)


def test_a_conflict_without_end_is_a_dead_letter_with_the_failing_element_until_replayed(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: (
        refusal(409, "conflict", element="DiagnosticReport.identifier") if a.kind == "transaction" else None
    )
    world.work(patience_s=3600)
    held = world.delivery(case_id, SURGEON)
    assert held["status"] == "on-hold"
    assert held["evidence"]["failing-element"] == "DiagnosticReport.identifier"
    assert "HTTP 409" in held["why"]
    assert "DiagnosticReport.identifier" in held["why"]
    tries = len(ehr.written)
    assert delivery.MAX_RACES < tries <= 2 * (delivery.MAX_RACES + 1)
    assert world.outgoing == []  # nobody tries it again behind the person's back
    assert world.delivery(case_id, PCP)["status"] == "completed"  # the others are not held up
    # The board says that it waits, and for what.
    row = next(r for r in world.get(case_id, "alignment")["providers"] if SURGEON in r["name"])
    assert row["aligned"] is False
    assert "HTTP 409" in row["waitingFor"]
    # Not replayed by just anybody, and not what is not held.
    body = {"task": held["task"], "changed": "The identifier there was mended."}
    world.post(case_id, "replay", body, "reviewer", status=403)
    ehr.instead = lambda a: None
    world.post(case_id, "replay", body)
    world.post(case_id, "replay", body, status=409)
    world.work(patience_s=3600)
    done = world.delivery(case_id, SURGEON)
    assert (done["businessStatus"], done["evidence"]["replays"]) == ("verified", "1")
    assert "mended" in done["evidence"]["replayed-by"]
    assert (len(ehr.reports), len(ehr.documents)) == (1, 1)


def test_a_refusal_on_every_rung_ends_with_the_link_and_each_reason(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(422, "invariant", element="DocumentReference.content") if a.writes else None
    world.work()
    done = world.delivery(case_id, SURGEON)
    assert (done["status"], done["evidence"]["rung"]) == ("completed", "10")
    assert done["businessStatus"] == "unverifiable"
    assert done["evidence"]["rung-why"].count("at DocumentReference.content") >= 4
    assert (ehr.reports, ehr.documents) == ([], [])


def test_a_sign_in_that_is_refused_waits_for_a_person_at_once(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: refusal(401, "login") if a.writes else None
    world.work(patience_s=3600)
    held = world.delivery(case_id, SURGEON)
    assert (held["status"], held["why"].partition(":")[0]) == ("on-hold", "auth")
    assert len(ehr.written) == 2  # once for each recipient


def test_a_copy_that_differs_is_held_and_not_sent_again(world: World) -> None:
    ehr = hospital(world, "changed-bytes")
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    held = world.delivery(case_id, SURGEON)
    assert (held["status"], held["businessStatus"], held["evidence"]["copy"]) == ("on-hold", "mismatch", "mismatch")
    assert "content differs" in held["why"]
    writes = len(ehr.written)
    world.post(case_id, "replay", {"task": held["task"], "changed": "Nothing, to see."})
    assert world.work() == ["mismatch"]
    assert (len(ehr.documents), len(ehr.written)) == (1, writes)
    # Somebody there puts it right.
    (document,) = ehr.documents
    (ours,) = [d for d in world.package(case_id, "DocumentReference") if d["docStatus"] == "final"]
    right = {name: ours["content"][0]["attachment"][name] for name in ("data", "hash")}
    form = {**document["content"][0]["attachment"], **right}
    ehr.put({**document, "content": [{"attachment": form}]})
    world.post(case_id, "replay", {"task": held["task"], "changed": "The copy was put right."})
    assert world.work() == ["verified"]
    assert len(ehr.documents) == 1


def test_an_answer_that_was_lost_is_looked_for_and_a_refused_one_sent_again_after_it_can_not_land(world: World) -> None:
    ehr = hospital(world, "refused-late=2", settle_s=60.0)
    case_id = world.signed(sources=[])
    world.work()
    waiting = world.delivery(case_id, SURGEON)
    assert (waiting["status"], waiting["businessStatus"]) == ("in-progress", "unknown")
    # What nobody answered may land until its window is over: looked for, and not sent.
    world.work(patience_s=30)
    assert len(ehr.written) == 1  # that of the other recipient, for the same EHR, waits for it
    assert "may still land" in world.delivery(case_id, SURGEON)["why"]
    world.work(patience_s=120)
    assert len(ehr.written) == 3
    assert {world.delivery(case_id, n)["businessStatus"] for n in (SURGEON, ONCOLOGIST)} == {"verified"}
    assert (len(ehr.reports), len(ehr.documents)) == (1, 1)


def test_a_poisoned_report_does_not_hold_up_another_case(world: World) -> None:
    ehr = hospital(world)
    poisoned = world.signed(sources=[])
    ehr.instead = lambda a: refusal(500) if a.writes and poisoned.encode() in a.body else None
    world.work()
    placer = {**example("request.json")["placer"], "value": "another"}
    fine = world.signed(sources=[], placer=placer)
    world.work(patience_s=30)
    assert world.delivery(fine, SURGEON)["businessStatus"] == "verified"
    assert world.delivery(poisoned, SURGEON)["status"] == "in-progress"
    world.work(patience_s=4 * 3600)
    held = world.delivery(poisoned, SURGEON)
    assert held["status"] == "on-hold"
    assert f"Given up after {tries.MAX_ATTEMPTS} attempts" in held["why"]
    assert all(fine in d["description"] for d in ehr.documents)


def test_an_acknowledgement_in_the_middle_of_a_delivery_is_kept_and_nothing_is_sent_twice(both: World) -> None:
    world = both
    ehr = hospital(world)
    case_id = world.signed(sources=[])

    def meanwhile(asked: Asked) -> None:
        if asked.kind == "transaction" and len(ehr.asked("transaction")) == 1:
            world.client.application.test_client().post(  # type: ignore[attr-defined]
                f"/api/second-opinions/{case_id}/acknowledge", json={"version": 1},
                headers={"Authorization": "Bearer surgeon"},
            )  # fmt: skip

    ehr.instead = meanwhile  # type: ignore[assignment]
    world.work()
    done = world.delivery(case_id, SURGEON)
    assert (done["businessStatus"], done["evidence"]["ack"]) == ("verified", "signed-in")
    assert (len(ehr.reports), len(ehr.documents)) == (1, 1)


def test_a_dead_letter_that_got_through_says_so_no_more(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: (
        refusal(409, "conflict", element="DiagnosticReport.identifier") if a.kind == "transaction" else None
    )
    world.work(patience_s=3600)
    held = world.delivery(case_id, SURGEON)
    assert held["evidence"]["failing-element"] == "DiagnosticReport.identifier"
    ehr.instead = lambda a: None
    world.post(case_id, "replay", {"task": held["task"], "changed": "mended"})
    world.work(patience_s=3600)
    assert "failing-element" not in world.delivery(case_id, SURGEON)["evidence"]
