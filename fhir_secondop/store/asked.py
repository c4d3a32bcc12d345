"""What a search asks, apart from its values: searches of one form share a statement, which is built once (store.plans).

The conditions become a tree that names the places of their values, and the values a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import criteria, definitions
from fhir_secondop.store import composites
from fhir_secondop.store.search_text import parted, unescape
from fhir_secondop.store.search_types import DATE, KINDS
from fhir_secondop.store.search_types import Asked as AskedOfKind


@dataclass(frozen=True, slots=True)
class Alternative:
    """In which form of its kind one alternative is asked, and which of the values are its own."""

    form: str
    first: int
    end: int

    def of(self, values: Sequence[Any]) -> Sequence[Any]:
        """Its own values."""
        return values[self.first : self.end]


# Of each: `looked_at` are the parameters of the resource itself that it looks at, whatever it finds there.


@dataclass(frozen=True, slots=True)
class One:
    """A parameter: one of these alternatives must match. `code` is that of its index rows, `kind` their kind."""

    looked_at: tuple[str, ...]
    code: str
    kind: str
    modifier: str
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class InElement:
    """Parts of a composite that must match in the same element, each with its kind."""

    code: str
    parts: tuple[tuple[str, Alternative], ...]


@dataclass(frozen=True, slots=True)
class Composite:
    """One of these must match: the parts in one element, or parameters of the resource itself."""

    looked_at: tuple[str, ...]
    ways: tuple[InElement | tuple[One, ...], ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """As in fhir.criteria."""

    looked_at: tuple[str, ...]
    code: str
    targets: tuple[tuple[str, Condition], ...]


@dataclass(frozen=True, slots=True)
class Reverse:
    """As in fhir.criteria."""

    looked_at: tuple[str, ...]
    type: str
    code: str
    condition: Condition


@dataclass(frozen=True, slots=True)
class AnyOf:
    """As in fhir.criteria."""

    looked_at: tuple[str, ...]
    ways: tuple[One | Composite, ...]


Condition = One | Composite | Chain | Reverse | AnyOf


class Asking:
    """Takes the values out of conditions, and keeps them in their order."""

    __slots__ = ("_base_url", "values")

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self.values: list[Any] = []

    def condition(self, resource_type: str, wanted: criteria.Condition) -> Condition:
        """The condition without its values. Raises Invalid."""
        looked_at = tuple(code for _, code in criteria.looked_at(resource_type, wanted))
        if isinstance(wanted, criteria.Chain):
            targets = tuple((target, self.condition(target, inner)) for target, inner in wanted.targets)
            return Chain(looked_at, wanted.code, targets)
        if isinstance(wanted, criteria.Reverse):
            return Reverse(looked_at, wanted.type, wanted.code, self.condition(wanted.type, wanted.condition))
        if isinstance(wanted, criteria.AnyOf):
            return AnyOf(looked_at, tuple(self._criterion(resource_type, (way.code,), way) for way in wanted.ways))
        return self._criterion(resource_type, looked_at, wanted)

    def _criterion(self, resource_type: str, looked_at: tuple[str, ...], wanted: criteria.Criterion) -> One | Composite:
        code, kind, modifier = wanted.code, wanted.kind, wanted.modifier
        values = [value for value in wanted.values if value]
        if kind == "token" and modifier in ("", "not"):
            values += list(_of_implied_system(resource_type, code, values))
        if any("\0" in value for value in values):
            raise Invalid("A value to search for holds a NUL.", path=code)
        if kind == "composite":
            return Composite(
                looked_at, tuple(way for value in values for way in self._ways(resource_type, code, value))
            )
        if modifier == "missing":
            if values not in (["true"], ["false"]):
                raise Invalid(f"{code}:missing is true or false.", path=code)
            return One(looked_at, code, kind, modifier, (Alternative(values[0], 0, 0),))
        if modifier in ("text", "of-type", "identifier"):
            kind, code = ("string" if modifier == "text" else "token"), f"{code}:{modifier}"
        found: tuple[Alternative, ...]
        if code == "_id":
            found = tuple(self._alternative(("is", (value.rpartition("|")[2],))) for value in values)
        elif code == "_lastUpdated":
            # An instant, one millisecond wide.
            found = tuple(self._alternative(DATE.span(value, wide_ms=1)) for value in values)
        else:
            found = tuple(self._alternative(KINDS[kind].asked(value, modifier, self._base_url)) for value in values)
        return One(looked_at, code, kind, modifier, found)

    def _alternative(self, asked: AskedOfKind) -> Alternative:
        form, values = asked
        first = len(self.values)
        self.values += values
        return Alternative(form, first, len(self.values))

    def _ways(self, resource_type: str, code: str, wanted: str) -> Iterator[InElement | tuple[One, ...]]:
        parameter = definitions.search_parameters(resource_type)[code]
        texts = parted(wanted, "$")
        if len(texts) != len(parameter.components) or not all(texts):
            names = "$".join(part.code for part, _ in definitions.components(parameter))
            raise Invalid(f"{parameter.code} is searched by {names}.", path=parameter.code)
        for each in composites.parts(resource_type, parameter):
            asked = [(part, text) for (part, _), text in zip(definitions.components(each), texts, strict=True)]
            if each.expression == resource_type:
                # The element is the resource itself: its parts are parameters of their own.
                known = definitions.search_parameters(resource_type)
                yield tuple(self._part(resource_type, known[part.code].type, part.code, text) for part, text in asked)
            else:
                values = ((part.type, KINDS[part.type].asked(text, "", self._base_url)) for part, text in asked)
                yield InElement(each.code, tuple((kind, self._alternative(value)) for kind, value in values))

    def _part(self, resource_type: str, kind: str, code: str, text: str) -> One:
        part = self._criterion(resource_type, (code,), criteria.Criterion(code, kind, "", (text,)))
        assert isinstance(part, One)  # no part of a composite is one
        return part


def _of_implied_system(resource_type: str, parameter: str, values: list[str]) -> Iterator[str]:
    """`|male` for `http://hl7.org/fhir/administrative-gender|male`: a plain code is sent without its system, which is
    that of its value set.

    Source: https://hl7.org/fhir/R4/search.html#token
    """
    implied = definitions.implied_systems(resource_type, parameter)
    for value in values if implied else ():
        system, *code = parted(value, "|")
        if code and unescape(system) in implied:
            yield "|" + "|".join(code)
