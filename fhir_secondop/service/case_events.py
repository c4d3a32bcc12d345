"""The events of a case for whoever follows it: every number, and of each as much as its reader may see now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, NotFound
from fhir_secondop.fhir import times
from fhir_secondop.model import Caller
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.store import case_events, resources
from fhir_secondop.store.case_events import Event

WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of a case as its reader is told them, and the number of its last one."""

    case_id: str
    events: list[dict[str, Any]]
    last: int


def page(context: Context, caller: Caller, case_id: str, after: int, count: int) -> Page:
    """At most so many events that follow number `after`. Raises NotFound, and Conflict when that number is not there.

    Nobody sees a hole: of what the caller may not see, the number alone is told.
    """
    _number_past(context, caller, case_id)
    visibility = context.visibility(caller)
    with context.database.reading() as connection:
        last = case_events.last_of(connection, [case_id]).get(case_id, 0)
        found = case_events.after(connection, case_id, after, count, visibility=visibility)
    if after > last:
        raise Conflict(
            f"The last event of this case is {last}: there is no event {after} whose followers could be told. If the "
            "database was restored from a backup, go on from there, and look at what you know of the case.",
            path="after",
        )
    return Page(case_id, [_told(caller, event) for event in found], last)


def _number_past(context: Context, caller: Caller, case_id: str) -> None:
    """Looks whether the caller sees the case, and numbers its past if it was there before events were."""
    with context.database.reading() as connection:
        seen = resources.find(connection, context.visibility(caller), "ServiceRequest", case_id)
        if seen is None or seen.deleted or seen.case_id != case_id:
            raise NotFound(f"There is no case {case_id}.")
        if case_events.last_of(connection, [case_id]):
            return
    numbering = context.database.numbering
    if numbering is not None:
        with context.database.transaction(SERVICE) as tx:
            numbering.begin(tx, case_id)


def _told(caller: Caller, event: Event) -> dict[str, Any]:
    if not (event.seen and rights.unrestricted(caller, event.type, "r")):
        return {"number": event.n, "kind": WITHHELD}
    evidence = f"{event.type}/{event.id}/_history/{event.version}"
    return {"number": event.n, "kind": event.kind, "at": times.instant(event.at), "evidence": evidence}
