"""Extensions against their definitions: HL7's 393 of R4 and our own. What nobody here knows is let pass as it is.

Checked are the place (context, and rules about it), how often one may stand there, value or parts, types, targets and
required codes.
Source: https://hl7.org/fhir/R4/defining-extensions.html and https://hl7.org/fhir/R4/extensibility.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from fhir_secondop.fhir import definitions, invariants, path, primitives, rules
from fhir_secondop.fhir.faults import Place, Walk, child, names_below

_LISTS = ("extension", "modifierExtension")

_HL7 = "http://hl7.org/fhir/StructureDefinition/structuredefinition-"
ALSO_AT = {f"{_HL7}fhir-type": {"ElementDefinition.type"}, f"{_HL7}normative-version": {"ElementDefinition"}}
"""Where R4's own StructureDefinitions have an extension, against the context that its definition gives."""

Row = Mapping[str, Any]
"""What definitions.extension gives: value (types), isNeeded, parts by url with min and max, binding, context, rules,
max, isModifier."""


def of_extension(value: dict[str, Any], place: Place, walk: Walk) -> None:
    """The rules of every extension, and of one whose definition is known."""
    has_value = not _value_keys().isdisjoint(value)
    if has_value == ("extension" in value):
        walk.fault("extension", place, "must have either a value or extensions")
    url = value.get("url")
    if place[0][1] in _LISTS or not isinstance(url, str):
        return  # a part of another, which knows what it may have
    if primitives.ABSOLUTE(url) is None:
        walk.fault("extension", child(place, "url"), "must be an absolute URI: it says who defines the extension")
    elif (row := definitions.extension(url)) is None:
        walk.note(place, f"The extension {url} is not known here: its value was not checked against a definition.")
    else:
        before = walk.errors
        _check_place(url, row, place, walk)
        _check_body(row, value, place, walk)
        if walk.errors == before:
            invariants.check(invariants.of_extension(url), "Extension", value, place, walk)


@cache
def _value_keys() -> frozenset[str]:
    value = definitions.structure("Extension").elements["value"]
    return frozenset(prefix + key for key, _ in value.members() for prefix in ("", "_"))


def check_counts(found: list[Any], place: Place, name: str, walk: Walk) -> None:
    """None stands there more often than its definition allows."""
    if len(found) < 2:
        return
    urls = Counter(each["url"] for each in found if isinstance(each, dict) and isinstance(each.get("url"), str))
    for url, count in urls.items():
        if count > 1 and (row := definitions.extension(url)) is not None and row.get("max") == "1":
            # HL7's own validator does not look at this number: of its extensions it is said, of ours it is demanded.
            severity = "error" if definitions.profile(url) else "warning"
            walk.fault("extension", child(place, name), f"{url} may stand here once only", severity=severity)


def _check_body(row: Row, value: Mapping[str, Any], place: Place, walk: Walk) -> None:
    parts = row.get("parts", {})
    allowed = "value" in row
    key = next((key for key in value if key.startswith("value")), "")
    if key and not allowed:
        walk.fault("extension", child(place, "value"), "may not be there: this extension has parts")
    elif key:
        _check_value(row, key, value[key], child(place, "value"), walk)
    elif row.get("isNeeded") and not any(name.startswith("_value") for name in value):
        walk.fault("required", child(place, "value"), "is required, by the definition of this extension")
    if not parts:
        if allowed and "extension" in value:
            walk.fault("structure", child(place, "extension"), "may not be there: this extension has a value")
        return
    if not allowed and "extension" not in value:
        walk.fault("required", child(place, "extension"), f"needs at least one part of {', '.join(parts)}")
    counts: Counter[str] = Counter()
    for index, inner in enumerate(_dicts(value.get("extension"))):
        here, url = child(place, "extension", index), str(inner.get("url"))
        if url in parts:
            counts[url] += 1
            _check_body(parts[url], inner, here, walk)
        elif primitives.ABSOLUTE(url) is None:
            walk.fault("extension", child(here, "url"), f"is no part of this extension; it has {', '.join(parts)}")
    for url, part in parts.items():
        if counts[url] < part.get("min", 0):
            walk.fault("required", child(place, "extension"), f"needs the part {url}")
        if part.get("max", "1") != "*" and counts[url] > int(part.get("max", "1")):
            walk.fault(
                "structure", child(place, "extension"), f"may have the part {url} {part.get('max', '1')} time(s)"
            )


def _check_value(row: Row, key: str, value: Any, place: Place, walk: Walk) -> None:
    field = definitions.structure("Extension").fields.get(key)
    if field is None:
        return  # the walk has named it
    types = {name.partition("(")[0]: name for name in row["value"]}
    if types and field[1] not in types:
        walk.fault("extension", place, f"must be of type {' or '.join(sorted(types))} in this extension")
        return
    targets = types.get(field[1], "").partition("(")[2].rstrip(")")
    if field[1] == "Reference" and targets:
        rules.check_target(value, frozenset(targets.split("|")), place, walk)
    if "binding" in row and (codes := definitions.value_set(row["binding"])):
        rules.check_codes(value, field[1], codes, row["binding"], place, walk)


def _dicts(values: Any) -> Iterator[dict[str, Any]]:
    yield from (each if isinstance(each, dict) else {} for each in (values if isinstance(values, list) else ()))


# Where it stands ----------------------------------------------------------------------------------------------------


def _check_place(url: str, row: Row, place: Place, walk: Walk) -> None:
    is_modifier = place[1] == "modifierExtension"
    if is_modifier is not row.get("isModifier", False):
        wanted = "modifierExtension" if row.get("isModifier", False) else "extension"
        walk.fault("extension", place, f"must stand in {wanted}, by its definition")
    contexts = _contexts(url)
    if contexts and not _stands(walk.resource.get("resourceType", ""), names_below(walk.place, place[0])) & contexts:
        walk.fault("extension", place, f"may stand at {', '.join(sorted(contexts))} only")
    elif "rules" in row and (around := _around(place, walk)):
        for said in row["rules"]:
            # Those that ask what the extension itself says are not looked at.
            if "%extension" not in said and not _holds(said, *around):
                walk.fault("extension", place, f"may stand here only where {said}")


def _around(place: Place, walk: Walk) -> tuple[str, Mapping[str, Any]] | None:
    """(type, value) of the object that an extension stands in; None beside a primitive or in a choice."""
    steps, here = [], place[0]
    while here[3] > walk.place[3]:
        steps.append((here[1], here[2]))
        here = here[0]
    type_name, value = str(walk.resource.get("resourceType")), walk.resource
    for name, index in reversed(steps):
        element = definitions.structure(type_name).elements[name]
        found = value.get(name)
        found = found[index] if index is not None and isinstance(found, list) and index < len(found) else found
        if element.is_choice or not isinstance(found, Mapping):
            return None
        type_name, value = element.types[0], found
    return type_name, value


def _holds(rule: str, type_name: str, value: Mapping[str, Any]) -> bool:
    """Source: https://hl7.org/fhir/R4/structuredefinition-definitions.html#StructureDefinition.contextInvariant"""
    found = path.invariant(rule, type_name)([(type_name, value)])
    return bool(found) and found[0][1] is not False


@cache
def _contexts(url: str) -> frozenset[str]:
    """Where an extension that is known here may stand; empty means anywhere."""
    return frozenset((definitions.extension(url) or {}).get("context", ())) | ALSO_AT.get(url, frozenset())


@lru_cache(maxsize=4096)
def _stands(resource_type: str, steps: tuple[str, ...]) -> frozenset[str]:
    """All that a context may call the element there: by its path, by a type on the way and the rest, by its type."""
    types = {resource_type}
    anchors = {(name, name) for name in (*definitions.ancestors(resource_type), "Element")}
    for step in steps:
        elements = [found for each in types if (found := definitions.structure(each).elements.get(step))]
        types = {name for element in elements for name in element.types}
        choice = ["[x]"] if any(element.is_choice for element in elements) else []
        anchors = {(base, f"{path}.{step}{end}") for base, path in anchors for end in ("", *choice)}
        anchors |= {(name, name) for each in types for name in definitions.ancestors(each)}
    return frozenset(path for _, path in anchors)
