"""One parameter of a search → what must match: itself, a chain, or a reverse chain; checked against R4's parameters.

Source: https://hl7.org/fhir/R4/search.html#modifiers, #chaining and #has
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.definitions import SearchParameter
from fhir_secondop.limits import Limits

MODIFIERS = {
    "token": ("", "missing", "not", "text", "of-type"),
    "string": ("", "missing", "exact", "contains"),
    "date": ("", "missing"),
    "reference": ("", "missing", "identifier"),
    "number": ("", "missing"),
    "quantity": ("", "missing"),
    "uri": ("", "missing", "below", "above"),
    "composite": ("",),
}
# What a special parameter is asked by otherwise. Distances are for a server that has an index of places.
_INSTEAD = {("Location", "near"): "search by address-city, address-postalcode or the organization, and measure there"}
LIMITS = Limits()  # where nobody says others
_CHAIN = re.compile(r"([A-Za-z_\-]+)(?::([A-Za-z]+))?\.(.+)")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter of a search: any of `values` must match. `kind` is the R4 search parameter type."""

    code: str
    kind: str
    modifier: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`subject:Patient.name=…`: the reference points to a resource of one of these types that matches."""

    code: str
    targets: tuple[tuple[str, Condition], ...]


@dataclass(frozen=True, slots=True)
class Reverse:
    """`_has:Observation:patient:code=…`: a resource of that type points here and matches."""

    type: str
    code: str
    condition: Condition


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of these must match: the ways into a compartment."""

    ways: tuple[Criterion, ...]


Condition = Criterion | Chain | Reverse | AnyOf


class Refused(Exception):
    """Why a parameter can't be searched by; names the parameter, never its value."""


class TooManyWays(Refused):
    """A chain that follows too many references, or goes through too many types."""


def parse(
    resource_type: str,
    name: str,
    value: str,
    *,
    only: Collection[str] | None = None,
    tried: list[str] | None = None,
    limits: Limits = LIMITS,
) -> Condition | None:
    """What a parameter demands; None where its value is empty. `only` names the parameters that count as known.

    `tried` counts what chains go through, over all types that the same is asked of. Raises Refused.
    """
    way = _Way(depth=0, tried=[] if tried is None else tried, limits=limits)
    return _parse(resource_type, name, value, only, way)


@dataclass(frozen=True, slots=True)
class _Way:
    """How many references were followed to here, and the types that the whole parameter has tried (shared)."""

    depth: int
    tried: list[str]
    limits: Limits

    def to(self, resource_type: str) -> _Way:
        self.tried.append(resource_type)
        if len(self.tried) > (most := self.limits.max_chain_types):
            said = f"This chain could go through over {most} types (max_chain_types)"
            raise TooManyWays(f"{said}; name them: subject:Patient.name.")
        return _Way(self.depth + 1, self.tried, self.limits)


def _parse(resource_type: str, name: str, value: str, only: Collection[str] | None, way: _Way) -> Condition | None:
    if way.depth > (most := way.limits.max_chain):
        raise TooManyWays(f"A chain may follow {most} references (max_chain); this one follows more.")
    if only is None:
        if name.startswith("_has:"):
            return _reverse(name, value, way)
        if match := _CHAIN.fullmatch(name):
            return _chain(resource_type, match, value, way)
    code, _, modifier = name.partition(":")
    parameter = definitions.search_parameters(resource_type).get(code) if only is None or code in only else None
    if parameter is None:
        said = "is not offered" if code.startswith("_") else f"is no search parameter of {resource_type}"
        raise Refused(f"{code!r} {said}; see /fhir/metadata.")
    if parameter.type not in MODIFIERS:
        instead = _INSTEAD.get((resource_type, code), "see /fhir/metadata")
        raise Refused(f"Search by {code!r} ({parameter.type}) is not offered; {instead}.")
    if parameter.type == "reference" and modifier in definitions.resource_types():
        targeted, modifier = [modifier], ""
    else:
        targeted = list(parameter.targets)
    if modifier not in MODIFIERS[parameter.type]:
        raise Refused(f"The modifier {modifier!r} is not offered on {code!r}.")
    values = tuple(split(value))
    if not any(values):
        return None
    if parameter.type == "reference" and not modifier:
        values = _typed(values, targeted)
    return Criterion(code, parameter.type, modifier, values)


def _chain(resource_type: str, match: re.Match[str], value: str, way: _Way) -> Condition | None:
    code, wanted, rest = match[1], match[2], match[3]
    parameter = reference_parameter(resource_type, code)
    if wanted and wanted not in definitions.resource_types():
        raise Refused(f"{wanted!r} is no resource type of R4 (4.0.1).")
    targets: list[tuple[str, Condition]] = []
    refusals: list[Refused] = []
    for target in [wanted] if wanted else parameter.targets:
        try:
            if (condition := _parse(target, rest, value, None, way.to(target))) is None:
                return None
            targets.append((target, condition))
        except TooManyWays:
            raise
        except Refused as refusal:
            refusals.append(refusal)
    if not targets and len(refusals) == 1:
        raise refusals[0]
    if not targets:
        raise Refused(f"{rest!r} can be asked of no type that {code!r} points to; see /fhir/metadata.")
    return Chain(code, tuple(targets))


def _reverse(name: str, value: str, way: _Way) -> Condition | None:
    parts = name.split(":", 3)
    if len(parts) != 4 or parts[1] not in definitions.resource_types():
        raise Refused("_has is written _has:Type:reference:parameter, with types and parameters of R4.")
    reference_parameter(parts[1], parts[2])
    condition = _parse(parts[1], parts[3], value, None, way.to(parts[1]))
    return None if condition is None else Reverse(parts[1], parts[2], condition)


def reference_parameter(resource_type: str, code: str) -> SearchParameter:
    """The search parameter of that name, if it is a reference. Raises Refused."""
    parameter = definitions.search_parameters(resource_type).get(code)
    if parameter is None or parameter.type != "reference":
        raise Refused(f"{code!r} is no reference parameter of {resource_type}.")
    return parameter


def in_compartment(owner: str, owner_id: str, resource_type: str) -> AnyOf:
    """That a resource of that type is in the compartment of "owner/owner_id". Raises Unsupported, Refused.

    Source: https://hl7.org/fhir/R4/compartmentdefinition.html
    """
    # The owner is in it; R4's table says so of some by "{def}".
    ways = [Criterion("_id", "token", "", (owner_id,))] if owner == resource_type else []
    ways += [Criterion(code, "reference", "", (f"{owner}/{owner_id}",)) for code in _ways(owner, resource_type)]
    if not ways:
        raise Refused(f"No {resource_type} is in the compartment of a {owner}.")
    return AnyOf(tuple(ways))


def in_compartment_of(owner: str) -> list[str]:
    """The types of which a resource can be in the compartment of such an owner, sorted. Raises Unsupported."""
    return sorted(kind for kind in {owner, *definitions.compartment(owner)} if kind == owner or _ways(owner, kind))


def _ways(owner: str, resource_type: str) -> list[str]:
    known = definitions.search_parameters(resource_type)
    return [code for code in definitions.compartment(owner).get(resource_type, ()) if code in known]


def types(condition: Condition) -> set[str]:
    """The types of the other resources that a condition goes through."""
    if isinstance(condition, Criterion | AnyOf):
        return set()
    if isinstance(condition, Reverse):
        return {condition.type} | types(condition.condition)
    return {kind for target, inner in condition.targets for kind in (target, *types(inner))}


def within(condition: Condition, may: Callable[[str], bool]) -> Condition | None:
    """The condition without the ways through types that may not be searched; None if no way is left."""
    if isinstance(condition, Criterion | AnyOf):
        return condition
    if isinstance(condition, Reverse):
        inner = within(condition.condition, may) if may(condition.type) else None
        return None if inner is None else replace(condition, condition=inner)
    ways = [(kind, within(inner, may)) for kind, inner in condition.targets if may(kind)]
    left = tuple((kind, inner) for kind, inner in ways if inner is not None)
    return replace(condition, targets=left) if left else None


def looked_at(resource_type: str, condition: Condition) -> list[tuple[str, str]]:
    """(type, parameter) of all that a condition looks at in the resource itself, whatever it finds there."""
    if isinstance(condition, Reverse | AnyOf):
        return []
    found = [(resource_type, condition.code)]
    if isinstance(condition, Criterion) and condition.kind == "composite":
        composite = definitions.search_parameters(resource_type)[condition.code]
        found += [(resource_type, part.code) for part, _ in definitions.components(composite)]
    return found


def _typed(values: tuple[str, ...], types: list[str]) -> tuple[str, ...]:
    """Bare ids with each type that the parameter may point at; everything else as it stands."""
    return tuple(
        typed
        for value in values
        for typed in ([value] if "/" in value or ":" in value else [f"{kind}/{value}" for kind in types])
    )


def split(value: str) -> list[str]:
    """The alternatives of a value: commas part them, a backslash keeps one. Other escapes stay for the matcher."""
    parts, part, escaped = [], "", False
    for character in value:
        if escaped:
            part += character if character == "," else "\\" + character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ",":
            parts.append(part)
            part = ""
        else:
            part += character
    return [*parts, part]
