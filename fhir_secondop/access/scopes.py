"""SMART scopes, pure: read, brought into one form, what two sets have in common, and what a set grants.

Version 2 (`system/Observation.rs?category=laboratory`) and version 1 (`system/Observation.read`), which is read as
version 2. A restriction is a search of that type; it may only ever get narrower.
Source: https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import parse_qsl, quote, urlencode

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import definitions, query, times
from fhir_secondop.fhir.criteria import Criterion

LETTERS = "cruds"
CONTEXTS = ("system", "user", "patient")
V1 = {"read": "rs", "write": "cud", "*": "cruds"}
MOST = 500  # scopes in one request: every type for reading, and again for writing, is 292
LONGEST = 1000  # characters of one scope that is asked for
_LONGEST_WRITTEN = 8192  # of one as we write it: percent signs make it longer, and so does a second restriction
_SCOPE = re.compile(
    r"(?P<context>system|user|patient)/(?P<type>\*|[A-Z][A-Za-z]{1,63})"
    r"\.(?:(?P<v1>read|write|\*)|(?P<v2>(?=[cruds])c?r?u?d?s?)(?:\?(?P<query>.+))?)"
)
# What a scope can carry: https://www.rfc-editor.org/rfc/rfc6749#section-3.3
_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_DATE = re.compile(r"(?:eq|ne|gt|lt|ge|le|sa|eb|ap)?(.+)")


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """One scope in version 2: `type` may be "*", `letters` are of "cruds" in that order.

    `query` is the restriction, a search of that type with its parameters sorted; empty where there is none.
    """

    context: str
    type: str
    letters: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.context}/{self.type}.{self.letters}" + (f"?{self.query}" if self.query else "")


@dataclass(frozen=True, slots=True)
class Grant:
    """That an interaction is granted. With `queries`, only on resources that one of these searches finds."""

    queries: tuple[str, ...] = ()

    @property
    def unrestricted(self) -> bool:
        """Whether it is granted on every resource of the type."""
        return not self.queries


@lru_cache(maxsize=4096)
def parse(text: str) -> Scope:
    """The scope that a text says. Raises Invalid on everything else, and on a restriction that we can't apply."""
    match = _SCOPE.fullmatch(text) if len(text) <= _LONGEST_WRITTEN and _TOKEN.fullmatch(text) else None
    if match is None:
        raise Invalid("A scope is written system/Observation.rs, with the letters c, r, u, d, s in that order.")
    kind = match["type"]
    if kind != "*" and kind not in definitions.resource_types():
        raise Invalid(f"A scope names {kind}, which is no resource type of R4.")
    restriction = _restriction(kind, match["query"]) if match["query"] else ""
    return Scope(match["context"], kind, V1[match["v1"]] if match["v1"] else match["v2"], restriction)


def parse_all(text: str) -> tuple[Scope, ...]:
    """The scopes of a scope parameter, parted by single spaces; each once, none that another covers.

    Raises Invalid when one of them is none, or there are none.
    """
    parts = text.split(" ")
    if len(parts) > MOST or max(map(len, parts)) > LONGEST:
        raise Invalid(f"More than {MOST} scopes, or one of more than {LONGEST} characters; ask for system/*.rs, say.")
    return canonical(parse(part) for part in parts)


def canonical(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """The same rights in the fewest scopes, sorted. Two sets that grant the same have the same form."""
    # Letter by letter: of "cr?a&b" beside "r?a" only the "c" is needed.
    queries: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for scope in scopes:
        for letter in scope.letters:
            queries[scope.context, scope.type, letter].add(scope.query)
    letters: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for (context, kind, letter), of_type in queries.items():
        of_all = queries.get((context, "*", letter), set()) if kind != "*" else set()
        for text in of_type:
            pairs = _pairs(text)
            if not any(_pairs(t) < pairs for t in of_type) and not any(_pairs(t) <= pairs for t in of_all):
                letters[context, kind, text].add(letter)
    return tuple(sorted(Scope(c, t, _in_order(found), q) for (c, t, q), found in letters.items()))


def intersect(asked: Iterable[Scope], allowed: Iterable[Scope]) -> tuple[Scope, ...]:
    """What both sides grant, in canonical form. Of two restrictions both hold: they are one search."""
    allowed = tuple(allowed)
    return canonical(both for a in asked for b in allowed if (both := _common(a, b)) is not None)


def _common(a: Scope, b: Scope) -> Scope | None:
    letters = _in_order(set(a.letters) & set(b.letters))
    if a.context != b.context or not letters or (a.type != b.type and "*" not in (a.type, b.type)):
        return None
    kind = b.type if a.type == "*" else a.type
    # Parameters of one search are joined by "and" (R4 search, 3.1.1.4.17), so the two together are their conjunction.
    return replace(a, type=kind, letters=letters, query=_text(_pairs(a.query) | _pairs(b.query)))


def grants(scopes: Iterable[str], resource_type: str, letter: str) -> Grant | None:
    """Whether these scopes grant an interaction (c, r, u, d or s) on a type, and on which of its resources.

    What is no scope of ours (openid, launch) grants nothing.
    """
    queries: set[str] = set()
    for text in scopes:
        scope = _parsed(text)
        if scope is not None and scope.type in ("*", resource_type) and letter in tuple(scope.letters):
            if not scope.query:
                return Grant()
            queries.add(scope.query)
    return Grant(tuple(sorted(queries))) if queries else None


def understood(texts: Iterable[str]) -> tuple[Scope, ...]:
    """Those of these scopes that say what we know, in canonical form: openid and launch may stand beside them."""
    return canonical(scope for text in texts if (scope := _parsed(text)) is not None)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Scope | None:
    try:
        return parse(text)
    except Invalid:
        return None


def in_version_1(scope: Scope) -> str:
    """The scope as version 1 writes it, where it can; else as version 2 does."""
    words = {letters: word for word, letters in V1.items()}
    if scope.query or scope.letters not in words:
        return str(scope)
    return f"{scope.context}/{scope.type}.{words[scope.letters]}"


def is_version_1(text: str) -> bool:
    """Whether every scope of a scope parameter is one of version 1."""
    return all((match := _SCOPE.fullmatch(part)) is not None and match["v1"] is not None for part in text.split(" "))


def _in_order(letters: Iterable[str]) -> str:
    return "".join(letter for letter in LETTERS if letter in letters)


@lru_cache(maxsize=4096)
def _pairs(text: str) -> frozenset[tuple[str, str]]:
    return frozenset(parse_qsl(text, keep_blank_values=True))


def _text(pairs: Iterable[tuple[str, str]]) -> str:
    return urlencode(sorted(pairs), quote_via=quote, safe=":/|,$")


def _restriction(kind: str, text: str) -> str:
    """A restriction in canonical form. Raises Invalid unless every parameter of it restricts, on every type meant."""
    pairs = _pairs(text)
    for each in definitions.resource_types() if kind == "*" else (kind,):
        criteria = query.parse(each, sorted(pairs)).criteria
        # _count, _format, an empty value: valid in a search, but they restrict nothing, and the scope would be wide.
        if len(criteria) != len(pairs) or not pairs:
            raise Invalid("A scope's restriction may only have parameters that restrict, each with a value.")
        for criterion in criteria:
            if not isinstance(criterion, Criterion):
                raise Invalid("A scope's restriction may not follow references (chains, _has).")
            _check(criterion)
    return _text(pairs)


def _check(criterion: Criterion) -> None:
    if criterion.kind in ("number", "quantity", "composite") or criterion.modifier == "of-type":
        raise Invalid(f"A scope's restriction by {criterion.code} is not offered.")
    for value in criterion.values:
        if not value.strip() or not value.isprintable():
            raise Invalid(f"A scope's restriction by {criterion.code} has an empty value, or control characters.")
        if criterion.modifier == "missing" and value not in ("true", "false"):
            raise Invalid(f"A scope's restriction by {criterion.code}:missing is true or false.")
        date = _DATE.fullmatch(value)
        if criterion.kind == "date" and criterion.modifier == "" and date is not None:
            times.interval(date[1])
