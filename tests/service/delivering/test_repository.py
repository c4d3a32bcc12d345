"""A repository: every version of report and plan, and no member of the board."""

from __future__ import annotations

import pytest

from fhir_secondop.fhir import refs
from tests.service.hospitals import planned, repository
from tests.service.world import Ehr, World


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


def test_a_repository_gets_a_version_that_was_amended_before_it_was_sent(world: World) -> None:
    archive = repository(world)
    case_id = world.signed(sources=[])
    world.amend(case_id)
    world.work(patience_s=60)
    assert sorted((d["docStatus"], d["status"]) for d in archive.documents) == [
        ("amended", "current"), ("final", "superseded"),
    ]  # fmt: skip
