"""DOMAIN section 3, row by row from the file that a clinician reads: tables/concordance.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fhir_secondop.opinion import codes
from fhir_secondop.opinion.concordance import Judgement, overall

ROWS = list(csv.DictReader((Path(__file__).parent / "tables/concordance.csv").read_text("utf-8").splitlines()))


def judgements(row: dict[str, str]) -> list[Judgement]:
    found = [Judgement(row["first axis"], row["first opinion"], row["first matters"])]
    if row["second axis"]:
        found.append(Judgement(row["second axis"], row["second opinion"], row["second matters"]))
    return found


@pytest.mark.parametrize("row", ROWS, ids=["/".join(filter(None, row.values())) for row in ROWS])
def test_a_row_of_the_table_is_what_the_program_derives(row: dict[str, str]) -> None:
    for order in (judgements(row), judgements(row)[::-1]):
        found = overall(order)
        assert (found.text if found else "nothing") == row["overall"]


def test_the_table_has_every_code_with_every_weight() -> None:
    alone = {(r["first axis"], r["first opinion"], r["first matters"]) for r in ROWS if not r["second axis"]}
    every = {("diagnosis", code) for code in codes.DIAGNOSIS_CODES} | {("treatment", c) for c in codes.TREATMENT_CODES}
    wanted = {(*one, weight) for one in every for weight in codes.SIGNIFICANCES if one[1] != "not-assessed"}
    assert wanted <= alone
