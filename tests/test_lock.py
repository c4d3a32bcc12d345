"""The lock and the bill of materials belong to each other, and to what the product says that it needs."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)(?: ; ([^\\]+?))? ?\\?$")


def locked() -> dict[str, tuple[str, str]]:
    """Name → version and marker."""
    found = {}
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines():
        match = _PIN.match(line)
        if match:
            found[canonicalize_name(match[1])] = (match[2], (match[3] or "").strip())
    return found


def test_every_pin_has_its_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text("utf-8")
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pins) == len(locked()) > 30
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)


def test_what_the_product_needs_is_pinned_within_its_bounds() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    pins = locked()
    for line in config["options"]["install_requires"].split("\n"):
        if line.strip():
            needed = Requirement(line.strip())
            version, _ = pins[canonicalize_name(needed.name)]
            assert needed.specifier.contains(version), (line, version)


def test_the_bill_of_materials_lists_what_is_locked() -> None:
    bill = json.loads((ROOT / "sbom.cdx.json").read_text("utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {canonicalize_name(c["name"]): c["version"] for c in bill["components"]}
    pins = locked()
    assert {name: pins[name][0] for name in listed} == listed
    # Only what another platform needs may be missing.
    assert all(pins[name][1] for name in set(pins) - set(listed))
