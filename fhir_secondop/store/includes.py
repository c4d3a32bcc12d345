"""_include and _revinclude: what matches point to, and what points to them.

What a match points to is read out of it as the caller sees it, so that what is cut out of it leads nowhere.
Source: https://hl7.org/fhir/R4/search.html#include
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.errors import TooCostly
from fhir_secondop.fhir import definitions, path
from fhir_secondop.fhir.criteria import LIMITS
from fhir_secondop.fhir.query import Include
from fhir_secondop.limits import Limits
from fhir_secondop.model import Visibility
from fhir_secondop.store import tables
from fhir_secondop.store.resources import Stored, found_by, rows, stored, visible
from fhir_secondop.store.search_types import KINDS

_AT_ONCE = 300  # in one statement
_FETCHED = 50  # rows at once: they may be large


def included(
    connection: Connection,
    matches: Iterable[Stored],
    includes: Iterable[Include],
    visibility: Visibility,
    base_url: str,
    may_see: Callable[[str, bool], bool],
    limits: Limits = LIMITS,
) -> list[Stored]:
    """What is asked to come with the matches, each once and none of them, as far as it may be seen.

    `may_see` says of which types, read or (True) searched. Raises TooCostly beyond the limits.
    """
    asked = list(includes)
    fresh = list(matches)
    held = {(each.type, each.id) for each in fresh}
    found: list[Stored] = []
    size = 0
    while fresh and asked:
        more: list[Stored] = []
        for include in asked:
            follow = _pointing if include.reverse else _pointed
            for each in follow(connection, fresh, include, visibility, base_url):
                if (each.type, each.id) in held or not may_see(each.type, include.reverse):
                    continue
                size += each.bytes
                if len(found) + len(more) == limits.max_included:
                    said = f"More than {limits.max_included} resources would come with this page (max_included)"
                    raise TooCostly(f"{said}; ask for a smaller _count.")
                if size > limits.max_page_bytes:
                    said = f"Over {limits.max_page_bytes} bytes would come with this page (max_page_bytes)"
                    raise TooCostly(f"{said}; ask for a smaller _count.")
                held.add((each.type, each.id))
                more.append(each)
        found += more
        fresh = more
        asked = [include for include in asked if include.iterate]
    return found


def _pointed(
    connection: Connection, fresh: Iterable[Stored], include: Include, visibility: Visibility, base_url: str
) -> Iterator[Stored]:
    wanted = dict.fromkeys(
        target
        for source in fresh
        if include.source in ("", source.type)
        for target in _targets(source, include, base_url)
        if include.target in ("", target[0])
    )
    resource = tables.resource.c
    by_type: dict[str, list[str]] = {}
    for kind, key in wanted:
        by_type.setdefault(kind, []).append(key)
    # Type by type: of pairs SQLite reads the whole table.
    for kind, ids in by_type.items():
        for start in range(0, len(ids), _AT_ONCE):
            named = (resource.type == kind, resource.id.in_(ids[start : start + _AT_ONCE]))
            query = rows(visibility).where(*named, resource.deleted.is_(False), visible(visibility))
            query = query.order_by(resource.rid).execution_options(yield_per=_FETCHED)
            yield from (stored(row, visibility) for row in connection.execute(query))


def _targets(source: Stored, include: Include, base_url: str) -> Iterator[tuple[str, str]]:
    """(type, id) of what is stored here and pointed to."""
    resource = source.resource
    for parameter in definitions.search_parameters(source.type).values():
        if parameter.type == "reference" and include.code in ("*", parameter.code):
            for value_type, value in path.select(parameter, resource):
                for row in KINDS["reference"].rows(value_type, value, base_url):
                    kind, slash, key = row["target"].partition("/")
                    if slash and kind in definitions.resource_types():
                        yield kind, key


def _pointing(
    connection: Connection, fresh: Iterable[Stored], include: Include, visibility: Visibility, base_url: str
) -> Iterator[Stored]:
    columns, resource = tables.reference.c, tables.resource.c
    targets = [f"{each.type}/{each.id}" for each in fresh if include.target in ("", each.type)]
    for start in range(0, len(targets), _AT_ONCE):
        here = sa.select(columns.rid).where(
            columns.target.in_(targets[start : start + _AT_ONCE]),
            columns.type == include.source,
            columns.param == include.code,
        )
        query = rows(visibility).where(
            resource.rid.in_(here.correlate(None)),
            resource.deleted.is_(False),
            visible(visibility),
            found_by(visibility, include.source, include.code),
        )
        # Those that are held already are among them: whoever counts them ends it, and rows come as they are asked for.
        query = query.order_by(resource.rid).execution_options(yield_per=_FETCHED)
        yield from (stored(row, visibility) for row in connection.execute(query))
