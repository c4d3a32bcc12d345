"""Alerts of real cases: told once when they begin and once when they end, to a real mail server and a real webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

from fhir_secondop.alert_settings import Alerts, Bounds, Level
from fhir_secondop.errors import Conflict, Forbidden, NotFound
from fhir_secondop.model import Caller
from fhir_secondop.service import waiting
from fhir_secondop.service.alerts import conditions, edges, sending, watch
from fhir_secondop.service.alerts.conditions import Condition
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.service.waiting import Waiting
from fhir_secondop.store import alerts as rows
from fhir_secondop.store.alerts import Alert, Message
from tests.service.alerting import DESK, HEAD, LEVELS, Hook, Mailbox, email, hooked, mail_server
from tests.service.hospitals import hospital
from tests.service.world import World, opened

OPERATOR = Caller("ops", "Operations", frozenset({"operator"}))
MINUTE_MS = 60_000


# ---- what is beyond its bound, pure


def test_each_ehr_is_measured_by_its_own_bounds_and_all_by_those_of_all() -> None:
    settings = Alerts(
        each=Bounds(60, 2, 120, 30), overall=Bounds(0, 4, 0, 0), of_connection={"lakeside": Bounds(0, 0, 0, 0)}
    )
    now = 1_000 * MINUTE_MS
    found = [
        *(Waiting(waiting.DELIVERING, "riverside", now - 61 * MINUTE_MS) for _ in range(3)),
        *(Waiting(waiting.DELIVERING, "lakeside", now - 500 * MINUTE_MS) for _ in range(2)),
        Waiting(waiting.HELD, "riverside", now - 121 * MINUTE_MS),
        Waiting(waiting.GATHERING, "hilltop", now - 31 * MINUTE_MS),
        Waiting(waiting.GATHERING, "riverside", now - 30 * MINUTE_MS),
    ]
    assert conditions.found(found, now, settings, now) == [
        Condition("gathering", "hilltop", 31, 30),
        Condition("oldest-undelivered", "riverside", 61, 60),
        Condition("queue-depth", "riverside", 3, 2),
        Condition("held", "riverside", 121, 120),
        Condition("queue-depth", "", 5, 4),
    ]


def test_it_is_told_when_nobody_works() -> None:
    now, one = 1_000 * MINUTE_MS, Waiting(waiting.DELIVERING, "riverside", 990 * MINUTE_MS)
    nobody = Condition("no-worker", "", 10, 2)
    assert conditions.found([one], now - 10 * MINUTE_MS, Alerts(), now) == [nobody]
    assert conditions.found([one], now - 2 * MINUTE_MS, Alerts(), now) == []
    assert conditions.found([one], None, Alerts(), now) == [nobody]
    assert conditions.found([], None, Alerts(), now) == []
    assert conditions.found([one], None, Alerts(no_worker_minutes=0), now) == []


def at(alert: Alert | None, minute: int, *, there: bool) -> edges.Step | None:
    """What a look in that minute makes of it, with a hold-down of two minutes."""
    found = [Condition("held", "riverside", 5, 1)] if there else []
    standing = [alert] if alert is not None else []
    made = edges.steps(standing, found, LEVELS, 2 * MINUTE_MS, minute * MINUTE_MS, lambda: "one")
    return made[0] if made else None


def run(*there: bool) -> list[tuple[int, str, tuple[int, ...]]]:
    """The events of a condition that is there, or not, minute by minute."""
    alert: Alert | None = None
    said = []
    for minute, is_there in enumerate(there):
        step = at(alert, minute, there=is_there)
        if step is not None:
            alert = step.alert if step.alert is not None and not step.alert.ended else None
            said += [(minute, event.name, event.levels) for event in step.events]
    return said


def test_one_event_at_each_edge_and_none_between() -> None:
    assert run(*[True] * 10, *[False] * 10) == [(2, "began", (1,)), (12, "ended", (1,))]


def test_what_flaps_within_the_hold_down_is_one_alert() -> None:
    assert run(*[True, False] * 20) == []
    assert run(True, True, True, *[False, True] * 20, False, False, False) == [
        (2, "began", (1,)), (32, "escalated", (2,)), (45, "ended", (1, 2)),
    ]  # fmt: skip


def test_an_alert_that_was_acknowledged_does_not_escalate_and_still_ends() -> None:
    alert = Alert("one", "held", "riverside", 0, began=0, level=1, acknowledged=MINUTE_MS)
    step = at(alert, 600, there=True)
    assert step is not None
    assert step.events == ()
    assert run(*[True] * 33, *[False] * 3)[1:] == [(32, "escalated", (2,)), (35, "ended", (1, 2))]


@pytest.mark.parametrize("hold_down", [0, 2])
def test_what_a_clock_that_ran_ahead_has_seen_begins_escalates_and_ends_all_the_same(hold_down: int) -> None:
    wrong = 315_360_000_000
    seen: Alert | None = Alert("one", "held", "riverside", wrong)
    found = [Condition("held", "riverside", 5, 1)]
    told = []
    for minute in range(60):
        standing, there = ([seen] if seen else []), (found if minute < 40 else [])
        if minute == 5 and seen is not None:
            standing = [replace(seen, began=wrong)]
        for step in edges.steps(standing, there, LEVELS, hold_down * MINUTE_MS, minute * MINUTE_MS, lambda: "two"):
            seen = step.alert if step.alert is not None and not step.alert.ended else None
            told += [(minute, event.name) for event in step.events]
    assert told == [(hold_down, "began"), (35, "escalated"), (40 + hold_down, "ended")]
    gone = edges.steps([Alert("one", "held", "", 0, began=0, gone=wrong)], [], LEVELS, MINUTE_MS, MINUTE_MS, lambda: "")
    assert gone[0].alert is not None
    assert gone[0].alert.gone == MINUTE_MS


def test_a_message_that_a_clock_ahead_has_put_off_is_sent(world: World) -> None:
    now = world.clock()
    with world.context.database.transaction(SERVICE) as tx:
        for name, ahead in (("ten-years", 315_360_000_000), ("an-hour", 3_600_000), ("due", 0)):
            rows.put(tx.connection, [Message(name, "a", f"webhook:{name}", {}, now, next=now + ahead)])
    with world.context.database.transaction(SERVICE) as tx:
        assert rows.due(tx.connection, now, 10) == [("ten-years", "webhook:ten-years"), ("due", "webhook:due")]
        taken = [rows.take(tx.connection, name, now, now + MINUTE_MS) for name in ("ten-years", "an-hour", "due")]
        assert [one.tries if one else None for one in taken] == [1, None, 1]
        assert rows.due(tx.connection, now, 10) == [], "nobody else sends it meanwhile"


def test_a_level_that_comes_later_is_not_told_the_end_of_what_it_never_heard() -> None:
    late = (Level(60, (HEAD,)),)
    began = edges.steps([], [Condition("held", "", 5, 1)], late, 0, 0, lambda: "one")[0]
    assert began.alert is not None
    assert (began.events, began.alert.began) == ((), 0)
    (ended,) = edges.steps([began.alert], [], late, 0, MINUTE_MS, lambda: "two")
    assert (ended.events, ended.alert and ended.alert.ended) == ((), MINUTE_MS)


# ---- with real cases, on both databases


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


class Told:
    """The service with people who are told: a mail server, a webhook, and an operator's eye on what stands."""

    def __init__(self, world: World, port: int, server: HTTPServer, box: Mailbox) -> None:
        self.world, self.box = world, box
        self.hook: Hook
        self.hook, pager = hooked(server, world.folder)
        self.settings = Alerts(
            # The worker is this test: no row says that one lives.
            each=Bounds(60, 100, 60, 30),
            no_worker_minutes=0,
            hold_down_s=60,
            levels=LEVELS,
            email=email(port),
            webhooks={"pager": pager},
        )

    @property
    def context(self) -> Context:
        return replace(self.world.context, alerts=self.settings)

    def pass_(self, minutes: int) -> None:
        """So many minutes pass; a turn begins in each of the last ten, and now and then before."""
        steps = [10] * max(0, (minutes - 10) // 10)
        for step in [*steps, *[1] * (minutes - sum(steps))]:
            self.world.clock.forward(60 * step)
            watch.act(self.context)

    @property
    def heard(self) -> list[tuple[str, str, str]]:
        """What the webhook was told."""
        return [(b["type"], b["data"]["kind"], b["data"]["ehr"]) for _, b in self.hook.got]

    @property
    def mails(self) -> list[tuple[str, str]]:
        return [(m["To"], m["Subject"]) for m in self.box.got]


@pytest.fixture
def told(world: World, httpserver: HTTPServer) -> Iterator[Told]:
    box = Mailbox()
    with mail_server(box) as port:
        # The receiver's library takes nothing older than five minutes: its clock is the world's.
        import standardwebhooks.webhooks as library

        class Time(library.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return cls.fromtimestamp(world.clock() / 1000, tz)

        world.monkeypatch.setattr(library, "datetime", Time)
        yield Told(world, port, httpserver, box)


def undelivered(world: World) -> str:
    """A signed case whose hospital does not answer."""
    lakeside = hospital(world)
    case_id = world.signed()
    lakeside.instead = lambda asked: Response("", 503)
    world.work()
    return case_id


def test_a_dead_ehr_is_told_once_and_its_recovery_once(told: Told) -> None:
    world = told.world
    case_id = undelivered(world)
    told.pass_(59)
    assert told.heard == told.mails == []
    told.pass_(5)
    began = ("alert.began", "oldest-undelivered", "lakeside")
    assert told.heard == [began]
    assert told.mails == [(DESK, "lakeside: oldest undelivered began")]
    text = told.box.got[0].get_content()
    assert "lakeside: the oldest delivery has waited for 62 minutes; the limit is 60 minutes." in text
    assert f"{world.context.public_url}/connections" in text
    told.pass_(20)
    assert len(told.heard) == len(told.mails) == 1
    world.ehrs["lakeside"].instead = lambda asked: None
    world.work(3_600)
    assert {d["status"] for d in world.deliveries(case_id)} == {"completed"}
    told.pass_(5)
    assert told.heard == [began, ("alert.ended", "oldest-undelivered", "lakeside")]
    assert told.mails[1:] == [(DESK, "lakeside: oldest undelivered is over")]
    assert len({m["Message-ID"] for m in told.box.got}) == 2
    told.pass_(5)
    assert len(told.heard) == 2


def test_nothing_of_a_patient_is_in_what_is_told(told: Told) -> None:
    case_id = undelivered(told.world)
    told.settings = replace(told.settings, each=Bounds(1, 1, 1, 1), overall=Bounds(1, 1, 1, 1))
    told.world.open(placer={"system": "https://riverside.example/orders", "value": "SO-PLANTED"})
    told.pass_(40)
    said = json.dumps(told.hook.got) + "".join(m.as_string() for m in told.box.got)
    assert {kind for _, kind, _ in told.heard} >= {"oldest-undelivered", "queue-depth", "gathering"}
    patient = told.world.package(case_id, "Patient")[0]
    planted = {case_id, patient["id"], patient["birthDate"], "PLANTED", "Placeholder", "Mockridge", "breast", "Standin"}
    planted |= {part for name in patient["name"] for part in (name["family"], *name["given"])}
    planted |= {i["value"] for i in patient["identifier"]}
    planted |= {d["task"] for d in told.world.deliveries(case_id)}
    assert [word for word in planted if word.casefold() in said.casefold()] == []


def test_what_nobody_acknowledges_is_told_to_the_next_level(told: Told) -> None:
    undelivered(told.world)
    told.pass_(63)
    told.pass_(28)
    assert [m["To"] for m in told.box.got] == [DESK]
    told.pass_(2)
    assert told.mails[1:] == [(HEAD, "lakeside: oldest undelivered nobody has acknowledged it")]
    assert [kind for kind, _, _ in told.heard] == ["alert.began", "alert.escalated"]
    told.pass_(60)
    assert len(told.box.got) == 2


def test_an_operator_acknowledges_and_nobody_further_is_told_but_the_end(told: Told) -> None:
    undelivered(told.world)
    told.pass_(63)
    ((alert, messages),) = watch.listed(told.context, OPERATOR)
    assert [(m.channel, m.state) for m in messages] == [(f"email:{DESK}", "sent"), ("webhook:pager", "sent")]
    with pytest.raises(Forbidden):
        watch.acknowledge(told.context, told.world.caller("reviewer"), alert.id)
    with pytest.raises(NotFound):
        watch.acknowledge(told.context, OPERATOR, "another")
    first = watch.acknowledge(told.context, OPERATOR, alert.id)
    assert first.acknowledged_by == "Operations"
    told.pass_(5)
    assert watch.acknowledge(told.context, OPERATOR, alert.id).acknowledged == first.acknowledged
    told.pass_(60)
    assert [m["To"] for m in told.box.got] == [DESK]
    told.world.ehrs["lakeside"].instead = lambda asked: None
    told.world.work(3_600)
    told.pass_(3)
    assert [m["To"] for m in told.box.got] == [DESK, DESK]
    ((over, _),) = watch.listed(told.context, OPERATOR)
    assert over.ended
    assert watch.acknowledge(told.context, OPERATOR, alert.id).acknowledged == first.acknowledged


def test_an_alert_that_is_over_needs_no_acknowledgement(told: Told) -> None:
    undelivered(told.world)
    told.pass_(63)
    told.world.ehrs["lakeside"].instead = lambda asked: None
    told.world.work(3_600)
    told.pass_(3)
    ((alert, _),) = watch.listed(told.context, OPERATOR)
    with pytest.raises(Conflict, match="over"):
        watch.acknowledge(told.context, OPERATOR, alert.id)


def test_two_workers_at_once_and_a_restart_tell_nothing_twice(told: Told) -> None:
    undelivered(told.world)
    told.world.clock.forward(61 * 60)
    watch.look(told.context)
    told.world.clock.forward(61)
    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(watch.act, told.context) for _ in range(8)]:
            outcome.result()
    told.world.start()
    told.pass_(2)
    assert len(told.heard) == 1
    assert len(told.mails) == 1


def test_a_receiver_that_is_down_is_tried_again_with_the_same_id_and_stops_no_other(told: Told) -> None:
    undelivered(told.world)
    told.hook.answers = [503, 500, 302]
    told.pass_(63)
    assert told.mails == [(DESK, "lakeside: oldest undelivered began")]
    assert told.hook.got == []
    told.world.ehrs["lakeside"].instead = lambda asked: None
    told.world.work(3_600)
    told.pass_(10)
    assert [kind for kind, _, _ in told.heard] == ["alert.began", "alert.ended"], "in their order"
    assert told.hook.seen == 5
    (row,) = watch.listed(told.context, OPERATOR)
    assert [(m.state, m.tries) for m in row[1] if m.channel == "webhook:pager"] == [("sent", 4), ("sent", 1)]


def test_what_does_not_arrive_for_a_day_is_given_up_and_stays_listed(told: Told) -> None:
    undelivered(told.world)
    told.box.refuses.add(DESK)
    told.pass_(63)
    for _ in range(30):
        told.world.clock.forward(3_601)
        sending.send_due(told.context)
    ((_, messages),) = watch.listed(told.context, OPERATOR)
    (mail,) = [m for m in messages if m.channel == f"email:{DESK}"]
    assert (mail.state, mail.why) == ("given-up", f"mail server 127.0.0.1: it takes nothing for {DESK}.")


def test_what_is_held_for_a_person_is_told_by_its_own_bound(told: Told) -> None:
    world = told.world
    lakeside = hospital(world)
    case_id = world.signed()
    lakeside.instead = lambda asked: Response("", 403)
    world.work()
    assert "on-hold" in {d["status"] for d in world.deliveries(case_id)}
    told.pass_(63)
    assert told.heard == [("alert.began", "held", "lakeside")]
    told.settings = replace(told.settings, each=replace(told.settings.each, held_minutes=0))
    told.pass_(2)
    assert told.heard[1:] == [("alert.ended", "held", "lakeside")]


def test_without_levels_what_stands_is_listed_and_nobody_is_told(told: Told) -> None:
    undelivered(told.world)
    told.settings = replace(told.settings, levels=())
    told.pass_(63)
    ((alert, messages),) = watch.listed(told.context, OPERATOR)
    assert (alert.kind, alert.level, messages) == ("oldest-undelivered", 0, [])
