"""What pages, lists and acts ask of SQLite goes along the indexes of a case, and not through all of a type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_secondop.service import case_states, reminders, waiting
from fhir_secondop.service.requeue import carry_on, requeue
from fhir_secondop.store.database import Database
from tests.store.test_plans import BY_TYPE, asked, scans
from tests.web.pages.conftest import Clinic


def through(database: Database, act: Callable[[], Any]) -> set[str]:
    """The statements of an act that go through a type or a table."""
    found: list[tuple[str, Any]] = []
    with asked(database, found):
        act()
    bad = set()
    for statement, given in found:
        if not statement.startswith(("SELECT", "UPDATE", "DELETE")):
            continue
        one = (statement, given[0] if isinstance(given, list) else given)
        with database.reading() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", one[1]).all()
        if scans(database, [one]) or any(BY_TYPE.search(row[3]) for row in plan):
            bad.add(statement)
    return bad


def test_nothing_that_is_asked_for_a_case_or_a_list_goes_through_a_type(clinic: Clinic) -> None:
    world = clinic.world
    context, database = world.context, world.context.database
    case_id = world.signed()
    world.work(60)
    another = {"system": "https://riverside.example/orders", "value": "another"}

    def live(*_: Any) -> set[str]:
        return set()

    def waits() -> None:
        with database.reading() as connection:
            waiting.of_all(connection, context)

    def end_to_end() -> None:
        world.signed(placer=another)
        world.work(60)

    case = f"/cases/{case_id}"
    pages = ("/", "/?stage=aligned", "/?need=overdue", case, f"{case}/records", "/connections")
    opinions = f"/api/second-opinions/{case_id}"
    answers = ("/api/second-opinions", opinions, f"{opinions}/alignment", f"{opinions}/clocks", f"{opinions}/events",
               "/api/deliveries", "/api/connections")  # fmt: skip
    acts: dict[str, Callable[[], Any]] = {
        **{f"{who} {path}": lambda who=who, path=path: clinic.get(path, who) for path in pages
           for who in ("desk", "pcp", "reviewer")},
        **{f"{who} {path}": lambda who=who, path=path: world.call("GET", path, who=who) for path in answers
           for who in ("desk", "pcp")},
        "reminders": lambda: reminders.act(context),
        "what waits": waits,
        "the index": lambda: case_states.follow(context),
        "a start": lambda: requeue(context, live),
        "what was lost": lambda: carry_on(context, live),
        "a case from its request to its deliveries": end_to_end,
    }  # fmt: skip
    found = {name: bad for name, act in acts.items() if (bad := through(database, act))}
    assert found == {}
