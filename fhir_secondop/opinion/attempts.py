"""Every attempt of a delivery, read from the versions of its Task."""

from __future__ import annotations

from typing import Any

from fhir_secondop.model import Resource
from fhir_secondop.opinion import alignment, workflow


def of_versions(versions: list[Resource]) -> list[dict[str, Any]]:
    """The attempts in order, from a Task's versions, oldest first: when each began to be written down and what came
    of it. `replay` is after which replay it was; what waited for an EHR, or was acknowledged, is no attempt.
    """
    found: dict[tuple[int, int], dict[str, Any]] = {}
    before: Resource = {}
    for task in versions:
        said = alignment.evidence(task)
        key = (int(said.get("replays", "0")), int(said.get("attempt", "0")))
        told = (task["status"], workflow.business_status(task), task.get("statusReason"))
        if key[1] and told != (before.get("status"), workflow.business_status(before), before.get("statusReason")):
            of_replay = key[0] and int(alignment.evidence(before).get("replays", "0")) != key[0]
            if not of_replay and said.get("last-failure") != "waits":
                entry = found.setdefault(key, {"replay": key[0], "attempt": key[1], "at": task["lastModified"]})
                entry |= _outcome(task, said)
        before = task
    return [{"number": n, **entry} for n, entry in enumerate(found.values(), 1)]


def _outcome(task: Resource, said: dict[str, str]) -> dict[str, Any]:
    return {
        "status": task["status"], "outcome": workflow.business_status(task), "ended": task["lastModified"],
        "rung": said.get("rung", ""), "failure": said.get("last-failure", ""),
        "why": task.get("statusReason", {}).get("text", ""),
    }  # fmt: skip
