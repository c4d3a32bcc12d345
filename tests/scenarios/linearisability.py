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
    order = sorted(history, key=lambda done: done.began)
    answered = sum(1 << place for place, done in enumerate(order) if done.answer is not None)
    seen = set()
    ahead = [(0, state)]
    while ahead:
        happened, state = ahead.pop()
        if happened & answered == answered:
            return True
        if (happened, state) in seen:
            continue
        seen.add((happened, state))
        earliest = math.inf
        for place, done in enumerate(order):
            if done.began > earliest:
                break
            if not happened >> place & 1:
                following, answer = run(state, done.asked)
                # One that was lost and changes nothing here may as well come later, or never.
                if answer == done.answer or (done.answer is None and following != state):
                    ahead.append((happened | 1 << place, following))
                if done.answer is not None:
                    earliest = min(earliest, done.ended)
    return False
