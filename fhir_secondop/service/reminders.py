"""Reminds whoever has the report and has not acknowledged it, once a version.

Each version of a delivery Task is looked at once, when it is as old as a reminder is: whoever has acknowledged by then
is not found. How far that has come is in the database; what is looked at twice is said once, because the notice's id is
made of case, version and person. A case that fails keeps none of the others waiting: it is tried again at each turn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion import codes, notices, reminders
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.reminders import Missing
from fhir_secondop.service.context import SERVICE, Context, load, put, whole_case
from fhir_secondop.service.running import is_outage
from fhir_secondop.store import resources, tables

log = logging.getLogger(__name__)
EVERY_S = 300
AT_ONCE = 1_000  # versions, of whatever they are
NAME = "reminders"
_FAILED = "reminders of "  # and the id of a case: its row of `reached` is there until its turn has been
_REACHED = tables.reached.c


@dataclass(frozen=True, slots=True)
class _Turn:
    """The cases of the delivery Tasks among some versions whose time has come, and how far one has looked before, and
    with them.
    """

    cases: tuple[str, ...]
    before: int | None
    reached: int


def act(context: Context) -> None:
    """One turn: everybody who is due is reminded, and it is noted how far that has come. Repeated it adds nothing."""
    _try_again(context)
    turn = None
    while turn is None or turn.reached != turn.before:
        with context.database.reading() as connection:
            turn = _turn(connection, context)
        failed = [case_id for case_id in turn.cases if not _is_done(context, case_id)]
        if turn.reached != turn.before:
            with context.database.transaction(SERVICE) as tx:
                _keep(tx.connection, failed)
                _note(tx.connection, turn.reached)


def _try_again(context: Context) -> None:
    """The cases that failed before."""
    with context.database.reading() as connection:
        names = connection.scalars(sa.select(_REACHED.name).where(_REACHED.name.startswith(_FAILED))).all()
    done = [name for name in names if _is_done(context, name.removeprefix(_FAILED))]
    if done:
        with context.database.transaction(SERVICE) as tx:
            tx.connection.execute(sa.delete(tables.reached).where(_REACHED.name.in_(done)))


def _is_done(context: Context, case_id: str) -> bool:
    """Reminds those of one case; whether that went well."""
    try:
        remind(context, case_id)
    except Exception as error:
        if is_outage(error):
            raise
        log.error("the reminders of case %s failed: %s", case_id, type(error).__name__)  # a message may quote
        return False
    return True


def _keep(connection: SqlConnection, failed: Iterable[str]) -> None:
    for name in (_FAILED + case_id for case_id in failed):
        connection.execute(sa.delete(tables.reached).where(_REACHED.name == name))
        connection.execute(sa.insert(tables.reached).values(name=name, at=0))


def remind(context: Context, case_id: str) -> int:
    """Reminds those of one case who are due and were not reminded yet; how many."""
    with context.database.reading() as connection:
        if not _due(context, load(connection, EVERYTHING, case_id)):
            return 0  # without a write, which is the common case
    with context.database.transaction(SERVICE) as tx:
        case = load(tx.connection, EVERYTHING, case_id)
        found = _due(context, case)
        for one in found:
            since = str(context.clocks.calendar.day(reminders.moment(one)))
            put(tx, context, case_id, notices.not_acknowledged(case, one.person, one.version, since, context.instant()))
        return len(found)


def _due(context: Context, case: Case) -> list[Missing]:
    now = context.now()
    return [
        one
        for one in reminders.missing(case)
        if reminders.due(one, context.clocks) <= now and reminders.sent(case, one) is None
    ]


def _turn(connection: SqlConnection, context: Context) -> _Turn:
    until = reminders.due_before(context.clocks, context.now())
    since = connection.execute(sa.select(_REACHED.at).where(_REACHED.name == NAME)).scalar_one_or_none()
    if since is None:
        # The first look: what is not due yet will be; whoever has it for longer was never promised a reminder.
        return _Turn((), None, until)
    # Each version once, by the order in which they were stored: of all Tasks there are more at each look.
    version = tables.version.c
    seen = connection.execute(
        sa.select(version.rid, version.updated)
        .where(version.updated > since, version.updated <= until)
        .order_by(version.updated).limit(AT_ONCE)
    ).all()  # fmt: skip
    found = connection.scalars(_delivered([int(row.rid) for row in seen])) if seen else ()
    cases = dict.fromkeys(whole_case(str(case_id)) for case_id in found)
    # No further than what was seen: a clock that had jumped ahead must not pass over what comes after.
    return _Turn(tuple(cases), since, max((int(row.updated) for row in seen), default=int(since)))


def _delivered(rids: list[int]) -> sa.Select[Any]:
    """The cases of those of these resources that are deliveries of a report, oldest first."""
    code, resource = tables.token.alias(), tables.resource.c
    delivers = sa.exists().where(
        code.c.rid == resource.rid, code.c.type == "Task", code.c.param == "code", code.c.system == codes.TASK,
        code.c.code == "deliver-report",
    )  # fmt: skip
    return (
        sa.select(resource.case_id)
        .where(resource.rid.in_(rids), resource.type == "Task", resource.case_id.is_not(None),
               resource.deleted.is_(False), sa.not_(resources.IN_RECORD), delivers)
        .order_by(resource.rid)
    )  # fmt: skip


def _note(connection: SqlConnection, reached: int) -> None:
    mine = sa.update(tables.reached).where(_REACHED.name == NAME)
    # Never back: another worker may have come further meanwhile.
    if not connection.execute(mine.where(_REACHED.at < reached).values(at=reached)).rowcount:
        known = connection.execute(sa.select(_REACHED.at).where(_REACHED.name == NAME)).scalar_one_or_none()
        if known is None:
            connection.execute(sa.insert(tables.reached).values(name=NAME, at=reached))
