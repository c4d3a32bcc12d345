"""The rooms and floors of the design: who may import whom."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "fhir_secondop"
# Each room may import what stands on lower floors, and itself; rooms of one floor never import each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("model", "limits", "meters", "tracing", "durable"),
    ("alert_settings",),
    ("config", "fhir", "hl7v2"),
    ("store", "access", "opinion", "ehr"),
    ("rest", "service"),
    ("bootstrap",),
    ("web",),
    ("sandbox",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            for name in node.names:
                yield node.lineno, f"{node.module}.{name.name}"


def violations(room: str, found: str) -> bool:
    parts = found.split(".")
    if parts[0] != "fhir_secondop" or len(parts) < 2 or parts[1] not in LEVEL:
        return False
    other = parts[1]
    return other != room and LEVEL[other] >= LEVEL[room]


def test_every_module_belongs_to_a_room() -> None:
    rooms = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in ROOT.rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_is_below_them(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    bad = [f"{path.name}:{line} imports {found}" for line, found in imports(path) if violations(room, found)]
    assert not bad, bad


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("opinion", ("sqlalchemy", "requests", "flask")),
        ("fhir", ("sqlalchemy", "requests", "flask")),
        ("access", ("sqlalchemy", "requests", "flask")),
        ("ehr", ("sqlalchemy", "flask", "dbos")),
        ("store", ("requests", "flask", "dbos")),
        ("rest", ("requests", "dbos")),
    ],
)
def test_a_room_keeps_out_of_what_is_not_its_business(room: str, never: tuple[str, ...]) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for line, found in imports(path):
            assert found.split(".")[0] not in never, f"{path.name}:{line} imports {found}"


def test_only_config_reads_the_environment() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text("utf-8")
        if path.name != "config.py" and path.parent.name != "cli":
            assert "os.environ" not in text, path
            assert "getenv" not in text, path


def test_the_floors_test_can_fail() -> None:
    assert violations("store", "fhir_secondop.service.context")
    assert violations("opinion", "fhir_secondop.store")
    assert not violations("service", "fhir_secondop.store.resources")


def test_every_folder_of_code_is_packaged() -> None:
    """The list in setup.cfg is explicit: a folder that it lacks runs from a checkout, and from no wheel."""
    listed = configparser.ConfigParser()
    listed.read(ROOT.parent / "setup.cfg")
    named = set(listed["options"]["packages"].split()) - {"fhir_secondop.profiles", "fhir_secondop.examples"}
    found = {".".join(f.parent.relative_to(ROOT.parent).parts) for f in ROOT.rglob("__init__.py")}
    assert named == found
