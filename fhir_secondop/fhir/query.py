"""A query string → a Search: what is asked, checked against the R4 search parameters.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.fhir import definitions

DEFAULT_COUNT = 50
MAX_COUNT = 500
MAX_PARAMETERS = 100
MAX_VALUES = 1000  # of all parameters together, what commas part counted singly
SUPPORTED_TYPES = ("token", "reference", "string", "date")
# Where a client may put them without asking for a different result.
_FORMAT_ONLY = ("_format", "_pretty")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter of a search: any of `values` must match. `kind` is the R4 search parameter type."""

    code: str
    kind: str
    modifier: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked of one type. `page` is the opaque place to continue from; `applied` goes into the self link."""

    type: str
    criteria: tuple[Criterion, ...]
    count: int = DEFAULT_COUNT
    total: str = "none"
    page: str = ""
    applied: tuple[tuple[str, str], ...] = ()
    ignored: tuple[Issue, ...] = ()


_MODIFIERS = {
    "token": ("", "missing", "not"),
    "string": ("", "missing", "exact", "contains"),
    "date": ("", "missing"),
    "reference": ("", "missing", "identifier"),
}


def parse(
    resource_type: str,
    query: str | Iterable[tuple[str, str]],
    *,
    lenient: bool = False,
    only: Collection[str] | None = None,
) -> Search:
    """The search that a query string asks for.

    An unknown parameter, modifier or kind is Invalid; with `lenient` it is left out, missing in `applied` and
    named in `ignored`. `only` names the parameters that count as known, where not all of them do. Raises Invalid
    too (too-costly) on more than MAX_PARAMETERS parameters or MAX_VALUES values.
    """
    pairs = parse_qsl(query, keep_blank_values=True) if isinstance(query, str) else list(query)
    _check_size(pairs)
    known = definitions.search_parameters(resource_type)
    criteria: list[Criterion] = []
    applied: list[tuple[str, str]] = []
    problems: list[Issue] = []
    count, total, page = DEFAULT_COUNT, "none", ""
    for name, value in pairs:
        if name in _FORMAT_ONLY:
            continue
        if name == "_count":
            count = _count(value)
        elif name == "_total":
            total = _total(value)
        elif name == "_page":
            page = value
            continue
        else:
            code, _, modifier = name.partition(":")
            targeted = ""
            parameter = known.get(code) if only is None or code in only else None
            problem = ""
            if parameter is None:
                said = "is not offered" if code.startswith("_") else f"is no search parameter of {resource_type}"
                problem = f"{code!r} {said}; see /fhir/metadata."
            elif parameter.type not in SUPPORTED_TYPES:
                problem = f"Search by {code!r} ({parameter.type}) is not offered; see /fhir/metadata."
            elif parameter.type == "reference" and modifier in definitions.resource_types():
                targeted, modifier = modifier, ""
            elif modifier not in _MODIFIERS[parameter.type]:
                problem = f"The modifier {modifier!r} is not offered on {code!r}."
            if problem or parameter is None:
                problems.append(Issue("error", "not-supported", name, problem))
                continue
            values = tuple(_split(value))
            if not any(values):
                continue
            if parameter.type == "reference" and not modifier:
                values = _typed(values, [targeted] if targeted else list(parameter.targets))
            criteria.append(Criterion(code, parameter.type, modifier, values))
        applied.append((name, value))
    if problems and not lenient:
        raise Invalid("The search was not run: " + problems[0].diagnostics, issues=problems)
    return Search(resource_type, tuple(criteria), count, total, page, tuple(applied), tuple(problems))


def _check_size(pairs: list[tuple[str, str]]) -> None:
    if any("\0" in text for pair in pairs for text in pair):
        raise Invalid("A search parameter holds a NUL; no database here can hold one.")
    # Each criterion is a join or subquery, each value a bound variable: both databases have ends to these.
    values = sum(value.count(",") + 1 for _, value in pairs)
    if len(pairs) > MAX_PARAMETERS or values > MAX_VALUES:
        said = f"The search was not run: send at most {MAX_PARAMETERS} parameters and {MAX_VALUES} values at once."
        raise Invalid(said, issues=[Issue("error", "too-costly", "", said)])


def _typed(values: tuple[str, ...], types: list[str]) -> tuple[str, ...]:
    """Bare ids with each type that the parameter may point at; everything else as it stands."""
    return tuple(
        typed
        for value in values
        for typed in ([value] if "/" in value or ":" in value else [f"{kind}/{value}" for kind in types])
    )


def _split(value: str) -> list[str]:
    """The alternatives of a value: commas part them, a backslash keeps one. Other escapes stay for the matcher."""
    parts, part, escaped = [], "", False
    for character in value:
        if escaped:
            part += character if character == "," else "\\" + character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ",":
            parts.append(part)
            part = ""
        else:
            part += character
    return [*parts, part]


def _count(value: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", value):
        raise Invalid("_count is not a whole number.", path="_count")
    return min(int(value), MAX_COUNT)


def _total(value: str) -> str:
    if value not in ("none", "estimate", "accurate"):
        raise Invalid("_total is none, estimate or accurate.", path="_total")
    return "accurate" if value == "estimate" else value
