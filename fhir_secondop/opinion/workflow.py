"""Which moves a Task may make (DOMAIN section 2), and what it must carry when it gets there."""

from __future__ import annotations

from fhir_secondop.errors import Conflict, Invalid, Issue
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes

MOVES: dict[str, frozenset[str]] = {
    "draft": frozenset({"requested", "cancelled"}),
    "requested": frozenset({"received", "accepted", "rejected", "cancelled"}),
    "received": frozenset({"accepted", "rejected", "cancelled"}),
    "accepted": frozenset({"ready", "in-progress", "on-hold", "failed", "cancelled"}),
    "ready": frozenset({"in-progress", "on-hold", "failed", "cancelled"}),
    "in-progress": frozenset({"completed", "on-hold", "failed"}),
    "on-hold": frozenset({"accepted", "ready", "in-progress", "failed", "cancelled"}),
    "completed": frozenset(),
    "rejected": frozenset(),
    "cancelled": frozenset(),
    "failed": frozenset(),
    "entered-in-error": frozenset(),
}
HOLDABLE = frozenset(before for before, after in MOVES.items() if "on-hold" in after)
"""The states in which a Task may be put on hold."""
_ENDED = frozenset({"completed", "rejected", "cancelled", "failed"})
_NEEDS_REASON = frozenset({"rejected", "failed", "on-hold"})


def check_move(before: Resource, after: Resource, *, held_from: str = "") -> None:
    """Raises Conflict on a move that is not legal, Invalid when the new state lacks what it needs.

    `held_from` is the state that a Task on hold came from: it may only go back there, and be cancelled only when
    that was before in-progress.
    """
    old, new = before["status"], after["status"]
    if old != new and not _legal(old, new, held_from):
        raise Conflict(f"A Task can't go from {old} to {new}.", path="Task.status")
    issues = []
    if new == "completed" and not after.get("output"):
        issues.append(Issue("error", "required", "Task.output", "A completed Task names its output."))
    if new in _NEEDS_REASON and not after.get("statusReason"):
        issues.append(Issue("error", "required", "Task.statusReason", f"Say why the Task is {new}."))
    if issues:
        raise Invalid(issues[0].diagnostics, issues=issues)


def _legal(old: str, new: str, held_from: str) -> bool:
    if new == "entered-in-error":
        return old in _ENDED
    if new not in MOVES.get(old, frozenset()):
        return False
    if old != "on-hold" or not held_from:
        return True
    if new == "cancelled":
        return held_from != "in-progress"
    return new in (held_from, "failed")


def moved(
    task: Resource,
    status: str,
    now: str,
    *,
    business: str = "",
    reason: str = "",
    reason_text: str = "",
    held_from: str = "",
) -> Resource:
    """The Task after a legal move, with its business status and the reason. Raises Conflict, Invalid.

    `business` is a code of the Task's own business status system (a delivery's or the case's).
    """
    after = {**task, "status": status, "lastModified": now}
    if business:
        kind = codes.DELIVERY_STATUS if is_delivery(task) else codes.BUSINESS_STATUS
        after["businessStatus"] = codes.concept(kind, business)
    after.pop("statusReason", None)
    if reason:
        after["statusReason"] = codes.concept(codes.STATUS_REASON, reason, text=reason_text)
    elif reason_text:
        after["statusReason"] = {"text": reason_text}
    check_move(task, after, held_from=held_from)
    return after


def is_coordination(task: Resource) -> bool:
    """Whether this is the Task that says where the case stands: a fulfil Task that is part of nothing."""
    return codes.has(task.get("code"), codes.TASK_CODE, "fulfill") and not task.get("partOf")


def is_review(task: Resource) -> bool:
    """Whether this is the Task of a reviewer who was asked."""
    return codes.has(task.get("code"), codes.TASK_CODE, "fulfill") and bool(task.get("partOf"))


DELIVERS = "deliver-"


def is_delivery(task: Resource) -> bool:
    """Whether this is the Task of one version going to one recipient."""
    return (codes.code_of(task.get("code"), codes.TASK) or "").startswith(DELIVERS)


URGENT = "urgent-contact"


def is_urgent(task: Resource) -> bool:
    """Whether this Task waits for a conversation, which alone closes it."""
    return codes.has(task.get("code"), codes.TASK, URGENT)


WATCH = "watch-chart"
CHECK = "to-check"


def is_watch(task: Resource) -> bool:
    """Whether by this Task a chart is looked at."""
    return codes.has(task.get("code"), codes.TASK, WATCH)


def is_check(task: Resource) -> bool:
    """Whether this Task is about something that a look at a chart saw."""
    return codes.has(task.get("code"), codes.TASK, CHECK)


_CARRIED = ("gather-records", "check-coverage", WATCH)


def is_carried(task: Resource) -> bool:
    """Whether a workflow of ours moves this Task, and nobody's hand."""
    return is_delivery(task) or codes.code_of(task.get("code"), codes.TASK) in _CARRIED


def business_status(task: Resource) -> str:
    """The code of a Task's business status, of whichever of our systems it is."""
    concept = task.get("businessStatus")
    return codes.code_of(concept, codes.BUSINESS_STATUS) or codes.code_of(concept, codes.DELIVERY_STATUS) or ""
