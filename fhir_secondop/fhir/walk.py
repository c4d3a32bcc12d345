"""Walks a resource along the R4 tables: unknown elements, counts, JSON types, syntax, required codes.

Each type is compiled, when first met, to a `Shape`: a dict from JSON key to a function that checks what stands there.
Source: https://hl7.org/fhir/R4/json.html
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from fhir_secondop.fhir import bundles, definitions, extensions, invariants, primitives, rules
from fhir_secondop.fhir.definitions import Element
from fhir_secondop.fhir.faults import Place, Walk, child

MAX_DEPTH = 100  # the same as the codec's

ABSOLUTE = frozenset({"Coding.system", "Identifier.system", "Quantity.system"})
"""Where R4 wants an absolute URI: https://hl7.org/fhir/R4/datatypes.html#Coding, #Identifier and #Quantity."""

Field = Callable[[dict[str, Any], Any, Place, Walk], None]  # the object, the value there, the object's place
Check = Callable[[Any, Place, Walk], None]  # a value and its own place


class Shape(dict[str, Field]):
    """JSON key → check, filled on demand: types refer to each other in circles."""

    def __init__(self, type_name: str) -> None:
        super().__init__()
        self.type = definitions.structure(type_name)
        # What most values take without a call in between; filled with the fields themselves.
        self.texts: dict[str, Callable[[str], object]] = {}
        self.objects: dict[str, tuple[str, Check]] = {}
        self.rule = extensions.of_extension if type_name == "Extension" else rules.OF_TYPE.get(type_name)
        self.is_resource = self.type.kind == "resource"
        elements = self.type.elements.values()
        self.required = [(e.name, frozenset(_keys(e)), e.min) for e in elements if e.min]
        self.choices = [(e.name, frozenset(_keys(e))) for e in elements if e.is_choice]
        self.check = _checker(self)

    def __missing__(self, key: str) -> Field:
        if key == "resourceType" and self.is_resource:
            field: Field = _pass
        elif key in self.type.fields:
            field = self.field(key, *self.type.fields[key])
        elif key[:1] == "_" and _is_primitive(self.type.fields.get(key[1:])):
            field = _companion(key[1:], self.type.fields[key[1:]][0])
        else:
            # Not kept: the sender chooses these names.
            return lambda parent, value, place, walk: walk.unknown(key, place, self.type.name)
        self[key] = field
        return field

    def field(self, key: str, element: Element, type_name: str) -> Field:
        """The check of an element, with the invariants that are written at it."""
        at = f"{self.type.name}.{element.name}{'[x]' if element.is_choice else ''}"
        written = invariants.of_element(at, type_name)
        is_plain = not written and element.max == 1
        if definitions.structure(type_name).kind == "primitive-type":
            syntax = "absolute" if at in ABSOLUTE else type_name
            field = _primitive(element, syntax) if element.max == 1 else _primitives(element, syntax)
            if is_plain and (sound := _at_once(element, syntax)):
                self.texts[key] = sound
        else:
            check = _check(element, type_name)
            field = _object(element, check) if element.max == 1 else _objects(element, type_name, check)
            if is_plain:
                self.objects[key] = (element.name, check)
        return _with_invariants(field, element.name, type_name, written) if written else field


def _checker(shape: Shape, more: rules.Rule | None = None) -> Check:
    """What adds the faults of an object of this type to the walk, with those of one more rule.

    Most of the time of a validation goes by in here, so that what it needs are its own variables.
    """
    type_name, is_resource, rule = shape.type.name, shape.is_resource, shape.rule
    texts, objects, required, choices = shape.texts, shape.objects, shape.required, shape.choices
    has_own_id = not is_resource and type_name != "ElementDefinition"
    own: tuple[invariants.Invariant, ...] | None = None

    def check(value: Any, place: Place, walk: Walk) -> None:
        nonlocal own
        if type(value) is not dict:
            walk.fault("structure", place, f"must be a JSON object ({type_name})")
            return
        # A snapshot repeats the ids of its differential; sdf-16 and sdf-17 say what of these must be unique.
        if has_own_id and "id" in value:
            walk.element_id(value["id"], place)
        if len(value) < 2 and (not value or "id" in value) and not is_resource:
            walk.fault("structure", place, "must have a value or children; leave the element out instead")
        before = walk.errors
        depth = place[3] + 1
        if depth > MAX_DEPTH + 1:
            walk.fault("too-costly", place, f"is nested deeper than {MAX_DEPTH} levels")
            return
        for key, item in value.items():
            kind = type(item)
            if kind is str:
                if key in texts and texts[key](item):
                    continue
            elif kind is dict and key in objects:
                name, of_object = objects[key]
                of_object(item, (place, name, None, depth), walk)
                continue
            shape[key](value, item, place, walk)
        for name, keys, least in required:
            if name not in value and keys.isdisjoint(value):
                walk.fault("required", child(place, name), "is required")
            elif least > 1 and isinstance(value.get(name), list) and len(value[name]) < least:
                walk.fault("required", child(place, name), f"needs at least {least} values")
        for name, keys in choices:
            if len(found := keys & value.keys()) > 1 and len({key.lstrip("_") for key in found}) > 1:
                walk.fault("structure", child(place, name), "may be of one type only; there are several")
        if rule is not None:
            rule(value, place, walk)
        if own is None:  # compiled when the first value comes, since types refer to each other in circles
            own = invariants.of_type(type_name)
        # Of what is malformed an expression says nothing that helps.
        if own and walk.errors == before:
            invariants.check(own, type_name, value, place, walk)
        if more is not None:
            more(value, place, walk)

    return check


@cache
def shape(type_name: str) -> Shape:
    """The compiled form of a type or backbone."""
    return Shape(type_name)


def known_type(value: Any) -> str:
    """The resourceType of what may be a resource; "" if it is none that R4 has."""
    name = value.get("resourceType") if isinstance(value, dict) else None
    return name if isinstance(name, str) and name in definitions.resource_types() else ""


def check_resource(value: Any, place: Place, walk: Walk) -> None:
    """A resource, alone or in another: its own contained resources, and no others, answer its #id references."""
    if resource_type := known_type(value):
        contained = value.get("contained")
        inside = _contained(contained, place, walk) if isinstance(contained, list) else {}
        inner = Walk(walk.issues, inside, value, None, place, walk.notes)
        inner.entries = bundles.types(value) if resource_type == "Bundle" else walk.entries
        shape(resource_type).check(value, place, inner)
        walk.errors += inner.errors
        if inside:
            _check_referred(value, place, walk)
    elif isinstance(value, dict) and isinstance(value.get("resourceType"), str):
        walk.fault("not-supported", place, "is of a resource type that FHIR R4 (4.0.1) does not have")
    else:
        walk.fault("structure", place, "must be a JSON object with a resourceType")


def _check_contained(value: Any, place: Place, walk: Walk) -> None:
    resource_type = known_type(value)
    if not resource_type:
        check_resource(value, place, walk)
        return
    if "contained" in value:
        walk.fault("structure", child(place, "contained"), "a contained resource may not contain others")
    meta = value.get("meta")
    for name in ("versionId", "lastUpdated", "security"):
        if isinstance(meta, dict) and name in meta:
            walk.fault("structure", child(child(place, "meta"), name), "may not stand in a contained resource")
    inner = Walk(walk.issues, walk.contained, value, walk.root, place, walk.notes)
    inner.entries = walk.entries
    shape(resource_type).check(value, place, inner)
    walk.errors += inner.errors


def _check_referred(resource: dict[str, Any], place: Place, walk: Walk) -> None:
    """dom-3: what is contained is referred to from the rest, or refers to what contains it."""
    named = set(_fragments(resource))
    for index, inner in enumerate(resource["contained"]):
        key = inner.get("id") if isinstance(inner, dict) else None
        if isinstance(key, str) and f"#{key}" not in named and "#" not in _fragments(inner):
            here = child(place, "contained", index)
            walk.fault("invariant", here, "dom-3: nothing refers to it, and it does not refer to what contains it")


def _fragments(value: Any) -> Iterator[str]:
    ahead = [value]
    while ahead:
        each = ahead.pop()
        if isinstance(each, str):
            if each.startswith("#"):
                yield each
        elif isinstance(each, dict):
            ahead += each.values()
        elif isinstance(each, list):
            ahead += each


def _contained(resources: list[Any], place: Place, walk: Walk) -> dict[str, str]:
    """id → type of the contained resources; each must have an id of its own."""
    found: dict[str, str] = {}
    for index, resource in enumerate(resources):
        key = resource.get("id") if isinstance(resource, dict) else None
        here = child(child(place, "contained", index), "id")
        if not isinstance(key, str):
            walk.fault("required", here, "is required in a contained resource: nothing could refer to it")
        elif key in found:
            walk.fault("duplicate", here, "is the id of another contained resource too")
        else:
            found[key] = str(resource.get("resourceType"))
    return found


def _keys(element: Element) -> list[str]:
    return [prefix + key for key, _ in element.members() for prefix in ("", "_")]


def _is_primitive(field: tuple[Element, str] | None) -> bool:
    return field is not None and definitions.structure(field[1]).kind == "primitive-type"


def _pass(parent: dict[str, Any], value: Any, place: Place, walk: Walk) -> None:
    return


def _object(element: Element, check: Check) -> Field:
    name = element.name
    return lambda parent, value, place, walk: check(value, (place, name, None, place[3] + 1), walk)


def _objects(element: Element, type_name: str, check: Check) -> Field:
    name = element.name
    of_extensions = type_name == "Extension"
    most = sys.maxsize if element.max is None else element.max

    def each(parent: dict[str, Any], value: Any, place: Place, walk: Walk) -> None:
        if (type(value) is list and 0 < len(value) <= most) or _is_list(value, element, place, walk):
            depth = place[3] + 1
            for index, item in enumerate(value):
                check(item, (place, name, index, depth), walk)
            if of_extensions:
                extensions.check_counts(value, place, name, walk)

    return each


def _with_invariants(field: Field, name: str, type_name: str, written: tuple[invariants.Invariant, ...]) -> Field:
    def run(parent: dict[str, Any], value: Any, place: Place, walk: Walk) -> None:
        before = walk.errors
        field(parent, value, place, walk)
        if walk.errors == before:
            many = value if type(value) is list else [value]
            for index, item in enumerate(many):
                here = child(place, name, index if many is value else None)
                invariants.check(written, type_name, item, here, walk)

    return run


def _check(element: Element, type_name: str) -> Check:
    """What is demanded of each object there: its type's shape, and what the element adds."""
    if type_name == "Resource":
        return _check_contained if element.name == "contained" else check_resource
    if element.name == "modifierExtension":
        more: rules.Rule | None = rules.of_modifier_extension
    elif type_name == "Reference":
        more = rules.of_reference(element)
    else:
        more = rules.of_binding(element, type_name)
    return shape(type_name).check if more is None else _checker(shape(type_name), more)


def _is_list(value: Any, element: Element, place: Place, walk: Walk) -> bool:
    if type(value) is not list:
        walk.fault("structure", child(place, element.name), "must be a JSON array: the element may repeat")
        return False
    if not value:
        walk.fault("structure", child(place, element.name), "must not be an empty array; leave it out instead")
    if element.max is not None and len(value) > element.max:
        walk.fault("structure", child(place, element.name), f"may have at most {element.max} values")
    return True


def _at_once(element: Element, syntax: str) -> Callable[[str], object] | None:
    """What finds most texts of an element sound before anything else is called; None where there is more to say."""
    if element.binding:
        allowed = _allowed(element.binding)
        return None if allowed is None else allowed.__contains__
    return primitives.at_once(syntax)


@cache
def _allowed(binding: str) -> frozenset[str] | None:
    """The codes of a required binding, of whatever system; None where they are not listed."""
    codes = definitions.value_set(binding)
    return None if codes is None else frozenset().union(*codes.values())


def _value_test(element: Element, syntax: str) -> Callable[[Any], bool]:
    """Syntax, or membership where a required binding lists the codes: they are of the right syntax."""
    allowed = _allowed(element.binding) if element.binding else None
    if allowed is None:
        return primitives.test(syntax)
    return lambda value: type(value) is str and value in allowed


def _bad_value(value: Any, element: Element, syntax: str, place: Place, walk: Walk) -> None:
    if element.binding and type(value) is str and primitives.test(syntax)(value):
        walk.fault("code-invalid", place, f"must be a code of the value set {element.binding}")
    elif type(value) is list:
        walk.fault("structure", place, "must not be a JSON array: the element does not repeat")
    elif value is None:
        walk.fault("structure", place, "must not be null; leave it out instead")
    else:
        walk.fault("value", place, f"must be {primitives.EXPECTED[syntax]}")


def _primitive(element: Element, syntax: str) -> Field:
    test, name = _value_test(element, syntax), element.name
    is_unlisted = bool(element.binding) and _allowed(element.binding) is None

    def check(parent: dict[str, Any], value: Any, place: Place, walk: Walk) -> None:
        if not test(value):
            _bad_value(value, element, syntax, child(place, name), walk)
        elif is_unlisted:
            walk.note(child(place, name), f"The codes of {element.binding} can't be looked up here.")

    return check


def _primitives(element: Element, syntax: str) -> Field:
    test, name = _value_test(element, syntax), element.name

    def check(parent: dict[str, Any], value: Any, place: Place, walk: Walk) -> None:
        if not _is_list(value, element, place, walk):
            return
        for index, item in enumerate(value):
            if not test(item) and not (item is None and _at(parent.get("_" + name), index)):
                _bad_value(item, element, syntax, child(place, name, index), walk)

    return check


def _at(values: Any, index: int) -> bool:
    return isinstance(values, list) and index < len(values) and values[index] is not None


def _companion(key: str, element: Element) -> Field:
    """`_birthDate`: id and extensions of a primitive; in an array, null where a value has none.

    Source: https://hl7.org/fhir/R4/json.html#primitive
    """
    name, check = element.name, shape("Element").check
    of_alone = rules.of_valueless(element, check)

    def of_value(value: Any, here: Place, walk: Walk) -> None:
        """Beside a value, an id alone is something."""
        if type(value) is not dict or value.keys() != {"id"}:
            check(value, here, walk)
        elif primitives.test("string")(value["id"]):
            walk.element_id(value["id"], here)
        else:
            walk.fault("value", child(here, "id"), f"must be {primitives.EXPECTED['string']}")

    def one(parent: dict[str, Any], value: Any, place: Place, walk: Walk) -> None:
        (of_value if key in parent else of_alone)(value, child(place, name), walk)

    def many(parent: dict[str, Any], value: Any, place: Place, walk: Walk) -> None:
        if not _is_list(value, element, place, walk):
            return
        values = parent.get(key)
        if isinstance(values, list) and len(values) != len(value):
            walk.fault("structure", child(place, name), f"{key} and _{key} must be arrays of the same length")
        for index, item in enumerate(value):
            if item is not None:
                (of_value if _at(values, index) else of_alone)(item, child(place, name, index), walk)
            elif not _at(values, index):
                walk.fault("structure", child(place, name, index), "must not be null in both arrays")

    return many if element.max is None or element.max > 1 else one
