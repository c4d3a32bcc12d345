"""Cases of what a running system holds in the end: every version in the databases of the service and of the EHRs.

The walks of tests/scenarios leave theirs in the folder that KEEP_STORED names (tests/scenarios/conftest.py).
Ids and times are of the run, so that HL7's validator is asked each time and the table of verdicts has none of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import sqlalchemy as sa

from fhir_secondop.model import EVERYTHING
from fhir_secondop.store import resources, tables
from tests.conformance import own
from tests.conformance.agreement import Agreement, agreement
from tests.conformance.cases import Case
from tests.conformance.oracle import Oracle
from tests.conformance.verdicts import of_findings

KIND = "stored by a scenario"


def kept(folder: Path) -> Iterator[tuple[str, str]]:
    """(database, type, id and version; text) of every version that is in an SQLite database below the folder."""
    for file in sorted(folder.rglob("*.sqlite")):
        engine = sa.create_engine(f"sqlite:///{file}")
        with engine.connect() as connection:
            if sa.inspect(connection).has_table(tables.version.name):
                for of_type, of_id in connection.execute(sa.select(tables.resource.c.type, tables.resource.c.id)).all():
                    for each in resources.history(connection, EVERYTHING, of_type, of_id):
                        if not each.deleted:
                            yield f"{file.stem} {each.versioned}", each.text
        engine.dispose()


def keep(folder: Path, test: str, target: Path) -> None:
    """Writes what is below the folder into a file of the target, one version a line."""
    lines = [json.dumps({"name": f"{test} {name}", "text": text}) for name, text in kept(folder)]
    if lines:
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{test}.ndjson").write_text("\n".join(lines) + "\n", "utf-8")


def judged(found: Iterable[tuple[str, str]], validator: Oracle) -> tuple[Agreement, list[str]]:
    """The agreement on these versions; and what HL7's validator refuses, with its errors: nothing should be."""
    cases = [Case(KIND, f"{KIND} / {name}", text, True, against=own.definitions()) for name, text in found]
    verdicts, refused = {}, []
    for case, findings in validator.ask(cases):
        verdicts[case.hash] = verdict = of_findings(findings)
        if not verdict.valid:
            said = "; ".join(f"{f.at}: {f.text}" for f in findings if f.is_error)
            refused.append(f"{case.name} {', '.join(verdict.errors)} {said}")
    return agreement(cases, verdicts), refused


def read(folder: Path) -> Iterator[tuple[str, str]]:
    """What `keep` wrote into a folder."""
    for file in sorted(folder.glob("*.ndjson")):
        for line in file.read_text("utf-8").splitlines():
            plain = json.loads(line)
            yield plain["name"], plain["text"]
