"""Deliveries to simulated EHRs: what is sent once, what waits for a person and says why, what a rehearsal shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.wrappers import Response

from fhir_secondop.ehr import documents
from fhir_secondop.fhir import refs
from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.sandbox.traffic import Asked
from fhir_secondop.service import delivery, tries
from fhir_secondop.store import resources
from tests.service.test_consent import consent, patient_of
from tests.service.test_review import example
from tests.service.world import NPI, Ehr, World, nothing_found, opened, record_of, refusal

Plain = dict[str, Any]
SURGEON, ONCOLOGIST, PCP = "Mockridge", "Examplar", "Placeholder"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On SQLite: what is tried here does not depend on the database."""
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


@pytest.fixture
def both(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On both databases: for what stands or falls with a transaction."""
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def few(name: str) -> list[Resource]:
    """Of an EHR's record the patient, the organization, the people and the encounters: enough to deliver."""
    kept = ("Patient", "Organization", "Practitioner", "PractitionerRole", "Encounter")
    return [r for r in record_of(name) if r["resourceType"] in kept]


def hospital(world: World, *quirks: str, shape: str = "full", **settings: Any) -> Ehr:
    """Lakeside, where the surgeon and the oncologist work."""
    return world.ehr("lakeside", shape, *quirks, record=few("lakeside"), **settings)


def clinic(world: World, *quirks: str, **settings: Any) -> Ehr:
    """Riverside, shaped like Epic's, where the PCP works: a text note on an encounter."""
    return world.ehr("riverside", "epic", *quirks, record=few("riverside"), **{"vendor": "epic", **settings})


def first(world: World, fits: Callable[[Asked], bool], answer: Callable[[], Any], times: int = 1) -> Any:
    """An `instead` that answers the first requests that fit."""
    left = [times]

    def instead(asked: Asked) -> Any:
        if fits(asked) and left[0] > 0:
            left[0] -= 1
            return answer()
        return None

    return instead


# ---- what an EHR refuses


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


# ---- order


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


# ---- addresses


def test_two_addresses_of_one_organization_are_left_to_a_person(world: World) -> None:
    ehr = hospital(world)
    other = world.ehr("elsewhere", record=few("lakeside"), organization=world.connections["lakeside"].organization)
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    held = world.delivery(case_id, SURGEON)
    assert held["status"] == "on-hold"
    assert "elsewhere, lakeside" in held["why"]
    assert (ehr.written, other.written) == ([], [])
    assert endpoints(world) == []
    # A rehearsal says the same.
    (row,) = world.post(case_id, "preview-delivery", {"to": SURGEON})["deliveries"]
    assert "elsewhere, lakeside" in row["why"]
    assert row["requests"] == []

    del world.connections["elsewhere"]
    world.post(case_id, "replay", {"task": held["task"], "changed": "One address was taken out."})
    assert world.work() == ["verified"]


def endpoints(world: World) -> list[tuple[str, str, str, int]]:
    """Name, status, address and version of each Endpoint."""
    found = world.call("GET", "/fhir/Endpoint").get_json().get("entry", [])
    return [(r["name"], r["status"], r["address"], int(r["meta"]["versionId"])) for r in (e["resource"] for e in found)]


@pytest.mark.parametrize("version", ["3.0.1", "5.0.0", ""])
def test_a_server_of_another_fhir_version_is_not_sent_to(world: World, version: str) -> None:
    ehr = hospital(world)
    statement = {"resourceType": "CapabilityStatement", "fhirVersion": version, "rest": [{"mode": "server"}]}
    answered = json.dumps({k: v for k, v in statement.items() if v})
    ehr.instead = lambda a: _json(answered) if a.type == "metadata" else None
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    held = world.delivery(case_id, SURGEON)
    assert held["status"] == "on-hold"
    assert "not a FHIR R4 server" in held["why"]
    assert ehr.written == []
    assert endpoints(world) == []


def _json(text: str) -> Any:
    return Response(text, 200, mimetype="application/fhir+json")


def test_an_address_is_confirmed_once_and_anew_when_it_has_changed(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    world.work()
    assert endpoints(world) == [("lakeside", "active", ehr.base, 1)]
    (asked,) = ehr.asked("search", "Organization")
    assert "Sampleton" not in str(asked.query)
    world.amend(case_id)
    world.work(patience_s=60)
    assert endpoints(world) == [("lakeside", "active", ehr.base, 1)]
    assert len(ehr.asked("search", "Organization")) == 1

    moved = hospital(world)  # the same hospital under another address, where nothing is yet
    world.start()
    world.amend(case_id, reason="Another dose was wrong.")
    world.work(patience_s=60)
    assert endpoints(world) == [("lakeside", "active", moved.base, 2)]
    assert len(moved.asked("search", "Organization")) == 1
    assert [d["docStatus"] for d in moved.documents] == ["amended"]


def test_an_address_that_does_not_mean_what_it_is_asked_is_not_sent_to(world: World) -> None:
    ehr = hospital(world, "ignores-identifier")
    ehr.put({"resourceType": "Organization", "id": "other", "name": "Somebody else",
             "identifier": [{"system": NPI, "value": "1"}]})  # fmt: skip
    for organization in [o for o in ehr.held("Organization") if o["id"] != "other"]:
        ehr.put({**organization, "identifier": [{"system": NPI, "value": "2"}]})
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    assert world.delivery(case_id, SURGEON)["status"] == "on-hold"
    assert ehr.written == []


# ---- a repository


def repository(world: World, *quirks: str) -> Ehr:
    """A server that every version of every case goes to; it knows nobody yet."""
    return world.ehr("archive", "full", *quirks, record=[], role="repository")


def planned(world: World, case_id: str, version: int, text: str) -> None:
    body = {"version": version, "decision": "adopt", "text": text}
    world.post(case_id, "plan-of-record", body, "surgeon")


def test_a_repository_has_every_version_of_report_and_plan(both: World) -> None:
    world = both
    archive = repository(world)
    case_id = world.signed(sources=[])
    world.work()
    planned(world, case_id, 1, "Biopsy first.")
    world.work()
    world.amend(case_id)
    world.work(patience_s=60)
    planned(world, case_id, 2, "Biopsy first, then conservation.")
    world.work(patience_s=60)
    assert_whole(world, archive, case_id)
    tasks = world.deliveries(case_id, "archive") + world.deliveries(case_id, "archive", what="plan")
    assert {(t["status"], t["businessStatus"], t["evidence"]["rung"]) for t in tasks} == {
        ("completed", "verified", "1")
    }


def assert_whole(world: World, archive: Ehr, case_id: str) -> None:
    """Two versions of the report and two of the plan are there, once each, about one patient of ours."""
    (patient,) = archive.held("Patient")
    about = {d["subject"]["reference"] for d in [*archive.documents, *archive.reports]}
    assert about == {f"Patient/{patient['id']}"}
    kinds = sorted((d["description"].partition(",")[0], d["docStatus"], d["status"]) for d in archive.documents)
    assert kinds == [
        ("Plan of record", "amended", "current"), ("Plan of record", "final", "superseded"),
        ("Second opinion", "amended", "current"), ("Second opinion", "final", "superseded"),
    ]  # fmt: skip
    assert [r["status"] for r in archive.reports] == ["amended"]
    ours = {(i["system"], i["value"]) for i in patient["identifier"]}
    assert any(system.endswith("/patient") for system, _ in ours)
    # Nothing there points at a place that is only ours.
    for resource in archive.held():
        for ref in refs.find(resource):
            assert ref.startswith("#") or refs.parse(ref) is not None, ref


@pytest.mark.parametrize("quirk", ["lost-answer=3", "ignores-criteria"])
def test_a_repository_that_fails_to_answer_or_to_compare_has_one_patient_and_one_copy(world: World, quirk: str) -> None:
    archive = repository(world, quirk)
    case_id = world.signed(sources=[])
    world.work(patience_s=600)
    world.amend(case_id)
    world.work(patience_s=600)
    assert len(archive.held("Patient")) == 1
    assert (len(archive.reports), len(archive.documents)) == (1, 2)
    assert world.delivery(case_id, "archive", 2)["businessStatus"] == "verified"


def test_a_repository_is_no_member_of_the_board(world: World) -> None:
    repository(world)
    case_id = world.signed(sources=[])
    world.work()
    assert not [r for r in world.get(case_id, "alignment")["providers"] if "archive" in r["name"]]


# ---- a rehearsal


def everything(world: World, *ehrs: Ehr) -> tuple[int, ...]:
    """How many versions of anything there are, here and there."""
    with world.context.database.reading() as connection:
        ours = len(connection.execute(resources.rows()).all())
        history = sum(len(resources.history(connection, EVERYTHING, "Task", r.id))
                      for r in connection.execute(resources.rows()).all() if r.type == "Task")  # fmt: skip
    return ours, history, *(ehr.rows() for ehr in ehrs)


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_rehearsal_shows_is_to_the_byte_what_is_sent(world: World, version: int) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    if version == 2:
        world.work()
        world.amend(case_id)
    ehr.seen.clear()
    before = everything(world, ehr)
    jobs = list(world.jobs)
    (row,) = world.post(case_id, "preview-delivery", {"to": SURGEON})["deliveries"]
    assert ehr.written == []
    assert everything(world, ehr) == before
    assert world.jobs == jobs
    (shown,) = row["requests"]
    assert (row["rung"], row["version"], shown["method"], shown["url"]) == (1, version, "POST", ehr.base)

    world.work(patience_s=60)
    sent = ehr.asked("transaction")[0]
    assert sent.body == shown["body"].encode()
    for name, value in shown["headers"].items():
        assert (sent.header(name) or sent.environ[name.upper().replace("-", "_")]) == value
    # Afterwards it says that it is there.
    (row,) = world.post(case_id, "preview-delivery", {"to": SURGEON})["deliveries"]
    assert (row["requests"], row["copy"]) == ([], "verified")
    assert row["there"].startswith("DocumentReference/")


def test_a_rehearsal_of_a_single_document_is_to_the_byte_what_is_sent(world: World) -> None:
    ehr = hospital(world, "no-transaction", "no-conditional-create")
    case_id = world.signed(sources=[])
    (row,) = world.post(case_id, "preview-delivery", {"to": SURGEON})["deliveries"]
    assert row["rung"] == 3
    assert [why["way"] for why in row["notPossible"]] == [
        "transaction with conditional creates", "single conditional creates",
    ]  # fmt: skip
    (shown,) = row["requests"]
    world.work()
    (sent,) = ehr.asked("create", "DocumentReference")
    assert sent.body == shown["body"].encode()


def test_a_rehearsal_at_a_repository_creates_nobody(world: World) -> None:
    archive = repository(world)
    case_id = world.signed(sources=[])
    (row,) = world.post(case_id, "preview-delivery", {"to": "archive"})["deliveries"]
    assert row["rung"] == 1
    assert archive.written == []
    assert archive.held() == []


def test_a_rehearsal_says_what_would_stop_it(world: World) -> None:
    ehr = hospital(world)
    case_id = world.signed(sources=[])
    (patient,) = ehr.held("Patient")
    ehr.put({**patient, "active": False})
    (row,) = world.post(case_id, "preview-delivery", {"to": SURGEON})["deliveries"]
    assert row["requests"] == []
    assert "inactive" in row["why"]
    ehr.instead = lambda a: refusal(503, "transient")
    world.start()
    (row,) = world.post(case_id, "preview-delivery", {"to": SURGEON})["deliveries"]
    assert "capacity" in row["why"]
    # Who has no EHR gets the link; nobody of that name is said so; not everybody may look.
    (row,) = world.post(case_id, "preview-delivery", {"to": "Standish"})["deliveries"]
    assert (row["rung"], row["requests"]) == (10, [])
    world.post(case_id, "preview-delivery", {"to": "nobody"}, status=404)
    world.post(case_id, "preview-delivery", {}, "reviewer", status=403)


# ---- what is sent


def test_nothing_that_is_sent_points_at_anything_of_ours(world: World) -> None:
    ehr, other = hospital(world), clinic(world)
    case_id = world.signed(sources=[])
    world.work()
    world.amend(case_id)
    world.work(patience_s=60)
    ours = {r["id"] for r in world.package(case_id)} - {case_id}
    for there in (ehr, other):
        before = {(r["resourceType"], r["id"]) for r in few("lakeside") + few("riverside")}
        new = [r for r in there.held() if (r["resourceType"], r["id"]) not in before]
        assert new
        for resource in new:
            held = {f"{r['resourceType']}/{r['id']}" for r in there.held()}
            for ref in refs.find(resource):
                assert ref.startswith("#") or ref in held, f"{resource['resourceType']} cites {ref}"
            assert not [i for i in ours if f"/{i}" in json.dumps(resource)]
            assert all(i["value"] for i in resource.get("identifier", []) if i.get("system") == documents.URI)


def test_a_repository_gets_a_version_that_was_amended_before_it_was_sent(world: World) -> None:
    archive = repository(world)
    case_id = world.signed(sources=[])
    world.amend(case_id)
    world.work(patience_s=60)
    assert sorted((d["docStatus"], d["status"]) for d in archive.documents) == [
        ("amended", "current"), ("final", "superseded"),
    ]  # fmt: skip


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


# ---- what happens between the look and the request


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


def test_an_answer_to_another_question_does_not_say_that_nothing_is_there(world: World) -> None:
    ehr = hospital(world, "no-transaction")
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    world.amend(case_id)
    stranger = {"resourceType": "DiagnosticReport", "id": "another", "subject": {"reference": "Patient/another"}}
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": stranger}]}
    ehr.instead = first(
        world, lambda a: (a.kind, a.type) == ("search", "DiagnosticReport"),
        lambda: Response(json.dumps(bundle), content_type="application/fhir+json"),
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


# ---- an EHR that keeps to nothing (the rest is tests/faults)


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
        return _json(bundle) if len(shown) < 5 else None  # type: ignore[no-any-return]

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
