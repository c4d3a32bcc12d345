"""FHIRPath of a fault → line and column in the JSON text that has it.

All faults of a text are found in one way down: only the members that lead to one are gone into, each by the C scanner.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lxml import etree

from fhir_secondop.errors import Issue
from fhir_secondop.fhir import codec

_STEP = re.compile(r"([^.\[]+)(?:\[(\d+)\])?")


@dataclass(slots=True)
class _Wanted:
    """What is looked for below a value: numbers of the issues that are at it, and the way on by (name, index)."""

    issues: list[int] = field(default_factory=list)
    below: dict[tuple[str, int | None], _Wanted] = field(default_factory=dict)


def located(text: str, issues: Iterable[Issue]) -> list[Issue]:
    """The issues with line and column, each from 1, of the value; of what is missing, of the object that lacks it.

    `text` has been parsed before. A place that is not in the text (the fault was found on the way to it) has none.
    """
    found = list(issues)
    root = _Wanted()
    for number, issue in enumerate(found):
        wanted = root
        for name, index in _STEP.findall(issue.expression.partition(".")[2]):
            wanted = wanted.below.setdefault((name, int(index) if index else None), _Wanted())
        wanted.issues.append(number)
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    nearest: dict[int, tuple[int, int]] = {}
    for number, depth, at in _places(text, len(text) - len(text.lstrip(" \t\r\n")), root, 0):
        if number not in nearest or depth > nearest[number][0]:
            nearest[number] = depth, at
    for number, (_, at) in nearest.items():
        line = bisect_right(starts, at)
        found[number] = replace(found[number], line=line, column=at - starts[line - 1] + 1)
    return found


_Found = Iterator[tuple[int, int, int]]


def _places(text: str, at: int, wanted: _Wanted, depth: int) -> _Found:
    """(number of the issue, depth, offset) for all at and below the value at that offset: the deepest is the nearest.

    Of a member and its companion at one depth the first stays.
    """
    for number in _all(wanted):
        yield number, depth, at
    if not wanted.below or text[at] != "{":
        return
    by_name: dict[str, dict[int | None, _Wanted]] = {}
    for (name, index), below in wanted.below.items():
        by_name.setdefault(name, {})[index] = below
    for key, start in codec.keys(text, at):
        if below_it := by_name.get(_element(key, by_name)):
            yield from _of_member(text, start, below_it, depth + 1)


def _of_member(text: str, at: int, wanted: dict[int | None, _Wanted], depth: int) -> _Found:
    if None in wanted:
        yield from _places(text, at, wanted[None], depth)
    if text[at] == "[":
        last = max((index for index in wanted if index is not None), default=-1)
        for index, start in zip(range(last + 1), codec.items(text, at), strict=False):
            if index in wanted:
                yield from _places(text, start, wanted[index], depth)


def _element(key: str, names: Iterable[str]) -> str:
    """The element that a member belongs to: itself, its companion (_birthDate), or the choice (valueQuantity)."""
    plain = key.removeprefix("_")
    if plain in names:
        return plain
    return next((name for name in names if plain.startswith(name) and plain[len(name) : len(name) + 1].isupper()), "")


def _all(wanted: _Wanted) -> Iterator[Any]:
    yield from wanted.issues
    for below in wanted.below.values():
        yield from _all(below)


def located_xml(data: bytes, issues: Iterable[Issue]) -> list[Issue]:
    """The same for XML: the line of the element; of what is missing, of the element that lacks it. No column.

    `data` has been read by `xml.from_xml` before.
    """
    root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    return [replace(issue, line=int(_element_at(root, issue.expression).sourceline or 0)) for issue in issues]


def _element_at(root: Any, expression: str) -> Any:
    found = root
    for name, index in _STEP.findall(expression.partition(".")[2]):
        named = [c for c in found if isinstance(c.tag, str) and _element(etree.QName(c).localname, (name,))]
        place = int(index or 0)
        if place >= len(named):
            break
        found = named[place]
        if name in ("resource", "contained") and len(found) == 1:
            found = found[0]  # the element that has the name of its type
    return found
