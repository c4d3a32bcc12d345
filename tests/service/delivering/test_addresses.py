"""An EHR is not sent to before its address is confirmed."""

from __future__ import annotations

import json

import pytest

from tests.service.hospitals import SURGEON, few, hospital, json_answer
from tests.service.world import NPI, World


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
    ehr.instead = lambda a: json_answer(answered) if a.type == "metadata" else None
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    held = world.delivery(case_id, SURGEON)
    assert held["status"] == "on-hold"
    assert "not a FHIR R4 server" in held["why"]
    assert ehr.written == []
    assert endpoints(world) == []


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
