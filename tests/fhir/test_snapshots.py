"""Snapshots of our profiles: all of the base, all of the differential, in order. HL7's own are in tests/interop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import definitions, snapshots
from fhir_secondop.opinion import codes

R4 = "http://hl7.org/fhir/StructureDefinition/"


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A profile on Communication with the elements given; gives its snapshot by id."""
    made: dict[str, Any] = {}
    shipped = definitions.profile
    monkeypatch.setattr(definitions, "profile", lambda url: made.get(url) or shipped(url))

    def make(*elements: dict[str, Any]) -> dict[str, dict[str, Any]]:
        url = "http://example.org/StructureDefinition/x"
        made[url] = {"id": "x", "baseDefinition": R4 + "Communication", "differential": {"element": list(elements)}}
        snapshots.snapshot.cache_clear()
        return {element["id"]: element for element in snapshots.snapshot(url)}

    yield make
    snapshots.snapshot.cache_clear()


def element(identity: str, **said: Any) -> dict[str, Any]:
    return {"id": identity, "path": ".".join(p.partition(":")[0] for p in identity.split(".")), **said}


@pytest.mark.parametrize("url", definitions.profiles())
def test_snapshot_has_the_base_and_what_the_differential_says(url: str) -> None:
    definition = definitions.profiles()[url]
    made = {each["id"]: each for each in snapshots.snapshot(url)}
    # sdf-3 and sdf-8b of R4: each has a definition, counts, and where it comes from.
    assert [i for i, each in made.items() if not {"definition", "min", "max", "base", "path"} <= set(each)] == []
    base = [each["id"] for each in snapshots.snapshot(definition["baseDefinition"])]
    assert [identity for identity in made if identity in base] == base
    for said in definition["differential"]["element"]:
        for key, value in said.items():
            found = made[said["id"]][key]
            if key == "constraint":
                assert [each for each in found if each in value] == value
            elif key == "slicing":
                assert value.items() <= found.items()
            elif key != "type" or value[0].get("targetProfile"):
                assert found == value, (said["id"], key)


def test_a_slice_comes_after_all_of_what_is_sliced_and_begins_optional(profile: Any) -> None:
    made = profile(
        element("Communication.identifier", min=1, slicing={"rules": "open", "discriminator": []}),
        element("Communication.identifier:own", sliceName="own", max="1"),
        element("Communication.identifier:own.system", min=1),
        element("Communication.status:done", sliceName="done"),
        element("Communication.payload:text", sliceName="text"),
    )
    assert list(made)[list(made).index("Communication.identifier") :][:10] == [
        "Communication.identifier",
        "Communication.identifier:own",
        *(f"Communication.identifier:own.{n}" for n in ("id", "extension", "use", "type", "system", "value")),
        "Communication.identifier:own.period",
        "Communication.identifier:own.assigner",
    ]
    own = made["Communication.identifier:own"]
    assert (own["min"], own["max"], own["path"], "slicing" in own) == (0, "1", "Communication.identifier", False)
    assert (made["Communication.status"]["min"], made["Communication.status:done"]["min"]) == (1, 0)
    assert made["Communication.identifier:own.system"]["base"]["path"] == "Identifier.system"
    # A backbone's parts stand in each of its slices.
    assert made["Communication.payload:text.content[x]"]["min"] == 1


def test_a_slice_that_is_an_extension_of_ours_has_its_words_and_constraints() -> None:
    made = {each["id"]: each for each in snapshots.snapshot(codes.extension("review-task"))}
    found = made["Task.extension:independence"]
    assert found["short"] == "Independence"
    assert [constraint["key"] for constraint in found["constraint"]] == [
        "ele-1", "ext-1", "so-ind-1", "so-ind-2", "so-ind-3",
    ]  # fmt: skip


def test_what_stands_too_late_or_is_not_there_is_refused(profile: Any) -> None:
    with pytest.raises(Invalid, match="not in R4's order"):
        profile(element("Communication.topic", min=1), element("Communication.subject", min=1))
    with pytest.raises(Invalid, match=r"no place for Communication\.weather"):
        profile(element("Communication.weather", min=1))
    with pytest.raises(Invalid, match="several types"):
        profile(element("Communication.payload.content[x].start", min=1))
    with pytest.raises(Invalid, match="make_r4_bases"):
        snapshots.snapshot(R4 + "Claim")


def test_types_that_are_named_without_targets_keep_those_they_had(profile: Any) -> None:
    made = profile(element("Communication.subject", type=[{"code": "Reference"}]))
    assert [url.removeprefix(R4) for url in made["Communication.subject"]["type"][0]["targetProfile"]] == [
        "Patient",
        "Group",
    ]
