"""Checks a resource against our own StructureDefinitions (constraints, differential only).

A differential becomes a tree of `Rule`s, applied to typed values: counts, fixed and pattern values, types, reference
targets, required bindings, constraints of severity error, and slices (fhir.slicing), open or closed.
Source: https://hl7.org/fhir/R4/profiling.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fhir_secondop.fhir import definitions, invariants, rules, slicing
from fhir_secondop.fhir.faults import Place, Walk, child
from fhir_secondop.fhir.walk import known_type

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
        if (fixed := rule.value("fixed")) is not None and not slicing.same(value, fixed):
            self.walk.fault("value", place, "must have the value that the profile fixes")
        if (pattern := rule.value("pattern")) is not None and not slicing.fits(value, pattern):
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
                    self.check_closed(rule, name, found)

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
        """A slice of which the profile does not say by what it is told apart is not looked at."""
        selected = slicing.members(sliced, rule, found, self.conforms)
        if selected is not None:
            self.apply_all(rule, selected, place)

    def check_closed(self, rule: Rule, name: str, found: list[Typed]) -> None:
        """Where the slices are all that may stand there, each value belongs to one."""
        sliced = rule.children[name]
        if sliced.element.get("slicing", {}).get("rules") != "closed":
            return
        parts = [part for key, part in rule.children.items() if key.startswith(f"{name}:")]
        chosen = [slicing.members(sliced, part, found, self.conforms) for part in parts]
        if None not in chosen:
            known = {node[2] for nodes in chosen for node in nodes or ()}
            for node in found:
                if node[2] not in known:
                    self.walk.fault(
                        "structure", node[2], "is none of the slices that the profile has, and no other may be"
                    )

    def conforms(self, url: str, value: Mapping[str, Any], place: Place) -> bool:
        """Whether a resource or a value satisfies a profile; one that is not known is satisfied by nothing."""
        definition = definitions.profile(url)
        if definition is None:
            return False
        apart = Walk([], self.walk.contained, self.walk.resource, self.walk.root, self.walk.place)
        if "resourceType" in value:
            check(url, value, place, apart, run_constraints=self.run_constraints)
        else:
            _Checker(apart, self.run_constraints).apply(_tree(url), (definition["type"], value, place))
        return not apart.issues

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
                here = child(place, name, index)
                if item is None and index < len(companions):
                    yield "Element", companions[index], here
                else:
                    yield _type_of(item, of_type), item, here
        elif found is not None:
            yield _type_of(found, of_type), found, child(place, name)
        elif companion is not None:
            yield "Element", companion, child(place, name)


def _type_of(value: Any, of_type: str) -> str:
    """The type of the element; where any resource may stand, that of the resource."""
    return known_type(value) or of_type if of_type == "Resource" else of_type


def _target(url: str) -> str:
    """The resource type of a targetProfile: one of R4's, or that of a profile of ours."""
    own = definitions.profile(url)
    return str(own["type"]) if own else url.rsplit("/", 1)[1]
