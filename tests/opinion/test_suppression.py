"""No count under eleven is shown, and none follows from what is shown: against every table that could be meant."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_secondop.opinion import suppression
from fhir_secondop.opinion.suppression import ALL, LEAST, Protected, determined, groups_withheld, protect

Table = dict[str, dict[str, int]]


def shown(found: Protected, breakdowns: list[Table], categories: list[str]) -> dict[tuple[int, str, str], int | str]:
    cells = [(place, g, c) for place, groups in enumerate(breakdowns) for g in groups for c in categories]
    return {cell: found.of(*cell) for cell in [*cells, *((0, ALL, c) for c in categories)]}


def test_a_small_cell_takes_a_second_one_with_it_and_the_sums_tell_neither() -> None:
    found = protect([{"a": {"x": 50, "y": 30, "z": 5}, "b": {"x": 40, "y": 20, "z": 20}}], ["x", "y", "z"])
    assert found.of(0, "a", "z") == "withheld"  # 85 - 50 - 30 would tell it, and so would 25 - 20
    assert found.of(0, "a", "y") == "withheld"
    assert found.of(0, "b", "z") == "withheld"
    assert found.of(0, "a", "x") == 50
    assert found.of(0, ALL, "x") == 90


def test_small_cells_that_need_no_help_say_that_they_are_small() -> None:
    found = protect([{"a": {"x": 100, "y": 9, "z": 8}, "b": {"x": 100, "y": 7, "z": 9}}], ["x", "y", "z"])
    assert {found.of(0, g, c) for g in "ab" for c in "yz"} == {"small"}
    assert [found.of(0, ALL, c) for c in "xyz"] == [200, 16, 17]


def test_two_tens_whose_sum_is_twenty_are_not_called_small() -> None:
    found = protect([{"a": {"x": 100, "y": 10, "z": 10}}], ["x", "y", "z"])
    assert {found.of(0, "a", c) for c in "yz"} == {"withheld"}
    assert found.of(0, "a", "x") == "withheld"


def test_under_eleven_cases_nothing_is_shown_at_all() -> None:
    found = protect([{"a": {"x": 10, "y": 0}}], ["x", "y"])
    assert {found.of(0, g, c) for g in ("a", ALL) for c in "xy"} == {"withheld"}


@pytest.mark.parametrize(
    ("sizes", "hidden"),
    [
        ({"a": 20, "b": 30}, set()),
        ({"a": 20, "b": 30, "c": 3}, {"a", "c"}),
        ({"a": 20, "b": 30, "c": 6, "d": 6}, {"c", "d"}),
        ({"a": 20, "b": 30, "c": 5, "d": 5}, {"a", "c", "d"}),
        ({"a": 10}, {"a"}),
        ({}, set()),
    ],
)
def test_a_small_group_takes_the_next_with_it(sizes: dict[str, int], hidden: set[str]) -> None:
    assert groups_withheld(sizes) == hidden


def test_what_only_rows_and_columns_together_tell_is_found() -> None:
    # Two rings of four unknowns with a bridge between them: each line has two or three, and yet the bridge follows.
    rings = [{"a": 1, "b": 1}, {"c": 1, "d": 1, "bridge": 1}, {"a": 1, "c": 1}, {"b": 1, "d": 1},
             {"e": 1, "f": 1, "bridge": 1}, {"g": 1, "h": 1}, {"e": 1, "g": 1}, {"f": 1, "h": 1}]  # fmt: skip
    assert determined(rings) == {"bridge"}
    assert determined([{"a": 1, "b": 1}, {"a": 1, "b": -1}]) == {"a", "b"}
    assert determined([{"a": 1, "b": 1}]) == set()


def test_a_table_whose_rows_and_columns_would_tell_a_cell_together_withholds_more() -> None:
    away = {"a": "wx", "b": "wxy", "c": "yz", "d": "yz"}  # two rings of eights, and b's y between them
    table = {g: {c: 8 if c in cells else 50 for c in "wxyz"} for g, cells in away.items()}
    found = protect([table], list("wxyz"))
    hidden = {(0, g, c) for g in table for c in "wxyz" if not isinstance(found.of(0, g, c), int)}
    assert hidden > {(0, g, c) for g, cells in away.items() for c in cells}
    lines = [{(0, g, c): 1 for c in "wxyz"} for g in table] + [{(0, g, c): 1 for g in table} for c in "wxyz"]
    assert determined([{cell: 1 for cell in line if cell in hidden} for line in lines]) == set()


K = 3  # a smaller threshold, so that every table that could be meant can be tried


def fitting(table: Table, found: Protected, categories: list[str], most: int) -> Iterator[Table]:
    """Every table of the same sizes that agrees with all that is shown of the true one."""
    groups = list(table)
    rows = {
        g: [r for r in itertools.product(range(most + 1), repeat=len(categories))
            if sum(r) == sum(table[g].values())
            and all(_agrees(found.of(0, g, c), number) for c, number in zip(categories, r, strict=True))]
        for g in groups
    }  # fmt: skip
    for chosen in itertools.product(*(rows[g] for g in groups)):
        columns = [sum(row[n] for row in chosen) for n in range(len(categories))]
        if all(_agrees(found.of(0, ALL, c), n) for c, n in zip(categories, columns, strict=True)):
            yield {g: dict(zip(categories, row, strict=True)) for g, row in zip(groups, chosen, strict=True)}


def _agrees(said: int | str, number: int) -> bool:
    return said == number if isinstance(said, int) else number < K if said == "small" else True


def _rows(groups: int, categories: int) -> st.SearchStrategy[list[list[int]]]:
    row = st.lists(st.integers(0, 5), min_size=categories, max_size=categories)
    return st.lists(row, min_size=groups, max_size=groups)


@settings(max_examples=400, deadline=None)
@given(_rows(2, 3) | _rows(3, 2))
def test_no_withheld_cell_is_the_same_in_every_table_that_fits(rows: list[list[int]]) -> None:
    categories = ["x", "y", "z"][: len(rows[0])]
    table = {f"g{n}": dict(zip(categories, row, strict=True)) for n, row in enumerate(rows)}
    sizes = {g: sum(row.values()) for g, row in table.items()}
    if groups_withheld(sizes, K):
        return  # with sizes unknown there is more that fits, not less
    found = protect([table], categories, least=K)
    said = shown(found, [table], categories)
    assert all(value >= K for value in said.values() if isinstance(value, int))
    possible: dict[tuple[str, str], set[int]] = {}
    for other in fitting(table, found, categories, 15):
        for g, row in other.items():
            for c, number in row.items():
                possible.setdefault((g, c), set()).add(number)
    for (g, c), numbers in possible.items():
        if not isinstance(found.of(0, g, c), int):
            assert len(numbers) > 1, (g, c, table, said)


_COUNTS = st.lists(st.lists(st.integers(0, 60), min_size=4, max_size=4), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(_COUNTS, st.randoms(use_true_random=False))
def test_two_breakdowns_of_the_same_cases_tell_no_withheld_cell_together(rows: list[list[int]], drawn: object) -> None:
    categories = ["w", "x", "y", "z"]
    one = {f"g{n}": dict(zip(categories, row, strict=True)) for n, row in enumerate(rows)}
    other: Table = {"p": dict.fromkeys(categories, 0), "q": dict.fromkeys(categories, 0)}
    for row in one.values():
        for c, number in row.items():
            part = drawn.randint(0, number)  # type: ignore[attr-defined]
            other["p"][c] += part
            other["q"][c] += number - part
    tables = [one, other]
    away = [(n, g) for n, table in enumerate(tables)
            for g in groups_withheld({g: sum(row.values()) for g, row in table.items()})]  # fmt: skip
    found = protect(tables, categories, away)
    said = shown(found, tables, categories)
    assert all(value >= LEAST for value in said.values() if isinstance(value, int))
    # Independent of how it was found: every published sum as an equation over what is not shown.
    hidden = {cell if cell[1] else (-1, ALL, cell[2]) for cell, value in said.items() if not isinstance(value, int)}
    equations = [{(-1, ALL, c): 1 for c in categories}]
    for n, table in enumerate(tables):
        equations += [{(n, g, c): 1 for c in categories} for g in table if (n, g) not in away]
        equations += [{**{(n, g, c): 1 for g in table}, (-1, ALL, c): -1} for c in categories]
    left = [{cell: factor for cell, factor in e.items() if cell in hidden} for e in equations]
    if sum(sum(row.values()) for row in one.values()) >= LEAST:
        assert determined(left) == set()
    assert suppression.LEAST == 11
