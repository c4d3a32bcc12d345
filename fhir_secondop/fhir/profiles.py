"""Checks a resource against our own StructureDefinitions (constraints, differential only).

A differential becomes a tree of `Rule`s, applied to typed values: counts, fixed and pattern values, types, reference
targets, required bindings, and constraints of severity error. Slices: extensions by URL, choices by type, and other
elements by what the slice fixes at the discriminator's path; a slice that is discriminated otherwise is skipped.
Source: https://hl7.org/fhir/R4/profiling.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

from fhir_secondop.fhir import definitions, invariants, rules
from fhir_secondop.fhir.faults import Place, Walk, child

Typed = tuple[str, Any, Place]


@dataclass(slots=True)
class Rule:
    """What a profile says of one element or slice; `children` by "name" or "name:slice"."""

    element: Mapping[str, Any] = field(default_factory=dict)
    children: dict[str, Rule] = field(default_factory=dict)

    compiled: dict[str, tuple[invariants.Invariant, ...]] = field(default_factory=dict)

    def invariants(self, type_name: str) -> tuple[invariants.Invariant, ...]:
        """The constraints of severity error, compiled for a value of that type."""
        if type_name not in self.compiled:
            self.compiled[type_name] = invariants.of_element_definition(self.element, type_name)
        return self.compiled[type_name]

    def value(self, prefix: str) -> Any:
        """The fixed[x] or pattern[x], whichever type it has; None if there is none."""
        return next((value for key, value in self.element.items() if key.startswith(prefix)), None)


def check(url: str, resource: Mapping[str, Any], place: Place, walk: Walk, *, run_constraints: bool) -> None:
    """Adds the faults against a profile of ours, and those it is based on. An unknown profile demands nothing.

    `run_constraints` only where R4 itself holds: an expression may stumble over what is malformed.
    """
    checker = _Checker(walk, run_constraints)
    for definition in _lineage(url):
        if definition["type"] != resource.get("resourceType"):
            walk.fault("structure", place, f"must be a {definition['type']} to conform to {definition['url']}")
            return
        checker.apply(_tree(definition["url"]), (definition["type"], resource, place))


def _lineage(url: str) -> Iterator[Mapping[str, Any]]:
    seen: set[str] = set()
    while (definition := definitions.profile(url.partition("|")[0])) and definition["url"] not in seen:
        seen.add(definition["url"])
        yield definition
        url = definition.get("baseDefinition", "")


@cache
def _tree(url: str) -> Rule:
    """The differential as a tree, by the parts of the element ids."""
    definition = definitions.profile(url)
    root = Rule()
    for element in (definition or {}).get("differential", {}).get("element", ()):
        rule = root
        for part in element["id"].replace("[x]", "").split(".")[1:]:
            rule = rule.children.setdefault(part, Rule())
        rule.element = element
    return root


class _Checker:
    def __init__(self, walk: Walk, run_constraints: bool) -> None:
        self.walk = walk
        self.run_constraints = run_constraints

    def apply(self, rule: Rule, node: Typed) -> None:
        """The rule itself and all below it, for one value."""
        type_name, value, place = node
        self.check_value(rule.element, type_name, value, place)
        if (fixed := rule.value("fixed")) is not None and not _same(value, fixed):
            self.walk.fault("value", place, "must have the value that the profile fixes")
        if (pattern := rule.value("pattern")) is not None and not _fits(value, pattern):
            self.walk.fault("value", place, "must have what the profile's pattern has")
        if self.run_constraints:
            invariants.check(rule.invariants(type_name), type_name, value, place, self.walk)
        if isinstance(value, Mapping):
            for key, part in rule.children.items():
                name, _, slice_name = key.partition(":")
                found = list(children(type_name, value, place, name))
                if slice_name:
                    self.apply_slice(rule.children.get(name, Rule()), part, found, child(place, name))
                else:
                    self.apply_all(part, found, child(place, name))

    def apply_all(self, rule: Rule, found: list[Typed], place: Place) -> None:
        """The number of values, and each of them."""
        least, most = rule.element.get("min", 0), rule.element.get("max", "*")
        name = f" ({rule.element['sliceName']})" if "sliceName" in rule.element else ""
        if len(found) < least:
            needed = "is required" if least == 1 else f"needs at least {least} values"
            self.walk.fault("required", place, f"{needed} by the profile{name}")
        if most != "*" and len(found) > int(most):
            self.walk.fault("structure", place, f"may have at most {most} values in this profile{name}")
        for node in found:
            self.apply(rule, node)

    def apply_slice(self, sliced: Rule, rule: Rule, found: list[Typed], place: Place) -> None:
        selected = _slice(sliced, rule, found)
        if selected is None:
            return
        self.apply_all(rule, selected, place)

    def check_value(self, element: Mapping[str, Any], type_name: str, value: Any, place: Place) -> None:
        allowed = {each["code"] for each in element.get("type", ())}
        if allowed and type_name not in allowed and "." not in type_name and type_name != "Element":
            self.walk.fault("structure", place, f"must be of type {' or '.join(sorted(allowed))} in this profile")
            return
        targets = frozenset(_target(u) for each in element.get("type", ()) for u in each.get("targetProfile", ()))
        if type_name == "Reference" and targets and "Resource" not in targets:
            rules.check_target(value, targets, place, self.walk)
        binding = element.get("binding", {})
        if binding.get("strength") == "required" and (codes := definitions.value_set(binding.get("valueSet", ""))):
            rules.check_codes(value, type_name, codes, binding["valueSet"], place, self.walk)


def children(type_name: str, value: Mapping[str, Any], place: Place, name: str) -> Iterator[Typed]:
    """The values of an element, with types and places; one with extensions only counts, as the type Element."""
    element = definitions.structure(type_name).elements.get(name)
    for key, of_type in element.members() if element else ():
        found, companion = value.get(key), value.get("_" + key)
        if isinstance(found, list) or isinstance(companion, list):
            values, companions = (each if isinstance(each, list) else [] for each in (found, companion))
            for index in range(max(len(values), len(companions))):
                item = values[index] if index < len(values) else None
                typed = ("Element", companions[index]) if item is None and index < len(companions) else (of_type, item)
                yield (*typed, child(place, name, index))
        elif found is not None:
            yield of_type, found, child(place, name)
        elif companion is not None:
            yield "Element", companion, child(place, name)


def _slice(sliced: Rule, rule: Rule, found: list[Typed]) -> list[Typed] | None:
    """The values that belong to a slice; None if we can't tell."""
    urls = list(_extension_profiles(rule))
    if "url" in rule.children and (fixed := rule.children["url"].value("fixed")) is not None:
        urls.append(fixed)
    if urls:
        return [node for node in found if isinstance(node[1], Mapping) and node[1].get("url") in urls]
    if str(rule.element.get("path", "")).endswith("[x]"):
        types = {each["code"] for each in rule.element.get("type", ())}
        return [node for node in found if node[0] in types] if types else None
    paths = [each["path"] for each in sliced.element.get("slicing", {}).get("discriminator", ())]
    wanted = [(each, _demanded(rule, each)) for each in paths]
    if not wanted or any(demand is None for _, demand in wanted):
        return None
    return [node for node in found if all(_has(node[1], each, demand) for each, demand in wanted)]


def _extension_profiles(rule: Rule) -> Iterator[str]:
    for each in rule.element.get("type", ()):
        if each["code"] == "Extension":
            yield from each.get("profile", ())


def _demanded(rule: Rule, discriminator: str) -> Any:
    """What a slice fixes at a discriminator's path (names and dots, or $this)."""
    for part in discriminator.split(".") if discriminator != "$this" else ():
        if part not in rule.children:
            return None
        rule = rule.children[part]
    fixed = rule.value("fixed")
    return rule.value("pattern") if fixed is None else fixed


def _has(value: Any, discriminator: str, demand: Any) -> bool:
    values = [value]
    for part in discriminator.split(".") if discriminator != "$this" else ():
        below = (v.get(part) for v in values if isinstance(v, Mapping))
        values = [item for v in below if v is not None for item in (v if isinstance(v, list) else [v])]
    return any(_fits(v, demand) for v in values)


def _target(url: str) -> str:
    """The resource type of a targetProfile: one of R4's, or that of a profile of ours."""
    own = definitions.profile(url)
    return str(own["type"]) if own else url.rsplit("/", 1)[1]


def _same(value: Any, fixed: Any) -> bool:
    return bool(_plain(value) == _plain(fixed))


def _plain(value: Any) -> Any:
    return Decimal(str(value)) if isinstance(value, float) else value


def _fits(value: Any, pattern: Any) -> bool:
    """Everything in the pattern is in the value; each item of a pattern's array in some item of the value's."""
    if isinstance(pattern, Mapping):
        return isinstance(value, Mapping) and all(_fits(value.get(key), part) for key, part in pattern.items())
    if isinstance(pattern, Iterable) and not isinstance(pattern, str):
        return isinstance(value, list) and all(any(_fits(item, part) for item in value) for part in pattern)
    return _same(value, pattern)
