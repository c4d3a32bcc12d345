"""The text itself: what is no JSON, a member twice, another order, white space, escapes, numbers as written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.conformance.kinds import Kind
from tests.conformance.kinds.structure import at_members
from tests.conformance.nodes import Example, Json, Site, site
from tests.conformance.notation import Number, dump, parse


def whole(change: Callable[[str], str]) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        yield Site(example.type, example.type, lambda resource: change(dump(resource)))

    return sites


def _spaced(text: str) -> str:
    return dump(parse(text), ",\r\n\t", " : ")


def reordered(resource: Json) -> str:
    return dump(_reversed(resource))


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(item) for key, item in reversed(value.items())}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


def turned(example: Example) -> Iterator[Site]:
    yield Site(example.type, example.type, reordered)


def _ascii(text: str) -> str:
    return re.sub(r"[^\x00-\x7f]|/", lambda m: json.dumps(m[0]).strip('"') if m[0] != "/" else "\\/", text)


def more_digits(value: Any) -> Any:
    if not isinstance(value, Number) or "e" in value.text.lower():
        return value
    return Number(value.text + ("0" if "." in value.text else ".00"))


def twice(example: Example) -> Iterator[Site]:
    """A member that stands twice in one object."""
    text = dump(example.resource)
    for node in example.nodes:
        mine = dump(node.value)
        if node.keys and text.count(mine) == 1:
            key, value = next(iter(node.value.items()))
            again = mine[:-1] + "," + dump({key: value})[1:]
            yield Site(node.type, f"{node.place}.{key}", lambda resource, m=mine, a=again: dump(resource).replace(m, a))


def items_twice(example: Example) -> Iterator[Site]:
    """An item of an array twice: harmless, unless it must be unique."""
    for member in example.members:
        if (
            isinstance(member.value, list)
            and member.type not in ("Resource",)
            and "_" + member.key not in member.node.value
        ):

            def edit(target: Json, key: str = member.key) -> None:
                target[key] = [*target[key], target[key][0]]

            yield site(member.node, member.group, edit, f".{member.key}")


def items_turned(example: Example) -> Iterator[Site]:
    for member in example.members:
        if isinstance(member.value, list) and len(member.value) > 1 and "_" + member.key not in member.node.value:

            def edit(target: Json, key: str = member.key) -> None:
                target[key] = target[key][::-1]

            yield site(member.node, member.group, edit, f".{member.key}")


KINDS = [
    Kind("JSON", "member twice", 40, twice),
    Kind("JSON", "comma at the end", 12, whole(lambda t: t[:-1] + ",}")),
    Kind("JSON", "not closed", 12, whole(lambda t: t[:-1])),
    Kind("JSON", "text after", 12, whole(lambda t: t + "x")),
    Kind("JSON", "second object after", 12, whole(lambda t: t + t)),
    Kind("JSON", "comment", 12, whole(lambda t: t[:-1] + "/* x */}")),
    Kind("JSON", "single quotes", 12, whole(lambda t: t.replace('"resourceType"', "'resourceType'", 1))),
    Kind("JSON", "no quotes", 12, whole(lambda t: t.replace('"resourceType"', "resourceType", 1))),
    Kind("JSON", "array", 12, whole(lambda t: f"[{t}]")),
    Kind("JSON", "text", 6, whole(json.dumps)),
    Kind("JSON", "empty", 1, whole(lambda t: "")),
    Kind("JSON", "empty object", 1, whole(lambda t: "{}")),
    Kind("JSON", "NaN", 12, at_members(lambda m: m.type == "decimal", lambda v: Number("NaN"))),
    Kind("JSON", "leading zero", 12, at_members(lambda m: m.type == "decimal", lambda v: Number("01.5"))),
    Kind("JSON", "leading plus", 12, at_members(lambda m: m.type == "decimal", lambda v: Number("+1.5"))),
    Kind("JSON", "no digit before the point", 8, at_members(lambda m: m.type == "decimal", lambda v: Number(".5"))),
    Kind("JSON", "no digit after the point", 8, at_members(lambda m: m.type == "decimal", lambda v: Number("1."))),
    Kind("JSON", "line end in a string", 12, at_members(lambda m: m.type == "string", lambda v: Number('"a\nb"'))),
    Kind("JSON", "wrong escape", 12, at_members(lambda m: m.type == "string", lambda v: Number('"a\\xb"'))),
    Kind("harmless: text", "order of members", 60, turned, valid=True),
    Kind("harmless: text", "white space", 40, whole(_spaced), valid=True),
    Kind("harmless: text", "escapes", 40, whole(_ascii), valid=True),
    Kind("harmless: text", "space around", 12, whole(lambda t: f" \n{t}\t\n"), valid=True),
    Kind("harmless: number", "more digits", 60, at_members(lambda m: m.type == "decimal", more_digits), valid=True),
    Kind("harmless: items", "twice", 130, items_twice, valid=None),
    Kind("harmless: items", "in another order", 60, items_turned, valid=None),
]
