"""Writes by id and by criteria, and what refers to something that is not seen."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from fhir_secondop.fhir import codec
from fhir_secondop.store import tables
from tests.access.combinations.asked import Asked
from tests.access.combinations.model import EVERYONE, Combination, Plain
from tests.access.stage import Held


class Writing(Asked):
    """Writes by id and by criteria, and what refers to something that is not seen."""

    def _writes(self) -> Iterator[Combination]:
        """What belongs to a case is not written by anybody's PUT, PATCH or DELETE, by its id or by criteria; what can't
        be seen is not even there.
        """
        for who, held in self._each():
            if held.zone.startswith("loose") and self._sees(who, held, "u"):
                continue
            # Nothing is changed by it: the same content would be, by those who may.
            changed = {**held.stored.resource, "language": "en"}
            patch = [{"op": "add", "path": "/language", "value": "en"}]
            for address in (held.local, f"{held.stored.type}?_id={held.stored.id}"):
                for method, body in (("PUT", changed), ("PATCH", patch), ("DELETE", None)):
                    yield Combination(who, f"{method} {address}", self._unchanged(who, method, address, body))
                    if not self._sees(who, held, "r"):
                        yield self._unseen(who, held, method, f"/fhir/{address}", body)

    def _unchanged(self, who: str, method: str, address: str, body: Any) -> Callable[[], str]:
        def ask() -> str:
            before = self._rows()
            status, text = self.call(who, method, f"/fhir/{address}", body)
            if self._rows() != before:
                return f"it wrote, answering {status}"
            return self.expect(who, False, status, text)

        return ask

    def _referring(self) -> Iterator[Combination]:
        """Who creates something that refers to what it can't see is answered as if that wasn't there."""
        for who, held in self._each():
            if not self._scope(who, "Basic", "c") or self._sees(who, held, "r"):
                continue
            for kind in ("Basic", "Consent"):
                yield Combination(who, f"{kind} about {held.local}", self._refer(who, kind, held))

    def _refer(self, who: str, kind: str, held: Held) -> Callable[[], str]:
        def ask() -> str:
            said = [self.call(who, "POST", f"/fhir/{kind}", _about(kind, local), Prefer="return=minimal")
                    for local in (held.local, f"{held.stored.type}/{uuid.uuid4()}")]  # fmt: skip
            if said[0] != said[1]:
                return f"{said[0]} tells it from what isn't there: {said[1]}"
            with self.stage.world.context.database.reading() as connection:
                in_cases = sa.select(sa.func.count()).select_from(tables.resource).where(
                    tables.resource.c.type == kind, tables.resource.c.owner == who,
                    tables.resource.c.case_id.is_not(None),
                )  # fmt: skip
                found = connection.execute(in_cases).scalar_one()
            return f"it became part of a case ({found})" if found else ""

        return ask

    def _conditional(self) -> Iterator[Combination]:
        """If-None-Exist finds only what may be seen."""
        for who, held in self._each():
            named = [i for i in _identifiers(held.stored.resource) if "value" in i and "system" in i]
            if not named or not self._scope(who, held.stored.type, "c") or held.stored.type in ("Task", "Consent"):
                continue
            criteria = f"identifier={named[0]['system']}|{named[0]['value']}&_id={held.stored.id}"
            yield Combination(who, f"create {held.stored.type} unless there", self._unless(who, held, criteria, held))
        for near, code, far in self._edges():
            one, other = near.stored, far.stored
            for who in EVERYONE:
                ways = (
                    (near, f"_id={one.id}&{code}:{other.type}._id={other.id}", far),
                    (far, f"_id={other.id}&_has:{one.type}:{code}:_id={one.id}", near),
                )
                for held, criteria, through in ways:
                    if held.stored.type in ("Task", "Consent") or not self._scope(who, held.stored.type, "c"):
                        continue
                    what = f"create {held.stored.type} unless {criteria}"
                    yield Combination(who, what, self._unless(who, held, criteria, through))

    def _unless(self, who: str, held: Held, criteria: str, through: Held) -> Callable[[], str]:
        """`through` is what the criteria go through, or the resource itself."""

        def ask() -> str:
            path = f"/fhir/{held.stored.type}"
            body = self._copied(held)
            hidden = next((each for each in (through, held) if not self._sees(who, each, "s")), None)
            if hidden is not None:
                return self._same_as_new(who, path, criteria, held, hidden)
            status, text = self.call(who, "POST", path, body, **{"If-None-Exist": criteria})
            return self.spilled(who, text) or ("" if status in (200, 412) else f"it answers {status}")

        return ask

    def _copied(self, held: Held) -> Plain:
        """The same resource without the words by which its content is known again."""
        text = codec.dumps({k: v for k, v in held.stored.resource.items() if k != "meta"})
        for word in self.stage.words.values():
            text = text.replace(word, "copied")
        return codec.parse(text)

    def _same_as_new(self, who: str, path: str, criteria: str, held: Held, hidden: Held) -> str:
        """It is created, or refused for another reason; either way as if the other wasn't there."""
        body = self._copied(held)
        other = criteria.replace(hidden.stored.id, str(uuid.uuid4()))
        said = [self.call(who, "POST", path, body, **{"If-None-Exist": c, "Prefer": "return=minimal"})
                for c in (criteria, other)]  # fmt: skip
        return "" if said[0] == said[1] else f"{said[0]} tells it from {said[1]}"


def _identifiers(resource: Plain) -> list[Plain]:
    found = resource.get("identifier", [])
    return found if isinstance(found, list) else [found]


def _about(kind: str, local: str) -> Plain:
    if kind == "Basic":
        return {"resourceType": "Basic", "code": {"text": "x"}, "extension": [
            {"url": "urn:example:about", "valueReference": {"reference": local}}]}  # fmt: skip
    scope = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]}
    rule = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]}
    key = "patient" if local.startswith("Patient/") else "sourceReference"
    return {"resourceType": "Consent", "status": "active", "scope": scope, "policyRule": rule,
            "category": [{"text": "x"}], key: {"reference": local}}  # fmt: skip
