"""Ten times what the service can do, for a minute: what it answers, what it holds, and whether it comes back.

Reads, searches and writes of several clients, each from an address of its own. First eight at once, to see what can be
sustained; then ten times that rate, as far as the connections allow: each waits for its answer, so less is answered
than is wanted. With --open each has a connection of its own and none waits, so all ten times are offered. Only 2xx,
429 and 503 may be answered (with --open each must be), /healthz always, every write that was acknowledged must be there
afterwards. Exits 1 where one of these fails.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import rig
from flood import Tally, flooded, mixed, named, written_out

CLIENTS = tuple(f"127.0.0.{n}" for n in range(2, 26))
SUSTAINED_AT_ONCE = 8
ALLOWED = frozenset({200, 201, 429, 503})


class Line:
    """One connection, opened again when it was closed."""

    def __init__(self, port: int, address: str) -> None:
        self._port, self._address = port, address
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str]]:
        """Status and headers of the answer; raises OSError or EOFError when there is none."""
        if self._ends is None:
            self._ends = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(self._address, 0))
        reader, writer = self._ends
        try:
            writer.write(written_out(method, path, body))
            status, said = named((await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n"))
            await reader.readexactly(int(said.get("content-length", 0)))
        except (OSError, EOFError):
            self.close()
            raise
        if said.get("connection", "").lower() == "close":
            self.close()
        return status, said

    def close(self) -> None:
        """Hangs up."""
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None


async def load(
    port: int, seconds: float, connections: int, rate_per_s: float, known: list[str], numbers: Iterator[int], page: int
) -> Tally:
    """Asks for so long over so many connections: at a rate, or as fast as it is answered with 0."""
    tally = Tally()
    began = time.perf_counter()
    due = itertools.count()

    async def client(place: int) -> None:
        line = Line(port, CLIENTS[place % len(CLIENTS)])
        while (now := time.perf_counter()) < began + seconds:
            if rate_per_s:
                at = began + next(due) / rate_per_s
                if at > began + seconds:
                    break
                if at > now:
                    await asyncio.sleep(at - now)
            method, path, body = mixed(known, next(numbers), page)
            asked = time.perf_counter()
            try:
                status, said = await line.ask(method, path, body)
            except (OSError, EOFError) as error:
                tally.unanswered[type(error).__name__] += 1
                continue
            tally.note(status, said, time.perf_counter() - asked)
            if status == 201:
                known.append(tally.written[-1])
        line.close()

    await asyncio.gather(*(client(n) for n in range(connections)))
    tally.done_in_time = tally.done
    return tally


async def fill(port: int, number: int, known: list[str], numbers: Iterator[int]) -> None:
    """So many Patients, before anything is measured."""
    line = Line(port, CLIENTS[0])
    while len(known) < number:
        body = json.dumps({"resourceType": "Patient", "name": [{"family": f"Benchley {next(numbers)}"}]}).encode()
        _, said = await line.ask("POST", "/fhir/Patient", body)
        place = said["location"]
        known.append(place[place.index("/fhir/") :].partition("/_history")[0])
    line.close()


async def watch(port: int, pid: int, samples: list[float], health: Counter[int]) -> None:
    """Samples resident memory, and asks after health, until cancelled."""
    line = Line(port, "127.0.0.9")
    while True:
        samples.append(rig.rss_mb(pid)[0])
        try:
            health[(await asyncio.wait_for(line.ask("GET", "/healthz"), 20))[0]] += 1
        except (OSError, EOFError, TimeoutError):
            health[0] += 1
            line.close()
        await asyncio.sleep(0.25)


async def recovered_s(port: int, known: list[str], numbers: Iterator[int]) -> float:
    """Seconds until twenty requests in a row were done, one after the other."""
    began, line, row = time.perf_counter(), Line(port, CLIENTS[0]), 0
    while row < 20:
        if time.perf_counter() > began + 120:
            return float("inf")
        with suppress(OSError, EOFError):
            status, _ = await line.ask(*mixed(known, next(numbers), 0))
            row = row + 1 if status < 400 else 0
        await asyncio.sleep(0.05)
    line.close()
    return time.perf_counter() - began


async def missing(port: int, written: list[str]) -> int:
    """How many of the acknowledged writes can't be read."""
    line, lost = Line(port, CLIENTS[0]), 0
    for path in written:
        while (status := (await line.ask("GET", path))[0]) in (429, 503):
            await asyncio.sleep(0.1)
        lost += status != 200
    line.close()
    return lost


async def run(port: int, pid: int, options: rig.argparse.Namespace) -> rig.Plain:
    """The whole measurement of a running service."""
    numbers, known, samples = itertools.count(), [], list[float]()
    health: Counter[int] = Counter()
    page = options.page
    await fill(port, page, known, numbers)
    await load(port, min(2.0, options.sustained_s), SUSTAINED_AT_ONCE, 0, known, numbers, page)  # warm
    before = await load(port, options.sustained_s, SUSTAINED_AT_ONCE, 0, known, numbers, page)
    rate = before.done / options.sustained_s
    rig.say(f"sustained: {rate:.0f}/s, RSS {rig.rss_mb(pid)[0]:.0f} MB; now {options.times:g} times as much")
    resting_mb = rig.rss_mb(pid)[0]
    watching = asyncio.create_task(watch(port, pid, samples, health))
    began, spent_s = time.perf_counter(), rig.cpu_s(pid)
    wanted = rate * options.times
    if options.open:
        first = next(numbers)
        over = await asyncio.to_thread(flooded, port, CLIENTS, options.seconds, wanted, known, first, page)
    else:
        over = await load(port, options.seconds, options.connections, wanted, known, numbers, page)
    spent_s = (rig.cpu_s(pid) - spent_s) / (time.perf_counter() - began)
    back_s = await recovered_s(port, known, numbers)
    watching.cancel()
    rig.say("reading back what was acknowledged")
    asked = sum(over.statuses.values())
    odd = {str(s): n for tally in (before, over) for s, n in tally.statuses.items() if s not in ALLOWED}
    return {
        "sustained_per_s": rate, "wanted_per_s": wanted, "offered_per_s": over.offered_per_s,
        "answered_per_s": asked / options.seconds, "done_per_s": over.done_in_time / options.seconds,
        "statuses": {str(status): count for status, count in sorted(over.statuses.items())},
        "unanswered": dict(over.unanswered), "without_retry_after": over.without_retry_after,
        "service_cores": spent_s, "generator_cores": over.cpu_s / options.seconds,
        "other_statuses": odd, "health": {str(status): count for status, count in health.items()},
        "done_ms_median": rig.median(over.took_ms or [0]), "done_ms_max": max(over.took_ms, default=0.0),
        "refused_ms_median": rig.median(over.refused_ms or [0]),
        "rss_before_mb": resting_mb, "rss_peak_mb": max(samples), "rss_after_mb": rig.rss_mb(pid)[0],
        "recovered_s": back_s, "acknowledged": len(before.written) + len(over.written),
        "lost": await missing(port, before.written + over.written),
    }  # fmt: skip


def main() -> None:
    """Runs it and says what was found."""
    parser = rig.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--sustained-s", type=float, default=10.0, help="of finding out what can be sustained")
    parser.add_argument("--times", type=float, default=10.0, help="that rate")
    parser.add_argument("--connections", type=int, default=240, help="of all clients together")
    parser.add_argument("--open", action="store_true", help="each request over a connection of its own, at that rate")
    parser.add_argument("--page", type=int, default=0, help="resources of a search, at most 500: heavy ones")
    parser.add_argument("--requests-per-s", type=float, default=0.0, help="the service's setting; 0: the gate alone")
    parser.add_argument("--database", default="service.sqlite", help="of the service")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        settings = {"requests_per_s": options.requests_per_s}
        with rig.served(Path(name), [], options.database, **settings) as (url, process):
            found = asyncio.run(run(int(url.rpartition(":")[2]), process.pid, options))
    if options.json:
        print(json.dumps(found))
    else:
        print(rig.table(["", ""], list(found.items())))
    well = (
        not found["other_statuses"]
        and not found["lost"]
        and not (options.open and found["unanswered"])
        and set(found["health"]) <= {"200"}
    )
    sys.exit(0 if well and found["recovered_s"] < 60 else 1)


if __name__ == "__main__":
    main()
