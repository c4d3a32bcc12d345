"""Extensions and modifier extensions, and the members that carry them for primitives ("_birthDate")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.conformance.kinds import Kind
from tests.conformance.nodes import Example, Json, Site, site
from tests.conformance.notation import Number

URL = "http://x.example/extension"
HL7 = "http://hl7.org/fhir/StructureDefinition/"
PLAIN = {"url": URL, "valueString": "x"}


def added(*extensions: Any, name: str = "extension", only: Callable[[str], bool] = lambda _: True) -> Any:
    """Adds extensions to every kind of object that may have them."""

    def sites(example: Example) -> Iterator[Site]:
        for node in example.nodes:
            if name in node.structure.fields and only(node.type) and node.type != "Extension":
                yield site(node, node.type, _adding(name, extensions), f".{name}")

    return sites


def _adding(name: str, extensions: tuple[Any, ...]) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        target[name] = [*target.get(name, ()), *extensions]

    return edit


def misplaced(example: Example) -> Iterator[Site]:
    """modifierExtension in a data type that has none."""
    for node in example.nodes:
        if "modifierExtension" not in node.structure.fields and node.type not in ("Extension", "Element", "Meta"):
            yield site(node, node.type, _adding("modifierExtension", (PLAIN,)), ".modifierExtension")


def to_one(*types: str) -> Callable[[str], bool]:
    return lambda type_name: type_name in types


def beside(value: Any, *, many: bool = False, over: bool = False) -> Callable[[Example], Iterator[Site]]:
    """`_name` beside a primitive, that may repeat or not; `over` takes the primitive away."""

    def sites(example: Example) -> Iterator[Site]:
        for member in example.members:
            extra = "_" + member.key
            plain = member.is_primitive and member.type != "xhtml" and member.key not in ("id", "url")
            # An element whose id or url is an attribute has no companion.
            if plain and member.is_many == many and extra not in member.node.value:
                if over and member.element.min:
                    continue

                def edit(target: Json, key: str = member.key) -> None:
                    here = value(target[key]) if callable(value) else value
                    target["_" + key] = here
                    if over:
                        del target[key]

                yield site(member.node, member.group, edit, f".{extra}")

    return sites


def beside_object(example: Example) -> Iterator[Site]:
    for member in example.members:
        if not member.is_primitive and not member.is_many and member.type != "Resource":

            def edit(target: Json, key: str = member.key) -> None:
                target["_" + key] = {"extension": [PLAIN]}

            yield site(member.node, member.group, edit, f"._{member.key}")


def null_both(example: Example) -> Iterator[Site]:
    for found in beside(lambda items: [*(None for _ in items), None], many=True)(example):

        def edit(resource: Json, found: Site = found) -> None:
            found.edit(resource)

        yield Site(found.group, found.place, edit)


def of_null(example: Example) -> Iterator[Site]:
    """null in an array whose companion has an extension in that place: right."""
    for member in example.members:
        if member.is_primitive and member.is_many and "_" + member.key not in member.node.value:

            def edit(target: Json, key: str = member.key) -> None:
                target["_" + key] = [*(None for _ in target[key]), {"extension": [PLAIN]}]
                target[key] = [*target[key], None]

            yield site(member.node, member.group, edit, f"._{member.key}")


def known(url: str, *types: str, **value: Any) -> Any:
    return added({"url": HL7 + url, **value}, only=to_one(*types))


BOTH = {**PLAIN, "extension": [{"url": "a", "valueString": "x"}]}
BIRTH_PLACE = {"valueAddress": {"city": "x"}}
RELIGION = {"valueCodeableConcept": {"text": "x"}}
VALUES: dict[str, Any] = {
    "Boolean": True, "Integer": Number("1"), "Decimal": Number("1.0"), "Date": "2024", "Code": "a", "Uuid":
    "urn:uuid:6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3a", "Base64Binary": "YQ==", "Period": {"start": "2024"},
    "Quantity": {"value": Number("1")}, "Reference": {"display": "x"}, "Identifier": {"value": "x"}, "Meta":
    {"versionId": "1"}, "Dosage": {"text": "x"}, "Age": {"value": Number("1"), "system": "http://unitsofmeasure.org",
    "code": "a"}, "Signature": None,
}  # fmt: skip


def _wrong_types() -> Iterator[Kind]:
    for name in ("Foo", "BackboneElement", "Patient", "Xhtml", "Narrative", "Extension", "Element", "string", ""):
        value = {"status": "empty"} if name == "Narrative" else "x"
        yield Kind("extension", f"value{name}", 8, added({"url": URL, f"value{name}": value}))


KINDS = [
    Kind("extension", "value and extensions", 50, added(BOTH)),
    Kind("extension", "neither value nor extensions", 50, added({"url": URL})),
    Kind("extension", "without url", 50, added({"valueString": "x"})),
    Kind("extension", "empty url", 20, added({"url": "", "valueString": "x"})),
    Kind("extension", "relative url", 30, added({"url": "x", "valueString": "x"})),
    Kind("extension", "url with space", 12, added({"url": "http://x.example/a b", "valueString": "x"})),
    Kind("extension", "two values", 30, added({**PLAIN, "valueInteger": Number("1")})),
    Kind("extension", "child without url", 20, added({"url": URL, "extension": [{"valueString": "x"}]})),
    Kind("extension", "child without value", 20, added({"url": URL, "extension": [{"url": "a"}]})),
    Kind("extension", "no children", 20, added({"url": URL, "extension": []})),
    Kind("extension", "unknown element", 20, added({**PLAIN, "unbekannt": "x"})),
    Kind("extension", "wrong syntax in value", 30, added({"url": URL, "valueDate": "2024-13"})),
    Kind("extension", "wrong type of value", 20, added({"url": URL, "valueBoolean": "true"})),
    Kind("extension", "text for an extension", 12, added("x")),
    Kind("extension", "null for an extension", 12, added(None)),
    Kind("extension", "url with an extension", 8, added({**PLAIN, "_url": {"extension": [PLAIN]}}), valid=None),
    *_wrong_types(),
    *(
        Kind("harmless: extension", f"value{name}", 6, added({"url": URL, f"value{name}": value}), valid=True)
        for name, value in VALUES.items()
        if value is not None
    ),
    Kind("harmless: extension", "unknown", 80, added(PLAIN), valid=True),
    Kind("harmless: extension", "unknown, twice", 20, added(PLAIN, PLAIN), valid=True),
    Kind("harmless: extension", "urn", 12, added({"url": "urn:oid:1.2.840.113883.4.1", "valueString": "x"}),
         valid=True),
    Kind("harmless: extension", "with children", 20, added({"url": URL, "extension": [
        {"url": "a", "valueString": "x"}, {"url": "a", "valueInteger": Number("1")}]}), valid=True),
    Kind("harmless: extension", "value without content but an extension", 12, added(
        {"url": URL, "_valueString": {"extension": [PLAIN]}}), valid=None),
    # HL7's own
    Kind("extension of HL7", "unknown name", 20, added({"url": HL7 + "no-such-extension", "valueString": "x"})),
    Kind("extension of HL7", "wrong type of value", 12, known("patient-birthPlace", "Patient", valueString="x")),
    Kind("extension of HL7", "wrong place", 12, known("patient-birthPlace", "Observation", "Practitioner",
                                                     "Organization", **BIRTH_PLACE)),
    Kind("extension of HL7", "wrong place: element", 12, known("patient-birthPlace", "HumanName", **BIRTH_PLACE)),
    Kind("extension of HL7", "too often", 12, added(*[{"url": HL7 + "patient-birthPlace", **BIRTH_PLACE}] * 2,
                                                   only=to_one("Patient"))),
    Kind("extension of HL7", "children where a value is wanted", 12, added(
        {"url": HL7 + "patient-birthPlace", "extension": [PLAIN]}, only=to_one("Patient"))),
    Kind("extension of HL7", "child that it does not have", 12, added(
        {"url": HL7 + "patient-nationality", "extension": [{"url": "nobody", "valueString": "x"}]},
        only=to_one("Patient"))),
    Kind("extension of HL7", "code outside its required binding", 12, known(
        "data-absent-reason", "HumanName", "CodeableConcept", "Identifier", "Quantity", valueCode="no-such-reason")),
    Kind("extension of HL7", "modifier as an ordinary one", 12, known(
        "condition-ruledOut", "Condition", valueCodeableConcept={"text": "x"})),
    Kind("extension of HL7", "ordinary as a modifier", 12, added(
        {"url": HL7 + "patient-birthPlace", **BIRTH_PLACE}, name="modifierExtension", only=to_one("Patient"))),
    Kind("extension of HL7", "against the rule about its place", 12, known(
        "questionnaire-unit", "Questionnaire.item", valueCoding={"system": "http://unitsofmeasure.org", "code": "kg"}),
         valid=None),
    Kind("extension of HL7", "against the rule about its place: choices", 12, known(
        "questionnaire-choiceOrientation", "Questionnaire.item", valueCode="vertical"), valid=None),
    Kind("extension of HL7", "against the rule about its place: a list", 6, known(
        "list-changeBase", "List", valueReference={"reference": "List/1"}), valid=None),
    Kind("harmless: extension of HL7", "birth place", 12, known("patient-birthPlace", "Patient", **BIRTH_PLACE),
         valid=True),
    Kind("harmless: extension of HL7", "religion", 8, known("patient-religion", "Patient", **RELIGION), valid=True),
    Kind("harmless: extension of HL7", "data absent", 12, known(
        "data-absent-reason", "HumanName", "CodeableConcept", "Identifier", "Quantity", valueCode="unknown"),
         valid=True),
    Kind("harmless: extension of HL7", "nationality", 12, added({"url": HL7 + "patient-nationality", "extension": [
        {"url": "code", "valueCodeableConcept": {"text": "x"}}]}, only=to_one("Patient")), valid=True),
    Kind("modifier extension", "unknown", 60, added(PLAIN, name="modifierExtension")),
    Kind("modifier extension", "in a data type", 40, misplaced),
    # Beside primitives
    Kind("primitive's extension", "longer array", 30, beside(lambda v: [*(None for _ in v), {"id": "x"}], many=True)),
    Kind("primitive's extension", "null in both", 20, null_both),
    Kind("primitive's extension", "object for array", 20, beside({"extension": [PLAIN]}, many=True)),
    Kind("primitive's extension", "array for object", 20, beside([{"extension": [PLAIN]}])),
    Kind("primitive's extension", "text", 30, beside("x")),
    Kind("primitive's extension", "empty", 30, beside({})),
    Kind("primitive's extension", "null", 20, beside(None)),
    Kind("primitive's extension", "unknown element", 20, beside({"extension": [PLAIN], "unbekannt": "x"})),
    Kind("primitive's extension", "extension without value", 20, beside({"extension": [{"url": URL}]})),
    Kind("primitive's extension", "beside an object", 30, beside_object),
    Kind("primitive's extension", "id alone, without a value", 20, beside({"id": "x"}, over=True)),
    Kind("harmless: primitive's extension", "beside a value", 60, beside({"extension": [PLAIN]}), valid=True),
    Kind("harmless: primitive's extension", "all null", 20, beside(lambda v: [None for _ in v], many=True), valid=None),
    Kind("harmless: primitive's extension", "id", 30, beside({"id": "x"}), valid=True),
    Kind("harmless: primitive's extension", "instead of a value", 40, beside({"extension": [PLAIN]}, over=True),
         valid=None),
    Kind("harmless: primitive's extension", "shorter or equal array", 20, beside(
        lambda v: [{"id": "x"}, *(None for _ in v[1:])], many=True), valid=True),
    Kind("harmless: primitive's extension", "for a null", 20, of_null, valid=None),
]  # fmt: skip
