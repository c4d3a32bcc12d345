"""The rows of alerts and of what people are told of them. Callers bring the connection of their transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.store import tables

_A, _M = tables.alert.c, tables.alert_message.c
_EARLIER = tables.alert_message.alias("earlier")
LONGEST_WAIT_MS = 3_600_000  # until a message is tried again
WAITING, SENT, GIVEN_UP = "waiting", "sent", "given-up"


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of the table, where its columns are described. Instants are ms since 1970."""

    id: str
    kind: str
    subject: str
    seen: int
    began: int | None = None
    gone: int | None = None
    ended: int = 0
    value: int = 0
    bound: int = 0
    level: int = 0
    told: int | None = None
    acknowledged: int | None = None
    acknowledged_by: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """What one receiver is told: `channel` is "email:…" or "webhook:…", `body` what is sent, without any patient."""

    id: str
    alert: str
    channel: str
    body: dict[str, Any]
    made: int
    state: str = WAITING
    next: int = 0
    tries: int = 0
    sent: int | None = None
    why: str = ""


def standing(connection: Connection) -> list[Alert]:
    """Those that have not ended, and what is not old enough to be one yet."""
    query = sa.select(tables.alert).where(_A.ended == 0).order_by(_A.seen, _A.id)
    return [Alert(**row._mapping) for row in connection.execute(query)]


def newest(connection: Connection, limit: int) -> list[Alert]:
    """Those that have begun: what stands first, then the newest that are over."""
    over = sa.case((_A.ended == 0, 0), else_=1)
    query = sa.select(tables.alert).where(_A.began.is_not(None)).order_by(over, _A.began.desc(), _A.id).limit(limit)
    return [Alert(**row._mapping) for row in connection.execute(query)]


def find(connection: Connection, alert_id: str) -> Alert | None:
    """One that has begun, by its id."""
    query = sa.select(tables.alert).where(_A.id == alert_id, _A.began.is_not(None))
    row = connection.execute(query).one_or_none()
    return Alert(**row._mapping) if row is not None else None


def keep(connection: Connection, alert: Alert) -> None:
    """Writes an alert as it stands now, the first time too."""
    values = asdict(alert)
    if not connection.execute(sa.update(tables.alert).where(_A.id == alert.id).values(values)).rowcount:
        connection.execute(sa.insert(tables.alert).values(values))


def forget(connection: Connection, alert_id: str) -> None:
    """What was over before it counted leaves nothing behind."""
    connection.execute(sa.delete(tables.alert).where(_A.id == alert_id))


def forget_before(connection: Connection, ms: int) -> None:
    """Deletes the alerts that ended before that instant, with their messages."""
    old = sa.select(_A.id).where(_A.ended > 0, _A.ended < ms)
    connection.execute(sa.delete(tables.alert_message).where(_M.alert.in_(old)))
    connection.execute(sa.delete(tables.alert).where(_A.ended > 0, _A.ended < ms))


def put(connection: Connection, messages: Iterable[Message]) -> None:
    """Messages that are to be sent."""
    for message in messages:
        values = asdict(message) | {"body": json.dumps(message.body, ensure_ascii=False)}
        connection.execute(sa.insert(tables.alert_message).values(values))


def due(connection: Connection, now: int, limit: int) -> list[tuple[str, str]]:
    """The id and channel of messages whose turn it is, oldest first.

    Of one alert a receiver hears the beginning before the end; no other alert waits for that.
    """
    earlier = sa.exists().where(
        _EARLIER.c.alert == _M.alert, _EARLIER.c.channel == _M.channel, _EARLIER.c.n < _M.n,
        _EARLIER.c.state == WAITING,
    )  # fmt: skip
    mine = (_M.state == WAITING, _is_due(now), sa.not_(earlier))
    query = sa.select(_M.id, _M.channel).where(*mine).order_by(_M.n).limit(limit)
    return [(row.id, row.channel) for row in connection.execute(query)]


def _is_due(now: int) -> sa.ColumnElement[bool]:
    """Whether its turn has come. One that is put off for longer than any is was so by a clock that ran ahead."""
    return sa.or_(_M.next <= now, _M.next > now + 2 * LONGEST_WAIT_MS)


def take(connection: Connection, message_id: str, now: int, until: int) -> Message | None:
    """The message, which nobody else sends until then; None where somebody has taken it already."""
    mine = (_M.id == message_id, _M.state == WAITING, _is_due(now))
    row = connection.execute(sa.select(tables.alert_message).where(*mine)).one_or_none()
    if row is None:
        return None
    values = {"next": until, "tries": row.tries + 1}
    connection.execute(sa.update(tables.alert_message).where(_M.id == message_id).values(values))
    return _message({**row._mapping, **values})


def was_sent(connection: Connection, message: Message, now: int) -> None:
    """It arrived, whoever else may be sending it meanwhile."""
    values = {"state": SENT, "sent": now, "why": ""}
    connection.execute(sa.update(tables.alert_message).where(_M.id == message.id).values(values))


def failed(connection: Connection, message: Message, why: str, again: int | None) -> None:
    """It did not arrive: again at that instant, or with None never. Changes nothing where somebody else has it now."""
    values = {"why": why, **({"state": GIVEN_UP} if again is None else {"next": again})}
    mine = (_M.id == message.id, _M.tries == message.tries, _M.state == WAITING)
    connection.execute(sa.update(tables.alert_message).where(*mine).values(values))


def messages_of(connection: Connection, alert_ids: Iterable[str]) -> dict[str, list[Message]]:
    """Alert → what was told of it, in order."""
    found: dict[str, list[Message]] = {}
    query = sa.select(tables.alert_message).where(_M.alert.in_(list(alert_ids))).order_by(_M.n)
    for row in connection.execute(query):
        found.setdefault(row.alert, []).append(_message(row._mapping))
    return found


def _message(row: Any) -> Message:
    values = {name: value for name, value in row.items() if name != "n"}
    return Message(**(values | {"body": json.loads(values["body"])}))
