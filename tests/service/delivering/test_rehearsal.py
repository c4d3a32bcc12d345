"""What a rehearsal shows is what is sent, and nothing of ours is in it."""

from __future__ import annotations

import json

import pytest

from fhir_secondop.ehr import documents
from fhir_secondop.fhir import refs
from fhir_secondop.model import EVERYTHING
from fhir_secondop.store import resources
from tests.service.hospitals import SURGEON, clinic, few, hospital, repository
from tests.service.world import Ehr, World, refusal


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
