"""When a resource is what a checklist asks for: by type, code, value set, words or FHIRPath.

A condition is a member of a checklist file (profiles/checklists/README.md); a text alone is its FHIRPath.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any

from fhir_secondop.errors import Invalid, Unsupported
from fhir_secondop.fhir import definitions, path
from fhir_secondop.model import Resource

Condition = str | Mapping[str, Any]
Codes = tuple[frozenset[tuple[str, str]], tuple[tuple[str, str], ...]]

# Where a resource says what it is. Free text (notes, conclusions, narrative) is left out on purpose: "no MRI was done"
# has the word MRI in it.
_CODED = (
    "code", "category", "type", "medicationCodeableConcept", "vaccineCode", "modality", "procedureCode", "bodySite",
    "component.code", "condition.code", "series.modality", "series.bodySite",
)  # fmt: skip
_SAID = ("title", "description", "series.description", "content.attachment.title", "presentedForm.title")
_WORD = re.compile(r"[^\W_]+")


class Seen:
    """A resource, with its codes and words read once."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.type = str(resource["resourceType"])

    @cached_property
    def codings(self) -> frozenset[tuple[str, str]]:
        """(system, code) of what it says it is."""
        return frozenset((str(c.get("system", "")), str(c.get("code", ""))) for c in self._coded())

    @cached_property
    def phrases(self) -> tuple[frozenset[str], ...]:
        """The words of each thing it says of itself, in small letters: a concept with its displays, or a title.

        Words of two things are not taken together: a consent to an operation, filed as a note, is no operation note.
        """
        concepts = [value for place in _CODED for value in _at(self.resource, place) if isinstance(value, Mapping)]
        texts = [
            " ".join(str(c[k]) for c in _parts(concept) for k in ("display", "text") if k in c) for concept in concepts
        ]
        texts += [value for place in _SAID for value in _at(self.resource, place) if isinstance(value, str)]
        return tuple(frozenset(words_of(text)) for text in texts)

    @cached_property
    def name(self) -> str:
        """What it is, for people: the first text or display."""
        return next((str(c[key]) for c in self._coded() for key in ("text", "display") if c.get(key)), "")

    def _coded(self) -> Iterator[Mapping[str, Any]]:
        """Each CodeableConcept and each Coding of it, and Codings that stand alone."""
        for place in _CODED:
            for value in _at(self.resource, place):
                if isinstance(value, Mapping):
                    yield from _parts(value)


def _parts(concept: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [concept, *(c for c in _at(concept, "coding") if isinstance(c, Mapping))]


def _at(value: Mapping[str, Any], place: str) -> list[Any]:
    """All values at a dotted place, through lists; what others send may have any shape."""
    found: list[Any] = [value]
    for name in place.split("."):
        inner = [each[name] for each in found if isinstance(each, Mapping) and name in each]
        found = [one for each in inner for one in (each if isinstance(each, list) else [each])]
    return found


def words_of(text: str) -> list[str]:
    """The words of a text: letters and digits, whatever stands between ("X-ray" is two words, "HER2" one)."""
    return _WORD.findall(text.casefold())


def meets(condition: Condition, seen: Seen) -> bool:
    """Whether the resource meets it: type, FHIRPath and exception must fit, and one of its codes, words or ways.

    A resource too odd for a FHIRPath expression does not meet it: an item stays missing, and a person looks.
    """
    if isinstance(condition, str):
        return _holds(condition, seen.resource)
    if seen.type not in condition.get("types", (seen.type,)) or not _holds(condition.get("where", ""), seen.resource):
        return False
    if "except" in condition and meets(condition["except"], seen):
        return False
    ways = {"codes": _has_code, "words": _has_words, "anyOf": _has_way}
    given = [(way, condition[key]) for key, way in ways.items() if key in condition]
    return not given or any(way(wanted, seen) for way, wanted in given)


def _holds(expression: str, resource: Resource) -> bool:
    if expression in ("", "true"):
        return True
    try:
        return path.evaluate(expression, resource) == [True]
    except Unsupported:
        return False


def _has_code(wanted: Iterable[str], seen: Seen) -> bool:
    listed, prefixes = codes_of(tuple(wanted))
    return not listed.isdisjoint(seen.codings) or any(
        system == of and code.startswith(prefix) for of, prefix in prefixes for system, code in seen.codings
    )


def _has_words(wanted: Iterable[str], seen: Seen) -> bool:
    return any(all(_has_word(word, phrase) for word in _wanted(text)) for text in wanted for phrase in seen.phrases)


def _has_word(word: str, words: frozenset[str]) -> bool:
    return any(each.startswith(word[:-1]) for each in words) if word.endswith("*") else word in words


def _has_way(wanted: Iterable[Condition], seen: Seen) -> bool:
    return any(meets(each, seen) for each in wanted)


@cache
def _wanted(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+\*?", text.casefold()))


@cache
def codes_of(texts: tuple[str, ...]) -> Codes:
    """What a list of codes names: (system, code) one by one, and (system, beginning) of those with a star.

    "system|code", "system|beginning*", or the URL of a value set. Raises Invalid on a value set that is not known.
    """
    listed: set[tuple[str, str]] = set()
    prefixes = []
    for text in texts:
        system, bar, code = text.partition("|")
        if not bar:
            expansion = definitions.value_set(text)
            if expansion is None:
                raise Invalid(f"{text} is no value set with a list of codes here; write system|code for a single code.")
            listed |= {(each, code) for each, codes in expansion.items() for code in codes}
        elif code.endswith("*"):
            prefixes.append((system, code[:-1]))
        else:
            listed.add((system, code))
    return frozenset(listed), tuple(prefixes)
