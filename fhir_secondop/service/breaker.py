"""When an EHR that does not answer is left alone, and when it is tried again: decided here, kept by `circuits`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from fhir_secondop.fhir import times
from fhir_secondop.store.circuits import Circuit

PROBE_S = 300.0  # of a worker that was killed while it asked: then another one may
LONGEST_REST_S = 86_400.0
APART_S = 3_600.0  # by which the clocks of machines may differ: what is further ahead than it can be was a wrong one's
LOOK_S, LONGEST_LOOK_S = 2.0, 300.0  # how soon after a resume what waits goes on


@dataclass(frozen=True, slots=True)
class Policy:
    """After how many attempts without an answer the circuit opens, and after what pauses it is tried, in seconds."""

    failures: int = 5
    pause_s: float = 30.0
    longest_s: float = 900.0

    def pause_ms(self, trips: int) -> int:
        """The pause after so many openings in a row: with 30 and 900 it is 30, 60, 120 … 900 s."""
        return int(1000 * min(self.longest_s, self.pause_s * 2 ** min(trips - 1, 20)))


@dataclass(frozen=True, slots=True)
class Wait:
    """Why nothing is asked now, in words for who waits for it, and when to look again."""

    why: str
    seconds: float


def state(circuit: Circuit, now: int) -> str:
    """ "paused" by a person; "open", nobody asks; "half-open", one may try; "resting", as it asked us to; "closed"."""
    if circuit.paused:
        return "paused"
    if until(circuit, now) > now:
        return "open" if circuit.trips else "resting"
    return "half-open" if circuit.trips else "closed"


def until(circuit: Circuit, now: int) -> int:
    """Before when nothing is asked; 0 where a clock that ran ahead has said so: all would wait until it is true."""
    return circuit.until if circuit.until <= now + int(1000 * (LONGEST_REST_S + APART_S)) else 0


def wait(circuit: Circuit, key: str, now: int, policy: Policy) -> Wait | None:
    """What `key` must wait for; None when it may ask now (of a half-open circuit: as its probe).

    Those who wait come back at different times, not all at once on a server that has just got up.
    """
    spread = zlib.crc32(key.encode()) % 1000 / 1000
    found = state(circuit, now)
    if found == "paused":
        seconds = min(LONGEST_LOOK_S, max(LOOK_S, (now - circuit.paused) / 1000)) * (0.5 + spread / 2)
        return Wait(f"An operator has paused {circuit.name} (since {times.instant(circuit.paused)}).", seconds)
    if found == "closed":
        return None
    pause_s = policy.pause_ms(max(1, circuit.trips)) / 1000
    if found == "resting":
        return Wait(f"{circuit.name} asked us to wait.", (circuit.until - now) / 1000 + spread)
    said = f"{circuit.name} has not answered since {times.instant(circuit.opened)}; it goes on when it is back."
    if found == "open":
        return Wait(said, (circuit.until - now) / 1000 + spread * pause_s)
    if circuit.probe in ("", key) or not now < circuit.probe_until <= now + int(1000 * (PROBE_S + APART_S)):
        return None
    return Wait(said, max(LOOK_S, pause_s * (0.5 + spread)))


def probing(circuit: Circuit, key: str, now: int) -> Circuit:
    """`key` asks; of a half-open circuit nobody else does meanwhile."""
    if state(circuit, now) != "half-open":
        return circuit
    return replace(circuit, probe=key, probe_until=now + int(1000 * PROBE_S))


def answered(circuit: Circuit) -> Circuit:
    """It is there. What it asked us to wait for still holds."""
    rests = 0 if circuit.trips else circuit.until
    return replace(circuit, failures=0, trips=0, opened=0, until=rests, probe="", probe_until=0,
                   why=circuit.why if rests else "")  # fmt: skip


def silent(circuit: Circuit, key: str, why: str, now: int, policy: Policy) -> Circuit:
    """`key` got no answer. Whoever had begun to ask before the circuit opened opens it no further."""
    if circuit.trips:
        return _opened(circuit, circuit.trips + 1, why, now, policy) if circuit.probe == key else circuit
    counted = replace(circuit, failures=circuit.failures + 1)
    return _opened(counted, 1, why, now, policy) if counted.failures >= policy.failures else counted


def _opened(circuit: Circuit, trips: int, why: str, now: int, policy: Policy) -> Circuit:
    return replace(circuit, trips=trips, opened=circuit.opened or now, until=now + policy.pause_ms(trips), why=why,
                   probe="", probe_until=0)  # fmt: skip


def rested(circuit: Circuit, seconds: float, now: int) -> Circuit:
    """It asked us to wait: nobody asks anything before; never longer than a day, whatever it says."""
    rests = now + int(1000 * min(seconds, LONGEST_REST_S))
    return replace(circuit, until=max(until(circuit, now), rests), why="capacity")


def released(circuit: Circuit, key: str) -> Circuit:
    """Whose attempt said nothing of the EHR is its probe no longer."""
    return replace(circuit, probe="", probe_until=0) if circuit.probe == key else circuit
