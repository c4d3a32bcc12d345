"""The events of a case: what they are, that their past can be numbered, and who is told what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.fhir import definitions
from fhir_secondop.opinion import case_events, checks, codes, workflow
from fhir_secondop.service import context
from fhir_secondop.service.context import SERVICE
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Database
from tests.service.conftest import TOKENS
from tests.service.test_urgent import PATIENT, let_in
from tests.service.world import SURGEON, World, opened

Plain = dict[str, Any]
NARROW = """
[callers.tasks]
name = "A board"
token = "tasks"
roles = ["coordinator"]
scopes = ["system/ServiceRequest.rs", "system/Patient.rs", "system/Task.rs", "system/DiagnosticReport.rs"]
"""


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        (made.folder / "tokens.toml").write_text(TOKENS + SURGEON + PATIENT + NARROW)
        made.ehr("lakeside")
        made.start()
        yield made


def events(world: World, case_id: str, asked: str = "", who: str = "desk") -> list[Plain]:
    """What follows the number asked for; without one all of it, in which no number lacks."""
    answer = world.call("GET", f"/api/second-opinions/{case_id}/events?count=1000&{asked}", who=who)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    said = answer.get_json()
    assert said["case"] == case_id
    first = said["events"][0]["number"] if said["events"] else 1
    assert [e["number"] for e in said["events"]] == list(range(first, first + len(said["events"])))
    assert "after" in asked or first == 1
    assert said["last"] == (said["events"][-1]["number"] if said["events"] else said["last"])
    found: list[Plain] = said["events"]
    return found


def kinds(world: World, case_id: str, who: str = "desk") -> list[str]:
    return [event["kind"] for event in events(world, case_id, who=who)]


def everybody_is_told_what_they_may_read(world: World, case_id: str) -> dict[str, set[str]]:
    """An event is told to whom the version that it cites is given, and to nobody else; the kinds that each was told."""
    whole, told = events(world, case_id), {}
    assert "withheld" not in [event["kind"] for event in whole], "the coordinator sees all"
    for who in ("pcp", "surgeon", "reviewer", "maren"):
        seen, readable = events(world, case_id, who=who), {}
        for mine, event in zip(seen, whole, strict=True):
            cited = event["evidence"].partition("/_history")[0]
            if cited not in readable:
                readable[cited] = world.call("GET", f"/fhir/{event['evidence']}", who=who).status_code == 200
            withheld = {"number": event["number"], "kind": "withheld"}
            assert mine == (event if readable[cited] else withheld), f"{who}: {event}"
        told[who] = {event["kind"] for event in seen}
    return told


def begun(world: World) -> str:
    """A case that its reviewer reads blind, and that a patient may see."""
    case_id = world.open(sources=["lakeside"], blindFirst=True)
    world.work()
    world.accept(case_id)
    let_in(world, case_id)
    return case_id


def reviewed(world: World, case_id: str) -> None:
    """It is under review, with what may come in between; nothing is signed."""
    world.post(case_id, "first-read", {"assessment": "zq-first", "diagnoses": ["zq-carcinoma"]}, "reviewer")
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    world.post(case_id, "raise-urgent", {"finding": "zq-seen"}, "reviewer")
    world.post(case_id, "pause", {"reason": "awaiting-tests", "text": "zq-why"})
    world.post(case_id, "resume", {})
    world.post(case_id, "show-preliminary", who="reviewer")
    world.post(case_id, "propose", {"kind": "test", "text": "zq-test", "why": "zq-because"}, "reviewer")


def ended(world: World, case_id: str) -> None:
    """It is signed, delivered, decided on and amended."""
    said = {"with": "Dr. Ines Placeholder", "readBack": "zq-back"}
    world.post(case_id, "record-call", said, "reviewer")
    world.post(case_id, "sign", who="reviewer")
    world.work(60)
    world.post(case_id, "acknowledge", {"version": 1}, "pcp")
    world.post(case_id, "decide", {"version": 1, "decision": "adopt", "comment": "zq-yes"}, "surgeon")
    world.post(case_id, "plan-of-record", {"version": 1, "decision": "adopt", "text": "zq-plan"}, "surgeon")
    world.work(60)
    world.post(case_id, "ask-follow-up", {"text": "zq-question"}, "pcp")
    world.amend(case_id)
    world.work(60)


IN_ORDER = [
    "request-received", "first-read-asked", "gathering-asked", "gathering-begun", "gathering-ended", "records-asked",
    "record-incomplete", "review-asked", "review-accepted", "notice-accepted", "first-read-locked", "report-drafted",
    "review-begun", "urgent-raised", "case-held", "case-resumed", "report-preliminary", "proposal-made",
    "delivery-planned", "urgent-closed", "report-signed", "request-completed", "delivery-sending", "delivery-verified",
    "acknowledged", "decided", "plan-set", "question-asked", "amendment-drafted", "report-amended",
]  # fmt: skip


def test_a_case_tells_what_happens_in_it_to_each_as_much_as_they_may_read(world: World) -> None:
    case_id = begun(world)
    everybody_is_told_what_they_may_read(world, case_id)
    reviewed(world, case_id)
    told = everybody_is_told_what_they_may_read(world, case_id)
    assert {"urgent-raised", "report-preliminary"} <= told["pcp"] - told["maren"]
    assert "report-drafted" in told["reviewer"] - told["pcp"] - told["maren"]
    ended(world, case_id)
    told = everybody_is_told_what_they_may_read(world, case_id)
    assert "report-signed" in told["maren"]
    assert [kind for kind in dict.fromkeys(kinds(world, case_id)) if kind in IN_ORDER] == IN_ORDER
    text = world.call("GET", f"/api/second-opinions/{case_id}/events?count=1000").get_data(as_text=True)
    assert "zq-" not in text, "it holds something of the case"
    assert set(kinds(world, case_id)) <= set(case_events.KINDS)

    # What is told is what the stored versions say: numbered anew from them, each event is where it was.
    whole = events(world, case_id)
    with world.context.database.transaction(SERVICE) as tx:
        for table in (tables.case_event, tables.case_counter):
            tx.connection.execute(sa.delete(table).where(table.c.case_id == case_id))
    assert events(world, case_id) == whole

    # from any number, as often as one likes
    for after in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):
        for _ in range(2):
            assert events(world, case_id, f"after={after}") == whole[after:]
    page = world.get(case_id, "events?count=3&after=4")
    assert (page["events"], page["last"]) == (whole[4:7], len(whole))


def test_who_does_not_see_the_case_learns_nothing_and_who_lacks_a_scope_as_much_as_it_has(world: World) -> None:
    case_id = world.gathered(sources=["lakeside"])
    world.accept(case_id)
    none = "00000000-0000-4000-8000-000000000000"
    said = [world.call("GET", f"/api/second-opinions/{id_}/events?wait=20", who="stranger") for id_ in (case_id, none)]
    assert [answer.status_code for answer in said] == [404, 404]
    assert said[0].get_data(as_text=True).replace(case_id, none) == said[1].get_data(as_text=True)
    assert world.call("GET", f"/api/second-opinions/{case_id}/events", who="nobody").status_code == 401
    whole, seen = events(world, case_id), events(world, case_id, who="tasks")
    assert [e["number"] for e in whole if e["kind"] == "notice-accepted"] == [
        e["number"] for e in seen if e["kind"] == "withheld"
    ]
    assert world.call("GET", f"/api/second-opinions/{case_id}/events", who="auditor").status_code == 403


REFUSED = {
    "after=-1": "after", "after=x": "after", "after=1&after=2": "after", "after=": "after", "after=%C2%B2": "after",
    "after=99999999999999999999": "after", "wait=31": "wait", "wait=1.5": "wait", "count=0": "count",
    "count=1001": "count", "afer=3": "afer",
}  # fmt: skip


def test_what_can_not_be_asked_is_refused_naming_it(world: World) -> None:
    case_id = world.open(sources=[])
    for asked, place in REFUSED.items():
        answer = world.call("GET", f"/api/second-opinions/{case_id}/events?{asked}")
        assert (answer.status_code, answer.get_json()["issue"][0]["expression"]) == (400, [place]), asked


def test_who_has_numbers_that_the_case_has_not_is_told_so(world: World) -> None:
    case_id = world.open(sources=[])
    last = world.get(case_id, "events")["last"]
    assert world.get(case_id, f"events?after={last}")["events"] == []
    answer = world.call("GET", f"/api/second-opinions/{case_id}/events?after={last + 1}&wait=30")
    assert (answer.status_code, answer.get_json()["issue"][0]["expression"]) == (409, ["after"])


def test_each_code_that_may_come_has_a_kind() -> None:
    def codes_of(name: str) -> set[str]:
        return {concept["code"] for concept in (definitions.code_system(codes.system(name)) or {})["concept"]}

    for name, prefix in (("delivery-status", "delivery"), ("notice", "notice"), ("proposal-outcome", "proposal")):
        assert {f"{prefix}-{code}" for code in codes_of(name)} <= set(case_events.KINDS)
    assert {f"check-{answer}" for answer in checks.ANSWERS} <= set(case_events.KINDS)
    # Those that are told by more than their status, and two that no Task of ours has.
    others = {workflow.URGENT, workflow.CHECK, "review-second-opinion", "acknowledge"}
    others |= {code for code in codes_of("task") if code.startswith("deliver-")}
    assert codes_of("task") - others <= set(case_events.BY_STATUS)


def test_every_kind_is_told_by_something() -> None:
    text = Path(case_events.__file__).read_text("utf-8").partition("BY_STATUS")[2]
    made = ("check-", "case-", "notice-", "delivery-", "proposal-", "request-")  # put together from a code
    assert [k for k in case_events.KINDS if f'"{k}"' not in text and not k.startswith(made)] == []


def test_the_page_on_events_says_every_kind_as_the_code_does() -> None:
    page = (Path(__file__).parents[2] / "docs/events.md").read_text("utf-8").partition("## Kinds")[2]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert {kind.strip("`"): said for kind, said in rows} == case_events.KINDS


def test_the_versions_of_a_case_are_read_by_its_index_and_so_are_its_zones(tmp_path: Path) -> None:
    """SQLite takes no range of an index for "begins with": it went through every Task, under the lock of writers."""
    zones = {context.draft_case("c"), context.quarantine("c"), context.urgent_zone("c"), context.preliminary_zone("c")}
    assert zones == {f"c#{zone}" for zone in resources.ZONES}
    database = Database(str(tmp_path / "a.sqlite"))
    database.migrate()
    asked: list[Any] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda c, cursor, *statement: asked.append(statement[:2]))
    with database.reading() as connection:
        list(resources.versions_of_case(connection, "c", ("Task", "ServiceRequest")))
        text, values = asked[-1]
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values))
    database.dispose()
    assert "ix_resource_case (case_id=? AND type=?)" in plan
