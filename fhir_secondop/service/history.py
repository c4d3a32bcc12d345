"""What happened in a case, for whoever may see it."""

from __future__ import annotations

from fhir_secondop.model import Caller
from fhir_secondop.opinion import timeline
from fhir_secondop.opinion.timeline import Event
from fhir_secondop.service.context import Context, load
from fhir_secondop.store import resources


def events(context: Context, caller: Caller, case_id: str) -> list[Event]:
    """The events of the case, oldest first, each with the version that says so. Raises NotFound."""
    visibility = context.visibility(caller)
    with context.database.reading() as connection:
        case = load(connection, visibility, case_id)
        histories = [
            [s.resource for s in reversed(resources.history(connection, visibility, "Task", task["id"]))]
            for task in case.of_type("Task")
        ]
    return timeline.events(case, histories)
