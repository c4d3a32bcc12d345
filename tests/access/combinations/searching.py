"""Searches of one type and of several, along references, page by page, by parts."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from fhir_secondop.fhir import definitions
from fhir_secondop.store.search_types import KINDS
from tests.access.combinations.asked import Asked
from tests.access.combinations.model import EVERYONE, Combination
from tests.access.stage import Held


class Searching(Asked):
    """Searches of one type and of several, along references, page by page, by parts."""

    def _searches(self) -> Iterator[Combination]:
        """By id, and by each parameter with a value that the resource has."""
        known = {held.local: list(self._criteria(held)) for held in self.stage.held}
        for who, held in self._each():
            for criteria in known[held.local]:
                yield Combination(who, f"{held.stored.type}?{criteria}", self._searching(who, held, criteria))

    def _criteria(self, held: Held) -> Iterator[str]:
        yield f"_id={held.stored.id}"
        with self.stage.world.context.database.reading() as connection:
            for code, parameter in definitions.search_parameters(held.stored.type).items():
                if parameter.type not in KINDS:
                    continue
                table = KINDS[parameter.type].table
                row = connection.execute(
                    sa.select(table).where(table.c.rid == held.stored.rid, table.c.param == code).limit(1)
                ).first()
                if row is not None and (parameter.type != "reference" or row.target):
                    yield f"{quote(code)}={quote(_value(parameter.type, row), safe='|/:')}"

    def _searching(self, who: str, held: Held, criteria: str) -> Callable[[], str]:
        def ask() -> str:
            base = f"/fhir/{held.stored.type}"
            status, text = self.call(who, "GET", f"{base}?{criteria}&_total=accurate&_count=500")
            # The self link says what was asked, whoever asked it.
            text = re.sub(r'"link":\[[^]]*\],?', "", text)
            wrong = self.expect(who, self._scope(who, held.stored.type, "s"), status, text)
            if wrong or status >= 300:
                return wrong
            bundle = json.loads(text)
            found = {e["resource"]["id"] for e in bundle.get("entry", [])}
            if (held.stored.id in found) != self.stage.sees_it(who, held):
                return f"it {'finds' if held.stored.id in found else 'does not find'} {held.local} of {held.zone}"
            if bundle["total"] != len(found):
                return f"its total is {bundle['total']}, and it shows {len(found)}"
            counted = json.loads(self.call(who, "GET", f"{base}?{criteria}&_count=0")[1])["total"]
            return "" if counted == len(found) else f"_count=0 counts {counted}, and it shows {len(found)}"

        return ask

    def _throughs(self) -> Iterator[Combination]:
        """Along each reference between two that are held: chained, backwards, included; nothing is found or shown by
        way of what may not be seen.
        """
        for near, code, far in self._edges():
            one, other = near.stored, far.stored
            ways = (
                (near, f"{one.type}?_id={one.id}&{code}:{other.type}._id={other.id}", "ss", "match"),
                (far, f"{other.type}?_id={other.id}&_has:{one.type}:{code}:_id={one.id}", "ss", "match"),
                (far, f"{one.type}?_id={one.id}&_include={one.type}:{code}", "sr", "include"),
                (near, f"{other.type}?_id={other.id}&_revinclude={one.type}:{code}", "ss", "include"),
            )
            if code in definitions.compartment("Patient").get(one.type, ()) and other.type == "Patient":
                ways += ((near, f"{far.local}/{one.type}?_id={one.id}", "ss", "match"),)
            for who in EVERYONE:
                for found, path, letters, mode in ways:
                    first, second = (near, far) if path.startswith(f"{one.type}?") else (far, near)
                    if path.startswith(f"{far.local}/"):  # like a search by its reference
                        first, second = near, near
                    yield Combination(who, path, self._through(who, path, found, (first, second), letters, mode))
        for who, held in self._each():
            for asked in (
                "_summary=true",
                "_summary=text",
                "_summary=data",
                "_elements=id",
                "_sort=-_lastUpdated",
            ):
                yield Combination(who, f"{held.stored.type}?{asked}", self._excerpt(who, held, asked))

    def _through(
        self, who: str, path: str, found: Held, ways: tuple[Held, Held], letters: str, mode: str
    ) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", f"/fhir/{path}")
            text = re.sub(r',"link":\[[^]]*\]', "", text)
            first, second = (
                self._scope(who, held.stored.type, letter) for held, letter in zip(ways, letters, strict=True)
            )
            # An include of a type that one may not read is as if it wasn't there; a chain through it is refused.
            wrong = self.expect(who, first and (second or mode == "include"), status, text)
            if wrong or status >= 300:
                return wrong
            shown = [e for e in json.loads(text).get("entry", []) if e["resource"].get("id") == found.stored.id]
            is_there = any(e["search"]["mode"] in (mode, "match") for e in shown)
            wanted = second and all(self.stage.sees_it(who, held) for held in ways)
            return "" if is_there == wanted else f"it {'finds' if is_there else 'does not find'} {found.local}"

        return ask

    def _excerpt(self, who: str, held: Held, asked: str) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", f"/fhir/{held.stored.type}?{asked}&_count=500")
            wrong = self.expect(who, self._scope(who, held.stored.type, "s"), status, text)
            if wrong or status >= 300:
                return wrong
            found = {e["resource"]["id"] for e in json.loads(text).get("entry", [])}
            is_there = held.stored.id in found
            return "" if is_there == self.stage.sees_it(who, held) else f"{held.local} is there: {is_there}"

        return ask

    def _lists(self) -> Iterator[Combination]:
        for who in EVERYONE:
            yield Combination(who, "GET /api/second-opinions", self._listing(who))
            for kind in sorted({h.stored.type for h in self.stage.held}):
                yield Combination(who, f"GET /fhir/{kind}, page by page", self._paging(who, kind))
            for name, case_id in self.stage.cases.items():
                allowed = self._scope(who, "ServiceRequest", "r") and self.stage.sees(who, name, "ServiceRequest")
                yield self._one(who, "GET", f"/api/second-opinions/{case_id}", allowed)
                yield self._one(who, "GET", f"/api/second-opinions/{case_id}/events?count=1000", allowed)
                yield self._one(who, "GET", f"/fhir/nowhere/{case_id}", False)

    def _listing(self, who: str) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", "/api/second-opinions")
            wrong = self.expect(who, self._scope(who, "ServiceRequest", "r"), status, text)
            if wrong or status >= 300:
                return wrong
            shown = {c["id"] for c in json.loads(text)["cases"]}
            own = {case_id for name, case_id in self.stage.cases.items() if self.stage.sees(who, name)}
            return "" if shown == own else f"it shows {len(shown)} cases, and should {len(own)}"

        return ask

    def _paging(self, who: str, kind: str) -> Callable[[], str]:
        def ask() -> str:
            path, found = f"/fhir/{kind}?_count=7", set()
            while path:
                status, text = self.call(who, "GET", path)
                wrong = self.expect(who, self._scope(who, kind, "s"), status, text)
                if wrong or status >= 300:
                    return wrong
                bundle = json.loads(text)
                found |= {e["resource"]["id"] for e in bundle.get("entry", [])}
                links = [li["url"] for li in bundle["link"] if li["relation"] == "next"]
                path = links[0][links[0].index("/fhir/") :] if links else ""
            own = {h.stored.id for h in self.stage.held if h.stored.type == kind and self.stage.sees_it(who, h)}
            known = {h.stored.id for h in self.stage.held}
            return "" if found & known == own else f"it shows {len(found & known)}, and should {len(own)}"

        return ask

    def _severals(self) -> Iterator[Combination]:
        kinds = sorted({h.stored.type for h in self.stage.held})
        for who in EVERYONE:
            for named in (*itertools.combinations(kinds, 2), ()):
                for order in ("", "&_sort=-_lastUpdated"):
                    yield Combination(who, f"all of {','.join(named)}{order}", self._of_several(who, named, order))
            for held in self.stage.held:
                if held.stored.type == "Patient":
                    path = f"/fhir/{held.local}/*?_count=500"
                    yield Combination(who, path, self._compartment(who, held, path))

    def _of_several(self, who: str, named: tuple[str, ...], order: str) -> Callable[[], str]:
        """A search over several types finds what searches of each find, and counts it."""
        allowed = all(self._scope(who, kind, "s") for kind in named) if named else self._any_scope(who, "s")

        def ask() -> str:
            asked = f"_type={','.join(named)}" if named else "_lastUpdated=gt2000"
            found, wrong = self._walk(who, f"/fhir?{asked}&_count={7 if named else 400}{order}", allowed)
            if found is None:
                return wrong
            asked_of = [h for h in self.stage.held if not named or h.stored.type in named]
            own = {h.local for h in asked_of if self._sees(who, h, "s")}
            known = {h.local for h in self.stage.held}
            if found & known != own:
                return f"it shows {len(found & known)}, and should {len(own)}"
            total = json.loads(self.call(who, "GET", f"/fhir?{asked}&_summary=count")[1])["total"]
            return "" if total == len(found) else f"it counts {total}, and shows {len(found)}"

        return ask

    def _compartment(self, who: str, held: Held, path: str) -> Callable[[], str]:
        def ask() -> str:
            found, wrong = self._walk(who, path, self._any_scope(who, "s"))
            if found is None:
                return "" if not self._scope(who, "Patient", "s") else wrong
            seen = {h.local for h in self.stage.held if self.stage.sees_it(who, h)}
            strange = {local for local in found if local in {h.local for h in self.stage.held}} - seen
            is_there = held.local in found
            wanted = held.local in seen and self._scope(who, "Patient", "s")
            return (
                f"it shows {sorted(strange)}" if strange else "" if is_there == wanted else f"it is there: {is_there}"
            )

        return ask


def _value(kind: str, row: Any) -> str:
    """A value by which that index row is found."""
    if kind == "token":
        return f"{row.system}|{row.code}" if row.system else str(row.code)
    if kind == "string":
        return str(row.exact)[:40].replace(",", "\\,").replace("|", "\\|").replace("$", "\\$")
    if kind == "reference":
        return str(row.target)
    if kind == "uri":
        return str(row.uri).replace(",", "\\,").replace("|", "\\|").replace("$", "\\$")
    return "ge1900" if kind == "date" else "ge-1e300"
