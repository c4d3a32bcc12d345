"""Reads and histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.access.combinations.asked import Asked
from tests.access.combinations.model import Combination
from tests.access.stage import NOBODY, Held


class Reading(Asked):
    """Reads and histories."""

    def _reads(self) -> Iterator[Combination]:
        for who, held in self._each():
            allowed = self._sees(who, held, "r")
            for method in ("GET", "HEAD"):
                yield self._one(who, method, f"/fhir/{held.local}", allowed)
            yield self._one(who, "GET", f"/fhir/{held.local}/$validate", allowed)
            if not allowed:
                yield self._unseen(who, held, "GET", f"/fhir/{held.local}")
                yield self._unseen(who, held, "GET", f"/fhir/{held.local}/$validate")

    def _histories(self) -> Iterator[Combination]:
        for who, held in self._each():
            allowed = self._sees(who, held, "r")
            yield self._one(who, "GET", f"/fhir/{held.local}/_history", allowed)
            for path in (f"{held.stored.type}/_history", "_history", f"_history?_type=Task,{held.stored.type}"):
                yield Combination(who, path, self._of_types(who, held, path))
            for version in held.versions[:2]:
                yield self._one(who, "GET", f"/fhir/{held.local}/_history/{version}", allowed)
            if not allowed:
                yield self._unseen(who, held, "GET", f"/fhir/{held.local}/_history")
                yield self._unseen(who, held, "GET", f"/fhir/{held.local}/_history/1")

    def _of_types(self, who: str, held: Held, path: str) -> Callable[[], str]:
        named = ("Task", held.stored.type) if "Task," in path else (held.stored.type,)
        allowed = bool(who != NOBODY and self._any_scope(who, "r"))
        if path != "_history":
            allowed = all(self._scope(who, kind, "r") for kind in named)

        def ask() -> str:
            found, following = self._walk(who, f"/fhir/{path}{'&' if '?' in path else '?'}_count=500", allowed)
            if found is None:
                return following
            is_there = held.local in found
            wanted = self.stage.sees_it(who, held) and self._scope(who, held.stored.type, "r")
            return "" if is_there == wanted else f"{held.local} is there: {is_there}"

        return ask
