"""What an endpoint is made of: `bootstrap` and the sandbox put it together, the handlers only use it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from sqlalchemy.engine import Connection
from werkzeug.wrappers import Request

from fhir_secondop.errors import Forbidden, Issue, Unsupported
from fhir_secondop.fhir import claims, criteria, definitions, query
from fhir_secondop.fhir.criteria import Condition
from fhir_secondop.limits import Limits
from fhir_secondop.model import Caller, Operation, Ready, Resource, Visibility
from fhir_secondop.store import bundles, deadline, pending
from fhir_secondop.store.bundles import Entry
from fhir_secondop.store.database import Database, Transaction
from fhir_secondop.store.resources import Stored

ALL = frozenset(
    {"read", "vread", "history-instance", "history-type", "create", "update", "patch", "delete", "search-type"}
)


WRITES = frozenset({"create", "update", "patch", "delete"})


class SecondStage(Protocol):
    """What other validators say of a resource that is valid to us."""

    def __call__(self, resource: Resource, text: str, demanded: Iterable[str] = ()) -> Sequence[Issue]:
        """`text` is the resource as it was sent; `demanded` are profiles beside those that it claims."""


class Hooks(Protocol):
    """What the domain adds to plain writes."""

    def before(self, caller: Caller, entries: Sequence[Entry], key: str) -> Sequence[Entry] | Ready:
        """Looks at a transaction before it runs; `key` is the Idempotency-Key header. May answer itself."""

    def within(self, transaction: Transaction) -> None:
        """Looks at `transaction.changes` before the commit; adds writes, or refuses by raising."""


@dataclass(frozen=True, slots=True)
class Plain:
    """No domain: writes are stored as they are."""

    def before(self, caller: Caller, entries: Sequence[Entry], key: str) -> Sequence[Entry] | Ready:
        return entries

    def within(self, transaction: Transaction) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One FHIR base: where it is, what it stores in, who may do what.

    `interactions` are those offered on every type, or on those of `by_type` alone where that is given; `system` those
    of the whole endpoint ("transaction", "batch"). `writable` are the types that may be written, where not all may.
    `searchable` names the search parameters of a type where not all that we can serve are offered.
    `allows(caller, type, letter)` has the SMART v2 letters c, r, u, d, s; `restrictions` are the searches of which a
    resource must match one, where only some of the type are granted. `second_stage(resource, text)` is what others say
    of a resource that is valid R4: of profiles that are not known here.
    """

    database: Database
    base_url: str
    software: str
    authenticate: Callable[[Request], Caller]
    visibility: Callable[[Caller], Visibility]
    allows: Callable[[Caller, str, str], bool]
    restrictions: Callable[[Caller, str, str], tuple[str, ...]] = lambda caller, resource_type, letter: ()
    hooks: Hooks = field(default_factory=Plain)
    operations: Sequence[Operation] = ()
    interactions: frozenset[str] = ALL
    by_type: Mapping[str, frozenset[str]] | None = None
    searchable: Mapping[str, frozenset[str]] | None = None
    writable: frozenset[str] | None = None
    system: frozenset[str] = frozenset({"transaction", "batch", "search-system", "history-system"})
    update_creates: bool = False
    conditional_create: bool = True
    conditional_changes: bool = True  # update, patch and delete of what a search finds
    limits: Limits = field(default_factory=Limits)
    security: str = ""
    xml: bool = False  # whether resources are read and written in XML, too
    validates: bool = False  # whether [type]/$validate is offered
    published: frozenset[str] = frozenset()  # which of the operations that others defined (rest.published) are offered
    smart: bool = False  # whether one signs in by SMART
    second_stage: SecondStage = claims.unchecked
    page_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)  # seals links to further pages
    canonical: str = ""  # under which the operations have their canonical names

    def sees(self, caller: Caller, *wanted: tuple[str, str]) -> Visibility:
        """What the caller may see for these interactions, each a type and a letter."""
        narrowed = {(kind, self.restrictions(caller, kind, letter)) for kind, letter in wanted}
        found = tuple(sorted((kind, queries) for kind, queries in narrowed if queries))
        pending.refuse_restrictions(self.database, found)
        seen = self.visibility(caller)
        return replace(seen, narrowed=found) if found else seen

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One snapshot for an answer, for as long as a search may take. Raises TooCostly beyond that."""
        with self.database.reading() as connection, deadline.within(connection, self.limits.max_search_s):
            yield connection

    def match_one(
        self, connection: Connection, caller: Caller, resource_type: str, asked: str, visibility: Visibility
    ) -> Stored | None:
        """The one resource that the criteria of a conditional interaction match, within our limits."""
        return bundles.match_one(
            connection, resource_type, asked, visibility, self.base_url, self.limits, reach=self.reach(caller)
        )

    def may_search(self, caller: Caller, resource_type: str) -> bool:
        """Whether a search of the type is offered, and covered by the caller's scopes."""
        return "search-type" in self.offered(resource_type) and self.allows(caller, resource_type, "s")

    def ways(self, caller: Caller, condition: Condition) -> Condition:
        """The condition by the ways that the caller may search. Raises Forbidden if there is none."""
        left = criteria.within(condition, lambda kind: self.may_search(caller, kind))
        if left is None:
            raise Forbidden(f"{caller.name} has no scope for what this search goes through.")
        return left

    def reach(self, caller: Caller) -> bundles.Reach:
        """How far the criteria of the caller's writes go: as far as its searches."""

        def reached(
            conditions: Sequence[Condition], also: Collection[str], visibility: Visibility
        ) -> tuple[Sequence[Condition], Visibility]:
            for kind in also:
                if not self.may_search(caller, kind):
                    raise Forbidden(f"{caller.name} has no scope to search {kind}.")
            left = [self.ways(caller, each) for each in conditions]
            through = {kind for each in left for kind in criteria.types(each)}
            if through and not self.follows:
                raise Unsupported("Criteria may not follow references (chains, _has) here; see metadata.")
            narrowed = self.sees(caller, *((kind, "s") for kind in sorted(through.union(also)))).narrowed
            return left, replace(visibility, narrowed=tuple(dict.fromkeys((*visibility.narrowed, *narrowed))))

        return reached

    def types(self) -> list[str]:
        """The types offered, sorted."""
        return sorted(definitions.resource_types() if self.by_type is None else self.by_type)

    def offered(self, resource_type: str) -> frozenset[str]:
        """The interactions offered on a type."""
        offered = self.interactions if self.by_type is None else self.by_type.get(resource_type, frozenset())
        return offered - WRITES if self._is_kept(resource_type) else offered

    def _is_kept(self, resource_type: str) -> bool:
        """Whether plain writes leave a type as it is, here."""
        return self.writable is not None and resource_type not in self.writable

    def not_offered(self, interaction: str, resource_type: str) -> str:
        """What to say of an interaction that is not offered on a type."""
        said = f"{interaction} of {resource_type} is not offered here; see metadata."
        if interaction in WRITES and self._is_kept(resource_type):
            said += " The types that may be written are a setting of this service, writable_types."
        return said

    @property
    def follows(self) -> bool:
        """Whether a search may follow references, sort, and ask for a part of what it finds."""
        return self.searchable is None

    def parameters(self, resource_type: str) -> list[definitions.SearchParameter]:
        """The search parameters offered on a type."""
        known = definitions.search_parameters(resource_type).values()
        wanted = None if self.searchable is None else self.searchable.get(resource_type, frozenset())
        return [p for p in known if p.type in query.SUPPORTED_TYPES and (wanted is None or p.code in wanted)]
