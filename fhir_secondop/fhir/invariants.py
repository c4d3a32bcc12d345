"""R4's written invariants, each compiled to a function when its type is first met.

They come from profiles/r4/constraints.json. Not in here are those that `walk` and `rules` check themselves, with a
better place than the element that holds them all; dom-6, which asks for a narrative and is no fault; and cid-0, which
asks for an element that its type does not have.
Source: https://hl7.org/fhir/R4/conformance-rules.html#constraints
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from fhir_secondop.fhir import definitions, path
from fhir_secondop.fhir.faults import Place, Walk
from fhir_secondop.fhir.pathcompiler import Step
from fhir_secondop.fhir.pathfunctions import SCOPE, Incomparable

ELSEWHERE = frozenset(
    {"cid-0", "ctm-1", "dom-2", "dom-3", "dom-4", "dom-5", "dom-6", "ref-1", "txt-1", "txt-2",
     "bdl-3", "bdl-4", "bdl-5", "bdl-7", "bdl-11", "bdl-12"}
)  # fmt: skip

OF_ONE_TYPE = {"ras-1": "Range", "sqty-1": "Quantity", "mqty-1": "Quantity"}
"""Written at a choice, and meant for one of its types."""

_NAME = "name.exists() implies name.matches('[A-Z]([A-Za-z0-9_]){0,254}')"
CORRECTED = {
    "name.matches('[A-Z]([A-Za-z0-9_]){0,254}')": _NAME,
    "fullUrl.contains('/_history/').not()": "fullUrl.exists() implies fullUrl.contains('/_history/').not()",
    "enableWhen.count() > 2 implies enableBehavior.exists()": "enableWhen.count() > 1 implies enableBehavior.exists()",
    "probability is decimal implies (probability as decimal) <= 100":
        "probability.empty() or (probability is decimal implies (probability as decimal) <= 100)",
    "offset.empty() or (when.exists() and ((when in ('C' | 'CM' | 'CD' | 'CV')).not()))":
        "offset.empty() or (when.exists() and when.where($this in ('C' | 'CM' | 'CD' | 'CV')).empty())",
    "targetProfile.exists() implies (type = 'Reference' or type = 'canonical')":
        "targetProfile.exists() implies (type = 'Reference' or type = 'canonical' or "
        "type.memberOf('http://hl7.org/fhir/ValueSet/resource-types'))",
    "binding.empty() or type.code.empty() or type.select((code = 'code') or (code = 'Coding') or "
    "(code='CodeableConcept') or (code = 'Quantity') or (code = 'string') or (code = 'uri')).exists()":
        "binding.empty() or type.code.empty() or type.code.where($this in ('code' | 'Coding' | 'CodeableConcept' | "
        "'Quantity' | 'string' | 'uri' | 'Duration') or $this.contains(':')).exists()",
    "clinicalStatus.exists() or verificationStatus.coding.where(system='http://terminology.hl7.org/CodeSystem/"
    "condition-ver-status' and code = 'entered-in-error').exists() or category.select($this='problem-list-item')"
    ".empty()":
        "clinicalStatus.exists() or verificationStatus.coding.where(code = 'entered-in-error').exists() or "
        "category.coding.where(code = 'problem-list-item').empty()",
}  # fmt: skip
"""What R4 wrote → what it meant, and says in words or in R5: HL7's own validator reads these in another way, too."""


_NONE: Mapping[str, Any] = {"differential": {"element": [{}]}}


@dataclass(frozen=True, slots=True)
class Invariant:
    """One rule; `run` gives what its expression gives for a value."""

    key: str
    severity: str
    human: str
    run: Step
    needs_scope: bool


def written(at: str) -> Iterable[tuple[str, str, str, str]]:
    """(key, severity, what it says, expression) at the path of a type, backbone or element, as they are evaluated."""
    for key, severity, human, expression in definitions.constraints(at):
        if key not in ELSEWHERE:
            yield key, severity, human, CORRECTED.get(expression, expression)


@cache
def of_type(name: str) -> tuple[Invariant, ...]:
    """Those of a type with those it inherits, or of a backbone."""
    return tuple(found for each in definitions.ancestors(name) for found in _compiled(each, name))


@cache
def of_element(at: str, type_name: str) -> tuple[Invariant, ...]:
    """Those that are written at an element which has a type of its own: Organization.telecom."""
    return () if at == type_name else tuple(_compiled(at, type_name))


@cache
def of_extension(url: str) -> tuple[Invariant, ...]:
    """Those that an extension of ours has."""
    return of_element_definition(
        next(iter((definitions.profile(url) or _NONE)["differential"]["element"])), "Extension"
    )


def of_element_definition(element: Mapping[str, Any], type_name: str) -> tuple[Invariant, ...]:
    """Those that a profile writes at an element, for a value of that type; of severity error alone."""
    return tuple(
        Invariant(c["key"], "error", c["human"], path.invariant(c["expression"], type_name), "%" in c["expression"])
        for c in element.get("constraint", ())
        if c["severity"] == "error" and "expression" in c
    )


def _compiled(at: str, type_name: str) -> Iterable[Invariant]:
    for key, severity, human, expression in written(at):
        if OF_ONE_TYPE.get(key, type_name) == type_name:
            yield Invariant(key, severity, human, path.invariant(expression, type_name), "%" in expression)


def check(invariants: tuple[Invariant, ...], type_name: str, value: Any, place: Place, walk: Walk) -> None:
    """Adds a fault for each that does not hold of a value that is sound otherwise."""
    nodes = [(type_name, value)]
    for each in invariants:
        if each.needs_scope:
            SCOPE.resource, SCOPE.root = _typed(walk.resource), _typed(walk.root)
            SCOPE.context, SCOPE.kept = nodes[0], {}
        try:
            found = each.run(nodes)
        except Incomparable:
            continue  # 2015-01 and 2015-01-10, mg and g: nothing can be held against the sender
        if not found or found[0][1] is False:
            walk.fault("invariant", place, f"{each.key}: {each.human}", severity=each.severity)


def _typed(resource: Mapping[str, Any]) -> tuple[str, Any]:
    return str(resource.get("resourceType", "")), resource
