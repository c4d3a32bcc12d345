"""A record with large files inside its resources: its case is loaded without their bytes, and served with them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.opinion import records, sourced
from fhir_secondop.opinion.case import Case
from fhir_secondop.service.context import LARGE_CHARACTERS, load
from tests.service.world import World, opened, record_of

SCAN = b"%PDF-1.7 " + bytes(range(256)) * 400
LARGE = base64.b64encode(SCAN).decode()
SMALL = base64.b64encode(b"%PDF-1.7 a short letter").decode()
BROKEN = "A" * (LARGE_CHARACTERS + 5)  # five more than a multiple of four: nobody can decode it


@pytest.fixture
def world(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def letter(number: int, data: str) -> Resource:
    form = {"contentType": "application/pdf", "title": f"Letter {number}", "data": data}
    return {"resourceType": "DocumentReference", "id": f"d{number}", "status": "current",
            "subject": {"reference": "Patient/1"}, "content": [{"attachment": form}]}  # fmt: skip


def gathered(world: World, *letters: Resource) -> str:
    patient = next(r for r in record_of("lakeside") if r["resourceType"] == "Patient")
    patient = {**patient, "id": "1"}
    world.ehr("lakeside", record=[patient, *letters])
    return world.gathered(sources=["lakeside"])


def loaded(world: World, case_id: str, *, files: bool = False) -> Case:
    with world.context.database.reading() as connection:
        return load(connection, EVERYTHING, case_id, gathered=True, files=files)


def forms(case: Case) -> dict[str, Resource]:
    """The attachment of each letter, by its title."""
    found = [r for r in records.gathered_resources(case) if r["resourceType"] == "DocumentReference"]
    attachments = [content["attachment"] for document in found for content in document["content"]]
    return {attachment["title"]: attachment for attachment in attachments}


def test_a_large_file_is_loaded_as_its_size_and_hash(world: World) -> None:
    case_id = gathered(world, letter(1, LARGE), letter(2, SMALL))
    kept = forms(loaded(world, case_id))
    digest = base64.b64encode(hashlib.sha1(SCAN).digest()).decode()
    assert kept["Letter 1"] == {
        "contentType": "application/pdf", "title": "Letter 1", "size": len(SCAN), "hash": digest,
    }  # fmt: skip
    assert kept["Letter 2"]["data"] == SMALL
    assert forms(loaded(world, case_id, files=True))["Letter 1"]["data"] == LARGE


def test_the_package_has_the_file_whole(world: World) -> None:
    case_id = gathered(world, letter(1, LARGE))
    case = Case(case_id, world.package(case_id))
    assert forms(case)["Letter 1"]["data"] == LARGE


def test_a_file_that_nobody_can_decode_is_not_the_same_as_another_one(world: World) -> None:
    case_id = gathered(world, letter(1, BROKEN), letter(2, BROKEN[:-1] + "B"), letter(3, LARGE))
    found = [s for s in sourced.of_case(loaded(world, case_id)) if s.resource["resourceType"] == "DocumentReference"]
    assert sorted(len(s.files) for s in found) == [0, 0, 1]


@pytest.mark.parametrize("drafts", [False, True])
def test_a_case_is_loaded_oldest_first(world: World, drafts: bool) -> None:
    case_id = gathered(world, letter(1, LARGE), letter(2, SMALL))
    with world.context.database.reading() as connection:
        case = load(connection, EVERYTHING, case_id, gathered=True, drafts=drafts)
    made = [r["meta"]["lastUpdated"] for r in case.resources if r["meta"]["versionId"] == "1"]
    assert made == sorted(made)
