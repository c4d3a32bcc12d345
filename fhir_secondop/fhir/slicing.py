"""Which values belong to a slice: by value, pattern, existence, type or profile of what stands at its path.

Source: https://hl7.org/fhir/R4/profiling.html#discriminator
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fhir_secondop.fhir.faults import Place

if TYPE_CHECKING:
    from fhir_secondop.fhir.profiles import Rule

Typed = tuple[str, Any, Place]
Conforms = Callable[[str, Mapping[str, Any], Place], bool]
"""Whether a value satisfies the profile with that URL."""
Test = Callable[[Typed], bool]


def members(sliced: Rule, rule: Rule, found: list[Typed], conforms: Conforms) -> list[Typed] | None:
    """The values that belong to a slice; None where the profile does not say by what."""
    urls = list(extension_profiles(rule))
    if "url" in rule.children and (fixed := rule.children["url"].value("fixed")) is not None:
        urls.append(fixed)
    if urls:
        return [node for node in found if isinstance(node[1], Mapping) and node[1].get("url") in urls]
    if str(rule.element.get("path", "")).endswith("[x]"):
        types = {each["code"] for each in rule.element.get("type", ())}
        return [node for node in found if node[0] in types] if types else None
    discriminators = sliced.element.get("slicing", {}).get("discriminator", ())
    tests = [_test(each["type"], each["path"], rule, conforms) for each in discriminators]
    wanted = [test for test in tests if test is not None]
    if not wanted or len(wanted) < len(tests):
        return None
    return [node for node in found if all(test(node) for test in wanted)]


def _test(kind: str, path: str, rule: Rule, conforms: Conforms) -> Test | None:
    steps = () if path == "$this" else tuple(path.split("."))
    at: Rule | None = rule
    for step in steps:
        at = at.children.get(step) if at else None
    if at is None:
        return None
    if kind in ("value", "pattern"):
        fixed = at.value("fixed")
        demand = at.value("pattern") if fixed is None else fixed
        return None if demand is None else lambda node: any(fits(v, demand) for v in _at(node[1], steps))
    if kind == "exists":
        must = at.element.get("max") != "0"
        return lambda node: bool(list(_at(node[1], steps))) is must
    types = at.element.get("type", ())
    if kind == "type":
        codes = {each["code"] for each in types}
        return lambda node: any(_type_of(v, node, steps) in codes for v in _at(node[1], steps))
    profiles = [url for each in types for url in each.get("profile", ())]
    return lambda node: any(
        conforms(url, v, node[2]) for url in profiles for v in _at(node[1], steps) if isinstance(v, Mapping)
    )


def _type_of(value: Any, node: Typed, steps: tuple[str, ...]) -> str:
    """A resource's type; or that of the value itself, where the path is $this."""
    if isinstance(value, Mapping) and isinstance(value.get("resourceType"), str):
        return str(value["resourceType"])
    return "" if steps else node[0]


def extension_profiles(rule: Rule) -> Iterator[str]:
    """The URLs of the extensions that a rule lets stand there."""
    for each in rule.element.get("type", ()):
        if each["code"] == "Extension":
            yield from each.get("profile", ())


def _at(value: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    """All that stands at a path of names."""
    values = [value]
    for step in steps:
        below = (v.get(step) for v in values if isinstance(v, Mapping))
        values = [item for v in below if v is not None for item in (v if isinstance(v, list) else [v])]
    yield from values


def same(value: Any, fixed: Any) -> bool:
    """Whether it is the fixed value; numbers by what they say."""
    return bool(_plain(value) == _plain(fixed))


def _plain(value: Any) -> Any:
    return Decimal(str(value)) if isinstance(value, float) else value


def fits(value: Any, pattern: Any) -> bool:
    """Everything in the pattern is in the value; each item of a pattern's array in some item of the value's."""
    if isinstance(pattern, Mapping):
        return isinstance(value, Mapping) and all(fits(value.get(key), part) for key, part in pattern.items())
    if isinstance(pattern, Iterable) and not isinstance(pattern, str):
        return isinstance(value, list) and all(any(fits(item, part) for item in value) for part in pattern)
    return same(value, pattern)
