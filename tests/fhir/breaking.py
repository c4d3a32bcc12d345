"""Each rule that a profile of ours adds, and from a resource that satisfies it one that breaks that rule alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from fhir_secondop.fhir import definitions, snapshots

Json = dict[str, Any]
CODED = ("code", "Coding", "CodeableConcept")
# Values of each type that R4 takes without more being said.
VALUES: dict[str, Any] = {"String": "x", "Boolean": True, "DateTime": "2026-01-01"}
# Types that need little to be valid, so that a reference may lead to one.
BARE = ("Basic", "PractitionerRole", "Location", "Device", "CareTeam", "Patient", "HealthcareService", "Practitioner",
        "Group")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """What an element of a differential demands beyond its base: min, max, fixed, pattern, type, target, binding."""

    profile: str
    element: str
    kind: str

    def __str__(self) -> str:
        return f"{self.profile} {self.element} {self.kind}"


def rules() -> Iterator[Rule]:
    """Every rule of every profile but its constraints, which have their examples by hand.

    Without what a slicing or an extension is told by: a value with another URL breaks nothing, it is another one.
    """
    for url, definition in definitions.profiles().items():
        base = {each["id"]: each for each in snapshots.snapshot(definition["baseDefinition"])}
        made = {each["id"]: each for each in snapshots.snapshot(url)}
        for said in definition["differential"]["element"]:
            element = made[said["id"]]
            if is_telling(said["id"], made):
                continue
            for kind in tightened(said, element, base.get(said["id"]) or base.get(said["path"]) or inherited(element)):
                yield Rule(definition["id"], said["id"], kind)


def is_telling(identity: str, snapshot: Mapping[str, Json]) -> bool:
    """Whether it is by this element that a slice, or an extension, is known."""
    of, _, name = identity.rpartition(".")
    if ":" in of.rpartition(".")[2]:
        sliced = of.rpartition(":")[0]
        return name in [each["path"] for each in snapshot[sliced]["slicing"]["discriminator"]]
    return identity == "Extension.url"


def inherited(element: Mapping[str, Any]) -> Json:
    """The element of a data type that a differential walks into."""
    url = "http://hl7.org/fhir/StructureDefinition/" + element["base"]["path"].partition(".")[0]
    return next(each for each in snapshots.snapshot(url) if each["path"] == element["base"]["path"])


def tightened(said: Json, element: Json, base: Json) -> Iterator[str]:
    """The kinds of rules in an element of the differential; a slice begins with none demanded."""
    if element["min"] > (0 if "sliceName" in said else base["min"]):
        yield "min"
    if "max" in said and said["max"] != base["max"]:
        yield "max"
    for key in said:
        if key.startswith(("fixed", "pattern")):
            yield "fixed" if key.startswith("fixed") else "pattern"
    before = {each["code"]: set(each.get("targetProfile", ())) for each in base.get("type", ())}
    now = {each["code"]: set(each.get("targetProfile", ())) for each in said.get("type", ())}
    if now and now.keys() != before.keys():
        yield "type"
    if any(targets and targets != before.get(code) for code, targets in now.items()):
        yield "target"
    if said.get("binding", {}).get("strength") == "required":
        yield "binding"


class Broken:
    """An example, and the places in it that an element of a profile speaks of."""

    def __init__(self, rule: Rule, example: Json) -> None:
        self.rule = rule
        self.resource = deepcopy(example)
        self.url = next(url for url, each in definitions.profiles().items() if each["id"] == rule.profile)
        self.snapshot = {each["id"]: each for each in snapshots.snapshot(self.url)}
        self.element = self.snapshot[rule.element]

    def make(self) -> Json | None:
        """The resource with the rule broken; None where the example has nothing to break."""
        roots = [self.resource]
        if definitions.profiles()[self.url]["type"] == "Extension":
            roots = [each for each in everything(self.resource) if each.get("url") == self.url]
        *path, last = self.rule.element.split(".")[1:]
        identity = self.rule.element.partition(".")[0]
        for part in path:
            identity = f"{identity}.{part}"
            roots = [each for root in roots for each in self.values(root, identity) if isinstance(each, dict)]
        parent = next((root for root in roots if self.rule.kind == "max" or list(self.values(root, self.rule.element))),
                      None)  # fmt: skip
        if parent is None:
            return None
        done: bool = getattr(self, f"break_{self.rule.kind}")(parent, last.partition(":")[0].removesuffix("[x]"))
        return self.resource if done else None

    def values(self, parent: Json, identity: str) -> Iterator[Any]:
        """Those of an element or a slice."""
        name, _, slice_name = identity.rpartition(".")[2].partition(":")
        for key in keys(parent, name.removesuffix("[x]")):
            found = parent[key] if isinstance(parent[key], list) else [parent[key]]
            yield from (each for each in found if not slice_name or self.is_in_slice(identity, each))

    def is_in_slice(self, identity: str, value: Json) -> bool:
        for each in self.snapshot[identity].get("type", ()):
            if each.get("profile"):
                return value.get("url") in each["profile"]
        for discriminator in self.snapshot[identity.rpartition(":")[0]]["slicing"]["discriminator"]:
            demanded = self.snapshot[f"{identity}.{discriminator['path']}"]
            wanted = next(v for k, v in demanded.items() if k.startswith(("fixed", "pattern")))
            if not fits(value.get(discriminator["path"]), wanted):
                return False
        return True

    def break_min(self, parent: Json, name: str) -> bool:
        """Too few: as many are taken away as leave one less than is demanded."""
        found = list(self.values(parent, self.rule.element))
        for value in found[self.element["min"] - 1 :]:
            remove(parent, name, value)
        return True

    def break_max(self, parent: Json, name: str) -> bool:
        """Too many: a copy more, or one where none may be."""
        found = list(self.values(parent, self.rule.element))
        if found and isinstance(parent.get(name), list):
            parent[name] += [deepcopy(found[0])] * (int(self.element["max"]) + 1 - len(found))
            return True
        if found or self.element["max"] != "0":
            return False
        # Written by hand for the three elements that a profile of ours takes away.
        some = {"extension": [{"url": "https://clinic.example/other", "valueString": "x"}],
                "value": "x", "partOf": [{"reference": "Task/2"}]}  # fmt: skip
        parent[{"value": "valueString"}.get(name, name)] = some[name]
        return True

    def break_fixed(self, parent: Json, name: str) -> bool:
        """Another code that R4 has there."""
        value_set = definitions.value_set(self.element.get("binding", {}).get("valueSet", ""))
        if isinstance(parent.get(name), str) and value_set:
            others = sorted(code for each in value_set.values() for code in each if code != parent[name])
            # A collection is the Bundle that demands nothing else.
            parent[name] = "collection" if "collection" in others else others[0]
            return True
        return False

    def break_pattern(self, parent: Json, name: str) -> bool:
        """Another code of the same system."""
        if isinstance(parent[name], str):
            return self.break_fixed(parent, name)
        for value in parent[name] if isinstance(parent[name], list) else [parent[name]]:
            for coding in value["coding"]:
                coding["code"] = other_code(coding["system"], coding["code"])
        return True

    def break_type(self, parent: Json, name: str) -> bool:
        """A value of another type that R4 allows there."""
        allowed = {each["code"].lower() for each in self.element["type"]}
        for key in list(keys(parent, name)):
            del parent[key]
        fields = definitions.structure(self.element["base"]["path"].rpartition(".")[0]).fields
        suffix = next(each for each in VALUES if each.lower() not in allowed and name + each in fields)
        parent[name + suffix] = VALUES[suffix]
        return True

    def break_target(self, parent: Json, name: str) -> bool:
        """A reference to a type that R4 allows there, and the profile does not."""
        own = {url.rpartition("/")[2] for each in self.element["type"] for url in each.get("targetProfile", ())}
        type_name = self.element["base"]["path"].rpartition(".")[0]
        allowed = definitions.structure(type_name).elements[name].targets.get("Reference", frozenset({"Resource"}))
        other = next((each for each in BARE if each not in own and ("Resource" in allowed or each in allowed)), None)
        if other is None:
            return False
        for value in self.values(parent, self.rule.element):
            value["reference"] = f"{other}/other"
        return True

    def break_binding(self, parent: Json, name: str) -> bool:
        """A code that the value set does not have, of the same system."""
        value_set = definitions.value_set(self.element["binding"]["valueSet"])
        assert value_set is not None
        for key in keys(parent, name):
            held = parent[key]
            for value in held if isinstance(held, list) else [held]:
                if isinstance(value, str):
                    base = definitions.value_set(base_binding(self.element)) or {}
                    known = sorted(code for each in base.values() for code in each)
                    inside = {code for each in value_set.values() for code in each}
                    parent[key] = next((code for code in known if code not in inside), "weather")
                    continue
                for coding in value.get("coding", [value]):
                    if coding.get("system") in value_set:
                        coding["code"] = other_code(coding["system"], coding["code"], value_set[coding["system"]])
        return True


def broken(rule: Rule) -> Json:
    """The smallest of profiles/examples/ that has something to break, with the rule broken."""
    for example in examples():
        if applies(rule.profile, example) and (made := Broken(rule, example).make()) is not None:
            return made
    raise AssertionError(f"no example in profiles/examples/ can break: {rule}")


@cache
def examples() -> tuple[Json, ...]:
    """Those of profiles/examples/, the smallest first; those that claim a profile before the others."""
    folder = Path(__file__).parents[2] / "profiles" / "examples"
    texts = sorted((file.read_text("utf-8") for file in folder.glob("*.json")), key=len)
    found = [json.loads(text, parse_float=Decimal) for text in texts]
    return tuple(sorted(found, key=lambda each: "meta" not in each))


def applies(profile: str, example: Json) -> bool:
    """Whether an example claims the profile, or one that is based on it; or has the extension."""
    url = next(url for url, each in definitions.profiles().items() if each["id"] == profile)
    if definitions.profiles()[url]["type"] == "Extension":
        return any(each.get("url") == url for each in everything(example))
    return any(url in lineage(claim) for claim in example.get("meta", {}).get("profile", ()))


def lineage(url: str) -> Iterator[str]:
    """A profile, and those it is based on."""
    while definition := definitions.profile(url):
        yield url
        url = definition["baseDefinition"]


def base_binding(element: Mapping[str, Any]) -> str:
    """The value set that R4 demands where the element comes from."""
    type_name, _, name = element["base"]["path"].rpartition(".")
    found = definitions.structure(type_name).elements.get(name.removesuffix("[x]"))
    return found.binding if found else ""


def other_code(system: str, code: str, without: frozenset[str] = frozenset()) -> str:
    """Another code of that system; of others' systems one that is known to be there."""
    known = {"http://loinc.org": ["11488-4"], "http://terminology.hl7.org/CodeSystem/v3-ActCode": ["IMP"],
             "http://hl7.org/fhir/CodeSystem/task-code": ["abort"],
             "http://terminology.hl7.org/CodeSystem/v2-0203": ["PLAC"]}  # fmt: skip
    own = definitions.code_system(system)
    codes = known.get(system) or [each["code"] for each in (own or {}).get("concept", ())]
    return next((each for each in codes if each != code and each not in without), "weather")


def keys(parent: Mapping[str, Any], name: str) -> Iterator[str]:
    """The keys of an element, a choice's too."""
    for key in parent:
        rest = key.removeprefix(name)
        if key == name or (key.startswith(name) and rest[:1].isupper()):
            yield key


def everything(value: Any) -> Iterator[Json]:
    """Every object in a resource."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from everything(part)


def remove(parent: Json, name: str, value: Any) -> None:
    """Takes a value away, and the element with the last of them: R4 has no empty arrays."""
    for key in list(keys(parent, name)):
        if isinstance(parent[key], list):
            parent[key] = [each for each in parent[key] if each is not value]
        if parent[key] in ([], value):
            del parent[key]


def fits(value: Any, wanted: Any) -> bool:
    """Everything that is wanted is in the value."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(fits(value.get(key), part) for key, part in wanted.items())
    if isinstance(wanted, list):
        return isinstance(value, list) and all(any(fits(each, part) for each in value) for part in wanted)
    return bool(json.dumps(value) == json.dumps(wanted))
