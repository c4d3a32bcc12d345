"""Elements that R4 does not have, JSON of another form, counts, empty values and nulls, choices, resource types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fhir_secondop.fhir import definitions
from tests.conformance.kinds import Kind
from tests.conformance.nodes import Example, Json, Member, Site, site
from tests.conformance.notation import Number

# A word of another language is in no type; the others are of other types, or of R5.
STRANGERS = ("unbekannt", "Status", "gender", "note", "value", "participant", "resourceType", "fhir_comments")
# R4B has them, R4 4.0.1 has not; and two that nobody has.
NO_TYPES = ("Citation", "SubscriptionTopic", "ManufacturedItemDefinition", "Ingredient", "Patients", "patient")


def put(key: str, value: Any) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        target[key] = value

    return edit


def unknown(name: str) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        for node in example.nodes:
            if name not in node.structure.fields and not (name == "resourceType" and name in node.value):
                yield site(node, node.type, put(name, "x"), f".{name}")

    return sites


def at_members(
    wanted: Callable[[Member], bool], change: Callable[[Any], Any], *, whole: bool = False
) -> Callable[[Example], Iterator[Site]]:
    """Replaces the value of each member that is wanted; of a repeating one its first item, unless `whole`."""

    def sites(example: Example) -> Iterator[Site]:
        for member in example.members:
            if member.value in ([], None) or not wanted(member):
                continue
            yield site(member.node, member.group, _replacing(member, change, whole), f".{member.key}")

    return sites


def _replacing(member: Member, change: Callable[[Any], Any], whole: bool) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        value = target[member.key]
        if isinstance(value, list) and not whole:
            value[0] = change(value[0])
        else:
            target[member.key] = change(value)

    return edit


def is_text(member: Member) -> bool:
    return member.is_primitive and member.type not in (
        "boolean", "integer", "decimal", "positiveInt", "unsignedInt", "xhtml",
    )  # fmt: skip


def is_number(member: Member) -> bool:
    return member.type in ("integer", "decimal", "positiveInt", "unsignedInt")


def is_boolean(member: Member) -> bool:
    return member.type == "boolean"


def is_object(member: Member) -> bool:
    return not member.is_primitive and member.type != "Resource"


def any_member(member: Member) -> bool:
    return member.type != "Resource"


def missing(example: Example) -> Iterator[Site]:
    for member in example.members:
        if member.element.min > 0:
            yield site(member.node, member.group, _without(member.key), f".{member.key}")


def _without(key: str) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        del target[key]
        target.pop("_" + key, None)

    return edit


def left_out(example: Example) -> Iterator[Site]:
    """An element that need not be there is not there: harmless, unless an invariant wants it."""
    for member in example.members:
        if member.element.min == 0 and len(member.node.value) > 1:
            yield site(member.node, member.group, _without(member.key), f".{member.key}")


def null_item(example: Example) -> Iterator[Site]:
    for member in example.members:
        if isinstance(member.value, list) and "_" + member.key not in member.node.value:
            yield site(member.node, member.group, _appending(member.key, None), f".{member.key}")


def _appending(key: str, value: Any) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        target[key] = [*target[key], value]

    return edit


def second_choice(example: Example) -> Iterator[Site]:
    """Another member of a choice beside the one that is there."""
    for member in example.members:
        if member.element.is_choice:
            for key, value in (("Boolean", True), ("String", "x"), ("DateTime", "2024"), ("Integer", Number("1")),
                               ("Reference", {"display": "x"}), ("Period", {"start": "2024"}),
                               ("CodeableConcept", {"text": "x"}),
                               ("Range", {"low": {"value": Number("1")}})):  # fmt: skip
                name = member.element.name + key
                if name in member.node.structure.fields and name not in member.node.value:
                    yield site(member.node, f"{member.node.type}.{name}", put(name, value), f".{name}")


def choice_of_no_such_type(example: Example) -> Iterator[Site]:
    for member in example.members:
        if member.element.is_choice:
            name = member.element.name + next(
                t for t in ("Base64Binary", "Uuid", "Contributor", "Foo")
                if member.element.name + t not in member.node.structure.fields
            )  # fmt: skip
            yield site(member.node, member.group, _renaming(member.key, name), f".{name}")


def choice_without_type(example: Example) -> Iterator[Site]:
    for member in example.members:
        if member.element.is_choice:
            yield site(member.node, member.group, _renaming(member.key, member.element.name), f".{member.element.name}")


def _renaming(key: str, name: str) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        target[name] = target.pop(key)

    return edit


def resource_types(name: str | None) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        for node in example.nodes:
            if "resourceType" in node.value:
                where = node.place.rpartition(".")[2].partition("[")[0] if node.keys else "root"
                change = _without("resourceType") if name is None else put("resourceType", name)
                yield site(node, where, change)

    return sites


def copied_from(example: Example, other: Example) -> Iterator[Site]:
    """An element of another example of the same type: harmless, unless an invariant forbids the pair."""
    for key, value in other.resource.items():
        if key in ("resourceType", "id", "meta", "text", "contained", "identifier", "url", "name", "extension"):
            continue
        field = definitions.structure(example.type).fields.get(key)
        if field and key not in example.resource and not any(k in example.resource for k, _ in field[0].members()):
            yield site(example.nodes[0], f"{example.type}.{key}", put(key, value), f".{key}")


KINDS = [
    *(Kind("unknown element", name, 16 if name != "unbekannt" else 90, unknown(name)) for name in STRANGERS),
    Kind("JSON type", "number for text", 70, at_members(is_text, lambda _: Number("5"))),
    Kind("JSON type", "boolean for text", 40, at_members(is_text, lambda _: True)),
    Kind("JSON type", "object for primitive", 60, at_members(lambda m: m.is_primitive, lambda v: {"value": v})),
    Kind("JSON type", "text for number", 60, at_members(is_number, str)),
    Kind("JSON type", "text for boolean", 60, at_members(is_boolean, lambda v: str(v).lower())),
    Kind("JSON type", "number for boolean", 20, at_members(is_boolean, lambda _: Number("1"))),
    Kind("JSON type", "text for object", 70, at_members(is_object, lambda _: "x")),
    Kind("JSON type", "number for object", 30, at_members(is_object, lambda _: Number("0"))),
    Kind("JSON type", "true for object", 20, at_members(is_object, lambda _: True)),
    Kind("JSON type", "array for one", 90, at_members(lambda m: not m.is_many and any_member(m), lambda v: [v])),
    Kind(
        "JSON type", "array of two for one", 40, at_members(lambda m: not m.is_many and any_member(m), lambda v: [v, v])
    ),
    Kind(
        "JSON type", "one for array", 90, at_members(lambda m: m.is_many and any_member(m), lambda v: v[0], whole=True)
    ),
    Kind(
        "JSON type", "array in array", 40, at_members(lambda m: m.is_many and any_member(m), lambda v: [v], whole=True)
    ),
    Kind("cardinality: required", "missing", 330, missing),
    Kind("empty value", "array", 80, at_members(lambda m: m.is_many, lambda _: [], whole=True)),
    Kind("empty value", "array for one", 30, at_members(lambda m: not m.is_many, lambda _: [])),
    Kind("empty value", "object", 90, at_members(is_object, lambda _: {})),
    Kind("empty value", "string", 80, at_members(is_text, lambda _: "")),
    Kind("harmless: other value", "spaces", 60, at_members(is_text, lambda _: "  "), valid=None),
    Kind("null", "for a value", 80, at_members(any_member, lambda _: None, whole=True)),
    Kind("null", "in an array", 60, null_item),
    Kind("null", "alone in an array", 30, at_members(lambda m: m.is_many, lambda _: [None], whole=True)),
    Kind("choice", "two", 90, second_choice),
    Kind("choice", "of a type not offered", 50, choice_of_no_such_type),
    Kind("choice", "without type", 30, choice_without_type),
    Kind("resource type", "missing", 12, resource_types(None)),
    *(Kind("resource type", name, 6, resource_types(name)) for name in NO_TYPES),
    Kind("element left out", "optional", 420, left_out, valid=None),
]
