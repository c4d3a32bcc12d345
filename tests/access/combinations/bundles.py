"""Transactions and batches: what stands in one is answered as by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from tests.access.combinations.asked import Asked
from tests.access.combinations.model import Combination
from tests.access.stage import NOBODY, Held


class Bundles(Asked):
    """Transactions and batches: what stands in one is answered as by itself."""

    def _transactions(self) -> Iterator[Combination]:
        for who, held in self._each():
            entry = {"request": {"method": "GET", "url": held.local}}
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
            allowed = self._sees(who, held, "r")
            yield self._one(who, "POST", "/fhir", allowed, bundle)
            if not allowed:
                yield self._unseen(who, held, "POST", "/fhir", bundle)
            for url in (f"{held.local}/_history", f"{held.stored.type}?_id={held.stored.id}"):
                yield Combination(who, f"{url} in a transaction", self._alike(who, url))

    def _alike(self, who: str, url: str) -> Callable[[], str]:
        """In a transaction something is read as it is by itself."""

        def ask() -> str:
            sent = {
                "resourceType": "Bundle",
                "type": "transaction",
                "entry": [{"request": {"method": "GET", "url": url}}],
            }
            status, text = self.call(who, "POST", "/fhir", sent)
            alone, said = self.call(who, "GET", f"/fhir/{url}")
            if status != alone:
                return f"it answers {status}, and by itself {alone}"
            if status >= 300:
                return self.spilled(who, text)
            shown, by_itself = (json.loads(each) for each in (text, said))
            [entry] = shown["entry"]
            return "" if entry["resource"].get("entry") == by_itself.get("entry") else "it shows something else"

        return ask

    def _batches(self) -> Iterator[Combination]:
        """Each entry has the answer that it would have by itself."""
        for who, held in self._each():
            yield Combination(who, f"a batch about {held.local}", self._batch(who, held))

    def _batch(self, who: str, held: Held) -> Callable[[], str]:
        urls = (held.local, f"{held.local}/_history", f"{held.stored.type}?_id={held.stored.id}")

        def ask() -> str:
            entries = [{"request": {"method": "GET", "url": url}} for url in urls]
            sent = {"resourceType": "Bundle", "type": "batch", "entry": entries}
            status, text = self.call(who, "POST", "/fhir", sent)
            wrong = self.expect(who, who != NOBODY, status, text)
            if wrong or status >= 300:
                return wrong
            for url, entry in zip(urls, json.loads(text)["entry"], strict=True):
                alone, _ = self.call(who, "GET", f"/fhir/{url}")
                if int(entry["response"]["status"][:3]) != alone:
                    return f"{url} answers {entry['response']['status']}, and by itself {alone}"
            return ""

        return ask
