"""The objects of an example resource with the R4 type of each: where a mutation may be made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.definitions import Element, Structure
from tests.conformance.notation import parse

Json = dict[str, Any]
Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Node:
    """An object in a resource: the keys that lead to it, its place as FHIRPath, its type ("Patient.contact")."""

    keys: Keys
    place: str
    type: str
    value: Json

    @property
    def structure(self) -> Structure:
        return definitions.structure(self.type)


@dataclass(frozen=True)
class Member:
    """A member of a node that R4 defines, with its element and type."""

    node: Node
    key: str
    element: Element
    type: str

    @property
    def value(self) -> Any:
        return self.node.value[self.key]

    @property
    def place(self) -> str:
        return f"{self.node.place}.{self.key}"

    @property
    def group(self) -> str:
        return f"{self.node.type}.{self.key}"

    @property
    def is_many(self) -> bool:
        return self.element.max is None

    @property
    def is_primitive(self) -> bool:
        return definitions.structure(self.type).kind == "primitive-type"


@dataclass(frozen=True)
class Site:
    """Where and how one mutation is made. `group`: what its case stands for; sites of other groups are taken first.

    `edit` changes a copy of the resource, or gives the text to send instead.
    """

    group: str
    place: str
    edit: Callable[[Json], str | None]


class Example:
    """An example resource, parsed once; never changed."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.resource: Json = parse(text)
        self.type: str = self.resource["resourceType"]

    @cached_property
    def nodes(self) -> list[Node]:
        return list(_nodes(self.resource, (), self.type, self.type))

    @cached_property
    def members(self) -> list[Member]:
        return [
            Member(node, key, *node.structure.fields[key])
            for node in self.nodes
            for key in node.value
            if key in node.structure.fields
        ]

    def copy(self) -> Json:
        return copy.deepcopy(self.resource)


def read(path: Path) -> Example:
    return Example(path.stem, path.read_text("utf-8"))


def _nodes(value: Json, keys: Keys, place: str, type_name: str) -> Iterator[Node]:
    node = Node(keys, place, type_name, value)
    yield node
    fields = node.structure.fields
    for key, items in value.items():
        if key.startswith("_") and key[1:] in fields:
            of_type = "Element"
        elif key in fields:
            of_type = fields[key][1]
        else:
            continue
        many = isinstance(items, list)
        for index, item in enumerate(items if many else [items]):
            if isinstance(item, dict):
                here = (*keys, key, index) if many else (*keys, key)
                at = f"{place}.{key}[{index}]" if many else f"{place}.{key}"
                kind = item["resourceType"] if of_type == "Resource" else of_type
                yield from _nodes(item, here, at, kind)


def at(resource: Json, keys: Keys) -> Any:
    """The value in a resource to which the keys lead."""
    found: Any = resource
    for key in keys:
        found = found[key]
    return found


def site(node: Node, group: str, edit: Callable[[Json], Any], tail: str = "") -> Site:
    """A site whose edit is given the node's object in the copy of the resource."""

    def run(resource: Json) -> None:
        edit(at(resource, node.keys))

    return Site(group, node.place + tail, run)
