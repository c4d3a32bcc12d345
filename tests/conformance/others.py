"""Cases that others have made: the examples of US Core and of the International Patient Summary, Synthea's records.

They are judged by R4 alone: neither validator has the guides' profiles, so that a claim of one (meta.profile) demands
nothing. HL7's mentions that it doesn't know them, as a warning.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.cases import Case
from tests.conformance.notation import dump, parse

GUIDES = ("us-core-6.1.0", "us-core-8.0.0", "ips-1.1.0")


def cases(shared_data: Path) -> Iterator[Case]:
    for guide in GUIDES:
        yield from _of_guide(shared_data / "r4-definitions" / f"{guide}.tgz", guide)
    for path in sorted((shared_data / "synthea-r4-bundles").glob("*.json.gz")):
        yield from _of_synthea(path)


def _of_guide(path: Path, guide: str) -> Iterator[Case]:
    with tarfile.open(path) as package:
        for name in sorted(name for name in package.getnames() if name.startswith("package/example/")):
            content = package.extractfile(name)
            if content and name.endswith(".json") and not name.endswith("/.index.json"):
                yield Case("guide's example", f"{guide} / {Path(name).name}", content.read().decode())


def _of_synthea(path: Path) -> Iterator[Case]:
    """Each resource of a patient's transaction by itself; the whole Bundle is another test's (test_r4_tables)."""
    bundle = parse(gzip.decompress(path.read_bytes()).decode())
    for number, entry in enumerate(bundle["entry"]):
        resource = entry["resource"]
        name = f"Synthea / {path.name.partition('_')[0]} {number} {resource['resourceType']}"
        yield Case("Synthea's resource", name, dump(resource))
