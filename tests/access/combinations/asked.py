"""What each kind of combination asks by, and the small model: who may see what."""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from fhir_secondop.fhir import codec
from fhir_secondop.store import tables
from tests.access.combinations.model import EVERYONE, FHIR, Combination, Plain
from tests.access.stage import CALLERS, NOBODY, Held, Stage

_ZONE = re.compile(r"zone-([a-z0-9.]+)-end")


class Asked:
    """What each kind of combination asks by, and the small model: who may see what."""

    stage: Stage

    def call(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        kind = FHIR if path.startswith("/fhir") else "application/json"
        kind = "application/json-patch+json" if method == "PATCH" else kind
        signed_in = {} if who == NOBODY else {"Authorization": f"Bearer {who}"}
        answer = self.stage.world.client.open(
            path, method=method, data=codec.dumps(body) if body is not None else None,
            content_type=kind if body is not None else None, headers={**signed_in, **headers},
        )  # fmt: skip
        return answer.status_code, answer.get_data().decode("utf-8", "replace")

    def spilled(self, who: str, text: str) -> str:
        """The zones of which the text shows something that they may not see."""
        shown = set(_ZONE.findall(text))
        shown |= {zone for zone, word in self.stage.words.items() if word in text}
        told = sorted(zone for zone in shown if not self.stage.sees(who, zone))
        only = {"only-tasks": "Task", "only-laboratory": "Observation"}.get(who)
        if only and '"resourceType":"Bundle"' in text:
            told += sorted(_kinds_in(json.loads(text)) - {only, "OperationOutcome"})
        return f"it shows {', '.join(told)}" if told else ""

    def expect(self, who: str, allowed: bool, status: int, text: str) -> str:
        """Nothing that may not be seen is shown, and it is answered just when it may be."""
        spilled = self.spilled(who, text)
        if spilled:
            return spilled
        if status >= 500:
            return f"it answers {status}"
        if allowed != (status < 300):
            return f"it answers {status}, though they {'may' if allowed else 'may not'}"
        return ""

    def like_nothing(self, who: str, method: str, path: str, local: str, body: Any = None) -> str:
        """What may not be seen is answered just like what isn't there."""
        id_ = local.partition("/")[2]
        other = str(uuid.UUID(int=random.Random(local).getrandbits(128), version=4))
        said = self.call(who, method, path, body)
        sent = json.loads(codec.dumps(body).replace(id_, other)) if body is not None else None
        none = self.call(who, method, path.replace(id_, other), sent)
        if said[0] != none[0] or said[1].replace(id_, "ID") != none[1].replace(other, "ID"):
            return f"{said[0]} {said[1][:200]} tells it from what isn't there: {none[0]} {none[1][:200]}"
        return ""

    def _scope(self, who: str, kind: str, letter: str) -> bool:
        granted = [] if who == NOBODY else CALLERS[who][1]
        said = (scope.partition("?")[0].partition("/")[2].partition(".") for scope in granted)
        return any(named in ("*", kind) and letter in letters for named, _, letters in said)

    def _sees(self, who: str, held: Held, letter: str) -> bool:
        return self._scope(who, held.stored.type, letter) and self.stage.sees_it(who, held)

    def _each(self) -> Iterator[tuple[str, Held]]:
        for held in self.stage.held:
            for who in EVERYONE:
                yield who, held

    def _any_scope(self, who: str, letter: str) -> bool:
        granted = [] if who == NOBODY else CALLERS[who][1]
        return any(letter in scope.partition("?")[0].rpartition(".")[2] for scope in granted)

    def _walk(self, who: str, path: str, allowed: bool) -> tuple[set[str] | None, str]:
        """What all pages of it show ("Type/id"); or None, and what is wrong with the refusal ("": nothing)."""
        found: set[str] = set()
        while path:
            status, text = self.call(who, "GET", path)
            wrong = self.expect(who, allowed, status, text)
            if wrong or status >= 300:
                return None, wrong
            bundle = json.loads(text)
            found |= {entry["fullUrl"].partition("/fhir/")[2] for entry in bundle.get("entry", [])}
            following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
            path = "/fhir" + following[0].partition("/fhir")[2] if following else ""
        return found, ""

    def _one(self, who: str, method: str, path: str, allowed: bool, body: Any = None) -> Combination:
        def ask() -> str:
            return self.expect(who, allowed, *self.call(who, method, path, body))

        return Combination(who, f"{method} {path}", ask)

    def _unseen(self, who: str, held: Held, method: str, path: str, body: Any = None) -> Combination:
        return Combination(who, f"{method} {path}", lambda: self.like_nothing(who, method, path, held.local, body))

    def _edges(self) -> list[tuple[Held, str, Held]]:
        """What of what is held points to what, and by which parameter."""
        by_rid = {held.stored.rid: held for held in self.stage.held}
        by_local = {held.local: held for held in self.stage.held}
        columns = tables.reference.c
        with self.stage.world.context.database.reading() as connection:
            rows = connection.execute(sa.select(columns.rid, columns.param, columns.target).distinct()).all()
        # A part of a composite has its rows, too; it is no parameter by itself.
        return [
            (by_rid[row.rid], row.param, by_local[row.target])
            for row in rows
            if row.rid in by_rid and row.target in by_local and "$" not in row.param
        ]

    def _rows(self) -> int:
        with self.stage.world.context.database.reading() as connection:
            count: int = connection.execute(sa.select(sa.func.count()).select_from(tables.version)).scalar_one()
        return count


def _kinds_in(bundle: Plain) -> set[str]:
    """The types of the resources in a Bundle, and in the Bundles in it."""
    found: set[str] = set()
    for entry in bundle.get("entry", []):
        resource = entry.get("resource", {})
        kind = resource.get("resourceType")
        found |= _kinds_in(resource) if kind == "Bundle" else {kind} if kind else set()
    return found
