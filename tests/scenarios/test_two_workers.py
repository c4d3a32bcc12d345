"""The service and one more worker on one database, either killed at exact points and started again: everything once."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import EHRS, SERVICE, Cluster
from tests.scenarios.faults import POINTS, process_at

Plain = dict[str, Any]
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
        super().__init__(folder, database, (WORKER,))
        self.left = {name: list(planned) for name, planned in kills.items()}
        self.killed: list[str] = []
        self._over = threading.Event()
        for name in self.left:
            self._arm(name)
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        """Starts anew what was killed, as an operator's supervisor would."""
        while not self._over.wait(0.02):
            with self.lock:
                for name, process in self.processes.items():
                    if process.poll() is not None and not self._over.is_set():
                        self.start(name)

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

    def close(self) -> None:
        self._over.set()
        self._keeper.join()
        super().close()


def check(two: Two, board: Plain, kills: int) -> None:
    """The board of an undisturbed run; each thing once at each EHR, each Task ended once, each copy made once."""
    assert len(two.killed) >= kills, two.killed
    assert board["case"]["aligned"] is True
    assert [row["aligned"] for row in board["providers"]] == [True] * 4
    assert [row["rung"] for row in board["providers"]] == ["5", "1", "1", "10"]
    assert [row["version"] for row in board["providers"]] == [1] * 4
    for name in EHRS:
        contents = two.copies(name)
        assert (len(contents), len(set(contents))) == (2, 2), f"{name}: report and plan, once each"
    reports = [r for r in two.at("lakeside", "DiagnosticReport") if "47040-1" in json.dumps(r.get("code", {}))]
    assert len(reports) == 1
    results = [o["identifier"][0]["value"] for o in two.at("lakeside", "Observation") if "focus" not in o
               and any("urn:uuid" in i.get("value", "") for i in o.get("identifier", []))]  # fmt: skip
    assert max(Counter(results).values(), default=0) == 1

    package = [e["resource"] for e in two.ours(f"ServiceRequest/{two.story.case_id}/$package")["entry"]]
    tasks = [r for r in package if r["resourceType"] == "Task"]
    gathering = [t for t in tasks if "gather-records" in json.dumps(t["code"])]
    deliveries = [t for t in tasks if "deliver-" in json.dumps(t["code"])]
    assert (len(gathering), len(deliveries)) == (2, 8)
    for task in [*gathering, *deliveries]:
        history = two.ours(f"Task/{task['id']}/_history")["entry"]
        ends = [e["resource"]["status"] for e in reversed(history)]
        # Once it is completed it stays so; acknowledgements are written into it afterwards.
        assert ends.index("completed") == len(ends) - ends.count("completed"), ends
        if task in gathering:
            assert ends.count("completed") == 1, ends
    # What was gathered was merged once: each copy is in its first version, and there is one of each.
    copies = [r for r in package if "source" in r.get("meta", {})]
    assert len(copies) > 80
    assert {r["meta"]["versionId"] for r in copies} == {"1"}
    assert max(Counter(r["meta"]["source"] for r in copies).values()) == 1
    assert [r["meta"]["versionId"] for r in package if r["resourceType"] == "List"] == ["1", "1"]
    assert two.ours(f"Provenance/{provenance_of(package)}")["meta"]["versionId"] == "1"
    sources = two.act(lambda: two.story.people["coordinator"].get(f"/{two.story.case_id}/manifest"))["sources"]
    assert {line["outcome"] for s in sources for line in s["types"]} <= {"answered", "not-offered"}
    # The logs name no fault of ours but those of the killing.
    for name in (SERVICE, WORKER):
        log = two.log(name)
        assert "failed: " not in log, [line for line in log.splitlines() if "failed: " in line]


def provenance_of(package: list[Plain]) -> str:
    """The Provenance of the first gathering."""
    found = [p for p in package if p["resourceType"] == "Provenance"
             and any("Binary/" in e["what"].get("reference", "") for e in p.get("entity", []))]  # fmt: skip
    assert len(found) == 2
    return str(found[0]["id"])


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
    check(two, two.told(), kills=2)
    # Types that were finished are not asked again: at most the four that were under way when it died, and
    # the three that waited to be committed together.
    asked = Counter(p.partition("?")[0] for m, p in two.proxies["lakeside"].requests if m == "GET" and "patient=" in p)
    assert len(asked) == 19
    assert sum(asked.values()) <= 19 + 4 + 3, asked


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
    check(two, two.told(), kills=8)


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
    check(two, two.told(), kills=1)
