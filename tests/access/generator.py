"""From what is registered: each caller × resource × route, and whether the answer is what the small model says.

It takes up what a later change registers by itself where it can, and fails by name on a route, an operation or a search
parameter type that it has no rule for.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from tests.access.combinations.browsing import Browsing
from tests.access.combinations.bundles import Bundles
from tests.access.combinations.defined import Defined
from tests.access.combinations.model import ROUTES, Combination
from tests.access.combinations.operations import Operating
from tests.access.combinations.overseeing import Overseeing
from tests.access.combinations.reading import Reading
from tests.access.combinations.searching import Searching
from tests.access.combinations.writing import Writing
from tests.access.stage import Stage


@dataclass
class Asked:
    """How many combinations of each kind were asked; `leaks` are the broken ones, in words."""

    counted: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)


@dataclass
class Generator(Reading, Searching, Defined, Bundles, Writing, Operating, Overseeing, Browsing):
    """Combinations over a stage, made once: they are hundreds of thousands."""

    stage: Stage

    @cached_property
    def kinds(self) -> dict[str, list[Combination]]:
        """All of them."""
        return {name: list(found) for name, found in self._kinds().items()}

    def run(self, seed: int, most: int, *, until_leak: bool = False, only: str = "") -> Asked:
        """Asks so many combinations, drawn over all kinds or of one; with `until_leak` no more after the first leak."""
        asked, drawn = Asked(), random.Random(seed)
        kinds = {name: list(found) for name, found in self.kinds.items() if only in ("", name)}
        for found in kinds.values():
            drawn.shuffle(found)
        chosen: list[tuple[str, Combination]] = []
        share = most // len(kinds)
        rest: list[tuple[str, Combination]] = []
        for name, found in kinds.items():
            chosen += [(name, c) for c in found[:share]]
            rest += [(name, c) for c in found[share:]]
        drawn.shuffle(rest)
        if until_leak:  # any kind may be the one that shows it
            drawn.shuffle(chosen)
        for name, one in [*chosen, *rest[: max(0, most - len(chosen))]]:
            asked.counted[name] += 1
            wrong = one.ask()
            if wrong:
                asked.leaks.append(f"{name}: {one.who}: {one.what}: {wrong}")
                if until_leak:
                    break
        return asked

    def _kinds(self) -> dict[str, Iterator[Combination]]:
        return {
            "read": self._reads(), "history": self._histories(), "search": self._searches(),
            "through": self._throughs(), "everything": self._everythings(),
            "document": self._documents(),
            "transaction": self._transactions(), "batch": self._batches(), "write": self._writes(),
            "refer": self._referring(),
            "conditional create": self._conditional(), "operation": self._operations(), "list": self._lists(),
            "several": self._severals(), "link": self._links(), "page": self._pages(), "form": self._forms(),
            "overseeing": self._overseeing(),
        }  # fmt: skip


def unknown_routes(stage: Stage) -> list[str]:
    """The routes that the model has no rule for."""
    rules = {rule.rule for rule in stage.world.client.application.url_map.iter_rules()}
    return sorted(rules - set(ROUTES))
