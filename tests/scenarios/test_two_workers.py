"""The service and one more worker on one database, either killed at exact points and started again: everything once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scenarios.cluster import SERVICE, Cluster
from tests.scenarios.faults import POINTS, process_at
from tests.scenarios.outcome import check

WORKER = "worker-1"


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL at that point of the first request of that method whose path begins so; of the one that asks, or not."""

    point: str
    method: str
    path: str
    whom: str = "asking"  # asking, other, both


class Two(Cluster):
    """The service, which works, and a worker beside it; whichever dies is started again at once."""

    def __init__(self, folder: Path, database: str, kills: dict[str, list[Kill]]) -> None:
        # Long: each of them is started again under its name, and nobody is to take a slow one for a dead one.
        super().__init__(folder, database, (WORKER,), settings=("lease_s = 60.0",))
        self.left = {name: list(planned) for name, planned in kills.items()}
        self.killed: list[str] = []
        for name in self.left:
            self._arm(name)
        self.supervise()

    def _arm(self, name: str) -> None:
        if self.left[name]:
            kill = self.left[name].pop(0)
            self.proxies[name].arm(
                kill.point, lambda m, p: m == kill.method and p.startswith(kill.path), lambda: self._strike(name, kill)
            )

    def _strike(self, name: str, kill: Kill) -> None:
        with self.lock:
            pids = {process.pid: who for who, process in self.processes.items()}
            asking = pids.get(process_at(self.proxies[name].asking, pids), "")
            victims = {
                "asking": [asking or SERVICE], "other": [WORKER if asking == SERVICE else SERVICE],
                "both": [SERVICE, WORKER],
            }[kill.whom]  # fmt: skip
            for victim in victims:
                self.signal(victim, signal.SIGKILL)
                self.killed.append(f"{victim} {kill.point} {kill.method} {kill.path}")
            self._arm(name)


@pytest.fixture
def started(tmp_path: Path, database_url: str) -> Iterator[Callable[[dict[str, list[Kill]]], Two]]:
    running: list[Two] = []

    def start(kills: dict[str, list[Kill]]) -> Two:
        running.append(Two(tmp_path, "" if database_url.startswith("sqlite") else database_url, kills))
        return running[0]

    yield start
    for two in running:
        two.close()


Start = Callable[[dict[str, list[Kill]]], Two]


def test_a_service_and_a_worker_of_which_one_dies_while_it_pulls_and_one_while_it_pushes(started: Start) -> None:
    two = started({"lakeside": [Kill("after-send", "GET", "/fhir/Observation"), Kill("after-send", "POST", "/fhir")]})
    check(two, two.killed, two.told(), kills=2)
    # Types that were finished are not asked again: at most the four that were under way when it died, and
    # the three that waited to be committed together.
    requests = two.proxies["lakeside"].requests
    gathering = requests[: next(n for n, (method, _) in enumerate(requests) if method == "POST")]
    asked = Counter(path.partition("?")[0] for _, path in gathering if "patient=" in path)
    assert len(asked) == 19
    asked.pop("/fhir/DocumentReference")  # which a delivery asks for, too
    assert sum(asked.values()) <= 18 + 4 + 3, asked


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["asking", "other", "both"])
def test_killed_at_every_point_of_pull_and_push(started: Start, whom: str) -> None:
    pulls = ["/fhir/Patient", "/fhir/Condition", "/fhir/Observation", "/fhir/Practitioner/", "/fhir/Binary/"]
    lakeside = [Kill(POINTS[n % 3], "GET", path, whom) for n, path in enumerate(pulls)]
    riverside = [Kill(point, "GET", "/fhir/Encounter", whom) for point in POINTS]
    # A copy that has landed is found, and not sent again: the plan of record brings the next request.
    lakeside += [Kill(point, "POST", "/fhir", whom) for point in POINTS]
    riverside += [Kill(point, "POST", "/fhir/DocumentReference", whom) for point in POINTS]
    two = started({"lakeside": lakeside, "riverside": riverside})
    # A death may take along a request that landed elsewhere: that one does not come again to be struck.
    check(two, two.killed, two.told(), kills=8)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    ("name", "method", "path"),
    [("lakeside", "GET", "/fhir/metadata"), ("lakeside", "GET", "/fhir/DiagnosticReport"),
     ("riverside", "GET", "/fhir/AllergyIntolerance"), ("lakeside", "POST", "/fhir"),
     ("riverside", "POST", "/fhir/DocumentReference")],
)  # fmt: skip
def test_killed_once(started: Start, name: str, method: str, path: str, point: str) -> None:
    two = started({name: [Kill(point, method, path)]})
    check(two, two.killed, two.told(), kills=1)
