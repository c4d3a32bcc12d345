"""Cases that others have made: examples of US Core and the International Patient Summary, HL7's test cases, Synthea.

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
    yield from _of_test_cases(shared_data / "fhir-test-cases-r4")
    for path in sorted((shared_data / "synthea-r4-bundles").glob("*.json.gz")):
        yield from _of_synthea(path)


def _of_guide(path: Path, guide: str) -> Iterator[Case]:
    with tarfile.open(path) as package:
        for name in sorted(name for name in package.getnames() if name.startswith("package/example/")):
            content = package.extractfile(name)
            if content and name.endswith(".json") and not name.endswith("/.index.json"):
                yield Case("guide's example", f"{guide} / {Path(name).name}", content.read().decode())


def _of_test_cases(folder: Path) -> Iterator[Case]:
    """HL7's cases for parsers: resources in JSON."""
    for path in (*sorted(folder.glob("*.json*")), *sorted(folder.glob("examples/*.json"))):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if b'"resourceType"' in data:
            yield Case("HL7's test case", f"test case / {path.relative_to(folder)}", data.decode())


def _of_synthea(path: Path) -> Iterator[Case]:
    """Each resource of a patient's transaction by itself; the whole Bundle is another test's (test_r4_tables)."""
    bundle = parse(gzip.decompress(path.read_bytes()).decode())
    for number, entry in enumerate(bundle["entry"]):
        resource = entry["resource"]
        name = f"Synthea / {path.name.partition('_')[0]} {number} {resource['resourceType']}"
        yield Case("Synthea's resource", name, dump(resource))
