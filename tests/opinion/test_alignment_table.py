"""DOMAIN section 6, row by row from the file that a clinician reads: tables/alignment.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import cases
import pytest
import test_alignment as whole

from fhir_secondop.opinion import alignment

ROWS = list(csv.DictReader((Path(__file__).parent / "tables/alignment.csv").read_text("utf-8").splitlines()))
WHO = {"author": whole.AUTHOR, "care team": whole.CARE_TEAM, "PCP": whole.PCP, "owner": whole.SURGEON}
COPIES: dict[str, dict[str, str]] = {
    "verified": whole.VERIFIED, "unverifiable": whole.UNVERIFIABLE, "nothing": {},
    "refused": {"sent": "refused", "business": "failed", "status": "on-hold"},
    "mismatch": {"sent": "accepted", "copy": "mismatch", "business": "mismatch", "status": "on-hold"},
}  # fmt: skip


def board_of(row: dict[str, str]) -> alignment.Board:
    who = WHO[row["provider"]]
    facts = {**COPIES[row["copy"]]}
    facts |= {"ack": row["acknowledged"], "ack_by": "a person"} if row["acknowledged"] else {}
    facts |= {"decision": row["decision"]} if row["decision"] else {}
    facts |= {"superseded": row["older copy"]} if row["older copy"] and facts else {}
    of_plan = {**COPIES[row["plan's copy"]], **({"ack": row["plan acknowledged"]} if row["plan acknowledged"] else {})}
    version = 2 if row["older copy"] else 1
    decided = row["plan of record"]
    others = {other: {**said, "superseded": "marked"} for other, said in whole.DONE.items() if other != who}
    others = {other: {**said, **({"decision": decided} if "decision" in said else {})}
              for other, said in others.items()}  # fmt: skip
    older = [whole.task(who, 1, **whole.VERIFIED)] if row["older copy"] else []
    return whole.board(whole.case_of(
        {**others, who: facts}, *older, version=version, significance=row["significance"], plan_facts={who: of_plan},
        plan={"resourceType": "Basic", "id": "none"} if decided == "none" else whole.plan_of(decided, cites=version),
    ))  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row["fact"] for row in ROWS])
def test_a_row_of_the_table_is_what_the_board_says(row: dict[str, str]) -> None:
    board = board_of(row)
    found = next(r for r in board.rows if r.member.person.reference == cases.person_ref(WHO[row["provider"]]))
    said = {"holds": found.held.holds, "aligned": found.aligned}
    assert {name: "yes" if value else "no" for name, value in said.items()} == {n: row[n] for n in said}
    assert found.state == row["state"]
    # Everybody else is aligned, so the case is just when this one is.
    assert board.aligned is (row["aligned"] == "yes")
    assert board.informed is (row["holds"] == "yes")
