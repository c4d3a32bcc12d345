"""The statements of a search: built and compiled once for all that are asked in the same form (store.asked).

To build one takes SQLAlchemy three times as long as SQLite needs to answer it. What is kept is text; a form is what was
asked without its values, together with what kind of reader asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.fhir.query import Part, Search
from fhir_secondop.model import Visibility
from fhir_secondop.store import narrowing, ordering, tables
from fhir_secondop.store.asked import Asking, Condition
from fhir_secondop.store.conditions import Sees, Values, condition
from fhir_secondop.store.prepared import Ready, ready
from fhir_secondop.store.readers import Reader, bound, reader_of
from fhir_secondop.store.resources import found_by, rows, visible

KEPT = 500
"""Statements of each kind: some kilobytes each."""
Conditions = list[ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class Form:
    """What is asked, of which types, by what kind of reader: everything but the values, of which there are so many."""

    parts: tuple[tuple[str, tuple[Condition, ...]], ...]
    values: int
    reader: Reader

    def each_alone(self) -> Iterator[Form]:
        """What is asked of each type by itself; the values keep their names."""
        return (Form((part,), self.values, self.reader) for part in self.parts)

    def conditions(self) -> list[Conditions]:
        """The conditions of each type, with bound parameters in place of values."""
        values: Values = [bound(f"v{n}") for n in range(self.values)]
        visibility = self.reader.visibility()
        return [_conditions(kind, asked, values, visibility) for kind, asked in self.parts]


def asked(parts: Iterable[Part], visibility: Visibility, base_url: str) -> tuple[Form, dict[str, Any]]:
    """The form of what is asked, and its values by their names. Raises Invalid."""
    asking = Asking(base_url)
    tree = tuple((kind, tuple(asking.condition(kind, each) for each in wanted)) for kind, wanted in parts)
    values: dict[str, Any] = {f"v{n}": value for n, value in enumerate(asking.values)}
    reader, of_reader = reader_of(visibility)
    return Form(tree, len(asking.values), reader), {**values, **of_reader}


def conditions_of(search: Search, visibility: Visibility, base_url: str) -> Conditions:
    """The conditions on `tables.resource` of all that matches, may be seen and is not deleted. Raises Invalid.

    Of a search of one type.
    """
    asking = Asking(base_url)
    tree = tuple(asking.condition(search.type, each) for each in search.criteria)
    return _conditions(search.type, tree, asking.values, visibility)


def seen_by(visibility: Visibility) -> Sees:
    """What may be found by a parameter of a type, for chains."""
    return lambda resource_type, code: sa.and_(visible(visibility), found_by(visibility, resource_type, code))


def _conditions(kind: str, asked: Sequence[Condition], values: Values, visibility: Visibility) -> Conditions:
    sees = seen_by(visibility)
    return [
        tables.resource.c.type == kind,
        tables.resource.c.deleted.is_(False),
        visible(visibility),
        *(condition(kind, each, values, sees) for each in asked),
        *(found_by(visibility, kind, code) for each in asked for code in each.looked_at),
    ]


# Names of bound parameters: a page goes from `after` to `last`, and has at most `most`.
_RID = tables.resource.c.rid
_AFTER = bound("after", sa.BigInteger)
_LAST = bound("last", sa.BigInteger)
_MOST: Any = bound("most", sa.Integer)


@lru_cache(maxsize=KEPT)
def lists(dialect: Dialect, form: Form) -> int:
    """By how many conditions a search of one type may go."""
    (ways,) = _ways(dialect, form)
    return len(ways.lists)


@lru_cache(maxsize=KEPT)
def counts(dialect: Dialect, form: Form, most: int, few: int) -> Ready:
    """How many rows each of them has, as store.narrowing counts them; `few` is its bound."""
    (ways,) = _ways(dialect, form)
    return ready(ways.counted(most), dialect)


@lru_cache(maxsize=KEPT)
def total(dialect: Dialect, form: Form, *, bounded: bool) -> Ready:
    """How many match; `bounded`: of those up to `last`."""
    bound = [tables.resource.c.rid <= _LAST] if bounded else []
    matching = _all(form.conditions(), *bound)
    return ready(sa.select(sa.func.count()).select_from(tables.resource).where(*matching), dialect)


@lru_cache(maxsize=KEPT)
def page(dialect: Dialect, form: Form, best: tuple[int, ...], *, follows: bool) -> Ready:
    """The first `most` that match, in the order of creation; `follows`: of those between `after` and `last`.

    `best` is, for each type, by which condition to go (store.narrowing).
    """
    first = _first(_narrowed(dialect, form, best, follows=follows), newest=False)
    query = rows(form.reader.visibility()).where(*first).order_by(_RID).limit(_MOST)
    return ready(query, dialect)


@lru_cache(maxsize=KEPT)
def newest(dialect: Dialect, form: Form, best: tuple[int, ...]) -> Ready:
    """The creation number of the last that matches; `most` is 1."""
    query = sa.select(_RID).where(*_first(_narrowed(dialect, form, best, follows=False), newest=True))
    return ready(query.order_by(_RID.desc()).limit(_MOST), dialect)


@lru_cache(maxsize=KEPT)
def in_order(dialect: Dialect, form: Form, best: tuple[int, ...], sort: tuple[tuple[str, bool], ...]) -> Ready:
    """The creation numbers of at most `most` that match, sorted."""
    matching = _all(_narrowed(dialect, form, best, follows=False))
    types = [kind for kind, _ in form.parts]
    return ready(ordering.in_order(dialect, types, sort, matching, form.reader.visibility(), _MOST), dialect)


@lru_cache(maxsize=KEPT)
def among(dialect: Dialect, form: Form, best: tuple[int, ...], number: int) -> Ready:
    """Those of so many creation numbers `r0`, `r1`, … that match."""
    some = [bound(f"r{n}", sa.BigInteger) for n in range(number)]
    matching = _all(_narrowed(dialect, form, best, follows=False), _RID.in_(some))
    return ready(rows(form.reader.visibility()).where(*matching), dialect)


def _ways(dialect: Dialect, form: Form) -> list[narrowing.Ways]:
    return [narrowing.ways(each, is_sqlite=dialect.name == "sqlite") for each in form.conditions()]


def _narrowed(dialect: Dialect, form: Form, best: tuple[int, ...], *, follows: bool) -> list[Conditions]:
    between = (_AFTER, _LAST) if follows else None
    return [each.narrowed(one, between) for each, one in zip(_ways(dialect, form), best, strict=True)]


def _all(of_types: Sequence[Conditions], *more: ColumnElement[bool]) -> Conditions:
    """The conditions of whatever matches, of any of the types, and of `more`."""
    if len(of_types) == 1:
        return [*of_types[0], *more]
    return [_one_of(sa.select(_RID).where(*each, *more) for each in of_types)]


def _first(of_types: Sequence[Conditions], *, newest: bool) -> Conditions:
    """The conditions of the first ones, or the newest: at most `most` of each type, if there are several.

    Each type is cut by itself, so that as little of it is looked at as when it was searched alone.
    """
    if len(of_types) == 1:
        return of_types[0]
    order = _RID.desc() if newest else _RID.asc()
    cut = (sa.select(_RID).where(*each).order_by(order).limit(_MOST).subquery() for each in of_types)
    return [_one_of(sa.select(each.c.rid) for each in cut)]


def _one_of(found: Iterable[sa.Select[Any]]) -> ColumnElement[bool]:
    each = list(found)
    return _RID.in_(sa.union_all(*each)) if each else sa.false()
