"""Deliveries and connections over all cases: the doors of who operates and who coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fhir_secondop.opinion import workflow
from tests.access.combinations.asked import Asked
from tests.access.combinations.model import EVERYONE, Combination, Plain
from tests.access.stage import NOBODY

_SEES_CASES = {"desk", "desk-reader"}
_MAY_OPERATE = {"desk", "operator"}  # an operator by the role, which has no scopes; who coordinates by its scopes


class Overseeing(Asked):
    """Deliveries and connections over all cases: the doors of who operates and who coordinates."""

    def _overseeing(self) -> Iterator[Combination]:
        tasks = [h for h in self.stage.held if h.stored.type == "Task" and workflow.is_delivery(h.stored.resource)]
        assert tasks, "there is no delivery to ask for"
        for who in EVERYONE:
            yield self._one(who, "GET", "/api/connections", who in _SEES_CASES | _MAY_OPERATE)
            yield self._one(who, "GET", "/api/deliveries", who in _SEES_CASES | _MAY_OPERATE)
            for action, sent in (("pause", {"reason": "x"}), ("resume", None)):
                if who not in _MAY_OPERATE:
                    yield Combination(
                        who, f"{action} a connection", self._refused(who, f"connections/riverside/{action}", sent)
                    )
            for held in tasks:
                seen = who in _SEES_CASES
                yield self._one(who, "GET", f"/api/deliveries/{held.stored.id}", seen)
                yield self._one(who, "GET", f"/api/deliveries?case={self.stage.cases[held.zone]}", seen)
                for more in ({"changed": "x"}, {"dryRun": True}):
                    if who != "desk":
                        body = {"tasks": [held.stored.id], **more}
                        yield Combination(who, f"replay {body}", self._refused(who, "deliveries/replay", body))

    def _refused(self, who: str, path: str, sent: Plain | None) -> Callable[[], str]:
        def ask() -> str:
            before = self._rows()
            status, text = self.call(who, "POST", f"/api/{path}", sent)
            if self._rows() != before:
                return f"it wrote, answering {status}"
            if status != (401 if who == NOBODY else 403):
                return f"it answers {status}, not that they may not"
            return self.spilled(who, text)

        return ask
