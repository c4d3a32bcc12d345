"""Diagnoses of two sources compared: refuted by one, at another side of the body, at another stage."""

from __future__ import annotations

from fhir_secondop.opinion import staging
from fhir_secondop.opinion.likeness import agree, levels, sides, without_sides
from fhir_secondop.opinion.sourced import Sourced

_ICD = "icd-10"


def family_of(a: Sourced, b: Sourced) -> bool:
    """Whether two Conditions are of one problem, so that they can disagree about it: same code or same words, left and
    right left out.
    """
    if a.codes & b.codes:
        return True
    # ICD-10-CM says the side in one character: C50.412 is left, C50.411 right.
    near = any(_side_apart(x, y) for x in a.codes for y in b.codes)
    words = [{without_sides(text) for text in item.texts} - {""} for item in (a, b)]
    return (near and bool(sides(a) and sides(b))) or bool(words[0] & words[1])


def _side_apart(one: tuple[str, str], other: tuple[str, str]) -> bool:
    same_system = one[0] == other[0] and _ICD in one[0]
    if not same_system or len(one[1]) != len(other[1]) or len(one[1]) < 6:
        return False
    return sum(x != y for x, y in zip(one[1], other[1], strict=True)) == 1


def problem_differs(ones: list[Sourced], others: list[Sourced]) -> bool:
    """Whether what one source says of a problem can't stand beside what the other says."""
    held = [[i for i in items if not i.negative] for items in (ones, others)]
    for having, against in ((held[0], others), (held[1], ones)):
        denied = [i for i in against if i.negative]
        if denied and len(denied) == len(against) and any(_same_episode(i, d) for i in having for d in denied):
            return True
    # Two wrists broken years apart are two fractures.
    first = [i for i in held[0] if any(_same_episode(i, j) for j in held[1])]
    second = [j for j in held[1] if any(_same_episode(i, j) for i in held[0])]
    return (
        _apart([sides(i) for i in first], [sides(i) for i in second])
        or _apart([levels(i) for i in first], [levels(i) for i in second])
        or staging.differ(staging.stages(first), staging.stages(second))
    )


def _same_episode(a: Sourced, b: Sourced) -> bool:
    onsets = [
        str(i.resource.get("onsetDateTime") or i.resource.get("onsetPeriod", {}).get("start", "")) for i in (a, b)
    ]
    return agree(*onsets)


def _apart(ones: list[frozenset[str]], others: list[frozenset[str]]) -> bool:
    """Whether both say a place and they have none in common."""
    one, other = frozenset().union(*ones), frozenset().union(*others)
    return bool(one and other) and not one & other
