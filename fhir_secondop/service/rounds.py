"""What is done regularly, each time by one of all workers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fhir_secondop.service import case_states, reminders
from fhir_secondop.service.alerts import watch
from fhir_secondop.service.context import Context
from fhir_secondop.service.repeated import Repeated
from fhir_secondop.service.running import is_outage
from fhir_secondop.store import turns

log = logging.getLogger(__name__)
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """What is done every so many seconds. It may be done twice, and by two workers at once: each is repeatable."""

    name: str
    every_s: float
    act: Callable[[Context], object]


ALERTS = Round("alerts", watch.EVERY_S, watch.act)
STATES = Round("case-states", case_states.EVERY_S, case_states.follow)
OTHERS = (STATES, Round("reminders", reminders.EVERY_S, reminders.act))
"""Beside alerts, which have a thread of their own: a mail server that hangs holds nothing else up."""
UNATTENDED = (ALERTS, STATES)
"""What a process that only serves does, too: somebody must notice that nobody works."""


class Rounds(Repeated):
    """The thread of a worker that takes its turns. One that fails is said in the log, and comes again."""

    def __init__(self, context: Context, rounds: tuple[Round, ...]) -> None:
        super().__init__("rounds", LOOK_S, self._look)
        self._context, self._rounds = context, rounds

    def _look(self) -> None:
        for each in self._rounds:
            if self.is_stopped:
                return
            self._take(each)

    def _take(self, each: Round) -> None:
        context = self._context
        try:
            if turns.taken(context.database, each.name, int(1000 * each.every_s), context.now()):
                each.act(context)
        except Exception as error:
            if is_outage(error):
                log.warning("round %s waits for the database (%s)", each.name, type(error).__name__)
                return
            # Whatever it was, the others are still done. The type only: a message may quote what it handled.
            log.error("round %s failed: %s", each.name, type(error).__name__)
