"""EHRs that keep to nothing (the rest is tests/faults): one copy each, or a person who is told."""

from __future__ import annotations

import json
from functools import partial

import pytest
from werkzeug.wrappers import Response

from fhir_secondop.sandbox.traffic import Asked
from tests.service.hospitals import ONCOLOGIST, PCP, SURGEON, clinic, first, hospital, json_answer
from tests.service.world import Ehr, World, nothing_found, refusal


def test_two_recipients_of_one_ehr_whose_workers_both_found_nothing_get_one_copy(world: World) -> None:
    ehr = hospital(world, "no-transaction", "no-conditional-create")
    case_id = world.signed(sources=[])
    others: list[str] = []

    def meanwhile(asked: Asked) -> bool:
        """The other worker does all of its delivery after this one has looked, and before it sends."""
        waiting = [job for job in world.jobs if job.partition == "lakeside"]
        if (asked.kind, asked.type) == ("search", "DocumentReference") and waiting and not others:
            world.jobs.remove(waiting[0])
            others.append(world.workflows[waiting[0].workflow](*waiting[0].args))
        return False

    ehr.cut = meanwhile
    world.work(patience_s=60)
    assert others == ["verified"]
    assert {world.delivery(case_id, n)["businessStatus"] for n in (SURGEON, ONCOLOGIST)} == {"verified"}
    assert (len(ehr.documents), len(ehr.written)) == (1, 1)


def test_a_copy_that_was_stored_twice_there_is_left_to_a_person_until_one_is_taken_out(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])

    def again(asked: Asked) -> bool:
        if asked.kind == "transaction":
            for resource in [*ehr.documents, *ehr.reports]:
                ehr.put({**resource, "id": "again"})
        return False

    ehr.cut = again
    world.work(patience_s=60)
    held = world.delivery(case_id, SURGEON)
    assert (held["status"], held["businessStatus"], held["evidence"]["copy"]) == ("on-hold", "mismatch", "verified")
    assert held["evidence"]["duplicates"] == "2 DocumentReference, 2 DiagnosticReport"
    assert "more than once" in held["why"]
    row = next(r for r in world.get(case_id, "alignment")["providers"] if SURGEON in r["name"])
    assert "more than once" in row["waitingFor"]
    assert row["aligned"] is False
    for resource in [*ehr.documents, *ehr.reports]:
        if resource["id"] == "again":
            ehr.put({**resource, "status": "entered-in-error"})
    world.post(case_id, "replay", {"task": held["task"], "changed": "The second one was taken out."})
    assert world.work() == ["verified"]
    assert "duplicates" not in world.delivery(case_id, SURGEON)["evidence"]


def test_a_copy_that_lost_its_identifier_with_its_answer_is_found_by_its_bytes_and_not_sent_again(world: World) -> None:
    ehr = hospital(world, "drops-fields=identifier,masterIdentifier", "lost-answer=1")
    case_id = world.signed(sources=[])
    world.work(patience_s=600)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    assert len(ehr.documents) == 1


def test_an_error_or_a_page_for_people_in_a_200_is_no_success_of_a_write(world: World) -> None:
    ehr = hospital(world, settle_s=60.0)
    case_id = world.signed(sources=[])
    answers = [refusal(200), Response("<html>Back soon.</html>", 200, mimetype="text/html")]
    ehr.instead = lambda a: answers.pop() if a.writes and answers else None
    world.work(limit=3)
    assert {d["businessStatus"] for d in world.deliveries(case_id, SURGEON)} == {"unknown"}
    world.work(patience_s=600)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    assert (len(ehr.reports), len(ehr.documents)) == (1, 1)


def test_what_an_ehr_said_that_it_stored_and_does_not_show_is_not_sent_again_but_by_a_person(world: World) -> None:
    ehr = clinic(world, "stores-nothing", settle_s=60.0)
    case_id = world.signed(sources=[])
    world.work()
    assert world.delivery(case_id, PCP)["businessStatus"] == "unknown"
    world.work(patience_s=3600)
    held = world.delivery(case_id, PCP)
    assert (held["status"], held["businessStatus"]) == ("on-hold", "unknown")
    assert "it is not there" in held["why"]
    assert len(ehr.written) == 1
    world.post(case_id, "replay", {"task": held["task"], "changed": "They looked: it is not there."})
    world.work()
    assert len(ehr.written) == 2


@pytest.mark.parametrize("where", ["later", ""])
@pytest.mark.parametrize("kind", ["Observation", "DiagnosticReport"])
def test_a_result_that_was_accepted_and_is_not_there_yet_is_waited_for_before_the_document_goes(
    world: World, kind: str, where: str
) -> None:
    ehr = hospital(world, "no-transaction", settle_s=60.0)
    case_id = world.signed(sources=[])
    headers = {"Location": f"{ehr.base}/{kind}/{where}"} if where else {}
    accepted = Response("", 202, headers=headers)
    ehr.instead = first(world, lambda a: a.writes and a.type == kind, lambda: accepted)
    world.work()
    written = [a.type for a in ehr.written]
    assert written[-1] == kind
    assert "unknown" in [d["businessStatus"] for d in world.deliveries(case_id)]
    world.work(patience_s=50)
    assert len(ehr.written) == len(written)  # it may land for as long as that
    world.work(patience_s=600)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    assert len(ehr.documents) == 1


def test_a_report_that_is_never_shown_is_sent_once_and_its_document_goes(world: World) -> None:
    """The EHR has stored it (201) and says neither where nor, when it is asked, that it is there."""
    ehr = hospital(world, "no-transaction", settle_s=60.0)
    case_id = world.signed(sources=[])

    def instead(asked: Asked) -> Response | None:
        if asked.type != "DiagnosticReport":
            return None
        return Response("", 201) if asked.writes else nothing_found()

    ehr.instead = instead
    world.work(patience_s=4 * 3600)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    assert [a.type for a in ehr.written].count("DiagnosticReport") == 1
    assert len(ehr.documents) == 1


ELSEWHERE = Response("", 307, headers={"Location": "https://elsewhere.example/fhir/DocumentReference/1"})


def stored_again(ehr: Ehr, asked: Asked) -> bool:
    """Each document that comes the EHR stores once more."""
    for resource in ehr.documents if asked.writes else []:
        ehr.put({**resource, "id": "again"})
    return False


@pytest.mark.parametrize("twice", [False, True])
def test_a_copy_that_may_not_be_read_at_its_place_is_read_where_a_search_shows_it(world: World, twice: bool) -> None:
    """The place that was given is another's, say; what is there twice is seen all the same."""
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: ELSEWHERE if (a.kind, a.type) == ("read", "DocumentReference") else None
    if twice:
        ehr.cut = partial(stored_again, ehr)
    world.work(patience_s=60)
    found = world.delivery(case_id, SURGEON)
    assert found["evidence"]["copy"] == "verified"
    assert (found["evidence"].get("duplicates", "") == "2 DocumentReference") is twice


def test_whether_there_are_several_is_asked_once_more_where_it_is_refused(world: World) -> None:
    ehr = hospital(world, "no-transaction")
    case_id = world.signed(sources=[])
    ehr.cut = partial(stored_again, ehr)
    ehr.instead = first(
        world, lambda a: (a.kind, a.type) == ("search", "DocumentReference") and bool(ehr.written), lambda: ELSEWHERE
    )
    world.work(patience_s=60)
    assert world.delivery(case_id, SURGEON)["evidence"]["duplicates"] == "2 DocumentReference"


def test_strangers_documents_in_a_search_do_not_say_that_there_is_no_copy(world: World) -> None:
    ehr = hospital(world, "no-transaction", "no-conditional-create", "lost-answer=1", settle_s=60.0)
    case_id = world.signed(sources=[])
    stranger = {"resourceType": "DocumentReference", "id": "9", "subject": {"reference": "Patient/9"}}
    bundle = json.dumps({"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": stranger}]})
    shown: list[Asked] = []

    def instead(asked: Asked) -> Response | None:
        if (asked.kind, asked.type) != ("search", "DocumentReference") or not ehr.written:
            return None
        if world.clock.ahead_ms < 50_000:
            return nothing_found()
        # From when what was sent can't land any more, looking alone keeps it from being sent again.
        shown.append(asked)
        return json_answer(bundle) if len(shown) < 5 else None  # type: ignore[no-any-return]

    ehr.instead = instead
    world.work(patience_s=600)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    assert (len(ehr.documents), len(ehr.written)) == (1, 1)


def test_a_copy_that_is_read_at_its_place_counts_for_a_colleague_before_a_search_shows_it(world: World) -> None:
    ehr = hospital(world, "no-transaction", "no-conditional-create")
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: nothing_found() if (a.kind, a.type) == ("search", "DocumentReference") else None
    world.work(patience_s=600)
    assert {world.delivery(case_id, n)["businessStatus"] for n in (SURGEON, ONCOLOGIST)} == {"verified"}
    assert (len(ehr.documents), len(ehr.written)) == (1, 1)


def test_what_a_colleague_was_sent_and_nobody_may_read_is_not_sent_again(world: World) -> None:
    ehr = hospital(world, "no-transaction", "no-conditional-create", settle_s=60.0)
    case_id = world.signed(sources=[])
    ehr.instead = lambda a: (
        refusal(403) if (a.kind, a.type) == ("read", "DocumentReference")
        else nothing_found() if (a.kind, a.type) == ("search", "DocumentReference") else None
    )  # fmt: skip
    world.work(patience_s=600)
    found = {world.delivery(case_id, n)["status"] for n in (SURGEON, ONCOLOGIST)}
    assert found == {"completed", "on-hold"}
    assert len(ehr.written) == 1


def test_another_resource_than_the_copy_that_was_asked_for_says_nothing_of_the_copy(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    ehr.instead = first(world, lambda a: (a.kind, a.type) == ("read", "DocumentReference"), lambda: refusal(200))
    world.work(patience_s=60)
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    assert len(ehr.documents) == 1


def test_what_several_requests_sent_may_land_until_the_window_of_the_last_is_over(world: World) -> None:
    ehr = hospital(world, "no-transaction", settle_s=60.0)
    world.signed(sources=[])

    def slowly(asked: Asked) -> Response | None:
        if asked.writes and asked.type != "DocumentReference":
            world.clock.forward(10)
        return refusal(500) if asked.writes and asked.type == "DocumentReference" else None

    ehr.instead = slowly
    world.work(limit=2)
    sent = sum(a.type == "DocumentReference" for a in ehr.written)
    assert sent == 1
    world.work(patience_s=55)
    assert sum(a.type == "DocumentReference" for a in ehr.written) == sent
