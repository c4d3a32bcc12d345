"""How each R4 type stands in XML: its elements in their order, its attributes, how each value is written in JSON.

Made from the tables, a type at a time when first met; the writer and the reader of XML both go by it.
Source: https://hl7.org/fhir/R4/xml.html
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from fhir_secondop.fhir import definitions

FHIR = "http://hl7.org/fhir"
XHTML = "http://www.w3.org/1999/xhtml"

# How a value is written in JSON, or what stands there instead of a value.
STRING, NUMBER, BOOLEAN, XHTML_DIV, OBJECT, RESOURCE = range(6)
_NUMBERS = frozenset(("decimal", "integer", "positiveInt", "unsignedInt"))


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One element of a type, or one of the types of a choice (valueQuantity).

    `name` is that of the element in paths, `key` that in JSON and XML. All types of a choice have one `ordinal`.
    """

    key: str
    name: str
    ordinal: int
    is_many: bool
    is_attribute: bool
    type: str
    kind: int
    opening: str  # <key>
    closing: str  # </key>
    value: str  # <key value="
    member: str  # "key":
    companion: str  # "_key":


class Plan:
    """A type (or backbone) as the writer and the reader need it.

    `members`: JSON key, also with an underscore, → field. `ordinals`: the same keys → place in the order of XML.
    `elements`: name in XML ("http://hl7.org/fhir family") → field. `attributes`: name of an XML attribute → field.
    """

    __slots__ = ("attributes", "elements", "is_resource", "members", "name", "ordinals")

    def __init__(self, type_name: str) -> None:
        structure = definitions.structure(type_name)
        self.name = type_name
        self.is_resource = structure.kind == "resource"
        place = {name: ordinal for ordinal, name in enumerate(structure.elements)}
        fields = [_field(key, e, of_type, place[e.name]) for key, (e, of_type) in structure.fields.items()]
        self.members = {field.key: field for field in fields}
        self.members |= {f"_{f.key}": f for f in fields if f.kind < XHTML_DIV and not f.is_attribute}
        self.ordinals = {key: field.ordinal for key, field in self.members.items()}
        if self.is_resource:
            self.ordinals["resourceType"] = -1
        self.attributes = {field.key: field for field in fields if field.is_attribute}
        self.elements = {_xml_name(field): field for field in fields if not field.is_attribute}


def _field(key: str, element: definitions.Element, type_name: str, ordinal: int) -> Field:
    return Field(
        key=key,
        name=element.name,
        ordinal=ordinal,
        is_many=element.max is None or element.max > 1,
        is_attribute=element.is_attribute,
        type=type_name,
        kind=_kind(type_name),
        opening=f"<{key}>",
        closing=f"</{key}>",
        value=f'<{key} value="',
        member=f'"{key}":',
        companion=f'"_{key}":',
    )


def _kind(type_name: str) -> int:
    if type_name == "Resource":
        return RESOURCE
    if definitions.structure(type_name).kind != "primitive-type":
        return OBJECT
    if type_name in _NUMBERS:
        return NUMBER
    return {"boolean": BOOLEAN, "xhtml": XHTML_DIV}.get(type_name, STRING)


def _xml_name(field: Field) -> str:
    return f"{XHTML if field.kind == XHTML_DIV else FHIR} {field.key}"


@cache
def plan(type_name: str) -> Plan:
    """The plan of a type or backbone of R4. Raises Unsupported if R4 has no such."""
    return Plan(type_name)


@cache
def resources() -> dict[str, str]:
    """Name in XML → resource type, of the 146 that can stand in a document or in another resource."""
    return {f"{FHIR} {name}": name for name in sorted(definitions.resource_types())}
