"""A corpus of invented records with planted gaps, of which the truth is known; how many of them the checklists find.

Deterministic: a seed and a number give the same record. The records are written by `corpus_records` as EHRs would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fhir_secondop.opinion import checklist
from fhir_secondop.sandbox.corpus_plants import record
from fhir_secondop.sandbox.corpus_truth import Record


@dataclass(frozen=True, slots=True)
class Verdict:
    """One item of one record: the state that is true, and the one that was found ("" if it was not on the list)."""

    record: int
    kind: str
    item: str
    expected: str
    found: str
    because: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """How often a state was true, was found, and both; precision and recall are 1 where there was nothing to find."""

    expected: int
    found: int
    right: int

    @property
    def precision(self) -> float:
        """Of what was found, the part that is true."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Of what is true, the part that was found."""
        return self.right / self.expected if self.expected else 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What a corpus showed; `gaps` takes the states that a reviewer must know of as one."""

    verdicts: list[Verdict] = field(repr=False)

    @property
    def wrong(self) -> list[Verdict]:
        """Where found and true differ."""
        return [v for v in self.verdicts if v.expected != v.found]

    @property
    def states(self) -> dict[str, Score]:
        """A score for each state."""
        return {state: self._score({state}) for state in checklist.STATES}

    @property
    def gaps(self) -> Score:
        """The score of gaps, whichever their state."""
        return self._score(checklist.GAPS)

    def _score(self, states: Iterable[str]) -> Score:
        wanted = set(states)
        counted = Counter((v.expected in wanted, v.found in wanted) for v in self.verdicts)
        both = counted[True, True]
        return Score(both + counted[True, False], both + counted[False, True], both)


def records(count: int, seed: int) -> Iterator[Record]:
    """The records of a corpus, one by one."""
    return (record(seed, number) for number in range(count))


def measure(count: int, seed: int, folder: Path | None = None) -> Measured:
    """Evaluates each record with the checklist that is chosen for it; `folder` has a site's own checklists."""
    return Measured([verdict for each in records(count, seed) for verdict in judge(each, folder)])


def judge(each: Record, folder: Path | None = None) -> list[Verdict]:
    """Found against true, item by item."""
    chosen = checklist.choose(each.reviewed, folder)
    items = checklist.evaluate(
        chosen, each.resources, each.reviewed, today=each.today, answers=each.said, requested=each.requested
    )
    found = {item.code: item for item in items}
    none = checklist.Item("", "", "")
    return [
        Verdict(each.number, each.kind, code, each.truth.get(code, ""), found.get(code, none).state,
                found.get(code, none).because)
        for code in dict.fromkeys([*each.truth, *found])
    ]  # fmt: skip
