"""Slices by what stands at a path: value, pattern, existence, type, profile; open and closed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fhir_secondop.fhir import definitions, invariants, profiles
from fhir_secondop.fhir.validate import validate

Json = dict[str, Any]
BASE = "http://example.org/StructureDefinition/"
HOLDER = BASE + "holder"
NAMED = BASE + "named-patient"


def profile(kind: str, path: str, rules: str, *parts: Json, of: str = "Bundle.entry") -> Json:
    """A profile with the slice `s` of the repeating element, told apart by that; `parts` stand below it."""
    root = of.partition(".")[0]
    return {
        "url": HOLDER, "type": root,
        "differential": {"element": [
            {"id": root, "path": root},
            {"id": of, "path": of, "slicing": {"discriminator": [{"type": kind, "path": path}], "rules": rules}},
            {"id": f"{of}:s", "path": of, "sliceName": "s", "max": "1"},
            *({**part, "id": f"{of}:s.{part['id']}", "path": f"{of}.{part['id']}"} for part in parts),
        ]},
    }  # fmt: skip


PATIENT_PROFILE: Json = {
    "url": NAMED, "type": "Patient",
    "differential": {"element": [{"id": "Patient", "path": "Patient"},
                                 {"id": "Patient.name", "path": "Patient.name", "min": 1}]},
}  # fmt: skip
NAMELESS: Json = {"resourceType": "Patient"}
PATIENT: Json = {"resourceType": "Patient", "name": [{"text": "x"}]}
GROUP: Json = {"resourceType": "Basic", "code": {"text": "x"}}


def bundle(*resources: Json) -> Json:
    entries = [{"fullUrl": f"urn:x:{n}", "resource": r} for n, r in enumerate(resources)]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def identifiers(*given: Json) -> Json:
    return {"resourceType": "Patient", "identifier": list(given)}


def faults(resource: Json, made: Json, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    own = {"structures": {each["url"]: each for each in (made, PATIENT_PROFILE)}}
    monkeypatch.setattr(definitions, "_own", lambda folder: own.get(folder, {}))
    _clear()
    return [(issue.code, issue.expression) for issue in validate(resource, profiles=[HOLDER])]


def _clear() -> None:
    for cache in (definitions.value_set, definitions.extension, invariants.of_extension, profiles._tree):
        cache.cache_clear()


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    yield
    _clear()


TYPE = ("type", "resource", {"id": "resource", "type": [{"code": "Patient"}]})
PROFILE = ("profile", "resource", {"id": "resource", "type": [{"code": "Patient", "profile": [NAMED]}]})
EXISTS = ("exists", "resource.name", {"id": "resource", "path": "x"}, {"id": "resource.name", "min": 1})
PATTERN = (
    "pattern",
    "resource.code",
    {"id": "resource"},
    {"id": "resource.code", "patternCodeableConcept": {"text": "x"}},
)
VALUE = ("value", "fullUrl", {"id": "fullUrl", "fixedUri": "urn:x:0"})
TWICE = [("structure", "Bundle.entry")]


@pytest.mark.parametrize(
    ("how", "resources", "expected"),
    [
        (TYPE, [PATIENT, GROUP, GROUP], []),
        (TYPE, [PATIENT, NAMELESS], TWICE),
        (PROFILE, [PATIENT, NAMELESS, NAMELESS, GROUP], []),
        (PROFILE, [PATIENT, PATIENT], TWICE),
        (EXISTS, [PATIENT, NAMELESS, GROUP], []),
        (EXISTS, [PATIENT, PATIENT, NAMELESS], TWICE),
        (PATTERN, [GROUP, PATIENT], []),
        (PATTERN, [GROUP, {**GROUP, "code": {"text": "y"}}], []),
        (PATTERN, [GROUP, GROUP], TWICE),
    ],
)
def test_what_belongs_to_a_slice_is_counted(
    how: Any, resources: list[Json], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, path, *parts = how
    assert faults(bundle(*resources), profile(kind, path, "open", *parts), monkeypatch) == expected


def test_where_slices_are_closed_nothing_else_may_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, path, *parts = VALUE
    made = profile(kind, path, "closed", *parts)
    assert faults(bundle(PATIENT), made, monkeypatch) == []
    assert faults(bundle(PATIENT, GROUP), made, monkeypatch) == [("structure", "Bundle.entry[1]")]


def test_what_is_not_there_can_be_what_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made = profile("exists", "system", "open", {"id": "system", "max": "0"}, of="Patient.identifier")
    assert faults(identifiers({"value": "1"}, {"system": "urn:x:y", "value": "2"}), made, monkeypatch) == []
    assert faults(identifiers({"value": "1"}, {"value": "2"}), made, monkeypatch) == [
        ("structure", "Patient.identifier")
    ]


def test_a_slice_of_which_nothing_says_how_it_is_told_apart_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    made = profile("value", "use", "closed", of="Patient.identifier")
    assert faults(identifiers({"value": "1"}, {"value": "2"}), made, monkeypatch) == []
