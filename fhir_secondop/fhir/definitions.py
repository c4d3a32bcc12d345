"""What FHIR R4 4.0.1 and our own profiles define: types, search parameters, compartments, value sets.

Read once, when first asked for, from the files in profiles/; two threads that ask first at the same time may both
read, and get equal values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from fhir_secondop.errors import Unsupported

PACKAGE = "fhir_secondop.profiles"


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a type. A choice has several `types` and a `name` without "[x]"; a backbone is named by its path.

    `targets`: type (Reference or canonical) → resource types it may point to; {"Resource"} or no entry means any.
    `max` None is "*". `binding` is the URL of the value set of a required binding, `extensible` that of an
    extensible one.
    """

    name: str
    types: tuple[str, ...]
    targets: Mapping[str, frozenset[str]]
    min: int
    max: int | None
    is_choice: bool
    binding: str
    extensible: str
    is_modifier: bool
    is_summary: bool
    is_attribute: bool

    def members(self) -> Iterator[tuple[str, str]]:
        """(JSON key, type): one, or one for each type of a choice (valueQuantity, Quantity)."""
        for each in self.types:
            yield (self.name + each[0].upper() + each[1:] if self.is_choice else self.name), each


@dataclass(frozen=True, slots=True)
class Structure:
    """A resource, a data type, a primitive or a backbone ("Patient.contact"), with the inherited elements in order.

    `fields`: JSON key → (element, type).
    """

    name: str
    kind: str
    base: str
    is_abstract: bool
    regex: str
    elements: Mapping[str, Element]
    fields: Mapping[str, tuple[Element, str]]


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """How to search for something; `components` of a composite are (URL of the parameter, expression below ours)."""

    code: str
    type: str
    expression: str
    url: str
    base: tuple[str, ...]
    targets: tuple[str, ...]
    components: tuple[tuple[str, str], ...]
    modifiers: tuple[str, ...]
    comparators: tuple[str, ...]


@cache
def _table(name: str) -> Mapping[str, Any]:
    table: dict[str, Any] = json.loads(files(PACKAGE).joinpath("r4", f"{name}.json").read_bytes())
    return table


@cache
def resource_types() -> frozenset[str]:
    """The 146 resource types that can be stored or sent."""
    rows = _table("structures").items()
    return frozenset(name for name, row in rows if row["kind"] == "resource" and "abstract" not in row)


@cache
def data_types() -> frozenset[str]:
    """The names of the complex and primitive types."""
    return frozenset(name for name, row in _table("structures").items() if row["kind"] != "resource")


@cache
def structure(name: str) -> Structure:
    """A type ("Patient", "Period", "code") or backbone ("Patient.contact"). Raises Unsupported if R4 has no such."""
    root = name.partition(".")[0]
    row = _table("structures").get(root)
    if row is None or (root != name and name not in row.get("elements", {})):
        raise Unsupported("FHIR R4 (4.0.1) has no such type")
    parts = row.get("elements", {}).get(name, {})
    elements = {e.name: e for e in (_element(key, part) for key, part in parts.items())}
    fields = {key: (e, of_type) for e in elements.values() for key, of_type in e.members()}
    of_backbone = root != name
    return Structure(
        name=name,
        kind="backbone" if of_backbone else row["kind"],
        base="BackboneElement" if of_backbone else row.get("base", ""),
        is_abstract=not of_backbone and "abstract" in row,
        regex=row.get("regex", ""),
        elements=MappingProxyType(elements),
        fields=MappingProxyType(fields),
    )


def _element(key: str, row: Mapping[str, Any]) -> Element:
    types: dict[str, frozenset[str]] = {}
    for text in row["types"]:
        name, _, targets = text.rstrip(")").partition("(")
        types[name] = frozenset(targets.split("|")) if targets else frozenset()
    return Element(
        name=key.removesuffix("[x]"),
        types=tuple(types),
        targets=MappingProxyType({name: targets for name, targets in types.items() if targets}),
        min=row.get("min", 0),
        max=None if row.get("max") == "*" else int(row.get("max", 1)),
        is_choice=key.endswith("[x]"),
        binding=row.get("binding", ""),
        extensible=row.get("extensible", ""),
        is_modifier="isModifier" in row,
        is_summary="isSummary" in row,
        is_attribute="attribute" in row,
    )


def constraints(path: str) -> tuple[tuple[str, str, str, str], ...]:
    """(key, severity, what it says, FHIRPath) of the invariants that R4 writes at the path of an element."""
    return tuple((key, severity, human, said) for key, severity, human, said in _table("constraints").get(path, ()))


def constrained() -> tuple[str, ...]:
    """The paths at which R4 writes an invariant."""
    return tuple(_table("constraints"))


@cache
def ancestors(name: str) -> tuple[str, ...]:
    """The type itself and what it specialises: ("Age", "Quantity", "Element")."""
    row = _table("structures").get(name)
    # From the table: to put together what all types are made of would be half of a first CapabilityStatement.
    base = row.get("base", "") if row is not None else structure(name).base
    return (name, *ancestors(base)) if base else (name,)


@cache
def _search_parameters_of_bases() -> Mapping[str, Mapping[int, SearchParameter]]:
    """By the type that names them as its own, each with its place among all."""
    found: dict[str, dict[int, SearchParameter]] = {}
    rows = (*_table("search-parameters").values(), *_own("searchparameters").values())
    for place, row in enumerate(rows):
        if row.get("expression"):
            parameter = _search_parameter(row)
            for base in parameter.base:
                found.setdefault(base, {})[place] = parameter
    return MappingProxyType(found)


@cache
def search_parameters(resource_type: str) -> Mapping[str, SearchParameter]:
    """By code, with those of all resources (_id, _lastUpdated …); ours, from profiles/searchparameters/, win.

    Without those that have no expression (_content, _text, _query).
    """
    by_base = _search_parameters_of_bases()
    found = {place: each for base in ancestors(resource_type) for place, each in by_base.get(base, {}).items()}
    return MappingProxyType({parameter.code: parameter for _, parameter in sorted(found.items())})


@cache
def implied_systems(resource_type: str, code: str) -> frozenset[str]:
    """The code systems of a search parameter that looks at plain codes alone (Patient.gender); none if it doesn't."""
    parameter = search_parameters(resource_type).get(code)
    found: set[str] = set()
    for path in parameter.expression.split("|") if parameter is not None else ():
        steps = path.strip().split(".")
        if steps[0] not in (resource_type, *ancestors(resource_type)):
            continue  # of another type
        codes = value_set(binding) if (binding := _binding_of_code(resource_type, steps[1:])) else None
        if not codes:
            return frozenset()
        found.update(codes)
    return frozenset(found)


def _binding_of_code(type_name: str, steps: list[str]) -> str:
    """The required value set of the code at the end of a path; "" if there is no plain path, or no code."""
    binding = ""
    for step in steps:
        element = structure(type_name).elements.get(step)
        if element is None or len(element.types) != 1:
            return ""
        type_name, binding = element.types[0], element.binding
    return binding if type_name == "code" else ""


@cache
def search_parameter_codes() -> frozenset[str]:
    """The codes of the search parameters of all types."""
    return frozenset(row["code"] for row in (*_table("search-parameters").values(), *_own("searchparameters").values()))


@cache
def search_parameters_digest() -> str:
    """A SHA-256 (hex) that changes when any search parameter of R4's does."""
    return hashlib.sha256(files(PACKAGE).joinpath("r4", "search-parameters.json").read_bytes()).hexdigest()


def own_search_parameters() -> Mapping[str, Mapping[str, Any]]:
    """URL → SearchParameter, of profiles/searchparameters: those that are indexed."""
    return {url: row for url, row in _own("searchparameters").items() if row.get("expression")}


@cache
def search_parameter_by_url(url: str) -> SearchParameter | None:
    """The parameter with that canonical URL: a composite names its components so."""
    rows = (*_table("search-parameters").values(), *_own("searchparameters").values())
    return next((_search_parameter(row) for row in rows if row["url"] == url), None)


_RELATIONSHIP = "http://hl7.org/fhir/SearchParameter/DocumentReference-relationship"
_MIXED_UP = {(_RELATIONSHIP, "code"): "target", (_RELATIONSHIP, "target"): "code"}
"""R4 gives relatesto$relation the expressions of relation$relatesto; R5 has mended it."""


@cache
def components(composite: SearchParameter) -> tuple[tuple[SearchParameter, str], ...]:
    """The simple parameters that a composite combines, each with its expression in the composite's element."""
    found = []
    for url, expression in composite.components:
        part = search_parameter_by_url(url)
        assert part is not None, f"a composite of R4's names {url}, which is not there"
        found.append((part, _MIXED_UP.get((composite.url, expression), expression)))
    return tuple(found)


def _search_parameter(row: Mapping[str, Any]) -> SearchParameter:
    components = (c if isinstance(c, list) else [c["definition"], c["expression"]] for c in row.get("component", ()))
    return SearchParameter(
        code=row["code"],
        type=row["type"],
        expression=row.get("expression", ""),
        url=row["url"],
        base=tuple(row["base"]),
        targets=tuple(row.get("target", ())),
        components=tuple((definition, expression) for definition, expression in components),
        modifiers=tuple(row.get("modifier", ())),
        comparators=tuple(row.get("comparator", ())),
    )


@cache
def compartment(name: str) -> Mapping[str, tuple[str, ...]]:
    """Resource type → the reference parameters that put a resource into it; "{def}" is the resource itself."""
    rows = _table("compartments").get(name)
    if rows is None:
        raise Unsupported("FHIR R4 (4.0.1) has no such compartment")
    return MappingProxyType({key: tuple(codes) for key, codes in rows.items()})


def bases() -> Mapping[str, Any]:
    """R4's own snapshots of the types that our profiles constrain; their constraints by name, under "constraints"."""
    return _table("bases")


def conformance() -> Iterator[Mapping[str, Any]]:
    """All that we define, as it stands in profiles/: structures, value sets, code systems, maps, search parameters."""
    for folder in ("structures", "valuesets", "codesystems", "conceptmaps", "searchparameters"):
        yield from _own(folder).values()


def profile(url: str) -> Mapping[str, Any] | None:
    """Our StructureDefinition with that URL, as it stands in profiles/structures/."""
    return _own("structures").get(url)


def profiles() -> Mapping[str, Mapping[str, Any]]:
    """All our StructureDefinitions by URL."""
    return MappingProxyType(_own("structures"))


@cache
def extension(url: str) -> Mapping[str, Any] | None:
    """What an extension may have and where it may stand, as `extension_row` says; None when nobody here defines it."""
    if url in _own("structures"):
        return _own_extension(url)
    found: Mapping[str, Any] | None = _table("extensions").get(url)
    return found


@cache
def _own_extension(url: str) -> Mapping[str, Any] | None:
    own = _own("structures")[url]
    return extension_row(own) if own["type"] == "Extension" else None


def extension_row(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A definition in short: max, isModifier, context and rules about it (FHIRPath) of the whole; of it and each part
    the types of its value ("Reference(Patient|Group)"; absent where it may have none) and whether it isNeeded, the
    value set of a required binding, and its parts by url, with min and max.
    """
    tree: dict[str, Any] = {}
    for element in definition["differential"]["element"]:
        at = tree
        for part in element["id"].split(".")[1:]:
            at = at.setdefault("below", {}).setdefault(part, {})
        at["element"] = element
    root = tree["element"]
    contexts = [each["expression"] for each in definition.get("context", ()) if each["type"] == "element"]
    return {
        **({"max": root["max"]} if root.get("max", "*") != "*" else {}),
        **({"isModifier": True} if root.get("isModifier") else {}),
        **({"context": contexts} if contexts else {}),
        **({"rules": list(said)} if (said := definition.get("contextInvariant")) else {}),
        **_extension_body(tree),
    }


def _extension_body(tree: Mapping[str, Any]) -> dict[str, Any]:
    below = tree.get("below", {})
    value = below.get("value[x]", {}).get("element", {})
    slices = {key.partition(":")[2]: part for key, part in below.items() if key.startswith("extension:")}
    parts = {
        part.get("below", {}).get("url", {}).get("element", {}).get("fixedUri", name): {
            **({"min": low} if (low := part["element"].get("min", 0)) else {}),
            **({"max": high} if (high := part["element"].get("max", "*")) != "1" else {}),
            **_extension_body(part),
        }
        for name, part in slices.items()
    }
    types = [_type_name(each) for each in value.get("type", ())]
    binding = value.get("binding", {})
    required = binding.get("strength") == "required" and "valueSet" in binding
    return {
        **({"value": types} if value.get("max") != "0" else {}),
        **({"isNeeded": True} if value.get("min") else {}),
        **({"binding": binding["valueSet"].partition("|")[0]} if required else {}),
        **({"parts": parts} if parts else {}),
    }


def _type_name(each: Mapping[str, Any]) -> str:
    """`Reference(Patient|Group)`: a target that is a profile counts by its type where it is one of ours."""
    targets = [
        _own("structures").get(url, {}).get("type", url.rsplit("/", 1)[1]) for url in each.get("targetProfile", ())
    ]
    return f"{each['code']}({'|'.join(targets)})" if targets and "Resource" not in targets else str(each["code"])


def code_system(url: str) -> Mapping[str, Any] | None:
    """Our CodeSystem with that URL."""
    return _own("codesystems").get(url)


@cache
def code_systems() -> Mapping[str, frozenset[str]]:
    """All codes of each system of HL7's that R4 carries whole; not LOINC, SNOMED CT, UCUM, nor ours."""
    return MappingProxyType({url: frozenset(codes) for url, codes in _table("codesystems").items()})


@cache
def value_set(url: str) -> Mapping[str, frozenset[str]] | None:
    """System → codes. None: not known, or no list (MIME types, UCUM), so not checkable."""
    url = url.partition("|")[0]
    if url in _own("valuesets"):
        return _expand(_own("valuesets")[url])
    rows = _table("valuesets").get(url)
    return None if rows is None else MappingProxyType({system: frozenset(codes) for system, codes in rows.items()})


def _expand(own: Mapping[str, Any]) -> Mapping[str, frozenset[str]] | None:
    """The codes of one of our value sets; None if it includes something that we have no list of."""
    expansion: dict[str, frozenset[str]] = {}
    for include in own["compose"]["include"]:
        parts = [value_set(url) for url in include.get("valueSet", ())]
        if system := include.get("system"):
            concepts = include.get("concept") or (code_system(system) or {}).get("concept", ())
            parts.append({system: frozenset(_codes(concepts))} if concepts and "filter" not in include else None)
        for part in parts:
            if part is None:
                return None
            expansion |= {key: expansion.get(key, frozenset()) | codes for key, codes in part.items()}
    return MappingProxyType(expansion)


def _codes(concepts: Any) -> Iterator[str]:
    for concept in concepts:
        yield concept["code"]
        yield from _codes(concept.get("concept", ()))


@cache
def _own(folder: str) -> dict[str, dict[str, Any]]:
    """URL → resource, for each JSON file of a folder of profiles/; empty where the folder is absent."""
    directory = files(PACKAGE).joinpath(folder)
    if not directory.is_dir():
        return {}
    paths = sorted((p for p in directory.iterdir() if p.name.endswith(".json")), key=lambda p: p.name)
    return {resource["url"]: resource for resource in (json.loads(p.read_bytes()) for p in paths)}
