"""A row of the table of operations → its OperationDefinition, so that the two can't differ.

The parameters are those of the row's JSON Schema, in the words of `fhir/parameters.py`: an object is a parameter with
parts, an array one that repeats. What a schema demands across parameters stays in the schema.
Source: https://hl7.org/fhir/R4/operationdefinition.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhir_secondop import __version__
from fhir_secondop.model import Operation, Resource

_TYPES = {"string": "string", "integer": "integer", "number": "decimal", "boolean": "boolean"}


def definition(operation: Operation, canonical: str) -> Resource:
    """The OperationDefinition of one row, under the canonical name that the CapabilityStatement gives it."""
    schema = operation.schema
    sent = [_RAW] if operation.raw else list(_parameters(schema, schema))
    return {
        "resourceType": "OperationDefinition",
        "id": operation.code,
        "url": f"{canonical}/OperationDefinition/{operation.code}",
        "version": __version__,
        "name": "".join(part.capitalize() for part in operation.code.split("-")),
        "title": operation.code.replace("-", " ").capitalize(),
        "status": "active",
        "kind": "operation",
        "experimental": False,
        "publisher": "fhir_secondop",
        "description": operation.summary,
        "affectsState": not operation.reads,
        "code": operation.code,
        **({"resource": [operation.type]} if operation.type else {}),
        "system": not operation.type,
        "type": bool(operation.type) and operation.on_type,
        "instance": bool(operation.type) and not operation.on_type,
        "parameter": [*sent, _ANSWER],
    }


_RAW: Resource = {"name": "resource", "use": "in", "min": 1, "max": "1", "type": "Resource",
                  "documentation": "It is sent as it is, not as a parameter."}  # fmt: skip
_ANSWER: Resource = {"name": "return", "use": "out", "min": 1, "max": "1", "type": "Resource",
                     "documentation": "The resource that was made, moved or asked for; else Parameters."}  # fmt: skip


def _parameters(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[Resource]:
    for name, member in schema.get("properties", {}).items():
        said = _resolved(member, whole)
        repeats = said.get("type") == "array"
        one = _resolved(said.get("items", {}), whole) if repeats else said
        parameter: Resource = {
            "name": name,
            "use": "in",
            "min": _least(said) if name in schema.get("required", ()) else 0,
            "max": str(said.get("maxItems", "*")) if repeats else "1",
        }
        if text := " ".join(_documentation(said, one)):
            parameter["documentation"] = text
        if one.get("type") == "object":
            # The parts of a part have their schema in theirs, but "#/$defs/…" is looked up in the schema it came with.
            parameter["part"] = list(_parameters(one, one if "$defs" in one else whole))
        else:
            parameter["type"] = _type(one)
        yield parameter


def _least(said: Mapping[str, Any]) -> int:
    return int(said.get("minItems", 0)) if said.get("type") == "array" else 1


def _type(said: Mapping[str, Any]) -> str:
    """The FHIR type; a string where JSON may have several."""
    kind = said.get("type", "string")
    return _TYPES[kind] if isinstance(kind, str) else "string"


def _resolved(member: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = member.get("$ref")
    if reference is None:
        return member
    found: Mapping[str, Any] = whole
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return {**found, **{key: value for key, value in member.items() if key != "$ref"}}


def _documentation(said: Mapping[str, Any], one: Mapping[str, Any]) -> Iterator[str]:
    if text := said.get("description") or one.get("description"):
        yield f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
    allowed = one.get("enum") or ([one["const"]] if "const" in one else [])
    if allowed:
        yield f"One of: {', '.join(map(str, allowed))}."
    if "default" in said:
        yield f"By default {said['default']}."
