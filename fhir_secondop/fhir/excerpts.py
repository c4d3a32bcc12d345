"""_elements and _summary: a part of a resource, labelled as one.

Source: https://hl7.org/fhir/R4/search.html#elements and #summary
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.definitions import Element

SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
_ALWAYS = frozenset({"resourceType", "id", "meta", "implicitRules"})


def of_elements(resource: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """These elements at the top, with those that must be there and those that change the meaning of others."""
    return _cut(resource, lambda element: element.name in names or element.min > 0 or element.is_modifier)


def summary(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """What `_summary=` true, text or data leaves of a resource."""
    if kind == "text":
        return _cut(resource, lambda element: element.name == "text" or element.min > 0 or element.is_modifier)
    if kind == "data":
        return _cut(resource, lambda element: element.name != "text")
    cut = _cut(resource, lambda element: element.is_summary or element.min > 0 or element.is_modifier)
    return {key: _summarised(value, resource["resourceType"], key) for key, value in cut.items()}


def _cut(resource: dict[str, Any], keeps: Callable[[Element], bool]) -> dict[str, Any]:
    fields = definitions.structure(resource["resourceType"]).fields
    kept = {
        key: value
        for key, value in resource.items()
        if key in _ALWAYS or ((field := fields.get(key.removeprefix("_"))) and keeps(field[0]))
    }
    meta = dict(kept.get("meta", {}))
    tags = [tag for tag in meta.get("tag", ()) if tag != SUBSETTED]
    return {**kept, "meta": {**meta, "tag": [*tags, SUBSETTED]}}


def _summarised(value: Any, parent: str, key: str) -> Any:
    """The same within: of a part of a resource only what belongs to a summary."""
    field = definitions.structure(parent).fields.get(key)
    if field is None or "." not in field[1]:
        return value  # a data type stands as it is
    if isinstance(value, list):
        return [_summarised(each, parent, key) for each in value]
    fields = definitions.structure(field[1]).fields
    return {
        name: _summarised(each, field[1], name)
        for name, each in value.items()
        if (of := fields.get(name.removeprefix("_"))) is None or of[0].is_summary or of[0].min or of[0].is_modifier
    }
