"""The network between machines is cut: each machine is a network namespace of its own, with the real TCP of the kernel.

PostgreSQL, the service and the EHRs are on one machine, two workers on machines of their own. Packets are dropped, as a
broken switch does: no side is told. Needs root and iproute2: python -m pytest -m shared tests/faults/test_network.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fhir_secondop.service.context import SERVICE
from fhir_secondop.store.database import Database
from tests.faults.forwarding import Address
from tests.faults.machines import running
from tests.faults.postgres import Server
from tests.scenarios.cluster import EHRS, Cluster
from tests.scenarios.cluster import SERVICE as SERVICE_NAME
from tests.scenarios.outcome import check

pytestmark = pytest.mark.shared
WORKERS = ("one", "two")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Network:
    """A machine for each worker, with a cable to ours."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex[:6]
        third = 1 + int(self._mark[:2], 16) % 250
        self.address = f"10.213.{third}.1"
        self.bridge = f"b{self._mark}"
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        for number, name in enumerate(WORKERS, start=2):
            space, ours, theirs = self.space(name), f"v{self._mark}{number}", f"w{self._mark}{number}"
            _ip("netns", "add", space)
            _ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
            _ip("link", "set", ours, "master", self.bridge, "up")
            _ip("link", "set", theirs, "netns", space)
            _ip("-n", space, "addr", "add", f"10.213.{third}.{number}/24", "dev", theirs)
            _ip("-n", space, "link", "set", theirs, "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def space(self, name: str) -> str:
        return f"s{self._mark}-{name}"

    def cut(self, name: str) -> None:
        """Every packet to and from that machine is lost; the links stay up at either end."""
        _ip("link", "set", self._port(name), "nomaster")

    def heal(self, name: str) -> None:
        """They come through again."""
        _ip("link", "set", self._port(name), "master", self.bridge)

    def _port(self, name: str) -> str:
        return f"v{self._mark}{WORKERS.index(name) + 2}"

    def close(self) -> None:
        for name in WORKERS:
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False)
        subprocess.run(["ip", "link", "del", self.bridge], check=False)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    made = Network()
    yield made
    made.close()


@pytest.fixture
def server(network: Network) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="secondop-network-", ignore_cleanup_errors=True) as folder:
        made = Server(Path(folder) / "primary", listens=network.address).init()
        yield made
        made.stop()


@pytest.fixture
def cluster(tmp_path: Path, server: Server, network: Network) -> Iterator[Cluster]:
    forwarding: list[subprocess.Popen[bytes]] = []
    aside: list[Address] = []

    def reach(made: Cluster) -> None:
        # EHRs without TLS are asked on loopback only: that of each machine leads to ours.
        others = [port for name, port in made.layout.ports.items() if name not in (SERVICE_NAME, *EHRS)]
        aside.extend(Address(port, port=port, listens=network.address) for port in others)
        ports = [str(port) for port in (*others, *(proxy.port for proxy in made.proxies.values()))]
        for name in WORKERS:
            command = [*inside(network, name), sys.executable, "-m", "tests.faults.forwarding", network.address, *ports]
            forwarding.append(subprocess.Popen(command))

    made = Cluster(
        tmp_path, server.url, WORKERS, serves=("serve", "--no-work"), settings=("lease_s = 5.0",), timeout_s=2.0,
        listens="0.0.0.0",
        before={name: inside(network, name) for name in WORKERS}, on_the_way=reach,
    )  # fmt: skip
    with running(made):
        yield made
    for address in aside:
        address.close()
    for process in forwarding:
        process.kill()
        process.wait()


def inside(network: Network, name: str) -> tuple[str, ...]:
    """What makes a command one of that machine."""
    return "ip", "netns", "exec", network.space(name)


def delivered_by(cluster: Cluster, strike: Callable[[str], None], point: str = "after-send") -> list[str]:
    """When the report arrives at the second EHR, `strike` is called with the name of the worker that has sent it."""
    senders: list[str] = []

    def struck() -> None:
        host = int(cluster.proxies["lakeside"].asking_host.rpartition(".")[2])
        senders.append(WORKERS[host - 2])
        strike(senders[0])

    proxy = cluster.proxies["lakeside"]
    proxy.arm(point, lambda method, path: method == "POST" and path.startswith("/fhir"), struck)
    return senders


def test_a_worker_that_is_cut_off_after_it_has_sent_writes_nothing_and_the_other_goes_on(
    cluster: Cluster, network: Network
) -> None:
    senders = delivered_by(cluster, network.cut)
    board = cluster.told()
    (name,) = senders
    check(cluster, [], board, kills=0)
    assert dict(cluster.rows("SELECT name, state FROM executor"))[name] == "gone"
    before = cluster.rows("SELECT max(updated) FROM version")
    network.heal(name)
    assert cluster.processes[name].wait(60) == os.EX_TEMPFAIL
    assert "this worker was declared gone" in cluster.log(name)
    assert cluster.rows("SELECT max(updated) FROM version") == before


def test_a_worker_that_is_cut_off_for_a_moment_goes_on_by_itself(cluster: Cluster, network: Network) -> None:
    def blink(name: str) -> None:
        network.cut(name)
        threading.Timer(1.0, network.heal, [name]).start()

    senders = delivered_by(cluster, blink)
    board = cluster.told()
    assert senders
    check(cluster, [], board, kills=0)


def test_what_a_machine_that_is_cut_off_had_locked_is_free_within_seconds(network: Network, server: Server) -> None:
    """A writer in the middle of its transaction: the server waits 10 s for it, not two hours."""
    database = Database(server.url)
    database.migrate()
    holder = subprocess.Popen(
        [*inside(network, "one"), sys.executable, "-c", _HOLDS, server.url],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"holds\n"
    network.cut("one")
    began = time.monotonic()
    with database.transaction(SERVICE) as tx:
        tx.tick()
    waited_s = time.monotonic() - began
    # The other side notices as well, and ends with an error.
    assert holder.wait(60) == 1
    print(f"free after {waited_s:.1f} s, noticed there after {time.monotonic() - began:.1f} s")
    database.dispose()


_HOLDS = """
import sys, time
from fhir_secondop.service.context import SERVICE
from fhir_secondop.store.database import Database

database = Database(sys.argv[1])
with database.transaction(SERVICE) as tx:
    tx.tick()
    print("holds", flush=True)
    time.sleep(3)
"""
