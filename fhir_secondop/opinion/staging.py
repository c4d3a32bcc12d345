"""The stage that a diagnosis is given: TNM and stage groups read from the Condition, compared where both are said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fhir_secondop.opinion.sourced import Sourced, text_of

# "cT2 cN0 cM0", "pT1c", "ypT0", "T2N0M0". "T1" alone is more often a vertebra.
_TNM = re.compile(r"(?<![A-Za-z0-9])?((?:y?[cp])?)([TNM])(is|[0-4](?:mi|[a-d])?)(?![0-9a-z-])")
_GROUP = re.compile(r"\bstage\s+(IV|III|II|I|[0-4])([A-D]?)\b", re.IGNORECASE)
_ROMAN = {"0": "0", "1": "I", "2": "II", "3": "III", "4": "IV"}

Stages = Mapping[str, frozenset[str]]
"""Axis ("cT", "group") → what is said of it ("2", "IIA")."""


def stages(items: Iterable[Sourced]) -> Stages:
    """What the Conditions say of the stage, together."""
    return of_texts(text for item in items for text in _texts(item))


def of_texts(texts: Iterable[str]) -> Stages:
    """What these texts say of the stage, together."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for axis, value in _read(text):
            found.setdefault(axis, set()).add(value)
    return {axis: frozenset(values) for axis, values in found.items()}


def _texts(item: Sourced) -> list[str]:
    staged = [text_of(stage.get("summary", {})) for stage in item.resource.get("stage", [])]
    return [*staged, item.concept.get("text", "")]


def _read(text: str) -> list[tuple[str, str]]:
    tnm = [(m[1] + m[2], m[3]) for m in _TNM.finditer(text)]
    if len({axis[-1] for axis, _ in tnm}) < 2:
        tnm = []
    groups = [("group", _ROMAN.get(m[1], m[1].upper()) + m[2].upper()) for m in _GROUP.finditer(text)]
    return tnm + groups


def differ(one: Stages, other: Stages) -> bool:
    """Whether two sources surely say different stages: an axis on which nothing of the one fits the other.

    "IIA" fits "II", "T1c" fits "T1". Clinical and pathological T are two axes; a T that says neither is its own.
    """
    return any(
        not any(_fits(x, y) for x in one[axis] for y in other[axis]) for axis in one.keys() & other.keys()
    )  # fmt: skip


def _fits(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return long.startswith(short) and not long[len(short) :].startswith(("I", "V"))


def contradict(a: Sourced, b: Sourced) -> bool:
    """Whether two Conditions say different stages."""
    return differ(stages([a]), stages([b]))
