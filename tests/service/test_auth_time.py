"""When the reviewer last proved who it is stands in the Provenance of the signature, and nowhere where nobody did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir import validate
from fhir_secondop.opinion import codes
from fhir_secondop.service import signing
from tests.service.world import World, opened


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def signatures(world: World, case_id: str) -> list[Any]:
    found = world.package(case_id, "Provenance")
    return [p for p in found if any(t["reference"].startswith("DiagnosticReport/") for t in p["target"])]


@pytest.mark.parametrize("auth_time", ["2026-03-04T05:06:07Z", ""])
def test_the_signature_says_when_the_reviewer_proved_who_it_is(world: World, auth_time: str) -> None:
    case_id = world.gathered()
    world.accept(case_id)
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    signing.sign(world.context, replace(world.caller("reviewer"), auth_time=auth_time), case_id, {})
    (signed,) = signatures(world, case_id)
    by_role = {a["type"]["coding"][0]["code"]: a for a in signed["agent"]}
    expected = [{"url": codes.AUTH_TIME, "valueInstant": auth_time}] if auth_time else None
    assert by_role["author"].get("extension") == expected
    assert "extension" not in by_role["assembler"]
    assert [i for i in validate.validate(signed) if i.severity == "error"] == []
