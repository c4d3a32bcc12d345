"""What else may happen to a case while its report is delivered, in every order: an amendment, a retraction, a consent
taken back, an acknowledgement.

A delivery is cut at each point at which it and the rest can see each other: before it reads, before it commits, before
a request goes to the EHR. There the others act, as whole requests to the service. For one event that is every order;
for two, each pair of points. The short form takes a sample by the seed, the long one all:

TEST_ORDERS=0 python -m pytest -m slow -s tests/faults/test_races.py (or so many of them, by TEST_SEED)
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import combinations_with_replacement, permutations
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop.fhir import times
from fhir_secondop.opinion import alignment
from fhir_secondop.service.context import SERVICE
from fhir_secondop.store.database import Database
from tests.service.hospitals import SURGEON, hospital
from tests.service.test_consent import consent, patient_of
from tests.service.world import World, opened

Plain = dict[str, Any]
EVENTS = ("amend", "retract", "withdraw", "acknowledge")
SHORT = 12
Order = tuple[tuple[int, str], ...]
"""(number of the point, what happens there), in the order in which it happens."""


class Race:
    """A case that is signed and not delivered yet, which is put back to that for each order."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self._kept = world, folder / "kept"
        self.ehr = hospital(world)
        self.case_id = world.signed(sources=[])
        self.patient = patient_of(world, self.case_id)
        self._close()
        shutil.copytree(folder, self._kept, ignore=shutil.ignore_patterns("kept"))
        self._folder = folder
        self._jobs, self._keys, self._ahead = list(world.jobs), set(world.keys), world.clock.ahead_ms
        self.done: dict[str, Plain] = {}

    def _close(self) -> None:
        self.world.context.database.dispose()
        self.ehr.database.dispose()

    def again(self) -> None:
        """Everything as it was when the report had been signed."""
        self._close()
        for file in self._folder.glob("*.sqlite*"):
            file.unlink()
        for file in self._kept.glob("*.sqlite*"):
            shutil.copy(file, self._folder)
        world = self.world
        world.jobs, world.keys, world.clock.ahead_ms = list(self._jobs), set(self._keys), self._ahead
        world.start()
        self.ehr.seen.clear()
        self.done = {}

    # ---- the events

    def happens(self, event: str) -> None:
        """One event; what came of it is kept."""
        self.done[event] = getattr(self, f"_{event}")() | {"at": self._last()}

    def _last(self) -> int:
        with self.world.context.database.transaction(SERVICE) as tx:
            return tx.began

    def _call(self, path: str, body: Plain, who: str) -> Plain:
        answer = self.world.call("POST", path, body, who)
        assert answer.status_code < 500, answer.get_data(as_text=True)
        return {"ok": answer.status_code < 300, **(answer.get_json() or {})}

    def _amended(self, kind: str, reason: str) -> Plain:
        at = f"/api/second-opinions/{self.case_id}"
        changes = {"conclusion": f"{reason} The rest stands."}
        drafted = self._call(f"{at}/amend-report", {"kind": kind, "reason": reason, "changes": changes}, "reviewer")
        return self._call(f"{at}/sign", {}, "reviewer") if drafted["ok"] else drafted

    def _amend(self) -> Plain:
        return self._amended("amended", "A dose was wrong.")

    def _retract(self) -> Plain:
        return self._amended("entered-in-error", "Another patient was meant.")

    def _withdraw(self) -> Plain:
        return self._call("/fhir/Consent", consent(self.patient, rule="OPTOUT", type="deny"), "desk")

    def _acknowledge(self) -> Plain:
        at = f"/api/second-opinions/{self.case_id}/acknowledge"
        return self._call(at, {"version": 1}, "surgeon")

    # ---- what must be there at the end

    def check(self) -> None:
        """Whatever the order was."""
        world = self.world
        newest = world.get(self.case_id)["report"]["version"]
        held = {_version(d): d for d in self.ehr.documents}
        withdrawn = self.done.get("withdraw", {}).get("at")
        # Once each, and one that counts: the newest of those that may be there.
        titles = Counter(d["description"] for d in self.ehr.documents)
        assert max(titles.values(), default=1) == 1, titles
        current = [v for v, d in held.items() if d["status"] == "current"]
        assert len(current) <= 1, held
        assert len(self.ehr.reports) <= 1
        mine = {(d["what"], d["version"]): d for d in world.get(self.case_id)["deliveries"] if SURGEON in d["to"]}
        if withdrawn is None:
            assert current == [newest]
            assert mine["report", newest]["businessStatus"] == "verified"
            (report,) = self.ehr.reports
            assert (
                report["status"] == {"retract": "entered-in-error", "amend": "amended", "": "final"}[self._decisive()]
            )
            assert report["status"] == held[newest]["docStatus"]
        else:
            self._nothing_began_after(withdrawn)
        for delivery in mine.values():
            # Nothing is left that nobody carries on, and what is said of a copy is true.
            assert delivery["status"] in ("completed", "cancelled", "on-hold"), delivery
            if delivery["what"] == "report" and delivery["businessStatus"] == "verified":
                assert delivery["version"] in held
        (row,) = [r for r in world.get(self.case_id, "alignment")["providers"] if r["name"] == SURGEON_NAME]
        if withdrawn is None or row["copy"] == "verified":
            assert (row["copy"] == "verified") == (newest in held), row
        if newest in held:
            # What was on its way when the consent ended may have landed: nobody says that it was not sent.
            assert row["sent"] in ("accepted", "unknown"), row
            assert not mine["report", newest]["why"].startswith("Not sent:"), mine
        if newest not in held and held:
            assert row["state"].startswith("blocked"), row
        # The acknowledgement is on the version that was acknowledged, and on no other.
        acknowledged = self.done.get("acknowledge", {}).get("ok", False)
        for (what, version), delivery in mine.items():
            expected = "signed-in" if acknowledged and (what, version) == ("report", 1) else None
            assert delivery["evidence"].get("ack") == expected, delivery
        assert not any("ERROR" in str(d["why"]) for d in mine.values())

    def _decisive(self) -> str:
        """Which of the versions is the last."""
        signed = [
            (done["at"], event) for event, done in self.done.items() if event in ("amend", "retract") and done["ok"]
        ]
        return max(signed, default=(0, ""))[1]

    def _nothing_began_after(self, withdrawn: int) -> None:
        """No content of the case was about to be sent any more once the consent was taken back."""
        for task in self.world.package(self.case_id, "Task"):
            if not any(c["code"] == "deliver-report" for c in task["code"]["coding"]):
                continue
            begun: dict[str, int] = {}
            for entry in self.world.call("GET", f"/fhir/Task/{task['id']}/_history").get_json()[
                "entry"
            ]:  # newest first
                said = entry["resource"]
                began = alignment.evidence(said).get("send-started")
                if began:
                    begun[began] = _ms(said["meta"]["lastUpdated"])
            assert all(at <= withdrawn for at in begun.values()), "it began after the consent was taken back"


SURGEON_NAME = "Dr. Harlan Mockridge"


def _version(document: Plain) -> int:
    found = re.search(r"version (\d+)", document["description"])
    assert found is not None
    return int(found[1]) if document["description"].startswith("Second opinion") else -int(found[1])


def _ms(instant: str) -> int:
    return times.interval(instant).low


class Points:
    """The points of the delivery. `order` says what happens at which of them."""

    def __init__(self, race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
        self.race, self.passed, self.order = race, 0, []  # type: ignore[var-annotated]
        self.names: list[str] = []
        self._on = False
        transaction, reading, send = Database.transaction, Database.reading, requests.Session.send

        def transacting(database: Database, caller: Any) -> AbstractContextManager[Any]:
            self.point(database, "commit")
            return transaction(database, caller)

        def looking(database: Database) -> AbstractContextManager[Any]:
            self.point(database, "read")
            return reading(database)

        def sending(session: Any, request: Any, **options: Any) -> Any:
            self.point(race.world.context.database, str(request.method))
            return send(session, request, **options)

        monkeypatch.setattr(Database, "transaction", transacting)
        monkeypatch.setattr(Database, "reading", looking)
        monkeypatch.setattr(requests.Session, "send", sending)

    def point(self, database: Database, name: str) -> None:
        """One point: what is to happen here happens."""
        if not self._on or database is not self.race.world.context.database:
            return
        self.names.append(name)
        self.passed += 1
        self._act(self.passed)

    def _act(self, number: int) -> None:
        self._on = False
        while self.order and self.order[0][0] <= number:
            self.race.happens(self.order.pop(0)[1])
        self._on = True

    def run(self, order: Order) -> int:
        """The delivery with these events, and all that follows; how many points it passed."""
        self.race.again()
        self.passed, self.order, self.names = 0, list(order), []
        self._on = True
        self.race.world.work()
        self._act(1_000_000)  # what comes when the delivery is over
        self._on = False
        self.race.world.work(patience_s=4 * 3600)
        self.race.check()
        return self.passed


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_template: Path) -> Iterator[Points]:
    shutil.copy(sqlite_template, tmp_path / "test.sqlite")
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as world:
        yield Points(Race(world, tmp_path), monkeypatch)


def orders(count: int) -> list[Order]:
    """Each event at each of so many points or afterwards, and each two of them in either order."""
    places = range(1, count + 2)
    one = [((place, event),) for event in EVENTS for place in places]
    two = [
        ((first, a), (second, b))
        for a, b in permutations(EVENTS, 2)
        for first, second in combinations_with_replacement(places, 2)
    ]
    return [*one, *two]


def sampled(every: list[Order], number: int) -> list[Order]:
    """So many of them, by the seed."""
    return random.Random(int(os.environ.get("TEST_SEED", "8"))).sample(every, number)


def races(points: Points, chosen: Sequence[Order]) -> None:
    for number, order in enumerate(chosen, 1):
        try:
            points.run(order)
        except AssertionError as error:
            raise AssertionError(f"{order} among {points.names}: {error}") from error
        if number % 500 == 0:
            print(f"{number} of {len(chosen)} orders", flush=True)


def test_some_orders_of_what_happens_while_a_report_is_delivered_end_well(points: Points) -> None:
    races(points, sampled(orders(points.run(())), SHORT))


@pytest.mark.slow
def test_every_order_of_what_happens_while_a_report_is_delivered_ends_well(points: Points) -> None:
    count = points.run(())
    every = orders(count)
    chosen = sampled(every, int(os.environ.get("TEST_ORDERS", "0")) or len(every))
    races(points, chosen)
    print(f"{count} points, {len(chosen)} of {len(every)} orders")
