"""What is common to the fault tests: cases on a cluster, with times in which nothing is stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from tests.scenarios.cluster import SERVICE, Cluster

Plain = dict[str, Any]
PATIENCE_S = 60.0
LEASE = ("lease_s = 1.5",)
Start = Callable[..., Cluster]


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, ended in any case."""
    try:
        yield cluster
    finally:
        cluster.close()


def wait_for(what: str, ready: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The first true answer; fails when there is none in time."""
    ends = time.monotonic() + patience_s
    while time.monotonic() < ends:
        try:
            found = ready()
        except requests.RequestException:
            found = None
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"waited {patience_s:.0f} s for {what}")


class Door:
    """Requests to the service as the coordinator's desk, each as it is answered."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._headers = {"Authorization": f"Bearer {cluster.story.people['coordinator'].token}"}

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        """One request."""
        kind = {"Content-Type": "application/fhir+json"} if path.startswith("/fhir") else {}
        return requests.request(method, f"{self.cluster.layout.url}{path}", json=body, timeout=90,
                                headers={**self._headers, **kind})  # fmt: skip

    def ready(self) -> bool:
        """Whether the service says that it can write."""
        return self.ask("GET", "/readyz").status_code == 200

    def stored(self) -> int:
        """How many versions of anything there are."""
        return int(self.cluster.rows("SELECT count(*) FROM version")[0][0])

    def refused(self, answer: requests.Response) -> None:
        """What could not be stored is said so: never a 2xx, and in words."""
        assert answer.status_code >= 500, (answer.request.method, answer.request.path_url, answer.status_code)
        said = answer.json()
        assert said["resourceType"] == "OperationOutcome"
        assert said["issue"][0]["diagnostics"]


def delivering(cluster: Cluster, strike: Callable[[], None], point: str = "after-send") -> None:
    """When the first document arrives at the second EHR, `strike` is called, and the answer is lost."""
    proxy = cluster.proxies["lakeside"]
    proxy.arm(point, lambda method, path: method == "POST" and path.startswith("/fhir"), strike)


def says(cluster: Cluster, name: str = SERVICE) -> str:
    """What that process has logged, for a failing test."""
    return cluster.log(name)[-4000:]
