"""The overall concordance, against DOMAIN section 3 said in another way, over every combination."""

from __future__ import annotations

import itertools

import pytest

from fhir_secondop.opinion import codes
from fhir_secondop.opinion.concordance import Judgement, highest_significance, overall

DIAGNOSIS = ("confirmed", "refined", "additional", "changed", "refuted", "indeterminate", "not-assessed")
TREATMENT = (
    "agreed", "agreed-modified", "additional", "deescalate", "alternative", "not-recommended", "defer", "not-assessed",
)  # fmt: skip
SIGNIFICANCES = ("none", "minor", "major", "critical")
EVERY = [Judgement("diagnosis", c, s) for c in DIAGNOSIS for s in SIGNIFICANCES] + [
    Judgement("treatment", c, s) for c in TREATMENT for s in SIGNIFICANCES
]
WORST_FIRST = ("discordant", "indeterminate", "partial", "full")
# What one judgement amounts to; "additional" and "deescalate" depend on how much they matter.
ALONE = {
    "confirmed": "full", "agreed": "full",
    "refined": "partial", "agreed-modified": "partial",
    "indeterminate": "indeterminate", "defer": "indeterminate",
    "changed": "discordant", "refuted": "discordant", "alternative": "discordant", "not-recommended": "discordant",
}  # fmt: skip


def amounts_to(judgement: Judgement) -> str | None:
    if judgement.concordance == "not-assessed":
        return None
    if judgement.concordance in ("additional", "deescalate"):
        return "discordant" if judgement.significance in ("major", "critical") else "partial"
    return ALONE[judgement.concordance]


def expected(judgements: tuple[Judgement, ...]) -> str | None:
    found = [a for a in map(amounts_to, judgements) if a]
    return min(found, key=WORST_FIRST.index) if found else None


def code(judgements: tuple[Judgement, ...]) -> str | None:
    found = overall(judgements)
    return found.code if found else None


def test_the_codes_of_the_program_are_those_of_the_design() -> None:
    assert codes.DIAGNOSIS_CODES == DIAGNOSIS
    assert codes.TREATMENT_CODES == TREATMENT
    assert codes.SIGNIFICANCES == SIGNIFICANCES


def test_each_judgement_alone_gives_the_overall_of_the_design() -> None:
    assert {j: code((j,)) for j in EVERY} == {j: expected((j,)) for j in EVERY}


def test_of_two_judgements_the_worse_counts_for_every_pair() -> None:
    wrong = [(a, b) for a, b in itertools.product(EVERY, EVERY) if code((a, b)) != expected((a, b))]

    assert wrong == []


def test_of_three_judgements_the_worst_counts_and_the_order_does_not_matter() -> None:
    kinds = [Judgement("diagnosis", c, "major") for c in DIAGNOSIS] + [Judgement("treatment", c) for c in TREATMENT]
    for three in itertools.combinations_with_replacement(kinds, 3):
        assert {code(order) for order in itertools.permutations(three)} == {expected(three)}


def test_without_an_assessed_axis_there_is_no_overall() -> None:
    assert overall([]) is None
    assert overall([Judgement("diagnosis", "not-assessed", "critical")]) is None


@pytest.mark.parametrize(
    ("judgements", "text"),
    [
        ([("treatment", "agreed")], "full (treatment only)"),
        ([("diagnosis", "confirmed")], "full (diagnosis only)"),
        ([("diagnosis", "not-assessed"), ("treatment", "agreed")], "full (treatment only)"),
        ([("diagnosis", "changed"), ("treatment", "not-assessed")], "discordant (diagnosis only)"),
        ([("treatment", "defer"), ("treatment", "agreed")], "indeterminate (treatment only)"),
        ([("diagnosis", "refined"), ("diagnosis", "confirmed")], "partial (diagnosis only)"),
    ],
)
def test_the_axis_that_was_assessed_is_always_said(judgements: list[tuple[str, str]], text: str) -> None:
    found = overall(Judgement(axis, concordance) for axis, concordance in judgements)

    assert found is not None
    assert found.text == text


def test_when_both_axes_were_assessed_the_text_claims_neither_only() -> None:
    found = overall([Judgement("treatment", "agreed"), Judgement("diagnosis", "confirmed")])

    assert found is not None
    assert found.axes == ("diagnosis", "treatment")
    assert found.text.startswith("full")
    assert "only" not in found.text


def test_the_highest_significance_is_that_of_an_assessed_axis() -> None:
    for first, second in itertools.product(SIGNIFICANCES, SIGNIFICANCES):
        pair = [Judgement("diagnosis", "refined", first), Judgement("treatment", "agreed", second)]
        assert highest_significance(pair) == max(first, second, key=SIGNIFICANCES.index)
    assert highest_significance([Judgement("diagnosis", "not-assessed", "critical")]) == "none"
    assert highest_significance([]) == "none"
