"""Compares our validator with HL7's on the whole corpus.

    python -m tests.conformance           against the table of verdicts: prints agreement by kind
    python -m tests.conformance --live    asks HL7's validator what the table lacks, and writes it (Java 17, Maven)
    python -m tests.conformance --afresh  asks it about every case
    python -m tests.conformance --docs    also writes the numbers into docs/conformance.md
    python -m tests.conformance --list    also prints every disagreement
    python -m tests.conformance --stored F  of what the walks of tests/scenarios left in the folder F (asks it, too)
    python -m tests.conformance --show X  what both say of the cases with X in their names (asks HL7's validator)

Reference data: SECONDOP_TEST_DATA, by default ../shared/data.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.conformance import corpus, invented, oracle, others, own, report, stored, verdicts
from tests.conformance.agreement import agreement, mutated, ours, whole_corpus
from tests.conformance.cases import Case


def main(arguments: list[str]) -> None:
    shared_data = Path(os.environ.get("SECONDOP_TEST_DATA", oracle.ROOT / "../shared/data"))
    if "--show" in arguments:
        return show(shared_data, arguments[arguments.index("--show") + 1])
    if "--stored" in arguments:
        return judge(Path(arguments[arguments.index("--stored") + 1]))
    if "--live" in arguments or "--afresh" in arguments:
        ask(shared_data, afresh="--afresh" in arguments)
    version, found = verdicts.read()
    started = time.monotonic()
    counted = agreement(whole_corpus(shared_data, found), found)
    print(f"{version}; {time.monotonic() - started:.1f} s for ours")
    print(report.table(counted))
    print(report.disagreements(counted))
    if "--list" in arguments:
        print(report.listed(counted))
    if "--docs" in arguments:
        report.write(version, counted)


def ask(shared_data: Path, *, afresh: bool) -> None:
    """HL7's verdict of every case, into the table: of what is in it already, from it."""
    examples = corpus.examples(shared_data)
    found: dict[str, verdicts.Verdict] = {}
    with oracle.running() as validator:
        version, before = verdicts.read()
        known = before if version == validator.version and not afresh else {}

        def put(cases: list[Case]) -> None:
            started = time.monotonic()
            found.update({case.hash: known[case.hash] for case in cases if case.hash in known})
            unknown = [case for case in cases if case.hash not in known]
            for case, findings in validator.ask(unknown):
                found[case.hash] = verdicts.of_findings(findings)
            print(f"{len(unknown)} of {len(cases)} cases in {time.monotonic() - started:.0f} s", file=sys.stderr)

        put([*corpus.official(examples), *corpus.official([*corpus.repaired(examples), *invented.examples()])])
        put([*mutated(examples, found), *others.cases(shared_data), *own.cases()])
        verdicts.write(validator.version, found)


def judge(folder: Path) -> None:
    """What both say of what running systems hold: agreement, and everything that one of them refuses."""
    with oracle.running() as validator:
        counted, refused = stored.judged(stored.read(folder), validator)
    print(report.table(counted), report.listed(counted), *map("refused: {}".format, refused), sep="\n")


def show(shared_data: Path, wanted: str) -> None:
    """Everything that both say of some cases."""
    cases = [case for case in whole_corpus(shared_data, verdicts.read()[1]) if wanted in case.name]
    with oracle.running() as validator:
        for case, findings in validator.ask(cases):
            print(f"\n{case.name}\n{case.text[:2000]}")
            print(*(f"    HL7  {f.severity} {f.id} {f.at}: {f.text}" for f in findings), sep="\n")
            print(*(f"    ours {i.severity} {i.code} {i.expression}: {i.diagnostics}" for i in ours(case)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
