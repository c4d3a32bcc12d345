"""Parameters ↔ plain JSON, so that an operation is written once for its FHIR and its JSON route.

A part with a primitive value becomes a member; nested parts become an object; a name that the schema declares as
an array always becomes a list. A Reference becomes its `reference` string.
Source: https://hl7.org/fhir/R4/parameters.html
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Resource


def to_plain(resource: Resource, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The plain JSON of a Parameters resource. Raises Invalid when a name repeats that the schema has once."""
    if resource.get("resourceType") != "Parameters":
        raise Invalid("Send a Parameters resource.", path="resourceType")
    return _object(resource.get("parameter", []), schema, "Parameters.parameter")


def _object(parts: list[Resource], schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    properties = schema.get("properties", {})
    for place, part in enumerate(parts):
        name = part.get("name", "")
        wanted = properties.get(name, {})
        is_list = wanted.get("type") == "array"
        value = _value(part, wanted.get("items", {}) if is_list else wanted, f"{path}[{place}]")
        if is_list:
            result.setdefault(name, []).append(value)
        elif name in result:
            raise Invalid(f"The parameter {name!r} may stand only once.", path=f"{path}[{place}]")
        else:
            result[name] = value
    return result


def _value(part: Resource, schema: Mapping[str, Any], path: str) -> Any:
    if "part" in part:
        return _object(part["part"], schema, f"{path}.part")
    if "resource" in part:
        return part["resource"]
    for key, value in part.items():
        if key.startswith("value"):
            return value.get("reference", value) if key == "valueReference" else value
    raise Invalid("The parameter has no value.", path=path)


def from_plain(plain: Mapping[str, Any]) -> Resource:
    """The Parameters resource of plain JSON; empty and null members are left out."""
    return {"resourceType": "Parameters", "parameter": _parts(plain)}


def _parts(plain: Mapping[str, Any]) -> list[Resource]:
    parts: list[Resource] = []
    for name, value in plain.items():
        for item in value if isinstance(value, list) else [value]:
            if item is None or item == "" or item == {}:
                continue
            parts.append({"name": name, **_typed(item)})
    return parts


def _typed(value: Any) -> Resource:
    if isinstance(value, Mapping):
        return {"resource": value} if "resourceType" in value else {"part": _parts(value)}
    if isinstance(value, bool):
        return {"valueBoolean": value}
    if isinstance(value, int):
        return {"valueInteger": value}
    if isinstance(value, Decimal | float):
        return {"valueDecimal": value}
    return {"valueString": str(value)}
