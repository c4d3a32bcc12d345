"""The operations that others have defined."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from fhir_secondop.fhir import definitions
from fhir_secondop.store import tables
from tests.access.combinations.asked import Asked
from tests.access.combinations.model import EVERYONE, Combination
from tests.access.stage import Held


class Defined(Asked):
    """The operations that others have defined."""

    def _everythings(self) -> Iterator[Combination]:
        """Of each patient, and of all: what belongs to them and may be seen, page by page, and nothing else of it."""
        by_rid = {held.stored.rid: held for held in self.stage.held}
        columns = tables.reference.c
        with self.stage.world.context.database.reading() as connection:
            rows = connection.execute(sa.select(columns.rid, columns.type, columns.param, columns.target)).all()
        members = definitions.compartment("Patient")
        mine: dict[str, dict[str, Held]] = {}
        for row in rows:
            if row.rid in by_rid and row.param in members.get(row.type, ()):
                mine.setdefault(row.target, {})[by_rid[row.rid].local] = by_rid[row.rid]
        for who in EVERYONE:
            yield Combination(who, "Patient/$everything", self._everything(who, "", mine))
            for held in (h for h in self.stage.held if h.stored.type == "Patient"):
                path = f"{held.local}/$everything"
                if self._sees(who, held, "r"):
                    of_it = {held.local: mine.get(held.local, {})}
                    yield Combination(who, path, self._everything(who, held.local, of_it))
                else:
                    yield self._unseen(who, held, "GET", f"/fhir/{path}")

    def _everything(self, who: str, patient: str, members: dict[str, dict[str, Held]]) -> Callable[[], str]:
        def ask() -> str:
            path, found = f"/fhir/{patient or 'Patient'}/$everything?_count=40", set()
            allowed = self._scope(who, "Patient", "r") and bool(patient or self._scope(who, "Patient", "s"))
            while path:
                status, text = self.call(who, "GET", path)
                text = re.sub(r'("diagnostics":)"[^"]*"', r'\1""', text)  # names what is pointed to and not shown
                wrong = self.expect(who, allowed, status, text)
                if wrong or status >= 300:
                    return wrong
                bundle = json.loads(text)
                matches = [e["fullUrl"] for e in bundle.get("entry", []) if e["search"]["mode"] == "match"]
                found |= {url.partition("/fhir/")[2] for url in matches}
                following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
                path = "/fhir/" + following[0].partition("/fhir/")[2] if following else ""
            for local, of_it in members.items():
                sees = bool(patient) or any(h.local == local and self.stage.sees_it(who, h) for h in self.stage.held)
                for held in of_it.values():
                    if (held.local in found) != (sees and self._sees(who, held, "s")):
                        return f"{held.local} of {local} is there: {held.local in found}"
            return ""

        return ask

    def _documents(self) -> Iterator[Combination]:
        """$document, $summary and $docref: of what may be seen it tells, of the rest as of what isn't there."""
        for who, held in self._each():
            for kind, code in (("Composition", "document"), ("Patient", "summary")):
                if held.stored.type == kind:
                    path = f"/fhir/{held.local}/${code}"
                    if self._sees(who, held, "r"):
                        yield Combination(who, path, self._telling(who, path, held))
                    else:
                        yield self._unseen(who, held, "GET", path)
            if held.stored.type == "DocumentReference":
                path = f"/fhir/DocumentReference/$docref?patient={self._patient_of(held)}&_count=500"
                yield Combination(who, path, self._referenced(who, path, held))

    def _patient_of(self, held: Held) -> str:
        return str(held.stored.resource.get("subject", {}).get("reference", "x")).rpartition("/")[2]

    def _telling(self, who: str, path: str, held: Held) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", path)
            # A document that would not be whole is refused, a summary without the scopes, too.
            wrong = self.spilled(who, text) or ("" if status in (200, 403, 422) else f"it answers {status}")
            return wrong or ("" if status > 200 or held.stored.id in text else f"{held.local} is not in it")

        return ask

    def _referenced(self, who: str, path: str, held: Held) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", path)
            wrong = self.expect(who, self._scope(who, "DocumentReference", "s"), status, text)
            if wrong or status >= 300:
                return wrong
            found = {e["resource"].get("id") for e in json.loads(text).get("entry", [])}
            is_there = held.stored.id in found
            named = held.stored.resource.get("subject", {}).get("reference", "").startswith("Patient/")
            return "" if is_there == (named and self.stage.sees_it(who, held)) else f"{held.local} is there: {is_there}"

        return ask
