"""References and what they point to, contained resources, codes of required bindings, ids."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from fhir_secondop.fhir import definitions
from tests.conformance.kinds import Kind
from tests.conformance.kinds.structure import at_members, is_text, put
from tests.conformance.nodes import Example, Json, Member, Site, at, site

STRANGER = {"resourceType": "Basic", "id": "stranger", "code": {"text": "x"}}


def _references(example: Example) -> Iterator[tuple[Member, frozenset[str]]]:
    """Members that are References, with the types that they may point to.

    Not those to a contained resource: without them it would be one that nothing refers to.
    """
    for member in example.members:
        first = member.value[0] if isinstance(member.value, list) and member.value else member.value
        if member.type == "Reference" and not (isinstance(first, dict) and str(first.get("reference")).startswith("#")):
            yield member, member.element.targets.get("Reference", frozenset())


def wrong_target(form: str) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        for member, targets in _references(example):
            if targets and "Resource" not in targets:
                other = next(t for t in ("Substance", "Basic", "Slot") if t not in targets)
                yield _referring(member, form.format(other))

    return sites


def right_target(form: str) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        for member, targets in _references(example):
            yield _referring(member, form.format(min(targets - {"Resource"}, default="Patient")))

    return sites


def any_target(text: str) -> Callable[[Example], Iterator[Site]]:
    return right_target(text.replace("{", "{{").replace("}", "}}"))


def _referring(member: Member, text: str) -> Site:
    def edit(target: Json) -> None:
        many = isinstance(target[member.key], list)
        target[member.key] = [{"reference": text}] if many else {"reference": text}

    return site(member.node, member.group, edit, f".{member.key}")


def typed(example: Example) -> Iterator[Site]:
    """Reference.type that is not the type in the reference."""
    for node in example.nodes:
        text = node.value.get("reference")
        if node.type == "Reference" and isinstance(text, str) and text.count("/") == 1 and "type" not in node.value:
            yield site(node, text.partition("/")[0], put("type", "Slot"), ".type")


def logical(example: Example) -> Iterator[Site]:
    """A reference by identifier or display alone."""
    for member, _ in _references(example):
        value = {"identifier": {"system": "http://x.example", "value": "1"}}

        def edit(target: Json, key: str = member.key, value: Json = value) -> None:
            target[key] = [value] if isinstance(target[key], list) else value

        yield site(member.node, member.group, edit, f".{member.key}")


def _domain(example: Example) -> bool:
    return definitions.structure(example.type).base == "DomainResource"


def contained(*resources: Any) -> Callable[[Example], Iterator[Site]]:
    """Contained resources that nothing refers to, or that are wrong in themselves."""

    def sites(example: Example) -> Iterator[Site]:
        if _domain(example):
            yield site(example.nodes[0], example.type, _containing(resources), ".contained")

    return sites


def _containing(resources: tuple[Any, ...]) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        target["contained"] = [*target.get("contained", ()), *resources]

    return edit


def referred(*resources: Any) -> Callable[[Example], Iterator[Site]]:
    """The same, and an extension refers to each, so that they are not unused."""

    def sites(example: Example) -> Iterator[Site]:
        for found in contained(*resources)(example):

            def edit(target: Json, containing: Callable[[Json], Any] = found.edit) -> None:
                containing(target)
                for key in dict.fromkeys(r["id"] for r in resources if isinstance(r, dict) and "id" in r):
                    more = {"url": "http://x.example/refers", "valueReference": {"reference": f"#{key}"}}
                    target["extension"] = [*target.get("extension", ()), more]

            yield Site(found.group, found.place, edit)

    return sites


def within_contained(change: Callable[[Json], None]) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        for node in example.nodes:
            if len(node.keys) == 2 and node.keys[0] == "contained":
                yield site(node, node.type, change)

    return sites


def unreferred(example: Example) -> Iterator[Site]:
    """A contained resource whose only reference to it is gone."""
    for member in example.members:
        value = member.value
        if member.type == "Reference" and member.element.min == 0 and isinstance(value, dict):
            text = str(value.get("reference"))
            if text.startswith("#") and example.text.count(f'"{text}"') == 1:
                yield site(member.node, member.group, _dropping(member.key), f".{member.key}")


def _dropping(key: str) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        del target[key]

    return edit


# Codes


def _bound(member: Member) -> frozenset[str]:
    codes = definitions.value_set(member.element.binding) if member.element.binding else None
    return frozenset().union(*codes.values()) if codes else frozenset()


def codes(change: Callable[[str, frozenset[str]], str]) -> Callable[[Example], Iterator[Site]]:
    """The code of a required binding changed: a code itself, or that of a Coding or CodeableConcept."""

    def sites(example: Example) -> Iterator[Site]:
        for member in example.members:
            allowed = _bound(member)
            if allowed and member.type in ("code", "CodeableConcept", "Coding"):
                yield Site(member.group, member.place, _coding(member, change, allowed))

    return sites


def _coding(member: Member, change: Callable[[str, frozenset[str]], str], allowed: frozenset[str]) -> Any:
    def edit(resource: Json) -> None:
        target = at(resource, member.node.keys)
        value = target[member.key]
        first = value[0] if isinstance(value, list) else value
        if isinstance(first, str):
            target[member.key] = [change(first, allowed)] if isinstance(value, list) else change(first, allowed)
        elif member.type == "Coding":
            first["code"] = change(str(first.get("code")), allowed)
        else:
            for coding in first.get("coding", ()):
                coding["code"] = change(str(coding.get("code")), allowed)

    return edit


def another(code: str, allowed: frozenset[str]) -> str:
    return min((c for c in allowed if c != code), default=code)


def swapped(code: str, allowed: frozenset[str]) -> str:
    return code.swapcase()


def foreign_system(example: Example) -> Iterator[Site]:
    """The code of a required binding, but of another system."""
    for member in example.members:
        if _bound(member) and member.type in ("CodeableConcept", "Coding"):

            def edit(target: Json, key: str = member.key) -> None:
                for concept in target[key] if isinstance(target[key], list) else [target[key]]:
                    for coding in concept.get("coding", [concept]):
                        coding["system"] = "http://x.example/codes"

            yield site(member.node, member.group, edit, f".{member.key}")


def text_only(example: Example) -> Iterator[Site]:
    """Words where a required binding wants a code."""
    for member in example.members:
        if _bound(member) and member.type == "CodeableConcept":

            def edit(target: Json, key: str = member.key) -> None:
                target[key] = [{"text": "x"}] if isinstance(target[key], list) else {"text": "x"}

            yield site(member.node, member.group, edit, f".{member.key}")


def of_own_system(host: str, change: Callable[[str, frozenset[str]], str]) -> Callable[[Example], Iterator[Site]]:
    """The code of a Coding or Quantity, where its system is one that R4 carries whole and no binding is required."""

    def sites(example: Example) -> Iterator[Site]:
        bound = {(*m.node.keys, m.key) for m in example.members if m.element.binding}
        for node in example.nodes:
            system, code = node.value.get("system"), node.value.get("code")
            known = definitions.code_systems().get(system) if str(system).startswith(host) else None
            around = (key for key in node.keys if isinstance(key, str))
            is_bound = any(node.keys[: i + 1] in bound for i, _ in enumerate(node.keys))
            if known and code in known and node.type in ("Coding", "Quantity") and not is_bound:
                yield site(node, f"{system} {'.'.join(around)}", put("code", change(code, known)), ".code")

    return sites


# Ids


def same_id(example: Example) -> Iterator[Site]:
    """Two elements with one id."""
    objects = [n for n in example.nodes if n.keys and "resourceType" not in n.value and n.type != "Element"]
    objects = [n for n in objects if "contained" not in n.keys and "entry" not in n.keys]
    for one, two in itertools.pairwise(objects):

        def edit(resource: Json, one: Any = one, two: Any = two) -> None:
            at(resource, one.keys)["id"] = at(resource, two.keys)["id"] = "twice"

        yield Site(f"{one.type} {two.type}", two.place, edit)


def element_id(value: Any) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        for node in example.nodes:
            if node.keys and "resourceType" not in node.value and "id" not in node.value and node.type != "Element":
                yield site(node, node.type, put("id", value), ".id")

    return sites


def resource_id(value: Any) -> Callable[[Example], Iterator[Site]]:
    return lambda example: [site(example.nodes[0], example.type, put("id", value), ".id")]


VERSIONED = {**STRANGER, "meta": {"versionId": "1"}}
SECURED = {**STRANGER, "meta": {"security": [{"system": "http://x.example", "code": "x"}]}}
NESTED = {**STRANGER, "contained": [{**STRANGER, "id": "inner"}]}
FHIR, THO = "http://hl7.org/fhir/", "http://terminology.hl7.org/"
TEXT = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'}

KINDS = [
    Kind("reference: target", "relative", 180, wrong_target("{}/1")),
    Kind("reference: target", "absolute", 50, wrong_target("http://x.example/fhir/{}/1")),
    Kind("reference: target", "with version", 20, wrong_target("{}/1/_history/2")),
    Kind("reference: type", "other than in the URL", 30, typed),
    *(
        Kind("reference: syntax", text, 12, any_target(text))
        for text in ("Patient 1", "Patient/", "/Patient/1", "Patient/a b", "Patients/1", "patient/1", "Patient/a_b",
                     "Patient/" + "a" * 65, "Patient/1/_history/", "1", "Citation/1", "../Patient/1", "Patient/1/x",
                     "Patient/1/_history", "http:/x", "urn:uuid:1", "urn:oid:x")
    ),
    Kind("reference: contained", "dangling", 80, any_target("#nowhere")),
    Kind("reference: contained", "empty fragment", 20, any_target("#")),
    *(
        Kind("harmless: reference", form, 12, right_target(form), valid=True)
        for form in ("{}/1", "{}/a-b.C", "{}/1/_history/2", "http://x.example/fhir/{}/1", "https://x.example:8080/a/b/{}/1",
                     "urn:uuid:6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3a", "urn:oid:1.2.840.113883.4.1", "{}?identifier=http://x.example|1",
                     "http://x.example/anything")
    ),
    Kind("harmless: reference", "by identifier", 20, logical, valid=True),
    Kind("contained", "not referred to", 60, contained(STRANGER)),
    Kind("contained", "no longer referred to", 40, unreferred),
    Kind("contained", "without id", 30, contained({k: v for k, v in STRANGER.items() if k != "id"})),
    Kind("contained", "id twice", 30, referred(STRANGER, STRANGER)),
    Kind("contained", "nested", 30, referred(NESTED)),
    Kind("contained", "with version", 20, referred(VERSIONED)),
    Kind("contained", "with security label", 20, referred(SECURED)),
    Kind("contained", "without resourceType", 20, referred({"id": "stranger", "code": {"text": "x"}})),
    Kind("contained", "lacks what is required", 20, referred({"resourceType": "Basic", "id": "stranger"})),
    Kind("contained", "text for a resource", 12, contained("x")),
    Kind("contained", "null", 12, contained(None)),
    Kind("contained", "unknown element", 20, within_contained(put("unbekannt", "x"))),
    Kind("contained", "id lost", 20, within_contained(_dropping("id"))),
    Kind("harmless: contained", "referred to", 30, referred(STRANGER), valid=True),
    Kind("harmless: contained", "with a text", 12, referred({**STRANGER, "text": TEXT}), valid=None),
    Kind("code: required binding", "no such code", 130, codes(lambda c, a: "no-such-code")),
    Kind("code: required binding", "other case", 60, codes(swapped), valid=None),
    Kind("code: required binding", "of another system", 30, foreign_system),
    Kind("code: of its system", "no such code, of FHIR's", 20, of_own_system(FHIR, lambda c, a: "no-such-code")),
    Kind("code: of its system", "other case, of FHIR's", 12, of_own_system(FHIR, swapped), valid=None),
    Kind("code: of its system", "no such code, of v3's and v2's", 20, of_own_system(THO, lambda c, a: "no-such-code")),
    Kind("code: of its system", "other case, of v3's and v2's", 20, of_own_system(THO, swapped), valid=None),
    Kind("harmless: another code", "of its system", 40, of_own_system("http://", another), valid=None),
    Kind("code: required binding", "words alone", 40, text_only),
    Kind("harmless: another code", "of the value set", 130, codes(another), valid=None),
    Kind("id", "twice in a resource", 60, same_id),
    Kind("id", "of an element: empty", 30, element_id("")),
    Kind("id", "of an element: true", 12, element_id(True)),
    *(Kind("id", f"of a resource: {v[:12]}", 12, resource_id(v)) for v in ("a_b", "a b", "a" * 65, "ä", "a/b", "")),
    Kind("harmless: id", "of an element: space", 30, element_id("a b"), valid=None),
    Kind("harmless: id", "of an element", 60, element_id("x-1"), valid=True),
    Kind("harmless: id", "of an element, underscore", 12, element_id("a_b#/"), valid=None),
    Kind("harmless: id", "of a resource", 12, resource_id("a" * 64), valid=True),
    Kind("harmless: other value", "text in another language", 40, at_members(
        lambda m: m.type in ("string", "markdown") and not m.element.binding and is_text(m), lambda v: f"{v} äж中"),
        valid=None),
]  # fmt: skip
