"""Whether what clients saw of one register could have been so, had each request happened at one moment of its time.

The search of Wing and Gong with Lowe's memory of where it has been: an operation that began before every other one had
ended may come first; what follows is tried in the same way.
Source: https://www.cs.ox.ac.uk/people/gavin.lowe/LinearizabiltyTesting/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Done:
    """What a client asked, and what it was answered between two moments; `answer` is None where none came.

    What was not answered may have happened at any moment since, or never.
    """

    asked: Any
    answer: Any
    began: float
    ended: float = math.inf


def is_linearisable(history: Sequence[Done], state: Any, run: Callable[[Any, Any], tuple[Any, Any]]) -> bool:
    """`run(state, asked)` gives the next state and the answer: the register as it should be. States are hashable."""
    answered = sorted((done for done in history if done.answer is not None), key=lambda done: done.began)
    lost = [done for done in history if done.answer is None]
    seen = set()
    # How many of the answered have happened without a gap, which beyond those, and which of the lost.
    nothing: frozenset[int] = frozenset()
    ahead = [(0, nothing, nothing, state)]
    while ahead:
        place = ahead.pop()
        if place in seen:
            continue
        seen.add(place)
        first, beyond, found, state = place
        if first == len(answered):
            return True
        earliest, candidates = math.inf, []
        for number in range(first, len(answered)):
            if answered[number].began > earliest:
                break
            if number not in beyond:
                candidates.append(number)
                earliest = min(earliest, answered[number].ended)
        for number, done in enumerate(lost):
            following, _ = run(state, done.asked)
            # One that changes nothing here may as well come later, or never.
            if number not in found and done.began <= earliest and following != state:
                ahead.append((first, beyond, found | {number}, following))
        for number in reversed(candidates):
            following, answer = run(state, answered[number].asked)
            if answer == answered[number].answer:
                ahead.append((*_past(first, beyond | {number}), found, following))
    return False


def _past(first: int, beyond: frozenset[int]) -> tuple[int, frozenset[int]]:
    while first in beyond:
        beyond -= {first}
        first += 1
    return first, beyond
