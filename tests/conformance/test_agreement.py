"""Our validator against HL7's on the whole corpus: for no kind may it agree less than docs/conformance.md says.

The numbers there rise with the validator: python -m tests.conformance --docs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conformance import oracle, own, report, verdicts
from tests.conformance.agreement import Agreement, agreement, ours, variants, whole_corpus
from tests.conformance.cases import Case
from tests.conformance.verdicts import Verdict

pytestmark = pytest.mark.shared

LIVE = 200
# What was meant to be wrong and is found right by both, since R4 has no rule against it that either checks.
LET_PASS = {
    "extension of HL7 / too often",
    "extension of HL7 / unknown name",
    "reference: syntax / http:/x",
    "reference: syntax / urn:oid:x",
    "reference: syntax / urn:uuid:1",
}


@pytest.fixture(scope="module")
def table() -> Mapping[str, Verdict]:
    return verdicts.read()[1]


@pytest.fixture(scope="module")
def corpus(shared_data: Path, table: Mapping[str, Verdict]) -> list[Case]:
    return list(whole_corpus(shared_data, table))


@pytest.fixture(scope="module")
def counted(corpus: list[Case], table: Mapping[str, Verdict]) -> Agreement:
    started = time.monotonic()
    found = agreement(corpus, table)
    took = time.monotonic() - started
    print(f"\n{report.table(found)}\n{report.disagreements(found)}\n{took:.1f} s")
    assert took < 60
    return found


def more_than_said(found: Agreement) -> dict[str, tuple[int, int]]:
    """kind → (disagreements, those that the page has), where there are more."""
    page = report.said(report.PAGE.read_text("utf-8"))
    differing = {kind: row.cases - row.agree for kind, row in found.rows.items()}
    allowed = {kind: cases - agree for kind, (cases, agree) in page.items()}
    return {kind: (n, allowed.get(kind, 0)) for kind, n in differing.items() if n > allowed.get(kind, 0)}


def test_no_kind_of_case_agrees_less_than_the_page_says(counted: Agreement) -> None:
    assert more_than_said(counted) == {}


def test_the_page_is_of_this_corpus(counted: Agreement) -> None:
    page = report.said(report.PAGE.read_text("utf-8"))
    cases = {kind: row.cases for kind, row in counted.rows.items() if kind not in own.KINDS}
    assert {kind: page.get(kind, (0, 0))[0] for kind in cases} == cases


def test_the_corpus_is_large_and_every_case_has_a_name_of_its_own(corpus: list[Case]) -> None:
    assert len([case for case in corpus if " / " in case.name and case.kind not in own.KINDS]) > 5_000
    assert len({case.name for case in corpus}) == len(corpus)


def test_what_is_meant_is_what_at_least_one_of_the_two_finds(
    corpus: list[Case], counted: Agreement, table: Mapping[str, Verdict]
) -> None:
    """A case that both find otherwise than it is meant is a mistake in the corpus, or one of LET_PASS."""
    differing = {each.case.name for each in counted.differing}
    judged = (c for c in corpus if c.valid is not None and c.hash in table and not table[c.hash].broke)
    astray = {
        " / ".join(case.name.split(" / ")[:2])
        for case in judged
        if table[case.hash].valid != case.valid and case.name not in differing
    }
    assert astray == LET_PASS


def test_hl7s_validator_still_says_what_the_table_says(
    corpus: list[Case], table: Mapping[str, Verdict], shared_data: Path
) -> None:
    fixed = [case for case in corpus if case.kind not in own.KINDS]
    chosen = sorted(fixed, key=lambda case: hashlib.sha256(f"live {case.hash}".encode()).digest())[:LIVE]
    mine = list(own.cases())
    with oracle.running() as validator:
        assert validator.version == verdicts.read()[0]
        found = {case.hash: verdicts.of_findings(said) for case, said in validator.ask([*chosen, *mine])}
    assert {c.name: found[c.hash] for c in chosen} == {c.name: table[c.hash] for c in chosen}
    now = agreement(mine, found)
    print(report.table(now), variants(now.differing))
    assert more_than_said(now) == {}
    assert ours(mine[0]) == ()
