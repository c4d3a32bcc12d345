"""Two values of two sources compared: dates of different precision, sides of the body, codes, measured values.

Missing is not different: what one of them does not say agrees with everything, and proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion.sourced import Code, Sourced, fold, text_of

INSTANT, DAY, NEVER = 2, 1, 0
_SIDES = {
    "left": {"left"}, "lt": {"left"}, "right": {"right"}, "rt": {"right"}, "bilateral": {"left", "right"},
    "both": {"left", "right"}, "bilaterally": {"left", "right"},
}  # fmt: skip
_LEVEL = re.compile(r"\b([ctls])(\d{1,2})\b")
_RANGES = {"c": 8, "t": 12, "l": 5, "s": 5}
# An EHR that has only the date often writes midnight.
_MIDNIGHT = re.compile(r"T00:00(:00(\.0+)?)?(Z|[+-]\d\d:\d\d)?$")


def moments(one: str, other: str) -> int:
    """INSTANT when both name the same moment, DAY when one has only the day and it is the same, else NEVER."""
    first, second = (_MIDNIGHT.sub("", text) for text in (one, other))
    if "T" in first and "T" in second:
        return INSTANT if _overlap(first, second) else NEVER
    # The day as each wrote it: whoever leaves the time out leaves the zone out too.
    return DAY if len(first) >= 10 and len(second) >= 10 and first[:10] == second[:10] else NEVER


def timed(text: str) -> bool:
    """Whether a date says the time too."""
    return "T" in _MIDNIGHT.sub("", text)


def minute(text: str) -> str:
    """The minute of UTC that a time falls into, whatever zone it is written in; a key to look for the same moment."""
    try:
        return str(times.interval(text).low // 60_000)
    except Invalid:
        return text


def agree(one: str, other: str) -> bool:
    """Whether two dates can be of the same day: "2016" agrees with "2016-03-08", and no date with any."""
    length = min(len(one), len(other), 10)
    return one[:length] == other[:length] or _overlap(one, other)


def _overlap(one: str, other: str) -> bool:
    try:
        first, second = times.interval(one), times.interval(other)
    except Invalid:  # a copy is kept as it came, even with a date that does not exist
        return one == other
    return first.low < second.high and second.low < first.high


def contradict(one: frozenset[Code], other: frozenset[Code]) -> bool:
    """Whether the same system calls the two by different codes, and no system by the same."""
    return not one & other and bool({system for system, _ in one} & {system for system, _ in other})


def distinct_identifiers(a: Sourced, b: Sourced) -> bool:
    """Whether one numbering has two numbers for them."""
    return contradict(a.identifiers, b.identifiers)


def concepts_alike(a: Sourced, b: Sourced) -> str:
    """Why the two are about the same thing, "" when that can't be told: a shared code, else the same words."""
    shared = sorted(a.codes & b.codes)
    if shared:
        system, code = shared[0]
        return f"same code ({system.rstrip('/').rpartition('/')[2]} {code})"
    if contradict(a.codes, b.codes):
        return ""
    words = sorted(a.texts & b.texts)
    return f'same words ("{words[0]}")' if words else ""


def sides(item: Sourced) -> frozenset[str]:
    """The sides of the body that it names: of "left" and "right"; nothing when it names none."""
    return frozenset(side for text in _site_texts(item) for word in text.split() for side in _SIDES.get(word, ()))


def without_sides(text: str) -> str:
    """Folded words but for those that name a side: what left and right have in common."""
    return " ".join(word for word in text.split() if word not in _SIDES)


def levels(item: Sourced) -> frozenset[str]:
    """The vertebral levels that it names: "l4" and "l5" of "L4-L5"."""
    found = (match for text in _site_texts(item) for match in _LEVEL.finditer(text))
    return frozenset(m[0] for m in found if 1 <= int(m[2]) <= _RANGES[m[1]])


def _site_texts(item: Sourced) -> Iterable[str]:
    return [*item.texts, *(fold(text) for site in _body_sites(item) for text in _words(site))]


def sites_contradict(a: Sourced, b: Sourced) -> bool:
    """Whether the two are at different places: another side, another level, another body site."""
    if sides(a) and sides(b) and sides(a) != sides(b):
        return True
    if levels(a) and levels(b) and not levels(a) & levels(b):
        return True
    first, second = _body_sites(a), _body_sites(b)
    if not first or not second:
        return False
    one, other = _site_codes(first), _site_codes(second)
    if one & other:
        return False
    if contradict(one, other):
        return True
    # In words: "left breast" is the same place as "left breast, upper outer quadrant", and not as "left axilla".
    these, those = ({word for site in found for t in _words(site) for word in fold(t).split()}
                    for found in (first, second))  # fmt: skip
    return bool(these and those) and not (these <= those or those <= these)


def _body_sites(item: Sourced) -> list[Resource]:
    found = item.resource.get("bodySite", [])
    return found if isinstance(found, list) else [found]


def _site_codes(found: list[Resource]) -> frozenset[Code]:
    return frozenset((c.get("system", ""), c["code"]) for s in found for c in s.get("coding", []) if "code" in c)


def _words(concept: Resource) -> list[str]:
    return [t for t in [concept.get("text", ""), *(c.get("display", "") for c in concept.get("coding", []))] if t]


def values_alike(one: Any, other: Any) -> bool:
    """Whether two values of Observations are the same: 13.1 g/dL is 13.10 g/dL, whatever the unit's spelling."""
    if isinstance(one, dict) and isinstance(other, dict):
        if "coding" in one or "text" in one:
            first, second = ({(c.get("system"), c.get("code")) for c in v.get("coding", [])} for v in (one, other))
            return bool(first & second) or (fold(text_of(one)) == fold(text_of(other)) != "")
        if "value" in one and "value" in other:
            same = one["value"] == other["value"] and one.get("comparator") == other.get("comparator")
            units = [{fold_unit(v[name]) for name in ("code", "unit") if name in v} for v in (one, other)]
            return same and (not all(units) or bool(units[0] & units[1]))
    if isinstance(one, str) and isinstance(other, str):
        return fold(one) == fold(other)
    return bool(one == other)


def fold_unit(unit: str) -> str:
    """A unit without spaces, and micrograms written one way."""
    squeezed = unit.replace(" ", "").replace("µ", "u").replace("μ", "u")
    return "ug" if squeezed == "mcg" else squeezed


def value_of(observation: Resource) -> Any:
    """The value of an Observation, or of each component by its code; None when it has none."""
    own = next((v for name, v in observation.items() if name.startswith("value")), None)
    parts = {_part_key(c): value_of(c) for c in observation.get("component", [])}
    return parts if own is None and parts else own


def _part_key(component: Resource) -> str:
    code = component.get("code", {})
    return next((c["code"] for c in code.get("coding", []) if "code" in c), fold(text_of(code)))


def measured_alike(a: Resource, b: Resource) -> bool | None:
    """Whether two Observations say the same value; None when one says none."""
    one, other = value_of(a), value_of(b)
    if one is None or other is None:
        return None
    if a.get("component") and b.get("component") and isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            value is not None and values_alike(value, other[key]) for key, value in one.items()
        )
    return values_alike(one, other)
