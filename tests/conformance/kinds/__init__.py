"""Kinds of faults, and of changes that do no harm: each names one rule and finds where an example can break it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.conformance.nodes import Example, Site


@dataclass(frozen=True)
class Kind:
    """`name`: the kind of fault; `variant`: how it is made; `count`: of cases, at most; `valid`: what is meant.

    `valid` None: not every case has the same answer.
    """

    name: str
    variant: str
    count: int
    sites: Callable[[Example], Iterable[Site]]
    valid: bool | None = False
