"""FHIRPath: search parameters and invariants as compiled closures that know the type of each value; what else somebody
writes (a checklist, say) by fhirpathpy.

Compiled once and kept: a search parameter or an invariant then takes one to two microseconds, the other 10 to 40.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from threading import Lock
from typing import Any

from fhir_secondop.errors import Unsupported
from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.definitions import SearchParameter
from fhir_secondop.fhir.pathcompiler import Step, Typed, compile_node, keys_of
from fhir_secondop.fhir.pathfunctions import kinds
from fhir_secondop.fhir.pathsyntax import Node, parse


def select(expression: str | SearchParameter, value: Mapping[str, Any], type_name: str = "") -> list[Typed]:
    """(type, value) of all that a search parameter's expression finds, in order; found twice, it stands there twice.

    The value is a resource, or of the type named: a composite's components are relative to what it found.
    A backbone element's type is its path ("Observation.component"); a choice's is the type that was sent.
    Raises Unsupported if the expression can't be compiled.
    """
    text = expression if isinstance(expression, str) else expression.expression
    name = type_name or value["resourceType"]
    return [node for node in compiled(text, name)([(name, value)]) if node[1] is not None]


@lru_cache(maxsize=4096)
def compiled(expression: str, type_name: str) -> Step:
    """The expression as a function over values of that type; without variables. Raises Unsupported."""
    return compile_node(_searched(expression, type_name), frozenset({type_name}))[0]


@lru_cache(maxsize=4096)
def branches(expression: str, type_name: str) -> tuple[tuple[Step, frozenset[str] | None], ...]:
    """The parts of a union that are of that type, each with the JSON keys of which a value has one wherever it finds
    something; None: it has to be asked in any case. Together they find what `compiled` finds. Raises Unsupported.
    """
    found = []
    ahead = [_searched(expression, type_name)]
    while ahead:
        node = ahead.pop()
        if node.kind == "operator" and node.value == "|":
            ahead += reversed(node.arguments)
        elif (keys := keys_of(node, type_name)) is None or keys:
            found.append((compile_node(node, frozenset({type_name}))[0], keys))
    return tuple(found)


def _searched(expression: str, type_name: str) -> Node:
    node = parse(expression)
    if "variable" in kinds(node):
        raise Unsupported(f"a search parameter that looks at the whole resource can't be used here: {expression}")
    definitions.structure(type_name)
    return node


@lru_cache(maxsize=4096)
def invariant(expression: str, type_name: str) -> Step:
    """The same for a rule, which may name variables: whoever runs it sets `pathfunctions.SCOPE`. Raises Unsupported."""
    return compile_node(parse(expression), frozenset({type_name}))[0]


def evaluate(expression: str, resource: Mapping[str, Any], **variables: Any) -> list[Any]:
    """The result of any FHIRPath expression, as an invariant needs it; %resource is the resource unless given.

    Raises Unsupported if fhirpathpy can't read or run it.
    """
    context = {"resource": resource, "rootResource": resource} | variables
    try:
        result: list[Any] = _evaluator(expression)(resource, context)
    except Exception as error:  # fhirpathpy's have no class of their own
        raise Unsupported("a FHIRPath expression can't be evaluated") from error
    return result


def _silent(*_: Any) -> None:
    """For trace(), which fhirpathpy prints to standard output: it may hold what a patient's record says."""


@cache
def _options() -> dict[str, Any]:
    """Values are compared by time where they are times: fhirpathpy compares those of a resource as text, whatever their
    zone. The left ones come without their type, so the right one says what they are.
    """
    from fhirpathpy.engine.invocations import equality
    from fhirpathpy.engine.nodes import FP_DateTime

    time: Callable[[str], Any] = FP_DateTime

    def ordered(compare: Callable[..., Any], left: list[Any], right: list[Any]) -> Any:
        described = getattr(right[0], "get_type_info", None)
        if described and described().name in ("date", "dateTime", "instant") and isinstance(left[0], str):
            left, right = [time(left[0])], [time(right[0].data)]
        return compare(None, left, right)

    signs = {"<": equality.lt, ">": equality.gt, "<=": equality.lte, ">=": equality.gte}
    table = {
        sign: {"fn": partial(ordered, compare), "arity": {2: ["Any", "Any"]}, "nullable": True}
        for sign, compare in signs.items()
    }
    return {"traceFn": _silent, "userInvocationTable": table}


_reading = Lock()  # the ANTLR parser fills tables that all threads share


@lru_cache(maxsize=1024)
def _evaluator(expression: str) -> Callable[[Mapping[str, Any], dict[str, Any]], list[Any]]:
    import fhirpathpy  # 0.2 s; only where an expression is somebody else's
    from fhirpathpy.models import models

    with _reading:
        compiled: Callable[..., list[Any]] = fhirpathpy.compile(expression, models["r4"], _options())
    return compiled
