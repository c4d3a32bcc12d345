"""What one case teaches, and what all of them may say."""

from __future__ import annotations

import csv
import io
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_secondop.opinion import learned
from fhir_secondop.opinion.learned import MEASURES, Outcome, aggregate, as_csv, rows

USUAL = {"concordance": "full", "since-request": "in-time", "since-complete": "in-time",
         "record-at-acceptance": "complete", "unread": "read", "loop": "aligned"}  # fmt: skip


def outcome(specialty: str = "Oncology", reason: str = "pre procedure", days: int = 5, **said: str) -> Outcome:
    categories = {**USUAL, **{name.replace("_", "-"): category for name, category in said.items()}}
    return Outcome((specialty, reason), categories, {"since-request": days, "since-complete": days - 1})


def numbers(outcomes: list[Outcome]) -> dict[tuple[str, str, str], int | str]:
    """(group, measure, category) → number, of all and of each specialty."""
    return {(g, m, c): n for b, g, m, c, n in rows(aggregate(outcomes)) if b != "reason"}


def test_ten_cases_say_nothing_and_forty_say_what_is_many() -> None:
    assert {n for n in numbers([outcome()] * 10).values() if isinstance(n, int)} == set()
    found = numbers([outcome()] * 20 + [outcome(concordance="partial", days=9)] * 20)
    assert found["", "cases", ""] == 40
    # Twenty of forty are partial; that the rest is all full does not follow, nor that nobody is discordant.
    assert found["", "concordance", "partial"] == 20
    assert {found["", "concordance", c] for c in ("full", "discordant", "indeterminate", "not-assessed")} == {
        "withheld"
    }
    found = numbers([outcome()] * 30 + [outcome(concordance=c) for c in ["partial"] * 20 + ["discordant"] * 8
                                        + ["indeterminate"] * 7])  # fmt: skip
    assert (found["", "concordance", "full"], found["", "concordance", "partial"]) == (30, 20)
    assert {found["", "concordance", c] for c in ("discordant", "indeterminate", "not-assessed")} == {"small"}
    assert found["", "business-days-since-request", "median"] == 5


def test_median_and_percentile_are_of_whole_cases() -> None:
    found = numbers([outcome(days=n) for n in range(1, 21)])
    assert found["", "business-days-since-request", "median"] == 10
    assert found["", "business-days-since-request", "90th-percentile"] == 18
    assert found["", "business-days-since-complete", "median"] == 9


def test_a_small_specialty_has_no_numbers_and_does_not_follow_from_the_others() -> None:
    found = numbers([outcome()] * 40 + [outcome("Surgery")] * 30 + [outcome("Rare")] * 3)
    assert found["Oncology", "cases", ""] == 40
    assert {found["Rare", "cases", ""], found["Surgery", "cases", ""]} == {"withheld"}
    for name in ("Rare", "Surgery"):
        assert {n for (g, _, _), n in found.items() if g == name} == {"withheld"}


def test_a_group_that_is_named_like_a_formula_is_none_in_a_spreadsheet() -> None:
    text = as_csv(aggregate([outcome("=cmd()")] * 12))
    read = list(csv.DictReader(io.StringIO(text)))
    assert {row["group"] for row in read if row["breakdown"] == "specialty"} == {"'=cmd()"}
    assert {row["number"] for row in read if row["measure"] == "cases"} == {"12"}


_SAID = st.fixed_dictionaries({m: st.sampled_from(cs) for m, cs in MEASURES.items()})
_CASES = st.lists(st.builds(
    Outcome, st.tuples(st.sampled_from("ABC"), st.sampled_from("xy")), _SAID,
    st.fixed_dictionaries({c: st.integers(0, 30) for c in learned.CLOCKS})), max_size=120)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(_CASES)
def test_no_number_under_eleven_is_ever_shown_and_every_case_counts_once(outcomes: list[Outcome]) -> None:
    found = aggregate(outcomes)
    counted: list[Any] = [n for *_, m, _, n in rows(found) if not m.startswith("business-days")]
    assert all(n >= 11 for n in counted if isinstance(n, int))
    for group in found:
        for categories in group.counts.values():
            whole = [n for n in categories.values() if isinstance(n, int)]
            if len(whole) == len(categories):
                assert sum(whole) == group.size
            else:
                assert len(categories) - len(whole) > 1 or isinstance(group.size, str)
