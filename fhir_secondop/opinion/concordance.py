"""Do the two opinions agree? Per item and axis by the reviewer; the overall code is derived (DOMAIN section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_DISCORDANT = frozenset({"changed", "refuted", "alternative", "not-recommended"})
_GRAVE_IF_MAJOR = frozenset({"additional", "deescalate"})
_OPEN = frozenset({"indeterminate", "defer"})
_AGREEING = frozenset({"confirmed", "agreed"})
_MAJOR = frozenset({"major", "critical"})


@dataclass(frozen=True, slots=True)
class Judgement:
    """One axis of one item: a code of the axis' own system, and how much it matters."""

    axis: str  # diagnosis or treatment
    concordance: str
    significance: str = "none"


@dataclass(frozen=True, slots=True)
class Overall:
    """discordant, indeterminate, full or partial; the axes that were assessed are always said with it."""

    code: str
    axes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The code with its scope, which is always said: full (treatment only), partial (diagnosis and treatment)."""
        only = " only" if len(self.axes) == 1 else ""
        return f"{self.code} ({' and '.join(self.axes)}{only})"


def overall(judgements: Iterable[Judgement]) -> Overall | None:
    """The worst over the axes that were assessed; None when none was."""
    assessed = [j for j in judgements if j.concordance != "not-assessed"]
    if not assessed:
        return None
    axes = tuple(axis for axis in ("diagnosis", "treatment") if any(j.axis == axis for j in assessed))
    if any(_is_discordant(j) for j in assessed):
        return Overall("discordant", axes)
    if any(j.concordance in _OPEN for j in assessed):
        return Overall("indeterminate", axes)
    if all(j.concordance in _AGREEING for j in assessed):
        return Overall("full", axes)
    return Overall("partial", axes)


def _is_discordant(judgement: Judgement) -> bool:
    if judgement.concordance in _DISCORDANT:
        return True
    return judgement.concordance in _GRAVE_IF_MAJOR and judgement.significance in _MAJOR


def highest_significance(judgements: Iterable[Judgement]) -> str:
    """none, minor, major or critical: the gravest of the assessed axes."""
    order = ("none", "minor", "major", "critical")
    return max((j.significance for j in judgements if j.concordance != "not-assessed"), key=order.index, default="none")
