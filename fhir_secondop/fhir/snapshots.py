"""Differential → snapshot: every element of a profile of ours, with what it inherits.

From R4's own snapshots of the types that our profiles constrain (profiles/r4/bases.json, made by
tools/make_r4_bases.py). HL7's generator makes the same of the same differentials (tests/interop/test_package.py).
Sources: https://hl7.org/fhir/R4/profiling.html#snapshot, https://hl7.org/fhir/R4/elementdefinition.html#id
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import definitions

Definition = dict[str, Any]
_R4 = "http://hl7.org/fhir/StructureDefinition/"


@cache
def snapshot(url: str) -> tuple[Definition, ...]:
    """The elements of a profile of ours, or of a type of R4, in order. Raises Invalid when one can't be made."""
    definition = definitions.profile(url)
    if definition is None:
        return _base(url)
    maker = _Maker(definition["differential"]["element"])
    elements = tuple(maker.elements(snapshot(definition["baseDefinition"])))
    placed = [element["id"] for element in elements if element["id"] in maker.differential]
    if unused := [identity for identity in maker.differential if identity not in placed]:
        raise Invalid(f"{definition['id']} has no place for {', '.join(unused)}.")
    if placed != list(maker.differential):
        # HL7's generator passes over what stands too late, without a word.
        raise Invalid(f"The differential of {definition['id']} is not in R4's order: {', '.join(placed)}.")
    return elements


def _base(url: str) -> tuple[Definition, ...]:
    table = definitions.bases()
    rows = table.get(url.removeprefix(_R4)) if url.startswith(_R4) else None
    if rows is None:
        raise Invalid(f"There is no snapshot of {url}; make it with tools/make_r4_bases.py.")
    constraints = table["constraints"]
    return tuple(
        {**row, "constraint": [constraints[name] for name in row["constraint"]]} if "constraint" in row else row
        for row in rows
    )


class _Maker:
    """One differential, laid over the elements it is based on."""

    def __init__(self, differential: list[Definition]) -> None:
        self.differential = {element["id"]: element for element in differential}

    def elements(self, base: tuple[Definition, ...]) -> Iterator[Definition]:
        """The root and all below it."""
        root = base[0]["id"]
        yield self.merged(base[0], root)
        yield from self.below(base, root, root)

    def below(self, base: tuple[Definition, ...], of: str, identity: str) -> Iterator[Definition]:
        """The children of the base's element `of`, which stands in the snapshot as `identity`."""
        for child in base:
            if _parent(child["id"]) == of:
                name = child["id"][len(of) + 1 :]
                yield from self.element(base, child, f"{identity}.{name}")

    def element(self, base: tuple[Definition, ...], inherited: Definition, identity: str) -> Iterator[Definition]:
        """An element, its children, then the slices that the differential makes of it."""
        yield self.merged(inherited, identity)
        yield from self.children(base, inherited, identity)
        if ":" in identity.rpartition(".")[2]:
            return
        inherited_slices = {each["id"] for each in base}
        for name in self.slices(identity):
            if f"{inherited['id']}:{name}" not in inherited_slices:
                of_slice = {k: v for k, v in inherited.items() if k != "slicing"} | {"min": 0}
                yield self.merged(of_slice, f"{identity}:{name}")
                yield from self.children(base, inherited, f"{identity}:{name}")

    def slices(self, identity: str) -> list[str]:
        """The names of those that the differential makes of an element, in its order."""
        of = f"{identity}:"
        return [i[len(of) :] for i in self.differential if i.startswith(of) and "." not in i[len(of) :]]

    def children(self, base: tuple[Definition, ...], inherited: Definition, identity: str) -> Iterator[Definition]:
        """Those that the base has, else, where the differential names some, those of the element's type."""
        if any(_parent(e["id"]) == inherited["id"] for e in base):
            yield from self.below(base, inherited["id"], identity)
        elif any(i.startswith(f"{identity}.") for i in self.differential):
            types = self.differential.get(identity, {}).get("type") or inherited.get("type", ())
            if len(types) != 1:
                raise Invalid(f"{identity} may be of several types; its parts can't be constrained.")
            parts = _base(_R4 + types[0]["code"])
            for part in parts[1:]:
                yield from self.element(parts, part, identity + part["id"][len(parts[0]["id"]) :])

    def merged(self, inherited: Definition, identity: str) -> Definition:
        """The inherited element under its new id, with what the differential says of it."""
        own = self.differential.get(identity, {})
        element = deepcopy(inherited) | {"id": identity, "path": _path(identity)}
        for part in ("slicing", "constraint"):
            if part in own:
                own = own | {part: _together(element.get(part), own[part])}
        element |= deepcopy({key: value for key, value in own.items() if key not in ("id", "path")})
        if "type" in own:
            element["type"] = [_as_inherited(each, inherited.get("type", ())) for each in element["type"]]
            element |= _of_extension(element)
        if element.get("contentReference", "").startswith("#"):
            # In a profile "#…" would be an element of the profile.
            name = element["contentReference"][1:]
            element["contentReference"] = f"{_R4}{name.partition('.')[0]}#{name}"
        return element


def _together(inherited: Any, own: Any) -> Any:
    """What an element has of both: constraints one after the other, a slicing member by member."""
    if inherited is None:
        return own
    return inherited | own if isinstance(own, dict) else [*inherited, *own]


def _of_extension(element: Definition) -> Definition:
    """What a slice takes over from the extension of ours that it is: its words, and its constraints."""
    urls = [url for each in element["type"] if each["code"] == "Extension" for url in each.get("profile", ())]
    if len(urls) != 1 or definitions.profile(urls[0]) is None:
        return {}
    root = snapshot(urls[0])[0]
    known = {constraint["key"] for constraint in element.get("constraint", ())}
    added = [constraint for constraint in root["constraint"] if constraint["key"] not in known]
    words = {key: root[key] for key in ("short", "definition")}
    return deepcopy(words | {"constraint": [*element.get("constraint", ()), *added]})


def _as_inherited(each: Mapping[str, Any], inherited: Any) -> dict[str, Any]:
    """A type with the target profiles it had before, where the differential names it without any."""
    if "targetProfile" in each or "profile" in each:
        return dict(each)
    return dict(next((before for before in inherited if before["code"] == each["code"]), each))


def _parent(identity: str) -> str:
    return identity.rpartition(".")[0]


def _path(identity: str) -> str:
    return ".".join(part.partition(":")[0] for part in identity.split("."))
