"""The clocks of cases as the store has them; what they bring about is said once, and the next look is set.

A look at a case may happen at any time and as often as one likes: what it says has an id of its own in the case, so
that it is said once. Whatever moves a due date looks at once; a workflow looks again when the next one passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.fhir import codec, times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import clocks, notices, workflow
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.clocks import Clock, Clocks, Version
from fhir_secondop.service.context import SERVICE, Context, load, put
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
WORKFLOW = "clocks"
_AT_ONCE = 500  # ids in one query
_HELD = ("accepted", "ready", "in-progress", "on-hold")


def of_cases(connection: SqlConnection, context: Context, cases: Sequence[Case]) -> dict[str, Clocks]:
    """Case → its clocks now; a handful of queries however many cases there are."""
    now = context.now()
    found = versions(connection, cases)
    return {case.id: clocks.of_case(case.request, found[case.id], context.clocks, now) for case in cases}


def of_case(connection: SqlConnection, context: Context, case: Case) -> Clocks:
    """The clocks of one case now."""
    return of_cases(connection, context, [case])[case.id]


def versions(connection: SqlConnection, cases: Iterable[Case]) -> dict[str, list[Version]]:
    """Case → every version of its coordination Tasks, oldest first.

    When each was stored, not what it says of itself: lastModified is its writer's.
    """
    tasks = {t["id"]: case.id for case in cases for t in case.of_type("Task") if workflow.is_coordination(t)}
    found: dict[str, list[Version]] = {case_id: [] for case_id in tasks.values()}
    ids = list(tasks)
    for start in range(0, len(ids), _AT_ONCE):
        query = (
            sa.select(tables.version.c.updated, tables.version.c.body, tables.resource.c.id)
            .select_from(tables.resource.join(tables.version, tables.version.c.rid == tables.resource.c.rid))
            .where(tables.resource.c.type == "Task", tables.resource.c.id.in_(ids[start : start + _AT_ONCE]))
            .order_by(tables.version.c.updated)
        )
        for updated, body, task_id in connection.execute(query):
            found[tasks[task_id]].append((int(updated), {**codec.trusted(body), "id": task_id}))
    return found


def attend(tx: Transaction, context: Context, case_id: str, number: int = 0) -> Clocks:
    """Says what the clocks of the case have brought about and was not said yet, and sets the next look."""
    case = load(tx.connection, EVERYTHING, case_id)
    found = of_case(tx.connection, context, case)
    if found.stopped is not None:
        return found
    calendar, now = context.clocks.calendar, context.instant()
    for name, clock in found.named:
        if clock.breached:
            _say(tx, context, case, notices.overdue(case, name, clock, calendar, now))
    if case.coordination["status"] in _HELD and notices.is_late(case, found, calendar):
        _say(tx, context, case, notices.late(case, found, calendar, now))
    at = _next_look(context, found)
    if at is not None:
        # The number: a look that came too early sets the same instant again, and a key is taken once. By its Task: the
        # key is the workflow's id, which traces and log lines say, and they name no case.
        key, delay_s = f"clocks-{case.coordination['id']}-{at}-{number}", (at - context.now()) / 1000
        context.enqueue(tx, WORKFLOW, key, WORKFLOW, case_id, number + 1, delay_s=delay_s)
    return found


def _next_look(context: Context, found: Clocks) -> int | None:
    """When something may happen by itself: a target passes, or a day of a pause that moves the due date."""
    now, calendar = context.now(), context.clocks.calendar
    if found.pause:
        return calendar.midnight(calendar.day(now) + timedelta(days=1))
    return min((c.due + 1 for _, c in found.named if c.due is not None and c.due >= now), default=None)


def _say(tx: Transaction, context: Context, case: Case, notice: Resource | None) -> None:
    if notice is not None and resources.find(tx.connection, EVERYTHING, "Communication", notice["id"]) is None:
        put(tx, context, case.id, notice)


def look(context: Context, case_id: str, number: int) -> str:
    """What the workflow does when a case may be due; run again it says nothing new."""
    with context.database.transaction(SERVICE) as tx:
        found = attend(tx, context, case_id, number)
    return "stopped" if found.stopped is not None else ", ".join(n for n, c in found.named if c.breached) or "in time"


def accepted(tx: Transaction, context: Context, case_id: str, reviewer: str) -> None:
    """Tells the decision owner that a reviewer has accepted, and when we are due; then looks at the clocks."""
    case = load(tx.connection, EVERYTHING, case_id)
    found = of_case(tx.connection, context, case)
    _say(tx, context, case, notices.accepted(case, reviewer, found, context.clocks.calendar, context.instant()))
    attend(tx, context, case_id)


def told(context: Context, caller: Caller, case_id: str, _: Plain) -> Plain:
    """Both clocks of the case for whoever may see it, its pauses and what was said of them."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
        found = of_case(connection, context, case)
    calendar = context.clocks.calendar
    due_day = found.due_day(calendar)
    return {
        "zone": calendar.zone.key,
        "due": _instant(found.due),
        "dueDay": due_day.isoformat() if due_day else "",
        "afterDeadline": notices.is_late(case, found, calendar),
        "paused": found.pause,
        "clocks": [_clock(context, name, clock) for name, clock in found.named],
        "pauses": [{"from": _instant(p.low), "to": _instant(p.high), "reason": p.reason} for p in found.pauses],
        "notices": [
            {"topic": notices.topic_of(n), "sent": n["sent"], "text": notices.text_of(n),
             "to": [person.name for r in n.get("recipient", []) if (person := case.directory.person(r["reference"]))]}
            for n in notices.of_case(case)
        ],
    }  # fmt: skip


def _clock(context: Context, name: str, clock: Clock) -> Plain:
    return {
        "clock": name,
        "since": _instant(clock.started),
        "stopped": _instant(clock.stopped),
        "elapsed": clock.words,
        "target": clock.target.words(clock.target.ms) if clock.target else "",
        "due": _instant(clock.due),
        "dueThere": context.clocks.calendar.local(clock.due) if clock.due is not None else "",
        "breached": clock.breached,
    }


def _instant(ms: int | None) -> str:
    return "" if ms is None else times.instant(ms)
