"""FHIRPath of a fault → line and column in the JSON or XML text that has it.

All faults of a text are found in one way through: of JSON only the members that lead to one are gone into, each by the
C scanner; XML is read by expat.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from xml.parsers import expat

from fhir_secondop.errors import Issue
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.xmlplan import FHIR, XHTML

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
    root = _tree(found)
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    nearest: dict[int, tuple[int, int]] = {}
    for number, depth, at in _places(text, len(text) - len(text.lstrip(" \t\r\n")), root, 0):
        if number not in nearest or depth > nearest[number][0]:
            nearest[number] = depth, at
    for number, (_, at) in nearest.items():
        line = bisect_right(starts, at)
        found[number] = replace(found[number], line=line, column=at - starts[line - 1] + 1)
    return found


def _tree(issues: list[Issue]) -> _Wanted:
    root = _Wanted()
    for number, issue in enumerate(issues):
        wanted = root
        for name, index in _STEP.findall(issue.expression.partition(".")[2]):
            wanted = wanted.below.setdefault((name, int(index) if index else None), _Wanted())
        wanted.issues.append(number)
    return root


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
    """The same for XML: line and column of the element; of what is missing, or an attribute, of the element around it.

    `data` has been read by `xml.from_xml` before.
    """
    found = list(issues)
    parser = expat.ParserCreate("utf-8", " ")
    open_elements: list[_Open] = [_Open([_tree(found)])]
    places: dict[int, tuple[int, int]] = {}

    def start(name: str, _: Any) -> None:
        outer = open_elements[-1]
        namespace, _, local = name.rpartition(" ")
        if not outer.wanted or namespace not in (FHIR, XHTML):
            open_elements.append(_NOTHING)
        elif namespace == FHIR and local[:1].isupper():  # a resource: its path is that of the element that holds it
            open_elements.append(_Open(outer.wanted))
            if len(open_elements) == 2:
                note(outer.wanted)
        else:
            wanted = outer.below(local)
            note(wanted)
            open_elements.append(_Open(wanted) if wanted else _NOTHING)

    def note(wanted: list[_Wanted]) -> None:
        """This element is nearer than those around it."""
        if wanted:
            here = parser.CurrentLineNumber, parser.CurrentColumnNumber + 1
            places.update((number, here) for each in wanted for number in _all(each))

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_elements.pop()
    parser.Parse(data.removeprefix(b"\xef\xbb\xbf"), True)
    return [
        replace(issue, line=places[number][0], column=places[number][1]) if number in places else issue
        for number, issue in enumerate(found)
    ]


class _Open:
    """An element that is open, with what is looked for in it, and how many of each name it had so far."""

    __slots__ = ("counts", "names", "wanted")

    def __init__(self, wanted: list[_Wanted]) -> None:
        self.wanted = wanted
        self.names = {name for each in wanted for name, _ in each.below}
        self.counts: dict[str, int] = {}

    def below(self, key: str) -> list[_Wanted]:
        """What is looked for at and below the next child of that name: the one of its number; of all, the first."""
        if not (name := _element(key, self.names)):
            return []
        count = self.counts[name] = self.counts.get(name, -1) + 1
        keys = ((name, count), (name, None)) if count == 0 else ((name, count),)
        return [each.below[key] for each in self.wanted for key in keys if key in each.below]


_NOTHING = _Open([])
