"""A query string → a Search: what is asked, checked against the R4 search parameters.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from fhir_secondop.errors import Invalid, Issue, TooCostly
from fhir_secondop.fhir import criteria, definitions
from fhir_secondop.fhir.criteria import LIMITS, Condition, Refused, TooManyWays
from fhir_secondop.limits import Limits

DEFAULT_COUNT = 50
SUPPORTED_TYPES = tuple(criteria.MODIFIERS)
# Where a client may put them without asking for a different result.
FORMAT_ONLY = ("_format", "_pretty")
_SUMMARIES = ("true", "text", "data", "count", "false")


@dataclass(frozen=True, slots=True)
class Include:
    """`_include=Observation:subject:Patient`: what matches of `source` point to by `code` ("*": by any reference), of
    type `target` ("": any); or, reversed, what points to them so. `iterate`: from what has been included, too.
    """

    source: str
    code: str
    target: str
    iterate: bool
    reverse: bool


Part = tuple[str, tuple[Condition, ...]]
"""A type, and what must match of it."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked of one type. `page` is the opaque place to continue from; `applied` goes into the self link.

    `sort`: (parameter, whether the highest comes first). `elements` and `summary` say what is shown of a match.
    `also` are further types and what must match of each, in a search over several.
    """

    type: str
    criteria: tuple[Condition, ...]
    count: int = DEFAULT_COUNT
    total: str = "none"
    page: str = ""
    sort: tuple[tuple[str, bool], ...] = ()
    includes: tuple[Include, ...] = ()
    elements: tuple[str, ...] = ()
    summary: str = ""
    applied: tuple[tuple[str, str], ...] = ()
    ignored: tuple[Issue, ...] = ()
    limits: Limits = LIMITS
    also: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Each type that is asked for, with what must match of it."""
        return ((self.type, self.criteria), *self.also)


@dataclass(slots=True)
class _Asked:
    """What the parameters that are no criteria have said so far."""

    types: Sequence[str]
    count: int = DEFAULT_COUNT
    total: str = "none"
    page: str = ""
    sort: tuple[tuple[str, bool], ...] = ()
    includes: list[Include] = field(default_factory=list)
    elements: tuple[str, ...] = ()
    summary: str = ""

    def takes(self, name: str, value: str, *, advanced: bool) -> bool:
        """Whether that was one of them. Raises Invalid, Refused."""
        if name == "_count":
            self.count = count(value)
        elif name == "_total":
            self.total = _total(value)
        elif not advanced:
            return False
        elif name == "_sort":
            self.sort = _sort(self.types, value)
        elif name.partition(":")[0] in ("_include", "_revinclude"):
            self.includes.append(_include(name, value))
        elif name == "_elements":
            self.elements = _elements(self.types, value)
        elif name == "_summary":
            if value not in _SUMMARIES:
                raise Refused(f"_summary is one of {', '.join(_SUMMARIES)}.")
            self.summary = "" if value == "false" else value
        else:
            return False
        return True


def parse(
    resource_type: str | Sequence[str],
    query: str | Iterable[tuple[str, str]],
    *,
    lenient: bool = False,
    only: Collection[str] | None = None,
    limits: Limits = LIMITS,
) -> Search:
    """The search that a query string asks for, of a type or over several.

    Over several each parameter must be one of all of them, though it may be of another kind in each. An unknown
    parameter, modifier or kind is Invalid; with `lenient` it is left out, missing in `applied` and named in `ignored`.
    `only` names the parameters that count as known, where not all of them do; then there are no chains, includes,
    orders and excerpts either. Raises Invalid too (too-costly) on more parameters or values than
    `limits` say; a page is no larger than they say.
    """
    pairs = parse_qsl(query, keep_blank_values=True) if isinstance(query, str) else list(query)
    types = [resource_type] if isinstance(resource_type, str) else list(resource_type)
    _check_size(pairs, len(types), limits)
    asked = _Asked(types)
    found: dict[str, list[Condition]] = {each: [] for each in types}
    applied: list[tuple[str, str]] = []
    problems: list[Issue] = []
    for name, value in pairs:
        if name in FORMAT_ONLY:
            continue
        if name == "_page":
            asked.page = value
            continue
        try:
            if not asked.takes(name, value, advanced=only is None):
                conditions = _conditions(types, name, value, only, limits)
                if not conditions:
                    continue
                for each, condition in conditions.items():
                    found[each].append(condition)
        except Refused as refusal:
            code = "too-costly" if isinstance(refusal, TooManyWays) else "not-supported"
            problems.append(Issue("error", code, name, str(refusal)))
            continue
        applied.append((name, value))
    if problems and not lenient:
        raise Invalid("The search was not run: " + problems[0].diagnostics, issues=problems)
    if asked.summary and asked.elements:
        raise Invalid("_summary and _elements can't be asked for together.", path="_summary")
    first, *also = ((each, tuple(conditions)) for each, conditions in found.items())
    return Search(
        *first, min(asked.count, limits.max_page), asked.total, asked.page, asked.sort, tuple(asked.includes),
        asked.elements, asked.summary, tuple(applied), tuple(problems), limits,
        tuple(also),
    )  # fmt: skip


def _conditions(
    types: Sequence[str], name: str, value: str, only: Collection[str] | None, limits: Limits
) -> dict[str, Condition]:
    """What the parameter demands of each type; empty where its value is. Raises Refused."""
    tried: list[str] = []  # a chain counts what it goes through over all types
    found: dict[str, Condition] = {}
    for each in types:
        condition = criteria.parse(each, name, value, only=only, tried=tried, limits=limits)
        if condition is not None:
            found[each] = condition
    return found


def _check_size(pairs: list[tuple[str, str]], types: int, limits: Limits) -> None:
    if any("\0" in text for pair in pairs for text in pair):
        raise Invalid("A search parameter holds a NUL; no database here can hold one.")
    # Each criterion is a join or subquery, each value a bound variable: both databases have ends to these.
    values = sum(value.count(",") + 1 for _, value in pairs)
    asked = (("parameters", len(pairs), "max_parameters"), ("values", values, "max_alternatives"))
    for what, number, name in asked:
        if number <= (most := getattr(limits, name)):
            continue
        said = f"The search was not run: it has {number} {what}; send at most {most} at once ({name})."
        raise TooCostly(said)
    if types > 1 and values * types > limits.max_asked:
        said = f"The search was not run: {values} values of {types} types are more than {limits.max_asked} (max_asked)"
        said += "; name fewer types by _type."
        raise Invalid(said, issues=[Issue("error", "too-costly", "_type", said)])


def count(value: str) -> int:
    """The number of a page's resources that `_count` asks for. Raises Invalid."""
    if not re.fullmatch("[0-9]{1,9}", value):
        raise Invalid("_count is not a whole number.", path="_count")
    return int(value)


def _total(value: str) -> str:
    if value not in ("none", "estimate", "accurate"):
        raise Invalid("_total is none, estimate or accurate.", path="_total")
    return "accurate" if value == "estimate" else value


def _sort(types: Sequence[str], value: str) -> tuple[tuple[str, bool], ...]:
    """Source: https://hl7.org/fhir/R4/search.html#sort"""
    rules = []
    for each in value.split(",") if value else ():
        code = each.removeprefix("-")
        known = [definitions.search_parameters(kind).get(code) for kind in types]
        for kind, parameter in zip(types, known, strict=True):
            if parameter is None or parameter.type in ("composite", "special"):
                raise Refused(f"{code!r} is nothing that {kind} can be sorted by.")
        if len({parameter.type for parameter in known if parameter}) > 1:
            raise Refused(f"{code!r} is of another kind in each of these types; nothing is sorted by it.")
        rules.append((code, each.startswith("-")))
    if len(rules) > 5:
        raise Refused("_sort takes five parameters at most.")
    return tuple(rules)


def _include(name: str, value: str) -> Include:
    """Source: https://hl7.org/fhir/R4/search.html#include"""
    kind, _, modifier = name.partition(":")
    parts = value.split(":")
    if modifier not in ("", "iterate", "recurse"):
        raise Refused(f"The modifier {modifier!r} is not offered on {kind}.")
    if value == "*" and kind == "_include":
        return Include("", "*", "", bool(modifier), reverse=False)
    if len(parts) not in (2, 3) or any(of not in definitions.resource_types() for of in (parts[0], *parts[2:])):
        raise Refused(f"{kind} is written {kind}=Type:parameter or {kind}=Type:parameter:Type, with types of R4.")
    if parts[1] != "*" or kind != "_include":
        criteria.reference_parameter(parts[0], parts[1])
    return Include(parts[0], parts[1], "".join(parts[2:]), bool(modifier), reverse=kind == "_revinclude")


def _elements(types: Sequence[str], value: str) -> tuple[str, ...]:
    """Of several types what one of them has, each by its name alone.

    Source: https://hl7.org/fhir/R4/search.html#elements
    """
    known = {element.name for kind in types for element in definitions.structure(kind).elements.values()}
    named = f"{types[0]}." if len(types) == 1 else ""
    wanted = tuple(part.removeprefix(named) for part in value.split(",") if part)
    if unknown := [name for name in wanted if name not in known]:
        said = f"{types[0]} has no element" if len(types) == 1 else "None of these types has an element"
        raise Refused(f"{said} {unknown[0]!r} at its top.")
    return wanted
