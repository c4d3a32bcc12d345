"""What R4's invariants use of FHIRPath beyond what search parameters do: variables, sets, text, order, arithmetic.

Added to the compiler's tables where `path` imports this. One departure: what can't be compared (2015-01 with
2015-01-10, mg with g) raises Incomparable instead of giving nothing, which a rule would take for not holding.
Source: http://hl7.org/fhirpath/N1/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from decimal import Decimal
from functools import cache
from threading import local
from typing import Any

from fhir_secondop.errors import Invalid, Unsupported
from fhir_secondop.fhir import definitions, times
from fhir_secondop.fhir.pathcompiler import (
    BOOLEAN,
    FALSE,
    FUNCTIONS,
    OPERATORS,
    TRUE,
    Compiled,
    Step,
    Typed,
    Types,
    base_of,
    children_of,
    compile_node,
    truth,
)
from fhir_secondop.fhir.pathsyntax import Node

INTEGER = frozenset({"integer"})
STRING = frozenset({"string"})
UCUM: list[Typed] = [("string", "http://unitsofmeasure.org")]
ANY = frozenset({"Resource"})  # looked up by each value's own type, when it comes


class Incomparable(Exception):
    """Two values of which it can't be said which is more."""


class Scope(local):
    """What the variables of an expression stand for, in this thread, while it is evaluated."""

    resource: Typed = ("", None)
    root: Typed = ("", None)
    context: Typed = ("", None)
    kept: dict[int, Any]


SCOPE = Scope()


def _variable(node: Node, context: Types) -> Compiled:
    """%resource, %rootResource, %context and %ucum."""
    if node.value == "ucum":
        return (lambda _: UCUM), STRING
    name = {"resource": "resource", "rootResource": "root", "context": "context"}.get(node.value)
    if name is None:
        raise Unsupported(f"FHIRPath's %{node.value} is not known here")
    return (lambda _: [getattr(SCOPE, name)]), ANY


# Operators ----------------------------------------------------------------------------------------------------------


def _sides(node: Node, context: Types) -> tuple[Step, Step]:
    left, right = (compile_node(argument, context)[0] for argument in node.arguments)
    return left, right


def _implies(node: Node, context: Types) -> Compiled:
    left, right = _sides(node, context)

    def implies(nodes: list[Typed]) -> list[Typed]:
        given = truth(left(nodes))
        if given is False:
            return TRUE
        follows = truth(right(nodes))
        return TRUE if follows else FALSE if given and follows is False else []

    return implies, BOOLEAN


def _xor(node: Node, context: Types) -> Compiled:
    left, right = _sides(node, context)

    def xor(nodes: list[Typed]) -> list[Typed]:
        a, b = truth(left(nodes)), truth(right(nodes))
        return [] if a is None or b is None else TRUE if a is not b else FALSE

    return xor, BOOLEAN


def _membership(node: Node, context: Types) -> Compiled:
    """`in`, and `contains` with the sides changed."""
    each, among = node.arguments if node.value == "in" else node.arguments[::-1]
    one, allowed = compile_node(each, context)[0], _set(among, context)

    def member(nodes: list[Typed]) -> list[Typed]:
        found = one(nodes)
        return [] if not found else TRUE if _key(found[0]) in allowed(nodes) else FALSE

    return member, BOOLEAN


def _set(node: Node, context: Types) -> Callable[[list[Typed]], set[Hashable]]:
    """The keys of what an expression finds. What does not depend on the value is found once: it may be long."""
    step = compile_node(node, context)[0]
    found_in = set(kinds(node))
    if "context" in found_in:
        return lambda nodes: set(_keys(step(nodes)))
    if "variable" not in found_in:
        always = set(_keys(step([])))
        return lambda _: always

    def of_scope(nodes: list[Typed]) -> set[Hashable]:
        found: set[Hashable] | None = SCOPE.kept.get(id(node))
        if found is None:
            found = SCOPE.kept[id(node)] = set(_keys(step(nodes)))
        return found

    return of_scope


def kinds(node: Node) -> Iterator[str]:
    """The kinds of an expression's nodes."""
    yield node.kind
    for below in (*node.arguments, *([node.base] if node.base else [])):
        yield from kinds(below)


def _comparison(node: Node, context: Types) -> Compiled:
    left, right = _sides(node, context)
    holds: Callable[[int], bool] = {
        "<": lambda order: order < 0, "<=": lambda order: order <= 0,
        ">": lambda order: order > 0, ">=": lambda order: order >= 0,
    }[node.value]  # fmt: skip

    def compare(nodes: list[Typed]) -> list[Typed]:
        a, b = left(nodes), right(nodes)
        if not a or not b:
            return []
        order = _order(a[0], b[0])
        if order is None:
            raise Incomparable
        return TRUE if holds(order) else FALSE

    return compare, BOOLEAN


def _order(a: Typed, b: Typed) -> int | None:
    """-1, 0 or 1; None where it can't be told."""
    first, second = a[1], b[1]
    if isinstance(first, dict) and isinstance(second, dict):  # Quantity: of one unit only
        units = [(q.get("system"), q.get("code"), q.get("unit") if "code" not in q else None) for q in (first, second)]
        if units[0] != units[1]:
            return None
        first, second = first.get("value"), second.get("value")
    if isinstance(first, int | Decimal) and isinstance(second, int | Decimal):
        return (first > second) - (first < second)
    if not isinstance(first, str) or not isinstance(second, str):
        return None
    try:
        early, late = times.interval(first), times.interval(second)
    except Invalid:
        return None
    if early == late:
        return 0
    if early.high <= late.low:
        return -1
    return 1 if late.high <= early.low else None


def _plus(node: Node, context: Types) -> Compiled:
    left, right = _sides(node, context)

    def add(nodes: list[Typed]) -> list[Typed]:
        a, b = left(nodes), right(nodes)
        return [("integer", a[0][1] + b[0][1])] if a and b else []

    return add, INTEGER


def _concatenate(node: Node, context: Types) -> Compiled:
    """`&`: nothing counts as the empty text."""
    left, right = _sides(node, context)

    def join(nodes: list[Typed]) -> list[Typed]:
        return [("string", "".join(str(each[0][1]) for each in (left(nodes), right(nodes)) if each))]

    return join, STRING


# Sets ---------------------------------------------------------------------------------------------------------------


def _key(node: Typed) -> Hashable:
    """The same for values that FHIRPath calls equal; numbers by value, text by its characters."""
    return _frozen(node[1])


def _frozen(value: Any) -> Hashable:
    if isinstance(value, dict):
        return frozenset((name, _frozen(child)) for name, child in value.items())
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return (type(value) is bool, value)


def _keys(nodes: list[Typed]) -> list[Hashable]:
    return [_key(node) for node in nodes]


def _all(node: Node, context: Types) -> Compiled:
    base, types = base_of(node, context, 1)
    criterion = compile_node(node.arguments[0], types)[0] if types else (lambda _: TRUE)
    return (lambda nodes: TRUE if all(truth(criterion([each])) for each in base(nodes)) else FALSE), BOOLEAN


def _select(node: Node, context: Types) -> Compiled:
    base, types = base_of(node, context, 1)
    projection, found = compile_node(node.arguments[0], types)
    return (lambda nodes: [hit for each in base(nodes) for hit in projection([each])]), found


def _count(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]
    return (lambda nodes: [("integer", len(base(nodes)))]), INTEGER


def _is_distinct(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]

    def distinct(nodes: list[Typed]) -> list[Typed]:
        found = _keys(base(nodes))
        return TRUE if len(set(found)) == len(found) else FALSE

    return distinct, BOOLEAN


def _tail(node: Node, context: Types) -> Compiled:
    base, types = base_of(node, context, 0)
    return (lambda nodes: base(nodes)[1:]), types


def _combine(node: Node, context: Types) -> Compiled:
    base, types = base_of(node, context, 1)
    more, others = compile_node(node.arguments[0], context)
    return (lambda nodes: [*base(nodes), *more(nodes)]), types | others


def _intersect(node: Node, context: Types) -> Compiled:
    base, types = base_of(node, context, 1)
    wanted = _set(node.arguments[0], context)

    def intersect(nodes: list[Typed]) -> list[Typed]:
        kept = wanted(nodes)
        return [each for each in base(nodes) if _key(each) in kept]

    return intersect, types


def _children(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]
    return (lambda nodes: [child for each in base(nodes) for child in children_of(each)]), ANY


def _descendants(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]

    def descend(nodes: list[Typed]) -> list[Typed]:
        found: list[Typed] = []
        level = base(nodes)
        while level:
            level = [child for each in level for child in children_of(each)]
            found += level
        return found

    return descend, ANY


# Text and conversion ------------------------------------------------------------------------------------------------


def _has_value(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]

    def has_value(nodes: list[Typed]) -> list[Typed]:
        found = base(nodes)
        return TRUE if len(found) == 1 and found[0][1] is not None and not isinstance(found[0][1], dict) else FALSE

    return has_value, BOOLEAN


def _of_text(make: Callable[[str], Callable[[str], bool]]) -> Callable[[Node, Types], Compiled]:
    """A test of a text with one argument; nothing where there is no text."""

    def compiled(node: Node, context: Types) -> Compiled:
        base = base_of(node, context, 1)[0]
        argument = node.arguments[0]
        fixed = make(str(argument.value)) if argument.kind == "literal" else None
        said = compile_node(argument, context)[0]

        def run(nodes: list[Typed]) -> list[Typed]:
            found = base(nodes)
            if not found or not isinstance(found[0][1], str):
                return []
            if fixed is not None:
                return TRUE if fixed(found[0][1]) else FALSE
            given = said(nodes)
            return (TRUE if make(str(given[0][1]))(found[0][1]) else FALSE) if given else []

        return run, BOOLEAN

    return compiled


@cache
def _pattern(text: str) -> re.Pattern[str]:
    # Each repeated group of R4's patterns begins with a character that ends the one before: none runs away.
    return re.compile(text.replace(r"\/", "/"))


def _matches(pattern: str) -> Callable[[str], bool]:
    """R4's invariants mean the whole text, though FHIRPath's matches() would take a part of it."""
    test = _pattern(pattern).fullmatch
    return lambda text: test(text) is not None


def _starts(prefix: str) -> Callable[[str], bool]:
    return lambda text: text.startswith(prefix)


def _holds(part: str) -> Callable[[str], bool]:
    return lambda text: part in text


def _replace_matches(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 2)[0]
    pattern, instead = (str(argument.value) for argument in node.arguments)
    return (lambda nodes: [("string", _pattern(pattern).sub(instead, str(v))) for _, v in base(nodes)]), STRING


def _to_integer(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]
    whole = re.compile(r"[+-]?\d{1,18}", re.ASCII).fullmatch

    def convert(nodes: list[Typed]) -> list[Typed]:
        return [("integer", int(v)) for _, v in base(nodes) if type(v) is bool or whole(str(v))]

    return convert, INTEGER


def _to_string(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]

    def convert(nodes: list[Typed]) -> list[Typed]:
        return [("string", str(v).lower() if type(v) is bool else str(v)) for _, v in base(nodes) if v is not None]

    return convert, STRING


def _to_date_time(node: Node, context: Types) -> Compiled:
    """The same text: dates of either kind are compared as what they are."""
    return base_of(node, context, 0)


def _iif(node: Node, context: Types) -> Compiled:
    """Only what is chosen is evaluated; without a third argument the other way gives nothing."""
    base, types = compile_node(node.base or Node("context"), context)
    test, *ways = (compile_node(argument, types) for argument in node.arguments)
    if len(ways) not in (1, 2):
        raise Unsupported("FHIRPath's iif() takes two or three arguments")

    def choose(nodes: list[Typed]) -> list[Typed]:
        given = base(nodes)
        if truth(test[0](given)):
            return ways[0][0](given)
        return ways[1][0](given) if len(ways) == 2 else []

    return choose, frozenset().union(*(found for _, found in ways))


def _member_of(node: Node, context: Types) -> Compiled:
    """Whether a code is of a value set of R4's; one that can't be listed is not looked up."""
    base = base_of(node, context, 1)[0]
    codes = definitions.value_set(str(node.arguments[0].value))
    known = None if codes is None else frozenset().union(*codes.values())
    return (lambda nodes: TRUE if known is None or all(v in known for _, v in base(nodes)) else FALSE), BOOLEAN


def _trace(node: Node, context: Types) -> Compiled:
    """The value itself; it may be a patient's, so nothing is written anywhere."""
    return compile_node(node.base or Node("context"), context)


OPERATORS.update(
    {"%": _variable, "implies": _implies, "xor": _xor, "in": _membership, "contains": _membership, "+": _plus,
     "&": _concatenate, "<": _comparison, "<=": _comparison, ">": _comparison, ">=": _comparison}
)  # fmt: skip
FUNCTIONS.update(
    {"all": _all, "select": _select, "count": _count, "isDistinct": _is_distinct, "tail": _tail, "combine": _combine,
     "intersect": _intersect, "children": _children, "descendants": _descendants, "hasValue": _has_value,
     "matches": _of_text(_matches), "startsWith": _of_text(_starts), "contains": _of_text(_holds),
     "replaceMatches": _replace_matches, "toInteger": _to_integer, "toString": _to_string, "iif": _iif,
     "memberOf": _member_of, "toDateTime": _to_date_time, "trace": _trace}
)  # fmt: skip
