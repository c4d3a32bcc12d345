"""How much an EHR is asked, counted over all workers: threads, processes, both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from fhir_secondop.ehr import limits
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.limits import DAY_MS, InProcess, Limits
from fhir_secondop.model import Connection
from fhir_secondop.store.database import Database
from fhir_secondop.store.quota import Counted
from tests.store.asker import LONGEST_S, NAME, PER_DAY, RATE_PER_S

NOON = 20_600 * DAY_MS + DAY_MS // 2  # some day in 2026, by UTC
TEN_TO_MIDNIGHT = 20_601 * DAY_MS - 600_000
ROOT = Path(__file__).parent.parent.parent


def two_workers(database: Database, what: str, count: int, clock: int = NOON) -> list[list[str]]:
    """What two processes print that begin in the same moment."""
    url = database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.store.asker", url, what, str(count), str(clock)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    return said


class Clock:
    """A clock that a test moves."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


# ---- how fast -------------------------------------------------------------------------------------------------


def test_two_workers_share_one_rate(database: Database) -> None:
    """By a clock that stands still: two seconds' worth at once, then one each tenth of a second, none twice."""
    count = 40
    said = two_workers(database, "slots", count)
    waits = sorted(float(text) for worker in said for text in worker)
    expected = [max(0, -2000 + 100 * n) / 1000 for n in range(2 * count)]
    # Beyond what somebody waits for, nothing is booked: those get what the first of them got.
    assert waits == [min(wait, LONGEST_S + 0.1) for wait in expected]
    assert all(len(worker) == count for worker in said)


def test_two_workers_keep_the_rate_by_the_real_clock(database: Database) -> None:
    seconds = 4
    said = two_workers(database, "requests", seconds)
    sent = sorted(int(text) for worker in said for text in worker)
    assert all(len(worker) > 5 for worker in said), "both get their turn"
    for first, begun in enumerate(sent):
        for count, at in enumerate(sent[first:], 1):
            # what two seconds saved up, the first, and a little for processes that wake late
            allowed = RATE_PER_S * ((at - begun) / 1000 + limits.BURST_S) + 1 + 2
            assert count <= allowed, f"{count} requests in {at - begun} ms"
    assert len(sent) >= RATE_PER_S * seconds, "and the rate is used"


@pytest.mark.parametrize("rate_per_s", [3.0, 7.0, 333.0, 0.5])
def test_no_rounding_goes_over_the_rate(database: Database, rate_per_s: float) -> None:
    counted = Counted(database, Clock(NOON))
    waits = [counted.slot(NAME, rate_per_s, 1000.0) for _ in range(40)]
    for number, wait in enumerate(waits):
        assert wait >= number / rate_per_s - limits.BURST_S - 1e-9


def test_what_was_not_used_is_saved_up_for_two_seconds_only(database: Database) -> None:
    clock = Clock(NOON)
    counted = Counted(database, clock)
    at_once = [counted.slot(NAME, 1.0, 60.0) for _ in range(4)]
    assert at_once == [0.0, 0.0, 0.0, 1.0]
    clock.ms += 3_600_000
    assert [counted.slot(NAME, 1.0, 60.0) for _ in range(4)] == at_once
    clock.ms += 1_000
    assert counted.slot(NAME, 1.0, 60.0) == 1.0


def test_a_clock_that_ran_ahead_stops_nobody_afterwards(database: Database) -> None:
    clock = Clock(NOON + 3_650 * DAY_MS)
    counted = Counted(database, clock)
    assert counted.slot(NAME, 1.0, 60.0) == 0.0
    clock.ms = NOON
    assert [counted.slot(NAME, 1.0, 60.0) for _ in range(3)] == [0.0, 1.0, 2.0], "and nothing is saved up"
    # What others have booked is no such clock, however slow the rate is.
    assert counted.slot("slow", 0.001, 60.0) == 0.0
    assert counted.slot("slow", 0.001, 60.0) == 998.0
    clock.ms -= 30_000
    assert counted.slot("slow", 0.001, 60.0) == 1028.0


def test_connections_do_not_wait_for_each_other(database: Database) -> None:
    counted = Counted(database, Clock(NOON))
    while counted.slot("busy", 1.0, 60.0) < 30:
        pass
    assert counted.slot("idle", 1.0, 60.0) == 0.0


def test_the_count_outlives_a_restart(database: Database) -> None:
    for _ in range(12):
        last = Counted(database, Clock(NOON)).slot(NAME, 1.0, 60.0)
    assert last == 9.0


@pytest.fixture(params=["counted", "in process"])
def either(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Limits, Clock]:
    """Limits of either kind, and their clock."""
    clock = Clock(NOON)
    if request.param == "in process":
        monkeypatch.setattr(limits.time, "monotonic", lambda: clock.ms / 1000)
        return InProcess(), clock
    database = Database(f"sqlite:///{tmp_path / 'limits.sqlite'}")
    database.migrate()
    return Counted(database, clock), clock


def test_a_request_that_nobody_waits_for_takes_no_place(either: tuple[Limits, Clock]) -> None:
    """Else each one that is put off would put off all others, and who comes back finds a longer queue than before."""
    counted, clock = either
    for _ in range(33):
        limits.wait(_Ahead(counted, clock), NAME, 1.0)
    for _ in range(200):
        with pytest.raises(EhrFailure) as caught:
            limits.wait(counted, NAME, 1.0)
        assert caught.value.kind == "capacity"
        assert caught.value.retry_after_s == pytest.approx(31.0)
    clock.ms += 31_000
    assert counted.slot(NAME, 1.0, limits.LONGEST_WAIT_S) == pytest.approx(0.0)


class _Ahead:
    """Books as another worker would, without waiting."""

    def __init__(self, counted: Limits, clock: Clock) -> None:
        self._counted = counted

    def slot(self, name: str, rate_per_s: float, longest_s: float) -> float:
        assert self._counted.slot(name, rate_per_s, longest_s) <= longest_s
        return 0.0

    def document(self, name: str, per_day: int) -> bool:
        raise NotImplementedError


def test_a_very_slow_rate_lets_everybody_through_in_the_end(either: tuple[Limits, Clock]) -> None:
    """One in a hundred seconds: whoever comes back when it was told is let through."""
    counted, clock = either
    went = 0
    for _ in range(5):
        try:
            limits.wait(counted, NAME, 0.01)
            went += 1
        except EhrFailure as failure:
            clock.ms += int(failure.retry_after_s * 1000) + 1
    assert went >= 3


def test_no_rate_is_no_limit(database: Database) -> None:
    for _ in range(1000):
        limits.wait(Counted(database, Clock(NOON)), NAME, 0.0)


# ---- how much a day -------------------------------------------------------------------------------------------


def test_two_workers_share_one_budget(database: Database) -> None:
    said = Counter(text for worker in two_workers(database, "documents", 40) for text in worker)
    assert said == {"True": PER_DAY, "False": 80 - PER_DAY}


def test_threads_share_one_budget(database: Database) -> None:
    counted = Counted(database, Clock(NOON))
    barrier = threading.Barrier(8)

    def some(_: int) -> list[bool]:
        barrier.wait()
        return [counted.document(NAME, 20) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        assert sum(sum(taken) for taken in pool.map(some, range(8))) == 20


def test_the_budget_begins_anew_at_midnight_by_utc(database: Database) -> None:
    clock = Clock(TEN_TO_MIDNIGHT)
    counted = Counted(database, clock)

    def left() -> int:
        return sum(counted.document(NAME, 3) for _ in range(5))

    assert (left(), left()) == (3, 0)
    clock.ms = TEN_TO_MIDNIGHT + 599_999
    assert left() == 0
    clock.ms = TEN_TO_MIDNIGHT + 600_000
    assert (left(), left()) == (3, 0)
    clock.ms += 10 * DAY_MS
    assert left() == 3


def test_a_budget_that_is_raised_holds_at_once_and_each_connection_has_its_own(database: Database) -> None:
    counted = Counted(database, Clock(NOON))
    assert [counted.document(NAME, 2) for _ in range(3)] == [True, True, False]
    assert [counted.document(NAME, 3) for _ in range(2)] == [True, False]
    assert counted.document("another", 1)
    assert not counted.document(NAME, 1)


def test_the_rate_and_the_budget_do_not_touch_each_other(database: Database) -> None:
    counted = Counted(database, Clock(NOON))
    assert [counted.document(NAME, 2) for _ in range(2)] == [True, True]
    waits = [counted.slot(NAME, 1.0, 60.0) for _ in range(5)]
    assert waits == [0.0, 0.0, 0.0, 1.0, 2.0]
    assert not counted.document(NAME, 2)
    assert counted.slot(NAME, 1.0, 60.0) == 3.0


# ---- what a client makes of it --------------------------------------------------------------------------------


def client(server: HTTPServer, database: Database, clock: Clock, **settings: Any) -> Client:
    connection = Connection("there", server.url_for("/fhir"), **{"rate_per_s": 0.0, **settings})
    return Client(connection, now=clock, limits=Counted(database, clock))


def failure_of(act: Callable[[], Any]) -> EhrFailure:
    with pytest.raises(EhrFailure) as caught:
        act()
    return caught.value


def test_a_file_over_the_days_budget_waits_until_midnight(httpserver: HTTPServer, database: Database) -> None:
    httpserver.expect_request("/fhir/Binary/1").respond_with_data(b"%PDF", content_type="application/pdf")
    httpserver.expect_request("/fhir/Patient/1").respond_with_json({"resourceType": "Patient"})
    clock = Clock(TEN_TO_MIDNIGHT)
    one, two = (client(httpserver, database, clock, documents_per_day=3) for _ in range(2))
    for worker in (one, two, one):
        assert worker.file("Binary/1", "application/pdf") == ("application/pdf", b"%PDF")
    failure = failure_of(lambda: two.file("Binary/1", "application/pdf"))
    assert (failure.kind, failure.retryable, failure.retry_after_s) == ("quota", True, 600.0)
    assert len(httpserver.log) == 3, "what is over the budget is not asked for"
    two.read("Patient/1")  # only documents are counted
    clock.ms += int(failure.retry_after_s * 1000) - 1
    assert failure_of(lambda: one.file("Binary/1", "")).retry_after_s == 0.001
    clock.ms += 1
    assert one.file("Binary/1", "")[1] == b"%PDF"


def test_a_file_that_was_refused_counts_too(httpserver: HTTPServer, database: Database) -> None:
    """The EHR counts it as well."""
    httpserver.expect_request("/fhir/Binary/1").respond_with_data(b"", 404)
    asking = client(httpserver, database, Clock(NOON), documents_per_day=2)
    kinds = [failure_of(lambda: asking.file("Binary/1", "")).kind for _ in range(3)]
    assert kinds == ["not-found", "not-found", "quota"]


def test_no_budget_is_no_limit(httpserver: HTTPServer, database: Database) -> None:
    httpserver.expect_request("/fhir/Binary/1").respond_with_data(b"x", content_type="text/plain")
    asking = client(httpserver, database, Clock(NOON), documents_per_day=0)
    assert [asking.file("Binary/1", "")[1] for _ in range(5)] == [b"x"] * 5


def test_every_request_of_a_client_takes_a_place(httpserver: HTTPServer, database: Database) -> None:
    """Reads, writes, pages, and a request that was refused: the EHR sees each of them."""
    httpserver.expect_request("/fhir/Patient/1").respond_with_json({"resourceType": "Patient"})
    httpserver.expect_request("/fhir/Patient", method="POST").respond_with_data("", 500)
    httpserver.expect_request("/fhir/Goal", query_string="page=2").respond_with_json({"resourceType": "Bundle"})
    more = {"resourceType": "Bundle", "link": [{"relation": "next", "url": "?page=2"}]}
    httpserver.expect_request("/fhir/Goal").respond_with_json(more)
    clock = Clock(NOON)
    asking = client(httpserver, database, clock, rate_per_s=10.0)
    asking.read("Patient/1")
    failure_of(lambda: asking.write("POST", "Patient", {"resourceType": "Patient"}))
    asking.search("Goal", {})
    assert len(httpserver.log) == 4
    counted = Counted(database, clock)
    free = 0
    while counted.slot(NAME, 10.0, 60.0) == 0.0:
        free += 1
    assert free == 21 - len(httpserver.log)


def test_a_client_waits_for_its_turn(httpserver: HTTPServer, database: Database) -> None:
    httpserver.expect_request("/fhir/Patient/1").respond_with_json({"resourceType": "Patient"})
    asking = client(httpserver, database, Clock(NOON), rate_per_s=5.0)
    begun = time.monotonic()
    for _ in range(12):  # ten and one at once, the next after a fifth of a second
        asking.read("Patient/1")
    assert 0.15 < time.monotonic() - begun < 2
