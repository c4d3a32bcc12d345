"""Resources made at random from the tables: each valid in its shape, and as odd as R4 lets it be."""

from __future__ import annotations

import random
from typing import Any

from fhir_secondop.fhir import codec, definitions
from fhir_secondop.fhir.definitions import Element

Plain = dict[str, Any]
TYPES = sorted(definitions.resource_types())
TEXTS = (
    "a", "Ünï 漢字", "😀 astral", "line\nbreak\ttab\r\nand return", ' "quoted" & <b> \'apostrophe\' ]]>', "&amp; &#10;",
    "\u0085\u2028\ufffd", "  two  spaces ", "null", "{", "-1.10",
)  # fmt: skip
NUMBERS = ("0", "-0", "1.10", "1e2", "1E+2", "1e-8", "-0.0", "1234567890123456789012345", "0.0000000000000000000000001")
DIVS = (
    '<div xmlns="http://www.w3.org/1999/xhtml">plain</div>',
    '<div xmlns="http://www.w3.org/1999/xhtml"/>',
    "<div xmlns='http://www.w3.org/1999/xhtml' title='a > b'><br/><br></br>&#160;&lt;&#x1F600; 漢 😀\n <!-- kept -->"
    "</div>",
    '<h:div xmlns:h="http://www.w3.org/1999/xhtml"><h:p><![CDATA[<&]]></h:p></h:div >',
)
# Values of the primitive types whose syntax is not "any text".
VALUES: dict[str, tuple[str, ...]] = {
    "base64Binary": ("aGVsbG8=", "aGVs bG8h"),
    "canonical": ("http://example.org/a|1.0#b",),
    "code": ("a", "two words"),
    "date": ("2024", "2024-02", "2024-02-29"),
    "dateTime": ("2024", "2024-02-29T23:59:59Z", "2024-02-29T01:00:00.123456789+05:30"),
    "id": ("a-1.B", "x" * 64),
    "instant": ("2024-02-29T01:00:00Z",),
    "oid": ("urn:oid:1.2.3",),
    "time": ("23:59:00", "01:02:03.5"),
    "uri": ("urn:a:b", "http://example.org/?a=1&b=%20"),
    "url": ("http://example.org/",),
    "uuid": ("urn:uuid:c757873d-ec9a-4326-a141-556f43239520",),
}
NUMERIC = {"integer": ("0", "-2147483648"), "positiveInt": ("1", "2147483647"), "unsignedInt": ("0", "7")}


class Maker:
    """`plenty`: 0 to 1, how many of the elements that may be there are there."""

    def __init__(self, seed: int, plenty: float = 0.3) -> None:
        self.random = random.Random(seed)
        self.plenty = plenty

    def resource(self, type_name: str = "", depth: int = 4) -> Plain:
        name = type_name or self.random.choice(TYPES)
        return {"resourceType": name, **self.members(name, depth)}

    def members(self, type_name: str, depth: int) -> Plain:
        made: Plain = {}
        elements = definitions.structure(type_name).elements
        chosen = [e for e in elements.values() if e.min or self.random.random() < self.plenty]
        self.random.shuffle(chosen)  # JSON has no order
        for element in chosen:
            if element.min or depth > 0:
                self.put(made, element, depth - 1)
        if not made.keys() - {"id"} and "extension" in elements and type_name != "Extension":
            made["extension"] = [{"url": "urn:x", "valueCode": "a"}]
        if type_name == "Extension":
            keep = "extension" if "extension" in made and self.random.random() < 0.5 else "value"
            made = {k: v for k, v in made.items() if k in ("id", "url") or k.lstrip("_").startswith(keep)}
            if len(made.keys() - {"id", "url"}) == 0:
                made["valueCode"] = "a"
        return made

    def put(self, made: Plain, element: Element, depth: int) -> None:
        members = list(element.members())
        simple = [m for m in members if definitions.structure(m[1]).kind == "primitive-type"]
        key, of_type = self.random.choice(simple if simple and depth <= 0 else members)
        many = element.max is None or element.max > 1
        count = max(element.min, self.random.choice((1, 1, 2, 3))) if many else 1
        if element.max is not None:
            count = min(count, element.max)
        if definitions.structure(of_type).kind == "primitive-type":
            self.primitives(made, key, element, of_type, count if many else None, depth)
        elif of_type == "Resource":
            items = [self.resource("Basic" if depth <= 0 else "", depth) for _ in range(count)]
            if key == "contained":
                items = [{**item, "id": f"c{number}"} for number, item in enumerate(items) if "contained" not in item]
            if items:
                made[key] = items if many else items[0]
        else:
            items = [self.members(of_type, depth) for _ in range(count)]
            made[key] = items if many else items[0]

    def primitives(self, made: Plain, key: str, element: Element, of_type: str, count: int | None, depth: int) -> None:
        values: list[Any] = [self.value(element, of_type) for _ in range(count or 1)]
        beside: list[Any] = [None] * len(values)
        if not element.is_attribute and of_type != "xhtml" and depth > 0 and self.random.random() < 0.2:
            for index in range(len(values)):
                if self.random.random() < 0.6:
                    beside[index] = self.companion(depth)
                    if "extension" in beside[index] and self.random.random() < 0.4:
                        values[index] = None
        if any(v is not None for v in values):
            made[key] = values[0] if count is None else values
        if any(b is not None for b in beside):
            made["_" + key] = beside[0] if count is None else beside

    def companion(self, depth: int) -> Plain:
        made: Plain = {}
        if self.random.random() < 0.4:
            made["id"] = self.random.choice(TEXTS)
        if not made or self.random.random() < 0.6:
            made["extension"] = [{"url": "urn:x", **self.members("Extension", depth - 1)} for _ in range(2)]
            for extension in made["extension"]:
                extension["url"] = "urn:x"
        return made

    def value(self, element: Element, of_type: str) -> Any:
        if of_type == "boolean":
            return self.random.random() < 0.5
        if of_type == "xhtml":
            return self.random.choice(DIVS)
        if of_type == "decimal":
            return codec.Number(self.random.choice(NUMBERS))
        if of_type in NUMERIC:
            return codec.Number(self.random.choice(NUMERIC[of_type]))
        codes = definitions.value_set(element.binding) if element.binding else None
        if codes is not None:
            return self.random.choice(sorted(frozenset().union(*codes.values())))
        if element.name == "reference":
            return self.random.choice(("Patient/1", "http://example.org/Patient/1", "urn:x:1"))
        return self.random.choice(VALUES.get(of_type, TEXTS))


def written(value: Any) -> str:
    """JSON text, every number as it is written in its `Number`."""
    if isinstance(value, codec.Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{codec.dumps(key)}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(item) for item in value) + "]"
    return codec.dumps(value)
