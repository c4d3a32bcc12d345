"""What came of deliveries to the hostile peer, judged from what the peer really stored and not from what we believe."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fhir_secondop.opinion import alignment
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.service.delivering import orders
from tests.faults.hostile import Run

Plain = dict[str, Any]
DOCUMENTS = ("DocumentReference", "Communication")


@dataclass
class Judged:
    """The numbers. Everything but `outcomes`, `made` and the counts of what the peer did must be empty."""

    requests: int = 0
    deliveries: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    did: dict[str, int] = field(default_factory=dict)
    caused: list[str] = field(default_factory=list)  # duplicates that we caused
    made: int = 0  # duplicates that the peer made
    undetected: list[str] = field(default_factory=list)  # of those
    lost: list[str] = field(default_factory=list)
    wrong_patients: list[Plain] = field(default_factory=list)
    strayed: list[Plain] = field(default_factory=list)  # requests at the host that redirects lead to

    def __add__(self, other: Judged) -> Judged:
        """Both runs together."""
        did = Counter(self.did) + Counter(other.did)
        return Judged(
            self.requests + other.requests, self.deliveries + other.deliveries, self.outcomes + other.outcomes,
            dict(did), self.caused + other.caused, self.made + other.made, self.undetected + other.undetected,
            self.lost + other.lost, self.wrong_patients + other.wrong_patients, self.strayed + other.strayed,
        )  # fmt: skip

    def table(self) -> str:
        """All of it, to read."""
        rows = [("deliveries", self.deliveries), *((f"  {k}", n) for k, n in sorted(self.outcomes.items())),
                ("duplicates that we caused", len(self.caused)), ("lost", len(self.lost)),
                ("wrong patients", len(self.wrong_patients)), ("requests at the other host", len(self.strayed)),
                ("duplicates that the peer made", self.made), ("  undetected", len(self.undetected)),
                ("requests", self.requests), *((f"  {k}", n) for k, n in sorted(self.did.items()))]  # fmt: skip
        wrong = [*self.caused, *self.lost, *self.undetected, *map(str, self.wrong_patients), *map(str, self.strayed)]
        return "\n".join([*(f"{name:46}{count:8}" for name, count in rows), *(f"WRONG: {what}" for what in wrong)])


def judged(run: Run) -> Judged:
    """Each delivery against the copies that are there, and each copy against the deliveries."""
    truth = run.peer.tell("truth")
    found = Judged(requests=sum(truth["requests"].values()), did=truth["did"],
                   wrong_patients=truth["wrong_patients"], strayed=truth["strayed"])  # fmt: skip
    copies: dict[tuple[str, str, str], list[Plain]] = {}
    sent: dict[str, set[str]] = {}  # version id → the contents that were sent as a document, anywhere
    for copy in truth["copies"]:
        copies.setdefault((copy["place"], copy["type"], copy["key"]), []).append(copy)
        if copy["type"] in DOCUMENTS and copy["right"]:
            sent.setdefault(copy["key"], set()).add(copy["sha256"])
    cases = run.loaded()
    watched: set[tuple[str, str]] = set()  # place and version id, or place and case, that a person looks at
    for case_id, case in cases.items():
        patient = f"Patient/p{run.cases[case_id]}"
        for task in case.deliveries:
            if task["status"] == "cancelled":
                continue  # amended before it had begun
            place = _place(run, case, task)
            version_id = _version_id(case_id, alignment.version_of(task))
            there = [c for kind in DOCUMENTS for c in copies.get((place, kind, version_id), [])]
            # A report is put in the place of the one before (rung 4): this version, or a newer one.
            newer = [v for v in map(alignment.version_of, case.deliveries) if v >= alignment.version_of(task)]
            contents = set().union(*(sent.get(_version_id(case_id, v), set()) for v in newer))
            reports = [r for r in truth["reports"][place] if r["sha256"] in contents]
            found.deliveries += 1
            found.outcomes[_outcome(task)] += 1
            if why := _lost(task, patient, [*there, *reports]):
                requests = [f"{c['request']} by {c['by']} ({truth['fates'][place][str(c['request'])]})" for c in there]
                found.lost.append(f"{place} {task['id']}: {why}; {', '.join(requests)}; {alignment.evidence(task)}")
            if alignment.evidence(task).get("duplicates") or task["status"] == "on-hold":
                watched |= {(place, version_id), (place, case_id)}
    _duplicates(found, copies, watched, {f"H-{number}": case_id for case_id, number in run.cases.items()},
                truth["fates"])  # fmt: skip
    return found


def _version_id(case_id: str, version: int) -> str:
    return f"urn:uuid:{derived_id(case_id, 'report', version)}"


def _place(run: Run, case: Case, task: Plain) -> str:
    connection = orders.connection_of(run.world.context, case, task)
    assert connection is not None
    return connection.name


def _outcome(task: Plain) -> str:
    said = alignment.evidence(task)
    if task["status"] == "completed":
        if said["copy"] == "verified":
            return "verified"
        return "link" if said["rung"] == "10" else "with a person: it may not be read back, as the board says"
    if task["status"] == "on-hold":
        return "with a person: " + ("there more than once" if said.get("duplicates") else _why(task))
    return f"not ended: {task['status']}"


def _why(task: Plain) -> str:
    """The reason of a Task on hold without ids, to count it."""
    text = task.get("statusReason", {}).get("text", "no reason")
    return str(text.partition(":")[0].partition(" (")[0])


def _lost(task: Plain, patient: str, there: list[Plain]) -> str:
    """Why a delivery counts as lost; "" when it does not."""
    said = alignment.evidence(task)
    if task["status"] == "on-hold":
        return "" if task.get("statusReason", {}).get("text") else "on hold without a reason"
    if task["status"] != "completed":
        return f"nobody carries on, it is {task['status']}"
    if said["rung"] == "10":
        return ""
    if said["copy"] != "verified":
        # It may not be read back: the board says that no copy was verified, until a person acknowledges it.
        return "" if said["copy"] == "unverifiable" and said.get("why") else "nobody knows whether it is there"
    right = [c for c in there if c["reference"] == said["location"] and c["right"] and c["subject"] == patient]
    return "" if right else "it was called verified, and no right copy is there"


def _duplicates(
    found: Judged, copies: dict[tuple[str, str, str], list[Plain]], watched: set[tuple[str, str]],
    orders: dict[str, str], fates: dict[str, dict[str, str]],
) -> None:  # fmt: skip
    """More than one copy of the same: by requests of ours, or by the peer alone."""
    for (place, kind, key), same in copies.items():
        ours = sorted((c for c in same if c["by"] == "us"), key=lambda c: int(c["request"]))
        for before, again in pairwise(ours):
            # A result that lost its identifier can't be found when the next version is sent; a document can.
            if kind in DOCUMENTS or before["found"]:
                found.caused.append(
                    f"{place} {kind} {key}: "
                    + " and ".join(
                        f"request {c['request']} ({fates[place][str(c['request'])]}) at {c['at']}"
                        for c in (before, again)
                    )
                )
        made = len(same) - len(ours)
        found.made += made
        about = key if kind in DOCUMENTS else orders[same[0]["order"]]
        if made and (place, about) not in watched:
            found.undetected.append(f"{place} {kind} {key}: request {same[0]['request']}")
