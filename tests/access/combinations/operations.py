"""The operations of a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fhir_secondop.fhir import parameters
from tests.access.combinations.asked import Asked
from tests.access.combinations.model import BODIES, EVERYONE, MAY, OPERATIONS, Combination, Plain
from tests.access.stage import Held


class Operating(Asked):
    """The operations of a case."""

    def _operations(self) -> Iterator[Combination]:
        for row in self.stage.world.service.operations:
            if row.type == "":
                continue
            if row.code not in OPERATIONS:
                raise AssertionError(f"The model has no rule for the operation {row.code}: add it to OPERATIONS.")
            for name in self.stage.cases:
                for who in EVERYONE:
                    yield from self._operation(who, name, row)

    def _operation(self, who: str, name: str, row: Any) -> Iterator[Combination]:
        targets = [h for h in self.stage.held if h.zone == name and h.stored.type == row.type]
        case_id = self.stage.cases[name]
        if row.type == "ServiceRequest":
            targets = [h for h in targets if h.stored.id == case_id]
        body = BODIES.get(row.code, {})
        for held in targets[:4]:
            doors = [("POST", f"/fhir/{held.local}/${row.code}", _parameters(body))]
            if row.reads:
                doors.append(("GET", f"/fhir/{held.local}/${row.code}", None))
            if row.type == "ServiceRequest":
                doors.append(("POST", f"/api/second-opinions/{held.stored.id}/{row.code}", body))
            for method, path, sent in doors:
                yield Combination(who, f"{method} {path}", self._operating(who, held, row, method, path, sent))

    def _operating(
        self, who: str, held: Held, row: Any, method: str, path: str, sent: Plain | None
    ) -> Callable[[], str]:
        def ask() -> str:
            if row.code == "audit-trail" and who == "auditor":  # who did what in any case, and none of its content
                return self.spilled(who, self.call(who, method, path, sent)[1])
            scope = self._scope(who, row.type, "r" if row.reads else "u")
            sees = self.stage.sees(who, held.zone, row.type) and scope
            if not sees:
                return self.like_nothing(who, method, path, held.local, sent) or self.spilled(
                    who, self.call(who, method, path, sent)[1]
                )
            if held.zone != "alpha" or (who in MAY[OPERATIONS[row.code]] and not row.reads):
                return ""  # it may: what it does is the business of other tests
            before = self._rows()
            status, text = self.call(who, method, path, sent)
            if self._rows() != before:
                return f"it wrote, answering {status}"
            allowed = who in MAY[OPERATIONS[row.code]]
            if not allowed and status not in (403, 404):
                return f"it answers {status}, not that they may not"
            return self.expect(who, allowed and status < 300, status, text)

        return ask


def _parameters(body: Plain) -> Plain | None:
    return parameters.from_plain(body) if body else None
