"""Which cells of a table of counts may be shown: none under the threshold, and none that gives one away. Pure.

A cell under the threshold is withheld, and with it, in each row and column, as many others as it takes: at least two
withheld cells whose sum is no small number, and none that follows from the sums of rows and columns together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

LEAST = 11
T = TypeVar("T", bound=Hashable)
ALL = ""  # the row of all groups

Counts = Mapping[str, int]
Cell = tuple[int, str, str]
"""Number of the breakdown, group, category; the row of all belongs to every breakdown and has the number -1."""


def groups_withheld(sizes: Counts, least: int = LEAST) -> frozenset[str]:
    """The groups whose very size is not shown, while the sum of all sizes is."""
    hidden = {group for group, size in sizes.items() if size < least}
    while hidden and sum(sizes[g] for g in hidden) < least:  # so there are at least two
        shown = sorted((size, group) for group, size in sizes.items() if group not in hidden)
        if not shown:
            break
        hidden.add(shown[0][1])
    return frozenset(hidden)


@dataclass(frozen=True, slots=True)
class Protected:
    """What may be said of each cell: its number, "small" (it is under the threshold), or "withheld"."""

    numbers: Mapping[Cell, int]
    hidden: frozenset[Cell]
    small: frozenset[Cell]

    def of(self, breakdown: int, group: str, category: str) -> int | str:
        """The number, or why there is none."""
        cell = (-1 if group == ALL else breakdown, group, category)
        if cell not in self.hidden:
            return self.numbers[cell]
        return "small" if cell in self.small else "withheld"


@dataclass(frozen=True, slots=True)
class _Line:
    """Cells that add up to a number that is known, or to a cell (`total`)."""

    parts: tuple[Cell, ...]
    total: Cell | None


def protect(
    breakdowns: Sequence[Mapping[str, Counts]], categories: Sequence[str],
    unsized: Iterable[tuple[int, str]] = (), least: int = LEAST,
) -> Protected:  # fmt: skip
    """Protects the counts by group and category of several breakdowns of the same cases, and those of all together.

    `unsized` are the (breakdown, group) whose size is not shown: nothing of them is. Sizes of the others are known.
    """
    numbers: dict[Cell, int] = {
        (place, group, category): counts.get(category, 0)
        for place, groups in enumerate(breakdowns)
        for group, counts in groups.items()
        for category in categories
    }
    first = breakdowns[0]
    numbers |= {(-1, ALL, c): sum(counts.get(c, 0) for counts in first.values()) for c in categories}
    without_size = set(unsized)
    if sum(numbers[-1, ALL, c] for c in categories) < least:
        everything = frozenset(numbers)
        return Protected(numbers, everything, frozenset())
    lines = [_Line(tuple((-1, ALL, c) for c in categories), None)]
    for place, groups in enumerate(breakdowns):
        lines += [
            _Line(tuple((place, g, c) for c in categories), None) for g in groups if (place, g) not in without_size
        ]
        lines += [_Line(tuple((place, g, c) for g in groups), (-1, ALL, c)) for c in categories]
    hidden = {cell for cell, number in numbers.items() if number < least or cell[:2] in without_size}
    while True:
        more = next((cell for line in lines for cell in _needed(line, numbers, hidden, least)), None)
        if more is None:
            more = _against_inference(lines, numbers, hidden)
        if more is None:
            break
        hidden.add(more)
    mixed = {
        cell for line in lines for cells in [_cells(line)]
        if any(numbers[c] >= least or c[:2] in without_size for c in cells if c in hidden) for cell in cells
    }  # fmt: skip
    small = {cell for cell in hidden if numbers[cell] < least and cell not in mixed}
    # To know of many that they are small may tell one of them: then of none it is said.
    if _confined(lines, numbers, hidden, dict.fromkeys(small, least - 1)):
        small = set()
    return Protected(numbers, frozenset(hidden), frozenset(small))


def _cells(line: _Line) -> tuple[Cell, ...]:
    return line.parts if line.total is None else (*line.parts, line.total)


def _needed(line: _Line, numbers: Mapping[Cell, int], hidden: set[Cell], least: int) -> Iterable[Cell]:
    """The cell to withhold next where this line would tell one, the smallest first; nothing where it is safe."""
    away = [cell for cell in _cells(line) if cell in hidden]
    if not away:
        return ()
    if line.total in hidden:
        return _smallest(line, numbers, hidden)  # a total is at least the parts that are shown: none is
    rest = sum(numbers[cell] for cell in away)
    # All of them at the most that a small cell can be: the sum would tell each.
    safe = len(away) >= 2 and rest >= least and rest != (least - 1) * len(away)
    return () if safe else _smallest(line, numbers, hidden)


def _smallest(line: _Line, numbers: Mapping[Cell, int], hidden: set[Cell]) -> list[Cell]:
    """What can be withheld in this line, the smallest first; a total last of all."""
    shown = [cell for cell in _cells(line) if cell not in hidden]
    order: Callable[[Cell], tuple[bool, int, Cell]] = lambda cell: (cell == line.total, numbers[cell], cell)  # noqa: E731
    return sorted(shown, key=order)[:1]


def _against_inference(lines: Sequence[_Line], numbers: Mapping[Cell, int], hidden: set[Cell]) -> Cell | None:
    """The next cell to withhold because rows and columns together determine a withheld one; None where none is."""
    told = determined(_unknowns(line, hidden) for line in lines) | _confined(lines, numbers, hidden, {})
    for line in lines:
        if any(cell in told for cell in _cells(line)):
            found = _smallest(line, numbers, hidden)
            if found:
                return found[0]
    return None


def _unknowns(line: _Line, hidden: set[Cell]) -> dict[Cell, int]:
    """The line as an equation over what is not shown: each cell with its sign."""
    return {cell: (-1 if cell == line.total else 1) for cell in _cells(line) if cell in hidden}


def _confined(
    lines: Sequence[_Line], numbers: Mapping[Cell, int], hidden: set[Cell], most: Mapping[Cell, int]
) -> set[Cell]:  # fmt: skip
    """The withheld cells that can be only one number, since none is negative and some are at `most` so many.

    Each line confines its cells by what the others in it can be, until nothing changes any more.
    """
    whole = sum(numbers.values())
    low = dict.fromkeys(hidden, 0)
    high = {cell: most.get(cell, whole) for cell in hidden}
    equations = [unknowns for line in lines if (unknowns := _unknowns(line, hidden))]
    changed = True
    while changed:
        changed = False
        for unknowns in equations:
            result = sum(sign * numbers[cell] for cell, sign in unknowns.items())  # what is shown gives this sum
            least = {c: low[c] if sign > 0 else -high[c] for c, sign in unknowns.items()}
            greatest = {c: high[c] if sign > 0 else -low[c] for c, sign in unknowns.items()}
            for cell, sign in unknowns.items():
                at_least = result - (sum(greatest.values()) - greatest[cell])
                at_most = result - (sum(least.values()) - least[cell])
                lower, upper = (at_least, at_most) if sign > 0 else (-at_most, -at_least)
                if lower > low[cell] or upper < high[cell]:
                    low[cell], high[cell] = max(low[cell], lower), min(high[cell], upper)
                    changed = True
    return {cell for cell in hidden if low[cell] == high[cell]}


def determined(equations: Iterable[Mapping[T, int]]) -> set[T]:
    """The unknowns that linear equations determine, whatever their right sides are: by elimination, exactly."""
    reduced: list[dict[T, Fraction]] = []
    pivots: list[T] = []
    for equation in equations:
        row = {unknown: Fraction(factor) for unknown, factor in equation.items() if factor}
        for pivot, other in zip(pivots, reduced, strict=True):
            _eliminate(row, pivot, other)
        if not row:
            continue
        pivot = next(iter(row))
        lead = row[pivot]
        row = {unknown: factor / lead for unknown, factor in row.items()}
        for other in reduced:
            _eliminate(other, pivot, row)
        reduced.append(row)
        pivots.append(pivot)
    return {next(iter(row)) for row in reduced if len(row) == 1}


def _eliminate(row: dict[T, Fraction], pivot: T, by: Mapping[T, Fraction]) -> None:
    factor = row.get(pivot)
    if not factor:
        return
    for unknown, value in by.items():
        left = row.get(unknown, Fraction(0)) - factor * value
        if left:
            row[unknown] = left
        else:
            row.pop(unknown, None)
