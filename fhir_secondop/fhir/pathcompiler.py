"""Compiles a `Node` tree to a function from typed values to typed values, against the R4 tables.

An expression is compiled for one type of input, so that a union's branches for other types cost nothing and an element
that R4 does not have is found now and not when a resource arrives.
Source: http://hl7.org/fhirpath/N1/ and https://hl7.org/fhir/R4/fhirpath.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhir_secondop.errors import Unsupported
from fhir_secondop.fhir import definitions, refs
from fhir_secondop.fhir.pathsyntax import Node

Typed = tuple[str, Any]
Step = Callable[[list[Typed]], list[Typed]]
Types = frozenset[str]
Compiled = tuple[Step, Types]

BOOLEAN = frozenset({"boolean"})
TRUE: list[Typed] = [("boolean", True)]
FALSE: list[Typed] = [("boolean", False)]


def compile_node(node: Node, context: Types) -> Compiled:
    """The function, and the types that its results may have. Raises Unsupported."""
    if node.kind == "context":
        return _same, context
    if node.kind == "literal":
        kind = {bool: "boolean", int: "integer", str: "string"}[type(node.value)]
        result = [(kind, node.value)]
        return (lambda _: result), frozenset({kind})
    if node.kind == "variable":
        return OPERATORS["%"](node, context)
    if node.kind == "operator":
        return OPERATORS[node.value](node, context)
    assert node.base is not None
    if node.kind == "member":
        return _member(node, context)
    if node.kind == "index":
        base, types = compile_node(node.base, context)
        at = node.value
        return (lambda nodes: base(nodes)[at : at + 1]), types
    if node.value not in FUNCTIONS:
        raise Unsupported(f"FHIRPath's {node.value}() is not known here")
    return FUNCTIONS[node.value](node, context)


def _same(nodes: list[Typed]) -> list[Typed]:
    return nodes


def _nothing(nodes: list[Typed]) -> list[Typed]:
    return []


# Members ------------------------------------------------------------------------------------------------------------


def _member(node: Node, context: Types, *, companion: bool = False) -> Compiled:
    """`companion` asks for a primitive's id and extensions (_birthDate) in place of its value."""
    assert node.base is not None
    name = node.value
    if node.base.kind == "context" and name[0].isupper():  # a path may begin with the type it applies to
        kept = frozenset(t for t in context if _is_a(t, name))
        return (_same if kept else _nothing), kept
    if name == "extension":
        base, types = _with_extensions(node.base, context)
    else:
        base, types = compile_node(node.base, context)
    if base is _nothing:
        return _nothing, types
    table = {t: _lookup(t, name, companion) for t in types}
    found = frozenset(of_type for rows in table.values() for _, of_type, _ in rows)
    if not found and types and not types & {"Resource", "DomainResource"}:
        raise Unsupported(f"{' and '.join(sorted(types))}: R4 has no element {name[:64]} there")
    if types & {"Resource", "DomainResource"}:
        table = _Lookups(name)
        found = found or frozenset({"Resource"})
    if base is _same:
        return (lambda nodes: [hit for node in nodes for hit in _children(node, table)]), found
    return (lambda nodes: [hit for node in base(nodes) for hit in _children(node, table)]), found


def keys_of(node: Node, type_name: str) -> frozenset[str] | None:
    """The JSON keys of which a value of that type has one wherever the expression finds something; none if it never
    does. None where that can't be told: of what finds something in what is not there, such as `empty()`.
    """
    base = node.base
    if node.kind == "operator":
        if node.value == "as":
            return keys_of(node.arguments[0], type_name)
        found = [keys_of(argument, type_name) for argument in node.arguments] if node.value == "|" else [None]
        return None if None in found else frozenset().union(*(keys for keys in found if keys))
    if base is None or node.kind not in ("member", "index", "call"):
        return None
    if node.kind != "member":
        return keys_of(base, type_name) if node.kind == "index" or node.value in _NARROWING else None
    if base.kind == "member" and base.base is not None and base.base.kind == "context" and base.value[0].isupper():
        if not _is_a(type_name, base.value):
            return frozenset()
    elif base.kind != "context":
        return keys_of(base, type_name)
    element = definitions.structure(type_name).elements.get(node.value)
    return None if element is None else frozenset(f"{sign}{key}" for key, _ in element.members() for sign in ("", "_"))


_NARROWING = frozenset({"where", "as", "ofType", "first"})
"""Functions that find nothing where what they stand behind finds nothing."""

Rows = tuple[tuple[str, str, str], ...]


def _lookup(type_name: str, name: str, companion: bool = False) -> Rows:
    """(JSON key, type, where a primitive's extensions are) of an element; several for a choice."""
    element = definitions.structure(type_name).elements.get(name) if type_name else None
    if element is None:
        return ()
    return tuple(
        ("_" + key, "Element", "") if companion else (key, of_type, "_" + key if _is_primitive(of_type) else "")
        for key, of_type in element.members()
    )


def _is_primitive(type_name: str) -> bool:
    return definitions.structure(type_name).kind == "primitive-type"


class _Lookups(dict[str, Rows]):
    """Filled as types turn up, for what stands below an element that holds any resource."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __missing__(self, type_name: str) -> Rows:
        self[type_name] = rows = _lookup(type_name, self.name)
        return rows


def _children(node: Typed, table: Mapping[str, Rows]) -> list[Typed]:
    """A primitive of which there are extensions alone is there, and has the value None."""
    type_name, value = node
    for key, of_type, companion in table[type_name]:
        child = value.get(key)
        if child is None:
            if companion and (extended := value.get(companion)) is not None:
                return [(of_type, None)] * (len(extended) if type(extended) is list else 1)
            continue
        many = child if type(child) is list else (child,)
        if of_type == "Resource":
            return [(each["resourceType"], each) for each in many]
        return [(of_type, each) for each in many]
    return []


def children_of(node: Typed) -> list[Typed]:
    """All that stands directly below a value, in the order of the tables."""
    type_name, value = node
    if type(value) is not dict:
        return []
    names = definitions.structure(type_name).elements
    return [child for name in names for child in _children(node, {type_name: _lookup(type_name, name)})]


def _with_extensions(base: Node, context: Types) -> Compiled:
    """The base, where a primitive is replaced by the object that holds its extensions."""
    found = compile_node(base, context)
    primitive = all(map(_is_primitive, found[1]))
    return _member(base, context, companion=True) if primitive and base.kind == "member" else found


# Types --------------------------------------------------------------------------------------------------------------


def _is_a(type_name: str, wanted: str) -> bool:
    return wanted in definitions.ancestors(type_name)


def _type_named(node: Node) -> str:
    """The type that an argument names: Quantity, FHIR.Quantity."""
    if node.kind != "member":
        raise Unsupported("a FHIRPath type test needs the name of a type")
    # HL7's own expressions write System's names here and there.
    name = {"DateTime": "dateTime", "Boolean": "boolean"}.get(node.value, str(node.value))
    definitions.structure(name)
    return name


def _as(base: Compiled, wanted: str) -> Compiled:
    step, types = base
    if step is _nothing:
        return base
    kept = frozenset(t for t in types if _is_a(t, wanted)) or frozenset({wanted})
    if kept == types:
        return base
    return (lambda nodes: [node for node in step(nodes) if node[0] in kept]), kept


def _is(tested: Node, wanted: str, context: Types) -> Compiled:
    if tested.kind == "call" and tested.value == "resolve":
        assert tested.base is not None
        step = compile_node(tested.base, context)[0]
        return (lambda nodes: [("boolean", _target_type(v) == wanted) for _, v in step(nodes)]), BOOLEAN
    step = compile_node(tested, context)[0]
    return (lambda nodes: [("boolean", _is_a(name, wanted)) for name, _ in step(nodes)]), BOOLEAN


def _target_type(reference: Any) -> str:
    """What a Reference points to, as far as it says so itself; we do not fetch it."""
    if not isinstance(reference, dict):
        return ""
    found = refs.parse(reference.get("reference", ""))
    return found.type if found else str(reference.get("type", ""))


# Operators ----------------------------------------------------------------------------------------------------------


def _union(node: Node, context: Types) -> Compiled:
    """Duplicates stay, unlike in FHIRPath: comparing each with each takes quadratic time, and an index needs no set."""
    parts = [compile_node(argument, context) for argument in node.arguments]
    steps = [step for step, _ in parts if step is not _nothing]
    types = frozenset().union(*(types for _, types in parts))
    if len(steps) < 2:
        return (steps[0] if steps else _nothing), types
    first, second = steps
    return (lambda nodes: [*first(nodes), *second(nodes)]), types


def truth(nodes: list[Typed]) -> bool | None:
    """FHIRPath's singleton as a condition: one value that is no boolean counts as true; none is unknown."""
    if not nodes:
        return None
    found: bool | None = nodes[0][1] if nodes[0][0] == "boolean" else True
    return found


def _logic(node: Node, context: Types) -> Compiled:
    (left, _), (right, _) = (compile_node(argument, context) for argument in node.arguments)
    decided = FALSE if node.value == "and" else TRUE  # on one side, this settles it even if the other is unknown

    def logic(nodes: list[Typed]) -> list[Typed]:
        a, b = truth(left(nodes)), truth(right(nodes))
        if decided[0][1] in (a, b):
            return decided
        return [] if a is None or b is None else [("boolean", not decided[0][1])]

    return logic, BOOLEAN


def _equality(node: Node, context: Types) -> Compiled:
    (left, _), (right, _) = (compile_node(argument, context) for argument in node.arguments)
    wanted = node.value == "="

    def equal(nodes: list[Typed]) -> list[Typed]:
        a, b = [v for _, v in left(nodes)], [v for _, v in right(nodes)]
        if not a or not b:
            return []
        same = a == b and [type(v) is bool for v in a] == [type(v) is bool for v in b]
        return TRUE if same is wanted else FALSE

    return equal, BOOLEAN


OPERATORS: dict[str, Callable[[Node, Types], Compiled]] = {
    "|": _union,
    "and": _logic,
    "or": _logic,
    "=": _equality,
    "!=": _equality,
    "as": lambda node, context: _as(compile_node(node.arguments[0], context), _type_named(node.arguments[1])),
    "is": lambda node, context: _is(node.arguments[0], _type_named(node.arguments[1]), context),
}


# Functions ----------------------------------------------------------------------------------------------------------


def base_of(node: Node, context: Types, arguments: int) -> Compiled:
    """What a function stands behind; it must have that many arguments."""
    if node.base is None or len(node.arguments) != arguments:
        raise Unsupported(f"FHIRPath's {node.value}() takes {arguments} argument(s) here")
    return compile_node(node.base, context)


def _where(node: Node, context: Types) -> Compiled:
    base, types = base_of(node, context, 1)
    if not types:
        return _nothing, types
    criterion = compile_node(node.arguments[0], types)[0]
    return (lambda nodes: [each for each in base(nodes) if truth(criterion([each]))]), types


def _exists(node: Node, context: Types) -> Compiled:
    base = (_where if node.arguments else lambda n, c: base_of(n, c, 0))(node, context)[0]
    return (lambda nodes: TRUE if base(nodes) else FALSE), BOOLEAN


def _empty(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]
    return (lambda nodes: FALSE if base(nodes) else TRUE), BOOLEAN


def _not(node: Node, context: Types) -> Compiled:
    base = base_of(node, context, 0)[0]

    def negate(nodes: list[Typed]) -> list[Typed]:
        found = truth(base(nodes))
        return [] if found is None else FALSE if found else TRUE

    return negate, BOOLEAN


def _first(node: Node, context: Types) -> Compiled:
    base, types = base_of(node, context, 0)
    return (lambda nodes: base(nodes)[:1]), types


def _extension(node: Node, context: Types) -> Compiled:
    if len(node.arguments) != 1 or node.arguments[0].kind != "literal":
        raise Unsupported("FHIRPath's extension() takes one URL as text here")
    url = node.arguments[0].value
    base, types = _member(Node("member", "extension", node.base), context)
    return (lambda nodes: [each for each in base(nodes) if each[1].get("url") == url]), types


FUNCTIONS: dict[str, Callable[[Node, Types], Compiled]] = {
    "where": _where,
    "exists": _exists,
    "empty": _empty,
    "not": _not,
    "first": _first,
    "extension": _extension,
    "as": lambda node, context: _as(base_of(node, context, 1), _type_named(node.arguments[0])),
    "ofType": lambda node, context: _as(base_of(node, context, 1), _type_named(node.arguments[0])),
    "is": lambda node, context: _is(node.base or Node("context"), _type_named(node.arguments[0]), context),
}
