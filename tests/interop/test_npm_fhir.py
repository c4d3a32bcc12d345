"""FHIR.js, from npm: what it makes of the official examples, against what we make of them; the numbers may only rise.

What differs is FHIR.js's doing. It loses a list of which nothing but extensions is there (`_event`), reads no 1E-22 and
no comment at the top. Its validator takes `false` and 0 for missing, and a reference to another server or to a version
for one of the wrong type; in turn it knows few invariants, no narratives, and references only by their type.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import check
from fhir_secondop.fhir.xml import from_xml, to_xml

pytestmark = pytest.mark.shared
PROJECT = Path(__file__).parent / "npm"
LOST = "timingTiming"
UNREAD = {"json-edge-cases", "observation-decimal"}


@pytest.fixture(scope="module")
def converted(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: in/ has each example in both forms, out/ what FHIR.js made of them."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; FHIR.js needs Node")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copy(PROJECT / "package.json", folder)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=300)
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    for file in sorted((shared_data / "official-r4-examples-json").glob("*.json")):
        text = file.read_text("utf-8")
        (folder / "in" / file.name).write_text(text, "utf-8")
        (folder / "in" / f"{file.stem}.xml").write_bytes(to_xml(text))
    library = folder / "node_modules" / "fhir"
    command = ["node", PROJECT / "convert.js", folder / "in", folder / "out", library]
    subprocess.run(command, check=True, timeout=300)
    return folder


def plain(value: Any) -> Any:
    """Without narratives, which FHIR.js writes anew; numbers as it has them, floating."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key != "div"}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def same(converted: Path, end: str, read: Any) -> tuple[int, set[str]]:
    """How many examples come back as they were, and which do not."""
    equal, others = 0, set()
    for file in (converted / "in").glob("*.json"):
        made = converted / "out" / f"{file.stem}{end}"
        try:
            is_same = plain(json.loads(read(made.read_bytes()))) == plain(json.loads(file.read_text("utf-8")))
        except (FileNotFoundError, Malformed):
            is_same = False
        equal += is_same
        if not is_same:
            others.add(file.stem)
    return equal, others


def lose_a_list(converted: Path) -> set[str]:
    files = (converted / "in").glob("*.json")
    return {file.stem for file in files if LOST in (text := file.read_text("utf-8")) and '"_event"' in text}


def test_it_reads_in_our_xml_what_the_json_says(converted: Path) -> None:
    equal, others = same(converted, ".xml.json", bytes)
    print(f"{equal} of {equal + len(others)}")
    assert others == UNREAD | lose_a_list(converted)
    assert equal >= 734


def test_we_read_in_its_xml_what_the_json_says(converted: Path) -> None:
    equal, others = same(converted, ".json.xml", from_xml)
    print(f"{equal} of {equal + len(others)}")
    assert others == lose_a_list(converted)
    assert equal >= 736


def test_its_validator_finds_little_that_ours_does_not(converted: Path) -> None:
    counted: Counter[tuple[bool, bool]] = Counter()
    unforeseen = []
    for file in (converted / "in").glob("*.json"):
        said = json.loads((converted / "out" / f"{file.stem}.json.said").read_text("utf-8"))
        ours = not any(issue.severity == "error" for issue in check(file.read_text("utf-8")))
        counted[ours, said["valid"]] += 1
        if ours and not said["valid"]:
            messages = [m["message"] for m in said["messages"] if m["severity"] in ("error", "fatal")]
            unforeseen += [m for m in messages if not m.startswith(("Missing property", "Invalid type for reference"))]
    print({f"ours {ours}, its {its}": count for (ours, its), count in counted.items()})
    assert unforeseen == []
    assert counted[True, True] + counted[False, False] >= 645
